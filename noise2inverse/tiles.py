"""Cutting slices into tiles with a halo, so that the network gives what it gives for the whole slice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from .msd import MSD

__all__ = ["HALO", "SMALLEST_TILE", "Precision", "Window", "bytes_of_tile", "halo_of", "largest_tile", "tiles"]

HALO = 96
"""Pixels around a tile that a network of dilations up to 10 must see for an error of 1e-5 of its output's deviation."""
HALO_DILATION = 10
"""The largest dilation that `HALO` is for; wider ones need more, in proportion."""
SMALLEST_TILE = 32
"""Side of a tile, pixels, below which the halo takes nearly all of the memory, and a smaller tile saves none."""
LARGEST_BUFFER = 2**31 - 1
"""Elements of the network's features for a tile: what a 32-bit index of a GPU kernel can count."""

Precision = Literal["float32", "float16", "bfloat16"]
Window = tuple[slice, slice]


def halo_of(dilations: Sequence[int]) -> int:
    """Count the pixels around a tile that the network must see.

    Parameters
    ----------
    dilations : sequence of int
        Of all layers, pixels.

    Returns
    -------
    int
        The sum of the dilations, beyond which a pixel sees nothing at all; for a deep network `HALO`, beyond which what
        it sees does not count, in proportion to the largest dilation.
    """
    reach = math.ceil(HALO * max(1.0, max(dilations) / HALO_DILATION))
    return min(sum(dilations), reach)


def tiles(height: int, width: int, tile_size: int, halo: int = HALO) -> Iterator[tuple[Window, Window, Window]]:
    """Cut a slice into tiles with a halo.

    Parameters
    ----------
    height, width : int
        Size of the slice, pixels.
    tile_size : int
        Side of the tiles without halo.
    halo : int
        Pixels around them, as far as there are any.

    Yields
    ------
    seen, kept, place : pair of slice
        What of the slice the network sees, what of its answer is kept, and where that belongs in the slice.
    """
    for y in range(0, height, tile_size):
        for x in range(0, width, tile_size):
            rows, columns = _intervals(y, tile_size, height, halo), _intervals(x, tile_size, width, halo)
            yield (rows[0], columns[0]), (rows[1], columns[1]), (rows[2], columns[2])


def _intervals(start: int, length: int, size: int, halo: int) -> tuple[slice, slice, slice]:
    stop = min(start + length, size)
    first, last = max(start - halo, 0), min(stop + halo, size)
    return slice(first, last), slice(start - first, stop - first), slice(start, stop)


def bytes_of_tile(model: MSD, tile_size: int, *, precision: Precision = "float32") -> int:
    """Bound the memory that the network takes for a tile, its halo included.

    Parameters
    ----------
    model : MSD
        The network.
    tile_size : int
        Side of the tile without halo, pixels.
    precision : {"float32", "float16", "bfloat16"}
        Of the features; on the CPU they are float32.

    Returns
    -------
    int
        Bytes; what reading the sections takes comes on top, in the memory of the host.
    """
    return _bytes_per_pixel(model, precision) * (tile_size + 2 * halo_of(model.dilations)) ** 2


def _bytes_per_pixel(model: MSD, precision: Precision) -> int:
    """Count features and one plane beside; input, normalised input, answers and their statistics in float32."""
    features = model.in_channels + model.settings.width * (model.settings.depth + 1)
    return features * (4 if precision == "float32" else 2) + 4 * (3 * model.in_channels + 4 * model.out_channels)


def largest_tile(model: MSD, num_bytes: int, *, precision: Precision = "float32") -> int:
    """Find the largest tile for which the network fits into memory.

    Parameters
    ----------
    model : MSD
        The network.
    num_bytes : int
        Memory that it may take.
    precision : {"float32", "float16", "bfloat16"}
        Of the features; on the CPU they are float32.

    Returns
    -------
    int
        Side without halo, pixels.

    Raises
    ------
    ValueError
        If a tile of one pixel does not fit.

    Notes
    -----
    A tile never gets features of more than 2**31 - 1 elements, however large the memory.
    """
    channels = model.in_channels + model.settings.depth * model.settings.width
    side = min(math.isqrt(num_bytes // _bytes_per_pixel(model, precision)), math.isqrt(LARGEST_BUFFER // channels))
    tile_size = side - 2 * halo_of(model.dilations)
    if tile_size < 1:
        least = bytes_of_tile(model, 1, precision=precision)
        raise ValueError(f"the network needs {least} bytes or more, got {num_bytes}: take a network of less depth")
    return tile_size
