"""What a prediction leaves, coded so that no voxel is off by more than `max_error`.

The residual is brought to integers in units of ``2 max_error (1 - 2^-8) / 65`` and coded by `pyramid`, which reproduces
them to within 32 units; with the half unit of the rounding that makes ``max_error (1 - 2^-8)``. The margin 2^-8 is for
the rounding of float32 and for decoders of other machines, whose convolutions may differ by some 1e-6 of the volume's
standard deviation: it covers them as long as `max_error` is above 1e-3 of that. The encoder decodes what it coded;
a voxel that is still off by more than `max_error` (rounding in huge offsets, residuals beyond 2^28 units) is stored as
it is. If many are, the whole chunk is.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ArchiveError

from .bitstream import ByteReader, varint
from .pyramid import STEP, decode_pyramid, encode_pyramid

__all__ = ["MARGIN", "decode_residual", "encode_residual"]

MARGIN = 2.0**-8
"""Share of `max_error` that the quantiser leaves unused."""

_EXACT, _QUANTISED = 0, 1
_LARGEST = 2**28
_MOST_EXCEPTIONS = 1 / 16
_WHAT = "the residual of a chunk"

Volume = NDArray[np.float32]


def encode_residual(chunk: Volume, predicted: Volume | None, max_error: float) -> tuple[bytes, Volume]:
    """Code the difference between a chunk and its prediction.

    Parameters
    ----------
    chunk : float32, shape (slice, y, x)
        Finite values.
    predicted : float32, shape (slice, y, x), or None
        What the decoder will have; None for a constant.
    max_error : float
        Largest difference at any voxel, in the units of `chunk`.

    Returns
    -------
    bitstream : bytes
        To be read by `decode_residual` with the same prediction.
    decoded : float32, shape (slice, y, x)
        What it will give.

    Raises
    ------
    ValueError
        If a value is not finite, or `max_error` not positive.
    """
    if not np.isfinite(chunk).all():
        raise ValueError(
            f"a chunk to encode must be finite, got {np.count_nonzero(~np.isfinite(chunk))} voxels that are not"
        )
    if not 0 < max_error < np.inf:
        raise ValueError(f"max_error must be positive and finite, got {max_error}")
    difference = chunk.astype(np.float64) - (0.0 if predicted is None else predicted)
    offset = float(np.median(difference))
    unit = max(2 * max_error * (1 - MARGIN) / (STEP + 1), np.finfo(np.float64).tiny)
    with np.errstate(over="ignore"):
        integers = np.clip(np.rint((difference - offset) / unit), 1 - _LARGEST, _LARGEST - 1).astype(np.int32)
    bitstream, corrected = encode_pyramid(integers)
    decoded = _reconstruct(corrected, predicted, offset, unit)
    exceptions = np.flatnonzero(~(np.abs(decoded.astype(np.float64) - chunk) <= max_error))
    decoded.flat[exceptions] = chunk.flat[exceptions]
    head = struct.pack("<Bdd", _QUANTISED, offset, unit)
    coded = head + _exceptions_to_bytes(exceptions, chunk.ravel()[exceptions]) + bitstream
    if len(exceptions) > _MOST_EXCEPTIONS * chunk.size or len(coded) > chunk.nbytes:
        return bytes([_EXACT]) + _exact_to_bytes(chunk), chunk.copy()
    return coded, decoded


def decode_residual(bitstream: bytes, predicted: Volume | None, shape: tuple[int, ...]) -> Volume:
    """Give back a chunk.

    Parameters
    ----------
    bitstream : bytes
        From `encode_residual`.
    predicted : float32, shape (slice, y, x), or None
        As given to `encode_residual`, to within rounding.
    shape : tuple of int
        Shape of the chunk.

    Returns
    -------
    float32, shape (slice, y, x)
        The chunk, at each voxel within `max_error`.

    Raises
    ------
    ArchiveError
        If the bitstream is damaged, as far as that shows.
    """
    reader = ByteReader(bitstream, _WHAT)
    match reader.take(1)[0]:
        case 0:
            return _exact_from_bytes(reader.rest(), shape)
        case 1:
            offset, unit = struct.unpack("<dd", reader.take(16))
            where, values = _exceptions_from_bytes(reader, int(np.prod(shape)))
            decoded = _reconstruct(decode_pyramid(reader.rest(), shape), predicted, offset, unit)
            decoded.flat[where] = values
            return decoded
        case kind:
            raise ArchiveError(f"{_WHAT} is of kind {kind}, expected 0 or 1: it needs a newer version or is damaged")


def _reconstruct(corrected: NDArray[np.int32], predicted: Volume | None, offset: float, unit: float) -> Volume:
    with np.errstate(over="ignore", invalid="ignore"):
        return (corrected * unit + offset + (0.0 if predicted is None else predicted)).astype(np.float32)


def _exceptions_to_bytes(where: NDArray[np.intp], values: Volume) -> bytes:
    """Write how many there are, the gap before each, and their values."""
    gaps = np.diff(where, prepend=-1) - 1
    return b"".join([varint(len(where)), *map(varint, gaps.tolist()), values.astype("<f4").tobytes()])


def _exceptions_from_bytes(reader: ByteReader, num_voxels: int) -> tuple[NDArray[np.int64], Volume]:
    count = reader.varint()
    if count > _MOST_EXCEPTIONS * num_voxels:
        raise ArchiveError(f"{_WHAT} lists {count} exceptions among {num_voxels} voxels: it is damaged")
    where = np.cumsum([reader.varint() + 1 for _ in range(count)], dtype=np.int64) - 1
    if count and where[-1] >= num_voxels:
        raise ArchiveError(f"{_WHAT} names voxel {where[-1]} of {num_voxels}: it is damaged")
    return where, np.frombuffer(reader.take(4 * count), "<f4").astype(np.float32)


def _exact_to_bytes(chunk: Volume) -> bytes:
    """Store the bytes of equal weight together, deflated."""
    planes = np.ascontiguousarray(chunk, "<f4").view(np.uint8).reshape(-1, 4).T
    return zlib.compress(planes.tobytes(), 6)


def _exact_from_bytes(data: bytes, shape: tuple[int, ...]) -> Volume:
    num_bytes = 4 * int(np.prod(shape))
    try:
        planes = zlib.decompressobj().decompress(data, num_bytes + 1)
    except zlib.error as error:
        raise ArchiveError(f"{_WHAT} cannot be inflated ({error}): it is damaged") from error
    if len(planes) != num_bytes:
        raise ArchiveError(f"{_WHAT} inflates to another size than {num_bytes} bytes: it is damaged")
    values = np.frombuffer(planes, np.uint8).reshape(4, -1).T
    return np.ascontiguousarray(values).view("<f4").reshape(shape).astype(np.float32)
