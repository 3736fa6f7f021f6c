"""The arrays that the compiled loops over rows work on: which planes, rows and taps meet where, as positions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BlockPlanes", "Floats", "Geometry", "Integers", "Tables"]

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Geometry(NamedTuple):
    """Sizes, in numbers of the flat arrays.

    Attributes
    ----------
    num_rows, width, stride, margin : int
        Rows of a plane, pixels of a row, numbers from row to row, numbers before and after a row.
    reach : int
        Largest dilation: as far as rows are continued.
    edge_twice : bool
        How they are continued, see `plane_layout.mirror`.
    band : int
        Rows that fit into the nearest cache.
    num_bands : int
        Into how many parts sums over all rows are cut.
    """

    num_rows: int
    width: int
    stride: int
    margin: int
    reach: int
    edge_twice: bool
    band: int
    num_bands: int


class Tables(NamedTuple):
    """Which rows meet, for each of the different dilations: `plane_layout.RowTables` one after the other.

    Attributes
    ----------
    dilations : int64, shape (dilation,)
        The dilations.
    single, triple, rest, adjoint : int64
        Entries of all dilations.
    triple_start, rest_start, adjoint_start : int64, shape (dilation + 1,)
        Where those of each dilation begin, in entries.
    adjoint_first : int64, shape (dilation * (row + 1),)
        Where those of each row begin, from `adjoint_start` on.
    """

    dilations: Integers
    single: Integers
    triple: Integers
    triple_start: Integers
    rest: Integers
    rest_start: Integers
    adjoint: Integers
    adjoint_start: Integers
    adjoint_first: Integers


class BlockPlanes(NamedTuple):
    """A block of planes and the later layers that see it; positions in the flat arrays.

    Attributes
    ----------
    at, tap : int64, shape (plane,)
        Each plane of the block: where it begins, and where its taps do in those of a layer.
    gradient_at : int64, shape (plane,)
        Where its gradient begins.
    layer_at, layer_tap : int64, shape (plane,)
        Planes that are computed, layer by layer, and where the taps of each begin; none in the block of the input.
    layer_dilation : int64, shape (layer,)
        Which dilation each layer of the block has.
    width : int
        Planes of a layer.
    later_at, later_tap : int64, shape (plane,)
        Planes of later blocks, by dilation, and where the taps of each begin.
    later_start : int64, shape (dilation + 1,)
        Where those of each dilation begin.
    """

    at: Integers
    tap: Integers
    gradient_at: Integers
    layer_at: Integers
    layer_tap: Integers
    layer_dilation: Integers
    width: int
    later_at: Integers
    later_tap: Integers
    later_start: Integers
