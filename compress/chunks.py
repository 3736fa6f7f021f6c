"""One chunk of slices to bytes and back: the latents of a codec, where they pay, and the residual.

Chunks of float32 and of integers share the code; only `_encode_voxels` and `_decode_voxels` know which residual is
whose.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ArchiveError

from .bitstream import ByteReader, varint
from .codec import Codec
from .residual import decode_integer_residual, decode_residual, encode_integer_residual, encode_residual

__all__ = [
    "DTYPES",
    "INEXACT_CODECS",
    "CodedChunk",
    "EncodedChunk",
    "checksum",
    "decode_chunk",
    "encode_chunk",
    "is_exact",
    "num_latent_bytes",
]

DTYPES = ("float32", "uint8", "int8", "uint16", "int16")
"""Types that a voxel may have."""
INEXACT_CODECS = frozenset({"crae"})
"""Codecs whose decoder computes with floating-point convolutions, so that its last digits differ between machines."""

_WHAT = "the payload of a chunk"

Volume = NDArray[np.float32]
Voxels = NDArray[Any]


class CodedChunk(Protocol):
    """What `write_archive` needs of a chunk: an `EncodedChunk`, or one that was stored and read back."""

    @property
    def payload(self) -> bytes:
        """Length of the latents, latents, residual."""

    @property
    def crc32(self) -> int | None:
        """What `checksum` gives for the decoded voxels; None where the last digits differ between machines."""

    @property
    def largest_error(self) -> float:
        """Largest absolute difference between decoded and given, in the volume's units."""


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk as an archive stores it, and what that cost.

    Attributes
    ----------
    payload : bytes
        Length of the latents, latents, residual.
    crc32 : int or None
        What `checksum` gives for the decoded voxels; None if there are latents of one of `INEXACT_CODECS`.
    num_latent_bytes, num_residual_bytes : int
        Size of the two parts; no latents where the codec's approximation does not pay.
    largest_error : float
        Largest absolute difference between decoded and given, in the volume's units.
    sum_squared_error : float
        Over all voxels, in the volume's units squared.
    """

    payload: bytes
    crc32: int | None
    num_latent_bytes: int
    num_residual_bytes: int
    largest_error: float
    sum_squared_error: float


def encode_chunk(
    codec: Codec | None,
    chunk: Voxels,
    max_error: float,
    *,
    keep_latents: Literal["smaller", "always"] = "smaller",
    state_bytes_per_voxel: float = 0.0,
) -> EncodedChunk:
    """Code slices such that no voxel is off by more than `max_error`.

    Parameters
    ----------
    codec : Codec or None
        Made for the volume; None codes the residual to a constant.
    chunk : one of `DTYPES`, shape (slice, y, x)
        Finite, at least one voxel.
    max_error : float
        In the volume's units; positive for float32, a whole number for integers, where 0 is lossless.
    keep_latents : {"smaller", "always"}
        Keep them if they, with this chunk's share of the stored decoder, take fewer bytes than they save in the
        residual; or in any case.
    state_bytes_per_voxel : float
        Size of ``codec.to_bytes()`` over the number of voxels of the volume, bytes per voxel.

    Returns
    -------
    EncodedChunk
        The payload for `write_archive`.

    Raises
    ------
    ValueError
        If the chunk is of another type, not three-dimensional, empty or not finite, or `max_error` is none for it.
    """
    chunk = _check_chunk(chunk, max_error)
    latents, name = b"", None
    residual, decoded = _encode_voxels(chunk, None, max_error)
    if codec is not None:
        values = chunk.astype(np.float32, copy=False)
        candidate = codec.encode(values)
        rest, approximated = _encode_voxels(chunk, codec.decode(candidate, chunk.shape), max_error)
        num_bytes = len(candidate) + len(rest) + state_bytes_per_voxel * chunk.size
        if keep_latents == "always" or num_bytes < len(residual):
            latents, residual, decoded, name = candidate, rest, approximated, codec.name
    error = decoded.astype(np.float64) - chunk
    return EncodedChunk(
        payload=varint(len(latents)) + latents + residual,
        crc32=None if name in INEXACT_CODECS else checksum(decoded),
        num_latent_bytes=len(latents),
        num_residual_bytes=len(residual),
        largest_error=float(np.abs(error).max()),
        sum_squared_error=float(np.square(error).sum()),
    )


def decode_chunk(
    codec: Codec | None, payload: bytes, shape: tuple[int, ...], dtype: np.dtype[Any] | None = None
) -> Voxels:
    """Give back the slices of a payload.

    Parameters
    ----------
    codec : Codec or None
        The decoder; None suffices for a payload without latents.
    payload : bytes
        From `encode_chunk`.
    shape : tuple of int
        Slices, rows, columns.
    dtype : dtype, optional
        Type of the chunk that was encoded, float32 if not given.

    Returns
    -------
    dtype, shape (slice, y, x)
        Within `max_error` of what was encoded.

    Raises
    ------
    ArchiveError
        If the payload is damaged, as far as that shows, or needs a codec that is not given.
    """
    reader = ByteReader(payload, _WHAT)
    latents = reader.take(reader.varint())
    if latents and codec is None:
        raise ArchiveError("the payload of a chunk needs a codec, but the archive stores none: it is damaged")
    predicted = codec.decode(latents, shape) if latents and codec is not None else None
    return _decode_voxels(reader.rest(), predicted, shape, np.dtype(np.float32) if dtype is None else dtype)


def num_latent_bytes(payload: bytes) -> int:
    """Tell how long the latents of a payload are."""
    return ByteReader(payload, _WHAT).varint()


def is_exact(codec: str | None, payload: bytes) -> bool:
    """Tell whether a payload, with the codec of that name, decodes to the same bits on every machine."""
    return codec not in INEXACT_CODECS or num_latent_bytes(payload) == 0


def checksum(decoded: Voxels) -> int:
    """Give the CRC-32 (as zlib computes it) of voxels in C order, lowest byte first."""
    return zlib.crc32(np.ascontiguousarray(decoded, decoded.dtype.newbyteorder("<")).data)


def _check_chunk(chunk: Voxels, max_error: float) -> Voxels:
    """Refuse what cannot be coded; give the chunk in C order and the machine's byte order."""
    if chunk.dtype.name not in DTYPES:
        raise ValueError(f"a chunk to encode must be of type {', '.join(DTYPES)}, got {chunk.dtype.name}")
    if chunk.ndim != 3 or chunk.size == 0:
        raise ValueError(f"a chunk to encode must have the axes (slice, y, x) and a voxel, got shape {chunk.shape}")
    if chunk.dtype.kind != "f" and not (max_error >= 0 and float(max_error).is_integer()):
        raise ValueError(f"max_error must be a whole number, 0 or more, for {chunk.dtype.name}, got {max_error}")
    return np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("="))


def _encode_voxels(chunk: Voxels, predicted: Volume | None, max_error: float) -> tuple[bytes, Voxels]:
    """Give the residual of a chunk of any type, and what `_decode_voxels` will make of it."""
    if chunk.dtype.kind == "f":
        return encode_residual(chunk, predicted, max_error)
    return encode_integer_residual(chunk, predicted, int(max_error))


def _decode_voxels(residual: bytes, predicted: Volume | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Voxels:
    if dtype.kind == "f":
        return decode_residual(residual, predicted, shape)
    return decode_integer_residual(residual, predicted, shape, dtype)
