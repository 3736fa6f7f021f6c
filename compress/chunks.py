"""One chunk of slices to bytes and back: the latents of a learned codec, where they pay, and the residual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ArchiveError

from .bitstream import ByteReader, varint
from .codec import Codec, LearnedCodec
from .residual import decode_residual, encode_residual

__all__ = ["EncodedChunk", "decode_chunk", "encode_chunk", "num_latent_bytes"]

Volume = NDArray[np.float32]


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk as an archive stores it, and what that cost.

    Attributes
    ----------
    payload : bytes
        Length of the latents, latents, residual.
    num_latent_bytes, num_residual_bytes : int
        Size of the two parts; no latents where the codec's approximation does not pay.
    largest_error : float
        Largest absolute difference between decoded and given, in the volume's units.
    sum_squared_error : float
        Over all voxels, in the volume's units squared.
    """

    payload: bytes
    num_latent_bytes: int
    num_residual_bytes: int
    largest_error: float
    sum_squared_error: float


def encode_chunk(
    codec: LearnedCodec | None,
    chunk: Volume,
    max_error: float,
    *,
    keep_latents: Literal["smaller", "always"] = "smaller",
) -> EncodedChunk:
    """Code slices such that no voxel is off by more than `max_error`.

    Parameters
    ----------
    codec : Codec or None
        Trained on the volume; None codes the residual to a constant.
    chunk : float32, shape (slice, y, x)
        Finite, at least one voxel.
    max_error : float
        In the volume's units.
    keep_latents : {"smaller", "always"}
        Keep them if they, with this chunk's share of the stored decoder, take fewer bytes than they save in the
        residual; or in any case.

    Returns
    -------
    EncodedChunk
        The payload for `write_archive`.

    Raises
    ------
    ValueError
        If the chunk is not three-dimensional, empty or not finite, or `max_error` not positive.
    """
    if chunk.ndim != 3 or chunk.size == 0:
        raise ValueError(f"a chunk to encode must have the axes (slice, y, x) and a voxel, got shape {chunk.shape}")
    chunk = np.ascontiguousarray(chunk, np.float32)
    latents = b""
    residual, decoded = encode_residual(chunk, None, max_error)
    if codec is not None:
        candidate = codec.encode(chunk)
        rest, approximated = encode_residual(chunk, codec.decode(candidate, chunk.shape), max_error)
        num_bytes = len(candidate) + len(rest) + codec.bytes_per_voxel * chunk.size
        if keep_latents == "always" or num_bytes < len(residual):
            latents, residual, decoded = candidate, rest, approximated
    error = decoded.astype(np.float64) - chunk
    return EncodedChunk(
        varint(len(latents)) + latents + residual,
        len(latents),
        len(residual),
        float(np.abs(error).max()),
        float(np.square(error).sum()),
    )


def decode_chunk(codec: Codec | None, payload: bytes, shape: tuple[int, ...]) -> Volume:
    """Give back the slices of a payload.

    Parameters
    ----------
    codec : Codec or None
        The decoder; None suffices for a payload without latents.
    payload : bytes
        From `encode_chunk`.
    shape : tuple of int
        Slices, rows, columns.

    Returns
    -------
    float32, shape (slice, y, x)
        Within `max_error` of what was encoded.

    Raises
    ------
    ArchiveError
        If the payload is damaged, as far as that shows, or needs a codec that is not given.
    """
    reader = ByteReader(payload, "the payload of a chunk")
    latents = reader.take(reader.varint())
    if latents and codec is None:
        raise ArchiveError("the payload of a chunk needs a codec, but the archive stores none: it is damaged")
    predicted = codec.decode(latents, shape) if latents and codec is not None else None
    return decode_residual(reader.rest(), predicted, shape)


def num_latent_bytes(payload: bytes) -> int:
    """Tell how long the latents of a payload are."""
    return ByteReader(payload, "the payload of a chunk").varint()
