"""What a prediction leaves, coded so that no voxel is off by more than `max_error`.

The residual is brought to integers in units of ``2 max_error (1 - 2^-8) / 65`` and coded by `lattice_stream` in bounded
mode with a step of 65, which reproduces them to within 32 units; with the half unit of the rounding that makes
``max_error (1 - 2^-8)``. The margin 2^-8 is for the rounding of float32 and for decoders of other machines, whose
convolutions may differ by some 1e-6 of the volume's standard deviation: it covers them as long as `max_error` is above
1e-3 of that. The encoder decodes what it coded; a voxel that is still off by more than `max_error` (rounding in huge
offsets, residuals beyond 2^28 units) is stored as it is. If many are, the whole chunk is.

A residual of integers is coded as it is, with a step of ``2 max_error + 1``: nothing is rounded but the prediction.

Old archives have residuals coded by `pyramid`; they are read, but no longer written.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ArchiveError

from .bitstream import ByteReader, varint
from .lattice_stream import LARGEST, decode_lattice, encode_lattice
from .pyramid import decode_pyramid

__all__ = [
    "MARGIN",
    "decode_integer_residual",
    "decode_residual",
    "encode_integer_residual",
    "encode_residual",
]

MARGIN = 2.0**-8
"""Share of `max_error` that the quantiser leaves unused."""

_EXACT, _PYRAMID, _LATTICE = 0, 1, 2
_STEP = 65
_MOST_EXCEPTIONS = 1 / 16
_WHAT = "the residual of a chunk"

Volume = NDArray[np.float32]
Voxels = NDArray[Any]


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
    unit = max(2 * max_error * (1 - MARGIN) / _STEP, np.finfo(np.float64).tiny)
    with np.errstate(over="ignore"):
        scaled = np.rint((difference - offset) / unit)
    # What is beyond becomes an exception; as 0 it disturbs its neighbours least.
    integers = np.where(np.abs(scaled) < LARGEST, scaled, 0).astype(np.int32)
    bitstream, corrected = encode_lattice(integers, _STEP)
    decoded = _reconstruct(corrected, predicted, offset, unit)
    exceptions = np.flatnonzero(~(np.abs(decoded.astype(np.float64) - chunk) <= max_error))
    decoded.flat[exceptions] = chunk.flat[exceptions]
    head = struct.pack("<Bdd", _LATTICE, offset, unit)
    coded = head + _exceptions_to_bytes(exceptions, chunk.ravel()[exceptions]) + bitstream
    if len(exceptions) > _MOST_EXCEPTIONS * chunk.size or len(coded) > chunk.nbytes:
        return _exact_to_bytes(chunk), chunk.copy()
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
    kind = reader.take(1)[0]
    if kind == _EXACT:
        return _exact_from_bytes(reader.rest(), shape, np.dtype(np.float32))
    if kind not in (_PYRAMID, _LATTICE):
        raise ArchiveError(f"{_WHAT} is of kind {kind}, expected 0, 1 or 2: it needs a newer version or is damaged")
    offset, unit = struct.unpack("<dd", reader.take(16))
    where, values = _exceptions_from_bytes(reader, int(np.prod(shape)))
    decode = decode_lattice if kind == _LATTICE else decode_pyramid
    decoded = _reconstruct(decode(reader.rest(), shape), predicted, offset, unit)
    decoded.flat[where] = values
    return decoded


def encode_integer_residual(chunk: Voxels, predicted: Volume | None, max_error: int) -> tuple[bytes, Voxels]:
    """Code the difference between a chunk of integers and its prediction.

    Parameters
    ----------
    chunk : uint8, int8, uint16 or int16, shape (slice, y, x)
        Any values.
    predicted : float32, shape (slice, y, x), or None
        What the decoder will have, to the same bits; None for a constant. It is rounded to the type of the chunk.
    max_error : int
        Largest difference at any voxel; 0 is lossless.

    Returns
    -------
    bitstream : bytes
        To be read by `decode_integer_residual` with the same prediction.
    decoded : as `chunk`
        What it will give.

    Raises
    ------
    ValueError
        If `max_error` is negative.
    """
    if max_error < 0:
        raise ValueError(f"max_error must not be negative, got {max_error}")
    limits = np.iinfo(chunk.dtype)
    rounded = _rounded(predicted, chunk.dtype)
    step = 2 * min(int(max_error), limits.max - limits.min) + 1
    bitstream, difference = encode_lattice(chunk.astype(np.int32) - rounded, step)
    if len(bitstream) >= chunk.nbytes:
        return _exact_to_bytes(chunk), chunk.copy()
    return bytes([_LATTICE]) + bitstream, _within(difference, rounded, chunk.dtype)


def decode_integer_residual(
    bitstream: bytes, predicted: Volume | None, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Voxels:
    """Give back a chunk of integers.

    Parameters
    ----------
    bitstream : bytes
        From `encode_integer_residual`.
    predicted : float32, shape (slice, y, x), or None
        As given to `encode_integer_residual`.
    shape : tuple of int
        Shape of the chunk.
    dtype : dtype
        Type of the chunk.

    Returns
    -------
    dtype, shape (slice, y, x)
        The chunk, at each voxel within `max_error`.

    Raises
    ------
    ArchiveError
        If the bitstream is damaged, as far as that shows.
    """
    reader = ByteReader(bitstream, _WHAT)
    match reader.take(1)[0]:
        case 0:
            return _exact_from_bytes(reader.rest(), shape, dtype)
        case 2:
            return _within(decode_lattice(reader.rest(), shape), _rounded(predicted, dtype), dtype)
        case kind:
            raise ArchiveError(f"{_WHAT} of integers is of kind {kind}, expected 0 or 2: it is damaged")


def _rounded(predicted: Volume | None, dtype: np.dtype[Any]) -> NDArray[np.int32]:
    """Round to the nearest integers, half to even, within the type's range; nan, which damage may leave, becomes 0."""
    if predicted is None:
        return np.zeros((), np.int32)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(np.nan_to_num(predicted, nan=0.0)), limits.min, limits.max).astype(np.int32)


def _within(difference: NDArray[np.int32], rounded: NDArray[np.int32], dtype: np.dtype[Any]) -> Voxels:
    limits = np.iinfo(dtype)
    voxels: Voxels = np.clip(difference.astype(np.int64) + rounded, limits.min, limits.max).astype(dtype)
    return voxels


def _reconstruct(corrected: NDArray[np.int32], predicted: Volume | None, offset: float, unit: float) -> Volume:
    """Compute in float64, a slice at a time: all at once would take five times the memory of the result."""
    values = np.empty(corrected.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for number, plane in enumerate(corrected):
            values[number] = plane * unit + offset + (0.0 if predicted is None else predicted[number])
    return values


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


def _exact_to_bytes(chunk: Voxels) -> bytes:
    """Store the bytes of equal weight together, deflated."""
    planes = np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, chunk.itemsize).T
    return bytes([_EXACT]) + zlib.compress(planes.tobytes(), 6)


def _exact_from_bytes(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Voxels:
    num_bytes = dtype.itemsize * int(np.prod(shape))
    try:
        planes = zlib.decompressobj().decompress(data, num_bytes + 1)
    except zlib.error as error:
        raise ArchiveError(f"{_WHAT} cannot be inflated ({error}): it is damaged") from error
    if len(planes) != num_bytes:
        raise ArchiveError(f"{_WHAT} inflates to another size than {num_bytes} bytes: it is damaged")
    values = np.frombuffer(planes, np.uint8).reshape(dtype.itemsize, -1).T
    return np.ascontiguousarray(values).view(dtype.newbyteorder("<")).reshape(shape).astype(dtype)
