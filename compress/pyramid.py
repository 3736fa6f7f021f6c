"""Integers on a grid, coded from coarse to fine: each is predicted from neighbours that are already known.

The interpolation of SZ3 [1]_ in its multi-dimensional form [2]_, with two changes: all arithmetic is on integers, so
that decoding gives the same on every machine, and static tables are chosen by the activity of the neighbourhood instead
of one Huffman code for all.

A grid point is coded at the level of the largest power of two that divides all of its indices. Within a level the
points with one odd index come first, then those with two, then those with three; each is predicted by cubic
interpolation along its odd axes, limited to the range of the two nearest neighbours so that it does not overshoot at an
edge; the axis along which these two agree counts most.

References
----------
.. [1] Zhao et al., Optimizing error-bounded lossy compression for scientific data by dynamic spline interpolation, ICDE
   2021, doi:10.1109/ICDE51399.2021.00145.
.. [2] Liu et al., High-performance effective scientific error-bounded lossy compression with auto-tuned multi-component
   interpolation, SIGMOD 2024, doi:10.1145/3639259.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .entropy import IntegerDecoder, IntegerEncoder

__all__ = ["STEP", "decode_pyramid", "encode_pyramid"]

STEP = 64
"""Distance between the values that a prediction can be corrected to."""

_SPREADS = STEP // 8 * 2 ** np.arange(8)
_NUM_ENERGIES = 3
_NUM_CONTEXTS = 2 * 3 * (len(_SPREADS) + 1) * _NUM_ENERGIES

Integers = NDArray[np.int32]
Pass = tuple[int, tuple[int, ...]]


def encode_pyramid(values: Integers) -> tuple[bytes, Integers]:
    """Code integers with an error of at most half a step.

    Parameters
    ----------
    values : int32, shape (slice, y, x)
        Absolute values below 2^28.

    Returns
    -------
    bitstream : bytes
        To be read by `decode_pyramid`.
    decoded : int32, shape (slice, y, x)
        What it will give, at most ``STEP // 2`` away from `values`.
    """
    encoder = IntegerEncoder(_NUM_CONTEXTS)

    def correct(where: tuple[slice, ...], predicted: Integers, contexts: NDArray[np.uint8]) -> Integers:
        corrections = (values[where] - predicted + STEP // 2) // STEP
        encoder.add(corrections.ravel(), contexts.ravel())
        return corrections

    decoded = _traverse(values.shape, correct)
    return encoder.to_bytes(), decoded


def decode_pyramid(bitstream: bytes, shape: tuple[int, ...]) -> Integers:
    """Read integers coded by `encode_pyramid`.

    Parameters
    ----------
    bitstream : bytes
        All of it.
    shape : tuple of int
        Number of slices, rows, columns.

    Returns
    -------
    int32, shape (slice, y, x)
        As the encoder gave them.

    Raises
    ------
    ArchiveError
        If the bitstream is damaged, as far as that shows.
    """
    decoder = IntegerDecoder(bitstream, _NUM_CONTEXTS)
    return _traverse(shape, lambda _, __, contexts: decoder.take(contexts.ravel()).reshape(contexts.shape))


def _traverse(
    shape: tuple[int, ...],
    correct: Callable[[tuple[slice, ...], Integers, NDArray[np.uint8]], Integers],
) -> Integers:
    """Fill a grid from coarse to fine; `correct` gives the corrections of one pass."""
    decoded, sizes = np.zeros(shape, np.int32), np.zeros(shape, np.uint8)
    for stride, odd in _passes(shape):
        where = tuple(slice(stride * o, None, 2 * stride) for o in odd)
        predicted, contexts = _predict(decoded, sizes, stride, odd)
        corrections = correct(where, predicted, contexts)
        decoded[where] = predicted + STEP * corrections
        sizes[where] = np.minimum(np.abs(corrections), 3)
    return decoded


def _passes(shape: tuple[int, ...]) -> Iterator[Pass]:
    """List stride and odd axes of each pass; the first is the origin alone."""
    stride = 1 << max(max(shape) - 1, 0).bit_length()
    yield stride, (0,) * len(shape)
    while stride := stride // 2:
        for odd in sorted(product((0, 1), repeat=len(shape)), key=sum):
            if any(odd) and all(n > stride * o for n, o in zip(shape, odd, strict=True)):
                yield stride, odd


def _predict(
    decoded: Integers, sizes: NDArray[np.uint8], stride: int, odd: tuple[int, ...]
) -> tuple[Integers, NDArray[np.uint8]]:
    """Predict the points of one pass and tell how reliable that is."""
    if not any(odd):
        where = tuple(slice(0, None, 2 * stride) for _ in odd)
        return decoded[where], np.zeros(decoded[where].shape, np.uint8)
    total, weights, spreads, energy = (np.zeros(1, np.int64) for _ in range(4))
    for axis in map(int, np.flatnonzero(odd)):
        interpolated, spread = _interpolate(_neighbours(decoded, stride, odd, axis))
        weight = 2**34 // (spread + STEP // 2)
        total = total + weight * interpolated
        weights, spreads = weights + weight, spreads + weight * spread
        energy = energy + sum(_neighbours(sizes, stride, odd, axis)[1:3])
    return (total // weights).astype(np.int32), _contexts(spreads // weights, energy, stride, sum(odd))


def _interpolate(neighbours: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Interpolate between the middle two of four neighbours; give also how far the two differ."""
    outer_left, left, right, outer_right = neighbours
    cubic = (9 * (left + right) - outer_left - outer_right + 8) // 16
    return np.clip(cubic, np.minimum(left, right), np.maximum(left, right)), np.abs(right - left)


def _contexts(spread: NDArray[np.int64], energy: NDArray[np.int64], stride: int, num_axes: int) -> NDArray[np.uint8]:
    """Choose tables by how far the neighbours differ and how much they had to be corrected."""
    level = 3 * int(stride > 1) + num_axes - 1
    energies = np.minimum(energy // 2, _NUM_ENERGIES - 1)
    spreads = np.searchsorted(_SPREADS, spread, side="right")
    return ((level * (len(_SPREADS) + 1) + spreads) * _NUM_ENERGIES + energies).astype(np.uint8)


def _neighbours(grid: NDArray[Any], stride: int, odd: tuple[int, ...], axis: int) -> list[NDArray[np.int64]]:
    """Give the known points at -3, -1, 1 and 3 strides along an odd axis; beyond an edge the last known again."""
    where = [slice(stride * o, None, 2 * stride) for o in odd]
    where[axis] = slice(0, None, 2 * stride)
    known = np.moveaxis(grid[tuple(where)].astype(np.int64), axis, 0)
    num_points = len(range(stride, grid.shape[axis], 2 * stride))
    known = np.concatenate([known[:1], known, known[-1:], known[-1:]])
    return [np.moveaxis(known[shift : shift + num_points], 0, axis) for shift in range(4)]
