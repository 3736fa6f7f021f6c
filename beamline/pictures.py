"""Grey pictures of slices for the report: window, size, detail, PNG.

A picture keeps the orientation of its array: the first row is on top, the first column on the left.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

__all__ = [
    "PICTURE_LIMIT",
    "Box",
    "Window",
    "block_mean",
    "data_url",
    "difference_window",
    "enlarge",
    "find_detail",
    "grey_png",
    "grey_window",
]

PICTURE_LIMIT = 1024
"""Longest side of a picture in the report, in pixels."""

FloatArray = NDArray[np.floating]
Window = tuple[float, float]
"""The two values shown as black and as white."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: its first row and column, its height and width."""

    row: int
    column: int
    height: int
    width: int

    def cut(self, image: FloatArray) -> FloatArray:
        """Give the view of ``image``, shape (row, column), that lies in the box."""
        return image[self.row : self.row + self.height, self.column : self.column + self.width]


def grey_window(image: FloatArray, percent: float = 0.5) -> Window:
    """Find the values to show as black and white: percentiles, so that single pixels do not decide.

    Parameters
    ----------
    image : float, shape (row, column)
        The picture; pixels that are not finite are left out.
    percent : float
        Share of the pixels left out at either end, in percent.

    Returns
    -------
    Window
        Black and white; a constant picture gets a window with its value in the middle.
    """
    finite = image[np.isfinite(image)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite.astype(np.float64), (percent, 100 - percent)))
    margin = 1e-6 * max(abs(low), abs(high))
    if high - low > margin:
        return low, high
    middle, half = (low + high) / 2, max(1e-3 * abs(low), 1e-30)
    return middle - half, middle + half


def difference_window(difference: FloatArray) -> Window:
    """Find the window of a difference picture: the same distance below and above zero, which is mid-grey.

    Parameters
    ----------
    difference : float, shape (row, column)
        The picture; pixels that are not finite are left out.
    """
    finite = np.abs(difference[np.isfinite(difference)])
    reach = float(np.percentile(finite.astype(np.float64), 99.5)) if finite.size else 0.0
    return (-reach, reach) if reach > 0 else (-1.0, 1.0)


def block_mean(image: FloatArray, limit: int = PICTURE_LIMIT) -> tuple[FloatArray, int]:
    """Shrink a picture to at most ``limit`` pixels a side by means over square blocks.

    Parameters
    ----------
    image : float, shape (row, column)
        Rows and columns that do not fill a block at the far ends are left out.
    limit : int
        Longest side of the result, in pixels.

    Returns
    -------
    float, shape (row // factor, column // factor)
        The smaller picture; the picture itself where it fits.
    int
        Side of a block in pixels.
    """
    factor = -(-max(image.shape) // limit)
    if factor == 1:
        return image, 1
    step = tuple(min(factor, size) for size in image.shape)
    rows, columns = (size // by for size, by in zip(image.shape, step, strict=True))
    blocks = image[: rows * step[0], : columns * step[1]].reshape(rows, step[0], columns, step[1])
    return blocks.mean(axis=(1, 3), dtype=np.float64), factor


def find_detail(image: FloatArray) -> Box:
    """Find the part with most structure: where the mean size of the differences between neighbours is largest.

    Parameters
    ----------
    image : float, shape (row, column)
        The denoised picture.

    Returns
    -------
    Box
        A quarter of the shorter side wide and high, within 48 to 160 pixels and the picture.
    """
    side = int(np.clip(min(image.shape) // 4, 48, 160))
    height, width = (min(side, size) for size in image.shape)
    low, high = grey_window(image)
    clipped = np.clip(np.nan_to_num(image.astype(np.float64)), low, high)
    change = np.abs(np.diff(clipped, axis=0, prepend=clipped[:1])) + np.abs(
        np.diff(clipped, axis=1, prepend=clipped[:, :1])
    )
    means = uniform_filter(change, (height, width), mode="constant", origin=(-(height // 2), -(width // 2)))
    corners = means[: image.shape[0] - height + 1, : image.shape[1] - width + 1]
    row, column = np.unravel_index(int(np.argmax(corners)), corners.shape)
    return Box(int(row), int(column), height, width)


def enlarge(image: FloatArray, side: int = 480) -> FloatArray:
    """Repeat pixels so that the longer side comes near ``side`` pixels and every pixel can be seen."""
    factor = max(1, side // max(image.shape))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def grey_png(image: FloatArray, window: Window) -> bytes:
    """Write a picture as an 8-bit grey PNG, the same bytes for the same picture.

    Parameters
    ----------
    image : float, shape (row, column)
        nan is shown as black.
    window : Window
        The values shown as black and as white.
    """
    low, high = window
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.nan_to_num((image.astype(np.float64) - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    grey = np.round(np.clip(scaled, 0.0, 1.0) * 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(grey).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_url(png: bytes) -> str:
    """Give a PNG as a ``data:`` address, to stand inside a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
