"""Line charts for the report, each drawn once for a light and once for a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

__all__ = ["DARK", "LIGHT", "Chart", "Line", "Theme", "draw_chart"]

Role = Literal["noisy", "denoised", "own", "threshold"]


@dataclass(frozen=True)
class Theme:
    """Colours of a chart: of its text, its grid, and of a line by its role."""

    ink: str
    grid: str
    noisy: str
    denoised: str
    own: str
    threshold: str


LIGHT = Theme(ink="#4a5157", grid="#e4e1da", noisy="#9aa3aa", denoised="#0b6a7f", own="#8a4a9e", threshold="#b4632a")
DARK = Theme(ink="#b3bbc1", grid="#30363b", noisy="#7f8a92", denoised="#5fc6da", own="#c79ad6", threshold="#e2955c")


_STROKES: dict[Role, tuple[float, Any]] = {
    "noisy": (1.1, "-"),
    "denoised": (1.8, "-"),
    "own": (1.3, (0, (6, 2))),
    "threshold": (1.1, (0, (4, 3))),
}
"""Width and dashes of a line by its role."""


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes
    ----------
    x, y : float, shape (point,)
        Points; a gap where one is not finite.
    label : str
        Name in the legend, in characters that every font has.
    role : {"noisy", "denoised", "own", "threshold"}
        Decides colour and weight.
    """

    x: ArrayLike
    y: ArrayLike
    label: str
    role: Role


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes
    ----------
    lines : sequence of Line
        Drawn in this order.
    x_label, y_label : str
        Names of the axes with their units.
    x_range, y_range : (float, float) or None
        Ends of the axes; None takes them from the lines, and x then counts whole things (columns, epochs).
    log_y : bool
        Logarithmic vertical axis; taken only where every finite value is above zero.
    marks : sequence of (float, Role)
        Horizontal positions to mark with an upright line.
    """

    lines: Sequence[Line]
    x_label: str
    y_label: str
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    log_y: bool = False
    marks: Sequence[tuple[float, Role]] = ()


def draw_chart(chart: Chart, theme: Theme, size: tuple[float, float] = (8.6, 2.9)) -> bytes:
    """Draw a chart as a PNG with a transparent background, the same bytes for the same chart.

    Parameters
    ----------
    chart : Chart
        What to show.
    theme : Theme
        Colours.
    size : (float, float)
        Width and height in inches at 140 pixels per inch.
    """
    figure = Figure(figsize=size, dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_lines(axes, chart, theme)
    _set_ranges(axes, chart)
    _dress(axes, chart, theme)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", transparent=True, metadata={"Software": None})
    return buffer.getvalue()


def _draw_lines(axes: Axes, chart: Chart, theme: Theme) -> None:
    for line in chart.lines:
        width, style = _STROKES[line.role]
        x, y = (np.asarray(values, dtype=np.float64) for values in (line.x, line.y))
        y = np.where(np.isfinite(y), y, np.nan)
        lone = "." if np.count_nonzero(np.isfinite(y)) < 2 else None
        axes.plot(
            x, y, color=getattr(theme, line.role), linewidth=width, linestyle=style, marker=lone, label=line.label
        )
    for position, role in chart.marks:
        axes.axvline(position, color=getattr(theme, role), linewidth=0.9, linestyle=(0, (1, 2)))


def _set_ranges(axes: Axes, chart: Chart) -> None:
    values = np.concatenate([np.asarray(line.y, dtype=np.float64).ravel() for line in chart.lines])
    finite = values[np.isfinite(values)]
    if chart.log_y and finite.size and finite.min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if chart.x_range:
        axes.set_xlim(*chart.x_range)
    else:
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    if chart.y_range:
        axes.set_ylim(*chart.y_range)


def _dress(axes: Axes, chart: Chart, theme: Theme) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.grid)
    axes.grid(visible=True, axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.ink, labelsize=9, length=0)
    axes.set_xlabel(chart.x_label, color=theme.ink, fontsize=9.5)
    axes.set_ylabel(chart.y_label, color=theme.ink, fontsize=9.5)
    axes.legend(
        frameon=False,
        fontsize=9,
        labelcolor=theme.ink,
        ncols=len(chart.lines),
        loc="lower right",
        bbox_to_anchor=(1, 1),
    )
