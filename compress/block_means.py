"""Means over blocks of 2, 4, 8 ... voxels along each axis, of a volume whose slices come one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BlockMeans", "reduced_shape"]

Plane = NDArray[np.float64]


def reduced_shape(shape: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """Give the number of blocks along each axis; the last of them may be smaller."""
    return tuple(-(-size // factor) for size in shape)


class BlockMeans:
    """Reduces a volume by several factors at once while it passes by; holds one plane for each.

    A block at the end of an axis has the voxels that are left, and its mean is over those.

    Parameters
    ----------
    shape : tuple of int
        Slices, rows, columns of the volume.
    num_levels : int
        Level ``k`` has blocks of ``2^(k+1)`` voxels along each axis.
    take : callable
        Called with level and mean, float64, shape (y, x) of that level, for each plane of it in order.
    """

    def __init__(self, shape: tuple[int, ...], num_levels: int, take: Callable[[int, Plane], None]) -> None:
        self._shape, self._take = shape, take
        self._pending: list[Plane | None] = [None] * num_levels
        self._num_given = [0] * num_levels

    def add(self, slices: NDArray[Any]) -> None:
        """Take the next slices, any number, shape (slice, y, x)."""
        for plane in slices:
            self._add(0, plane.astype(np.float64))

    def finish(self) -> None:
        """Give the blocks that the end of the volume leaves incomplete."""
        for level, pending in enumerate(self._pending):
            if pending is not None:
                self._give(level, pending)

    def _add(self, level: int, sums: Plane) -> None:
        """Take the sums over the blocks of the level below, one plane of them."""
        if level == len(self._pending):
            return
        sums = _pair_sums(_pair_sums(sums).T).T
        pending = self._pending[level]
        if pending is None:
            self._pending[level] = sums
        else:
            self._give(level, pending + sums)

    def _give(self, level: int, sums: Plane) -> None:
        self._pending[level] = None
        counts = [_counts(size, 2 << level) for size in self._shape]
        self._take(level, sums / (counts[0][self._num_given[level]] * np.outer(counts[1], counts[2])))
        self._num_given[level] += 1
        self._add(level + 1, sums)


def _pair_sums(values: Plane) -> Plane:
    """Add neighbours along the first axis; the last of an odd number stays alone."""
    sums = values[0::2].copy()
    sums[: len(values) // 2] += values[1::2]
    return sums


def _counts(size: int, factor: int) -> NDArray[np.int64]:
    """Tell how many voxels each block has along an axis."""
    return np.minimum(factor, size - np.arange(0, size, factor))
