"""One plane of the volume as the report shows it: before, after, detail, difference and profile."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .charts import DARK, LIGHT, Chart, Line, draw_chart
from .pictures import (
    Box,
    Window,
    block_mean,
    data_url,
    difference_window,
    enlarge,
    find_detail,
    grey_png,
    grey_window,
)

__all__ = ["DrawnChart", "Picture", "Plane", "SlicePair", "draw_twice", "scale_bar", "show_plane"]

FloatArray = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class SlicePair:
    """The same plane before and after denoising.

    Attributes
    ----------
    noisy, denoised : float32, shape (row, column)
        (y, x) for a horizontal slice, (slice, x) for a vertical one.
    position : str
        Where the plane lies, for example ``slice 512 of 1024``.

    Raises
    ------
    ValueError
        If the two are not two-dimensional, not of one shape, or empty.
    """

    noisy: FloatArray
    denoised: FloatArray
    position: str = ""

    def __post_init__(self) -> None:
        if self.noisy.shape != self.denoised.shape or self.noisy.ndim != 2 or self.noisy.size == 0:
            expected = "noisy and denoised must have one shape (row, column) with at least one pixel"
            raise ValueError(f"{expected}, got {self.noisy.shape} and {self.denoised.shape}")


@dataclass(frozen=True)
class Picture:
    """A picture of the page with its scale bar: (length in percent of the width, label), or None."""

    url: str
    label: str
    alt: str
    width: int
    height: int
    scale: tuple[float, str] | None


@dataclass(frozen=True)
class DrawnChart:
    """A chart of the page, as it looks in light and in dark."""

    title: str
    alt: str
    light: str
    dark: str


@dataclass(frozen=True)
class Plane:
    """All that the page shows of one plane.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of the slice itself, in pixels.
    window, difference_window : (float, float)
        The values shown as black and as white.
    factor : int
        Side of the blocks that were averaged to make the pictures smaller; 1 for none.
    frame : (float, float, float, float)
        Top, left, height and width of the detail, in percent of the picture.
    """

    name: str
    position: str
    shape: tuple[int, int]
    window: Window
    difference_window: Window
    factor: int
    frame: tuple[float, float, float, float]
    whole: tuple[Picture, Picture]
    detail: tuple[Picture, Picture]
    difference: Picture
    profile: DrawnChart


def show_plane(name: str, pair: SlicePair, *, unit: str, pixel_size: float | None) -> Plane:
    """Make the pictures of one plane.

    Parameters
    ----------
    name : str
        For headings and alternative texts, for example ``Horizontal slice``.
    pair : SlicePair
        Both are shown in the same window, which is taken from the denoised one.
    unit : str
        Unit of the values.
    pixel_size : float or None
        In metres; None leaves the scale bars out.
    """
    box = find_detail(pair.denoised)
    window = grey_window(pair.denoised)
    difference = _subtract(pair.noisy, pair.denoised)
    spread = difference_window(difference)

    def picture(image: FloatArray, label: str, window: Window) -> Picture:
        flat = image.shape[0] < image.shape[1] / 8  # no room for a bar
        scale = None if flat else scale_bar(image.shape[1], pixel_size)
        shown = enlarge(block_mean(image)[0])
        alt = f"{name}, {label.lower()}"
        return Picture(data_url(grey_png(shown, window)), label, alt, shown.shape[1], shown.shape[0], scale)

    return Plane(
        name=name,
        position=pair.position,
        shape=(pair.noisy.shape[0], pair.noisy.shape[1]),
        window=window,
        difference_window=spread,
        factor=block_mean(pair.noisy)[1],
        frame=_frame(box, pair.noisy.shape),
        whole=(picture(pair.noisy, "Noisy", window), picture(pair.denoised, "Denoised", window)),
        detail=(
            picture(box.cut(pair.noisy), "Noisy, detail", window),
            picture(box.cut(pair.denoised), "Denoised, detail", window),
        ),
        difference=picture(difference, "Noisy minus denoised", spread),
        profile=_draw_profile(name, pair, box, unit),
    )


def draw_twice(chart: Chart, title: str, alt: str) -> DrawnChart:
    """Draw a chart for a light and for a dark page."""
    light, dark = (data_url(draw_chart(chart, theme)) for theme in (LIGHT, DARK))
    return DrawnChart(title, alt, light, dark)


def scale_bar(columns: int, pixel_size: float | None) -> tuple[float, str] | None:
    """Find a round length of at most a third of the width.

    Parameters
    ----------
    columns : int
        Width of the picture in pixels of the slice.
    pixel_size : float or None
        In metres.

    Returns
    -------
    (float, str) or None
        Length in percent of the width, and its label with a unit; None when there is no usable pixel size.
    """
    if pixel_size is None or not 0 < pixel_size < math.inf:
        return None
    width = columns * pixel_size
    decade = 10.0 ** math.floor(math.log10(width / 3))
    length = max(step * decade for step in (1, 2, 5) if step == 1 or step * decade <= width / 3)
    units = ((1.0, "m"), (1e-2, "cm"), (1e-3, "mm"), (1e-6, "µm"))
    scale, unit = next((one for one in units if length >= 0.999 * one[0]), (1e-9, "nm"))
    return 100 * length / width, f"{length / scale:.4g} {unit}"


def _subtract(noisy: FloatArray, denoised: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore"):
        return noisy.astype(np.float64) - denoised


def _frame(box: Box, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    rows, columns = shape
    top, left, height, width = box.row / rows, box.column / columns, box.height / rows, box.width / columns
    return 100 * top, 100 * left, 100 * height, 100 * width


def _draw_profile(name: str, pair: SlicePair, box: Box, unit: str) -> DrawnChart:
    row = box.row + box.height // 2
    columns = np.arange(box.column, box.column + box.width)
    noisy = Line(columns, pair.noisy[row, columns], "noisy", "noisy")
    denoised = Line(columns, pair.denoised[row, columns], "denoised", "denoised")
    chart = Chart((noisy, denoised), "column in pixels", "value")
    title = f"Values along row {row}, across the detail, in {unit}"
    return draw_twice(chart, title, f"{name}: values along row {row}, noisy and denoised")
