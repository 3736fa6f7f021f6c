"""A grid of points as lattices from coarse to fine: which points are coded when, and what is known by then.

At each level the lattice of every second point is known, and seven passes fill in the others. Their order makes
face-centred cubic lattices first: a point of the first three passes has neighbours at a distance of sqrt(2), where the
order of wavelets has some at 1 and none across. Points are predicted from pairs of known points on opposite sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.compiled import compiled

__all__ = [
    "COSETS",
    "PADDING",
    "Geometry",
    "Grid",
    "Shape",
    "lattice_shape",
    "make_geometry",
    "mirror_edges",
    "nearest_pairs",
    "new_grid",
    "num_levels",
    "offsets_to_flat",
]

COSETS = ((1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1))
"""The passes of a level: whether the indices of their points are odd, along each axis."""
PADDING = 4
"""Points around a grid, so that neighbours need no check; they mirror the points inside."""

_REACH = 3
_DISTANCES = (0, 1000, 2828, 5196)
_CAUSAL = (
    *((0, 0, -2), (0, -2, 0), (-2, 0, 0)),
    *((0, -2, -2), (0, -2, 2), (-2, 0, -2), (-2, 0, 2), (-2, -2, 0), (-2, 2, 0)),
)

Offset = tuple[int, int, int]
Shape = tuple[int, int, int]


class Grid(NamedTuple):
    """The points of a level, padded, flat.

    Attributes
    ----------
    values : int32
        Decoded so far.
    sizes : int32
        Absolute values of the corrections, in units of the values, of this level and of coarser ones.
    signed : int8
        Corrections of this level, in steps, limited to +-100; 0 in the padding.
    """

    values: NDArray[np.int32]
    sizes: NDArray[np.int32]
    signed: NDArray[np.int8]


class Geometry(NamedTuple):
    """Where the points of a pass are, and their neighbours.

    Attributes
    ----------
    places : int64, shape (point,)
        Flat indices of the points, in C order.
    pairs : int64, shape (pair,)
        From a point to known ones, by distance; the opposite ones are known too.
    causal : int64, shape (9,)
        From a point to those of the same pass that come before it.
    num_nearest : int
        Pairs that are as near as the first.
    position, level : int
        Which pass, and the level, 0 for the finest.
    """

    places: NDArray[np.int64]
    pairs: NDArray[np.int64]
    causal: NDArray[np.int64]
    num_nearest: int
    position: int
    level: int


def num_levels(shape: Shape) -> int:
    """Count the levels: the coarsest lattice is the first point alone."""
    return (max(shape) - 1).bit_length()


def lattice_shape(shape: Shape, level: int) -> Shape:
    """Count the points of every 2^level-th along each axis."""
    slices, rows, columns = (-(-side >> level) for side in shape)
    return slices, rows, columns


def new_grid(shape: Shape, coarse: Grid | None, origin: int) -> Grid:
    """Make the grid of a level; its even points are those of the coarser level, or the origin alone."""
    padded = [side + 2 * PADDING for side in shape]
    values, sizes = np.zeros(padded, np.int32), np.zeros(padded, np.int32)
    even = tuple(slice(PADDING, PADDING + side, 2) for side in shape)
    inside = (slice(PADDING, -PADDING),) * 3
    values[even] = origin if coarse is None else coarse.values[inside]
    sizes[even] = 0 if coarse is None else coarse.sizes[inside]
    return Grid(values, sizes, np.zeros(padded, np.int8))


def make_geometry(shape: Shape, level: int, position: int, num_pairs: int) -> Geometry | None:
    """List the points of a pass and their neighbours; None if it has no points."""
    coset = COSETS[position]
    if any(side <= odd for side, odd in zip(shape, coset, strict=True)):
        return None
    slices, rows, columns = shape
    offsets = list(_pairs((slices > 1, rows > 1, columns > 1), position)[:num_pairs])
    nearest = sum(_distance(offset) == _distance(offsets[0]) for offset in offsets)
    places = _places(np.array(shape), np.array(coset), np.array(_strides(shape)))
    pairs, causal = offsets_to_flat(offsets, shape), offsets_to_flat(list(_CAUSAL), shape)
    return Geometry(places, pairs, causal, nearest, position, level)


def offsets_to_flat(offsets: list[Offset], shape: Shape) -> NDArray[np.int64]:
    """Give the distances of offsets in the padded, flat grid of a lattice."""
    return np.array([_flat(offset, shape) for offset in offsets], np.int64)


def nearest_pairs(num_pairs: int) -> list[Offset]:
    """List one of each pair of opposite offsets, whatever their parity, by distance."""
    return sorted(_half_space(), key=lambda offset: (_distance(offset), offset))[:num_pairs]


@cache
def _pairs(extends: tuple[bool, bool, bool], position: int) -> tuple[Offset, ...]:
    """List one of each pair of offsets to points known before a pass, by distance.

    Along an axis with a single point, one that does not extend, there is nothing at any distance.
    """
    known = {(0, 0, 0), *COSETS[:position]}
    found = []
    for offset in nearest_pairs((2 * _REACH + 1) ** 3 // 2):
        target = tuple((step + odd) % 2 for step, odd in zip(offset, COSETS[position], strict=True))
        if target in known and all(far or not step for far, step in zip(extends, offset, strict=True)):
            found.append(offset)
    return tuple(found)


def _half_space() -> Iterator[Offset]:
    """Give the offsets within reach whose first index that is not 0 is positive."""
    for z, y, x in product(range(-_REACH, _REACH + 1), repeat=3):
        if (z, y, x) > (0, 0, 0):
            yield z, y, x


def _distance(offset: Offset) -> int:
    """Add up the steps to the power of 1.5, in thousandths: diagonals count for more than along an axis."""
    return sum(_DISTANCES[abs(step)] for step in offset)


def _strides(shape: Shape) -> tuple[int, int, int]:
    columns = shape[2] + 2 * PADDING
    return (shape[1] + 2 * PADDING) * columns, columns, 1


def _flat(offset: Offset, shape: Shape) -> int:
    return sum(step * stride for step, stride in zip(offset, _strides(shape), strict=True))


@compiled()
def _places(shape: NDArray[np.int64], coset: NDArray[np.int64], strides: NDArray[np.int64]) -> NDArray[np.int64]:
    sides = (shape - coset + 1) // 2
    places = np.empty(sides[0] * sides[1] * sides[2], np.int64)
    point = 0
    for z in range(sides[0]):
        for y in range(sides[1]):
            row = (2 * z + coset[0] + PADDING) * strides[0] + (2 * y + coset[1] + PADDING) * strides[1]
            for x in range(sides[2]):
                places[point] = row + 2 * x + coset[2] + PADDING
                point += 1
    return places


def mirror_edges(grid: NDArray[np.int32]) -> None:
    """Fill the padding of a grid, shape (slice, y, x): the point at -i is that at i, the parity stays; in place."""
    for axis in range(3):
        planes = np.moveaxis(grid, axis, 0)
        side = len(planes) - 2 * PADDING
        period = max(2 * (side - 1), 1)
        for outside in (*range(-PADDING, 0), *range(side, side + PADDING)):
            inside = outside % period
            planes[outside + PADDING] = planes[min(inside, period - inside) + PADDING if side > 1 else PADDING]
