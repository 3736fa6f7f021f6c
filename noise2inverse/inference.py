"""Applying the network to a volume, tile by tile, as exactly as if whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from .msd import MSD

__all__ = ["HALO", "denoise_slice", "tiles"]

HALO = 96
"""Pixels around a tile that the network must see for an error of 1e-5 of the output's standard deviation."""

Window = tuple[slice, slice]


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


def denoise_slice(
    model: MSD, context: NDArray[np.float32], *, tile_size: int = 512, device: torch.device | None = None
) -> NDArray[np.float32]:
    """Denoise the middle one of a few slices.

    Parameters
    ----------
    model : MSD
        Trained network.
    context : float32, shape (channel, y, x)
        The slice with its context slices, in the unit of the data.
    tile_size : int
        Side of the tiles, pixels; sets the memory used, not the result.
    device : torch.device, optional
        Where to compute.

    Returns
    -------
    float32, shape (y, x)
        The denoised slice.
    """
    images = torch.from_numpy(np.ascontiguousarray(context))[None]
    denoised = np.empty(context.shape[-2:], np.float32)
    with torch.inference_mode():
        for (rows, columns), kept, place in tiles(context.shape[-2], context.shape[-1], tile_size):
            tile = model(images[:, :, rows, columns].to(device))
            denoised[place] = tile[0, 0, kept[0], kept[1]].cpu().numpy()
    return denoised
