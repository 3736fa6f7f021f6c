"""A picture of one slice, before and after, drawn anew while the network learns."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quietbeam.noise2inverse.msd import MSD

from .atomic import write_atomically
from .pictures import Window, grey_png, grey_window

__all__ = ["Preview", "draw_both"]

SIDE = 512
"""Longest side of what is shown, pixels."""
SHARE = 0.05
"""Of the time of training that drawing may take."""


class Preview:
    """The middle of one slice, noisy on the left and denoised on the right; replaced now and then.

    Parameters
    ----------
    path : Path
        PNG file.
    context : float32, shape (channel, y, x)
        What the network sees of the slice.
    denoise : callable
        Applies a network to such images: (network, images) to the denoised slice, shape (y, x).
    """

    def __init__(
        self,
        path: Path,
        context: NDArray[np.float32],
        denoise: Callable[[MSD, NDArray[np.float32]], NDArray[np.float32]],
    ) -> None:
        self.path, self.denoise = path, denoise
        rows, columns = (_middle(size) for size in context.shape[-2:])
        self.context = context[:, rows, columns]
        self.noisy = self.context[len(context) // 2]
        self.last, self.took = time.monotonic(), 0.0

    def update(self, network: MSD) -> None:
        """Draw what a network makes of the slice, unless that would take more than its share of the time."""
        now = time.monotonic()
        if self.took > SHARE * (now - self.last):
            return
        denoised = self.denoise(network, self.context)
        write_atomically(self.path, draw_both(self.noisy, denoised))
        self.last = time.monotonic()
        self.took = self.last - now


def draw_both(noisy: NDArray[np.float32], denoised: NDArray[np.float32]) -> bytes:
    """Draw two images side by side, with the grey values of the second.

    Parameters
    ----------
    noisy, denoised : float32, shape (y, x)
        Images.

    Returns
    -------
    bytes
        PNG.
    """
    window: Window = grey_window(denoised)
    gap = np.full((noisy.shape[0], 4), window[1], np.float32)
    return grey_png(np.concatenate([noisy, gap, denoised], axis=1), window)


def _middle(size: int) -> slice:
    length = min(size, SIDE)
    start = (size - length) // 2
    return slice(start, start + length)
