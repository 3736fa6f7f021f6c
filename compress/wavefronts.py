"""The order in which a grid is walked where each position is coded with what is known of its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Where", "wavefronts"]

Where: TypeAlias = tuple[NDArray[np.intp], ...]


def wavefronts(shape: tuple[int, ...]) -> Iterator[Where]:
    """List the positions of each wavefront: those with the same sum of indices, which ascends.

    The slice before, the row above and the column to the left of a position lie in the wavefront before, so all of a
    wavefront can be computed at once.

    Parameters
    ----------
    shape : tuple of int
        Slices, rows and columns.

    Yields
    ------
    tuple of intp arrays, each of shape (n,)
        Slice, row and column of the positions of one wavefront, in C order.
    """
    slices, rows, columns = map(np.arange, shape)
    order = np.add.outer(np.add.outer(slices, rows), columns)
    positions = np.argsort(order.ravel(), kind="stable")
    for front in np.split(positions, np.bincount(order.ravel()).cumsum()[:-1]):
        yield np.unravel_index(front, shape)
