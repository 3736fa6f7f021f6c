"""How planes lie in one flat array, and which rows of them meet in a dilated convolution.

A plane holds the rows of a batch of images, after one row of zeros with a margin before it. Every row has a margin on
either side, of whole vectors and at least as wide as the largest dilation, so that a row can be read beyond its ends: a
feature goes on there as the image does beyond its border, a gradient is zero. What a row needs beyond its margin lies
in that of the next.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .row_kernels import LANES

__all__ = ["PlaneLayout", "RowTables", "mirror", "row_tables"]

Table = NDArray[np.int64]


def mirror(index: NDArray[np.intp], size: int, *, edge_twice: bool) -> NDArray[np.intp]:
    """Say which pixel stands beyond the border.

    Parameters
    ----------
    index : intp
        Positions, beyond [0, size) by at most `size`, or less than that if the edge is not repeated.
    size : int
        Pixels.
    edge_twice : bool
        True where the mirror is at the edge of the last pixel (... 1 0 0 1 ...), False where it is in its middle.

    Returns
    -------
    intp
        Positions in [0, size).
    """
    before, after = (-1, 2 * size - 1) if edge_twice else (0, 2 * size - 2)
    return np.where(index < 0, before - index, np.where(index < size, index, after - index))


class PlaneLayout(NamedTuple):
    """Positions of planes, rows and pixels in a flat array.

    Attributes
    ----------
    batch, height, width : int
        Images of a plane, and their size in pixels.
    margin : int
        Numbers before and after each row.
    """

    batch: int
    height: int
    width: int
    margin: int

    @classmethod
    def of(cls, batch: int, height: int, width: int, largest_dilation: int) -> PlaneLayout:
        """Lay out images for convolutions up to some dilation."""
        return cls(batch, height, width, _whole_vectors(largest_dilation))

    @property
    def stride(self) -> int:
        """Numbers from row to row."""
        return _whole_vectors(self.width) + 2 * self.margin

    @property
    def plane_size(self) -> int:
        """Numbers from plane to plane."""
        return self.margin + (1 + self.batch * self.height) * self.stride

    def planes(self, count: int) -> Tensor:
        """Make planes that are not set, but for their rows of zeros, with room to read on either side of them.

        Returns
        -------
        float32, shape (numbers,)
            `at(plane, row)` is where a row begins.
        """
        flat = torch.empty(2 * self.margin + count * self.plane_size + self.stride)
        flat[: 2 * self.margin], flat[-self.stride :] = 0, 0
        self._whole(flat)[:, : self.margin + self.stride] = 0
        return flat

    def _whole(self, flat: Tensor) -> Tensor:
        return flat[2 * self.margin : -self.stride].view(-1, self.plane_size)

    def at(self, plane: int) -> int:
        """Position of the first number of a plane: column 0 of its row of zeros."""
        return 4 * self.margin + plane * self.plane_size

    def rows(self, flat: Tensor) -> Tensor:
        """View planes as (plane, row, column), with the margins and without the rows of zeros."""
        whole = self._whole(flat)
        return whole[:, self.margin + self.stride :].view(len(whole), -1, self.stride)

    def images(self, flat: Tensor, reach: int = 0) -> Tensor:
        """View planes as images, shape (plane, batch, y, x), with some columns before and after them."""
        rows = self.rows(flat)[..., self.margin - reach : self.margin + self.width + reach]
        return rows.view(len(rows), self.batch, self.height, -1)


class RowTables(NamedTuple):
    """Which rows meet, as positions from the beginning of a plane; flat, entry after entry.

    Attributes
    ----------
    single : int64
        Entries (target row, three source rows) for each row of a plane, in order.
    triple, rest : int64
        Entries (three target rows a dilation apart, five source rows), and entries like `single` for the rows left.
    adjoint, adjoint_first : int64
        Entries (target row, three source rows) of the transposed convolution, by target row, and where those of each
        row begin: a row near the border takes more than one.
    """

    single: Table
    triple: Table
    rest: Table
    adjoint: Table
    adjoint_first: Table


@lru_cache(maxsize=256)
def row_tables(layout: PlaneLayout, dilation: int, edge_twice: bool) -> RowTables:
    """Make the tables of one dilation.

    Parameters
    ----------
    layout : PlaneLayout
        Where rows lie.
    dilation : int
        Rows between the taps.
    edge_twice : bool
        How the images go on beyond their border, see `mirror`.

    Returns
    -------
    RowTables
    """
    height, images = layout.height, np.arange(layout.batch)[:, None, None]
    steps = np.array([-dilation, 0, dilation])

    def positions(rows: NDArray[np.intp]) -> Table:
        """Positions of rows (entry, row) in each of the images; row -1 is the row of zeros."""
        numbered = np.where(rows < 0, 0, 1 + images * height + rows)
        return np.asarray((numbered * layout.stride).reshape(-1, rows.shape[-1]), np.int64)

    def meeting(rows: NDArray[np.intp], num_targets: int) -> Table:
        apart = dilation * np.arange(-1, num_targets + 1)
        sources = mirror(rows[:, None] + apart, height, edge_twice=edge_twice)
        targets = rows[:, None] + dilation * np.arange(num_targets)
        return positions(np.concatenate([targets, sources], axis=1)).ravel()

    every = np.arange(height)
    whole = height - height % (3 * dilation)
    leading = every[:whole][every[:whole] % (3 * dilation) < dilation]
    beyond = np.arange(-dilation, height + dilation)
    targets = mirror(beyond, height, edge_twice=edge_twice)
    order = np.lexsort((beyond != targets, targets))
    sources = beyond[order, None] + steps
    sources = np.where((sources >= 0) & (sources < height), sources, -1)
    adjoint = positions(np.concatenate([targets[order, None], sources], axis=1))
    counts = np.tile(np.bincount(targets, minlength=height), layout.batch)
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return RowTables(meeting(every, 1), meeting(leading, 3), meeting(every[whole:], 1), adjoint.ravel(), first)


def _whole_vectors(numbers: int) -> int:
    return -(-numbers // LANES) * LANES
