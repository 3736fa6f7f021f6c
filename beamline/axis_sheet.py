"""A sheet of pictures of one slice about many rotation axes, each with its column, for a person to choose."""

from __future__ import annotations

import math
import os
import re
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from quietbeam.reconstruction.axis_sweep import AxisSweep

from .atomic import write_atomically
from .axis_search import AxisSearch
from .charts import LIGHT
from .pictures import Box, find_detail, grey_window
from .settings import SettingsError

__all__ = ["check_sheet_path", "choose_region", "draw_axis_sheet", "parse_region", "write_axis_sheet"]

FOUND, SHARPEST = LIGHT.denoised, LIGHT.threshold
"""Colours of the frames."""
WIDE = 2.2
"""Columns of pictures over rows: a screen's shape, with the chart below."""
PICTURE_INCHES, TITLE_INCHES, CHART_INCHES, DPI = 2.2, 0.28, 1.9, 110
INSIDE = 0.32
"""Half the side of the square that a detail is looked for in, over the slice's width: it lies in the field of view."""
BLUR = 1.5
"""Pixels, so that noise is not taken for detail."""
LEAST = 1 / 3
"""Side of the part over the slice's: where noise is all that a smaller one shows, a larger one shows the sample."""


def choose_region(sweep: AxisSweep) -> Box:
    """Find the part of the sharpest slice with most structure, where a double edge shows.

    Parameters
    ----------
    sweep : AxisSweep
        Slices about some columns.

    Returns
    -------
    Box
        Part of the slice.
    """
    image = gaussian_filter(sweep.slices[int(np.argmax(sweep.sharpness))], BLUR)
    size = image.shape[0]
    first = math.ceil(size / 2 - max(INSIDE * size, min(24, size / 2)))
    inner = find_detail(image[first : size - first, first : size - first])
    side = max(inner.height, math.ceil(LEAST * size))
    row, column = (
        int(np.clip(first + corner - (side - inner.height) // 2, 0, size - side))
        for corner in (inner.row, inner.column)
    )
    return Box(row, column, side, side)


def parse_region(text: str) -> Box:
    """Read ``ROW:STOP,COLUMN:STOP``.

    Parameters
    ----------
    text : str
        For example ``200:300,150:250``.

    Returns
    -------
    Box
        Part of a slice.

    Raises
    ------
    SettingsError
        If it is no such part.
    """
    match = re.fullmatch(r"\s*(\d+):(\d+)\s*,\s*(\d+):(\d+)\s*", text)
    row, row_stop, column, column_stop = map(int, match.groups()) if match else (0, 0, 0, 0)
    if not (row < row_stop and column < column_stop):
        raise SettingsError(f"--region expects ROW:STOP,COLUMN:STOP, for example 200:300,150:250, got {text!r}")
    return Box(row, column, row_stop - row, column_stop - column)


def draw_axis_sheet(search: AxisSearch, region: Box | None = None) -> Figure:
    """Draw the slices of a sweep in one grey scale, each under its column, and their sharpness.

    Parameters
    ----------
    search : AxisSearch
        What was found and swept.
    region : Box, optional
        Part of the slices to show; `choose_region` if not given.

    Returns
    -------
    matplotlib.figure.Figure
        One picture per column, the one nearest to the axis found and the sharpest framed, and a chart below.

    Raises
    ------
    SettingsError
        If the part does not lie in the slices.
    """
    sweep, box = search.sweep, region or choose_region(search.sweep)
    size = sweep.slices.shape[1]
    if box.row + box.height > size or box.column + box.width > size:
        rows, columns = _ranges(box)
        raise SettingsError(f"the part [{rows}, {columns}] does not lie in the slice of {size} x {size} pixels")
    count = len(sweep.columns)
    across = math.ceil(math.sqrt(WIDE * count))
    down = math.ceil(count / across)
    height = (PICTURE_INCHES + TITLE_INCHES) * down + CHART_INCHES
    figure = Figure(figsize=(PICTURE_INCHES * across, height), dpi=DPI, layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.05, wspace=0.0, hspace=0.0)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(down + 1, across, height_ratios=[*[PICTURE_INCHES] * down, 0.6 * CHART_INCHES])
    pictures = [box.cut(image) for image in sweep.slices]
    window = grey_window(np.stack(pictures))
    found = int(np.abs(sweep.columns - search.axis.column).argmin())
    for index, (column, picture) in enumerate(zip(sweep.columns, pictures, strict=True)):
        axes = figure.add_subplot(grid[divmod(index, across)])
        axes.imshow(picture, cmap="gray", vmin=window[0], vmax=window[1], interpolation="nearest")
        axes.set_title(_label(float(column)), loc="left", fontsize=11, color=LIGHT.ink, pad=3)
        _frame(axes, _taken(search), found=index == found, sharpest=index == int(np.argmax(sweep.sharpness)))
    _draw_sharpness(figure.add_subplot(grid[down, :]), search)
    figure.suptitle(_title(search, box), fontsize=12, color=LIGHT.ink)
    return figure


def write_axis_sheet(path: Path, search: AxisSearch, region: Box | None = None) -> None:
    """Draw the sheet into a PNG file, whole or not at all.

    Parameters
    ----------
    path : Path
        File to write; replaced if it is there.
    search : AxisSearch
        What was found and swept.
    region : Box, optional
        Part of the slices to show.
    """
    buffer = BytesIO()
    draw_axis_sheet(search, region).savefig(buffer, format="png", metadata={"Software": None})
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:  # it names the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_sheet_path(path: Path) -> None:
    """Refuse a name that no sheet can have, before there is one.

    Parameters
    ----------
    path : Path
        File to write.

    Raises
    ------
    SettingsError
        If it is no PNG file, or its folder is not there or cannot be written to.
    """
    if path.suffix.lower() != ".png":
        raise SettingsError(f"--output expects a name that ends in .png, got {path}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise SettingsError(f"--output {path}: the folder {path.parent} is not there, or cannot be written to")


def _label(column: float) -> str:
    return f"{column:.10g}"


def _ranges(box: Box) -> tuple[str, str]:
    return f"{box.row}:{box.row + box.height}", f"{box.column}:{box.column + box.width}"


def _title(search: AxisSearch, box: Box) -> str:
    rows, columns = _ranges(box)
    where = f"{search.scan.name}, detector row {search.row}, part [{rows}, {columns}] of the slice"
    return f"Rotation axis in pixels: {where}"


def _taken(search: AxisSearch) -> str:
    return search.axis.method if search.axis.method in ("given", "middle") else "found"


def _frame(axes: Axes, taken: str, *, found: bool, sharpest: bool) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    color = FOUND if found else SHARPEST
    for spine in axes.spines.values():
        spine.set(visible=found or sharpest, color=color, linewidth=4)
    words = [word for word, is_it in ((taken, found), ("sharpest", sharpest)) if is_it]
    axes.set_title(", ".join(words), loc="right", fontsize=11, color=color, pad=3)


def _draw_sharpness(axes: Axes, search: AxisSearch) -> None:
    sweep, axis = search.sweep, search.axis
    axes.plot(sweep.columns, _scaled(sweep.sharpness), color=SHARPEST, marker="o", markersize=4, linewidth=1.2)
    axes.axvline(sweep.best, color=SHARPEST, linewidth=1, linestyle=(0, (1, 2)), label=f"sharpest {sweep.best:.2f}")
    label = f"{_taken(search)} {axis.column:.2f} ± {axis.spread:.2f} ({axis.method})"
    axes.axvline(axis.column, color=FOUND, linewidth=1.6, label=label)
    margin = 0.02 * max(float(np.ptp(sweep.columns)), 1.0)
    axes.set_xlim(sweep.columns[0] - margin, sweep.columns[-1] + margin)
    axes.set_ylim(-0.05, 1.1)
    axes.set_xlabel("column in pixels", color=LIGHT.ink)
    axes.set_ylabel("sharpness", color=LIGHT.ink)
    axes.set_yticks([])
    axes.tick_params(colors=LIGHT.ink)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, labelcolor=LIGHT.ink, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0)


def _scaled(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(scores.min()), float(scores.max())
    return np.asarray((scores - low) / (high - low) if high > low else np.zeros_like(scores))
