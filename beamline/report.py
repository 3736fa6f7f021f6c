"""The report of a reduction: one HTML file that holds its pictures and asks for nothing from outside.

Equal input gives an equal page, byte for byte, except inside ``<section id="times">``: dates and durations stand there
and nowhere else.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from quietbeam.reconstruction.caveats import Caveat, Decision

from .charts import Chart, Line, Role
from .planes import DrawnChart, Plane, SlicePair, draw_twice, show_plane
from .readable import readable_bytes, readable_duration, readable_number

__all__ = [
    "FitSection",
    "HeadlineFigure",
    "LossCurve",
    "OutputFile",
    "Report",
    "ResolutionCurve",
    "SlicePair",
    "StageTime",
    "render_report",
]

FloatArray = NDArray[np.floating]

# The one script of the page: it moves the cut between two pictures that lie over each other. The page's security policy
# names its hash, so that no other script can run.
SCRIPT = (
    'for(const r of document.querySelectorAll("input[type=range]"))'
    'r.addEventListener("input",()=>r.closest("figure").style.setProperty("--cut",r.value+"%"))'
)


@dataclass(frozen=True, eq=False)
class LossCurve:
    """The course of one training.

    Attributes
    ----------
    name : str
        What was trained, for example ``denoising network``.
    epochs, train, held_out : float, shape (epoch,)
        Number of the epoch, loss on the training pairs, loss on pairs that were kept out of training (empty or nan
        where it was not measured).
    note : str
        A sentence for the caption, for example why training stopped.
    """

    name: str
    epochs: Sequence[float] | FloatArray
    train: Sequence[float] | FloatArray
    held_out: Sequence[float] | FloatArray = ()
    note: str = ""


@dataclass(frozen=True, eq=False)
class ResolutionCurve:
    """Fourier ring correlation before and after denoising.

    Attributes
    ----------
    frequency : float, shape (ring,)
        Spatial frequency in 1/pixel, up to 0.5.
    before, after, threshold : float, shape (ring,)
        Correlation of each ring, and the threshold it is held against.
    resolution_before, resolution_after : float or None
        Period (1 / frequency) in pixels at which the curve falls below the threshold; None or nan where it does not.
    note : str
        A sentence for the caption: which two images were compared.
    own : float, shape (ring,), or None
        Correlation after denoising by a network that the scan trained itself, beside one that was taken over.
    resolution_own : float or None
        As `resolution_after`, for `own`.
    """

    frequency: FloatArray
    before: FloatArray
    after: FloatArray
    threshold: FloatArray
    resolution_before: float | None = None
    resolution_after: float | None = None
    note: str = ""
    own: FloatArray | None = None
    resolution_own: float | None = None


@dataclass(frozen=True)
class HeadlineFigure:
    """One number that matters, as it shall be read: name, value, unit, and a sentence that explains it."""

    name: str
    value: str
    unit: str = ""
    explanation: str = ""


@dataclass(frozen=True)
class FitSection:
    """How well a network fits that was taken over from another scan.

    Attributes
    ----------
    sentences : sequence of str
        What is to be read first.
    columns : sequence of str
        Names of what was measured.
    rows : sequence of (str, sequence of str)
        What was denoised by which network, with the values of all columns.
    """

    sentences: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class StageTime:
    """What a stage took, in seconds of wall time."""

    name: str
    seconds: float


@dataclass(frozen=True)
class OutputFile:
    """A file of the result: name, size in bytes, sha256 in hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, eq=False)
class Report:
    """All that the report shows.

    Attributes
    ----------
    title : str
        Name of the sample or of the scan.
    source : str
        Path of the scan.
    created : str
        Date and time; shown with the times.
    version : str
        Version of quietbeam.
    horizontal, vertical : SlicePair or None
        Slice (y, x) and slice (slice, x); None where there is none to show.
    unit : str
        Unit of the slices' values, for example ``1/m``.
    pixel_size : float or None
        In metres, for the scale bars; None when it is not known.
    figures : sequence of HeadlineFigure
        The numbers at the top.
    losses : sequence of LossCurve
        One for each network trained.
    resolution : ResolutionCurve or None
        Fourier ring correlation.
    fit : FitSection or None
        Of a network that was taken over.
    settings : mapping
        All settings with their values, nested by stage.
    decisions : sequence of Decision
        What was chosen for the user.
    caveats : sequence of Caveat
        Doubts, shown at the top.
    times : sequence of StageTime
        In the order of the stages.
    files : sequence of OutputFile
        What was written.
    """

    title: str
    source: str
    created: str
    version: str
    horizontal: SlicePair | None = None
    vertical: SlicePair | None = None
    unit: str = "1/pixel"
    pixel_size: float | None = None
    figures: Sequence[HeadlineFigure] = ()
    losses: Sequence[LossCurve] = ()
    resolution: ResolutionCurve | None = None
    fit: FitSection | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    decisions: Sequence[Decision] = ()
    caveats: Sequence[Caveat] = ()
    times: Sequence[StageTime] = ()
    files: Sequence[OutputFile] = ()


def render_report(report: Report) -> str:
    """Write the report as one self-contained HTML page.

    Parameters
    ----------
    report : Report
        What to show. Every text in it is escaped.

    Returns
    -------
    str
        The page, which can be encoded as UTF-8 whatever names the report holds.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=readable_number, bytes=readable_bytes, duration=readable_duration, period=_period)
    page = environment.get_template("report.html.j2").render(
        report=report,
        planes=list(_planes(report)),
        losses=[(curve, _draw_loss(curve)) for curve in report.losses],
        resolution=_draw_resolution(report.resolution),
        settings=_group(report.settings),
        total=sum(time.seconds for time in report.times),
        longest=max((time.seconds for time in report.times), default=0.0),
        script=SCRIPT,
        script_hash=base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
    )
    # a file name that is not valid UTF-8 reaches Python as lone surrogates, which no encoder takes
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _planes(report: Report) -> Iterator[Plane]:
    for name, pair in (("Horizontal slice", report.horizontal), ("Vertical slice", report.vertical)):
        if pair is not None:
            yield show_plane(name, pair, unit=report.unit, pixel_size=report.pixel_size)


def _draw_loss(curve: LossCurve) -> DrawnChart | None:
    if len(curve.epochs) == 0:
        return None
    lines = [Line(curve.epochs, curve.train, "training", "noisy" if len(curve.held_out) else "denoised")]
    if len(curve.held_out):
        lines.append(Line(curve.epochs, curve.held_out, "held out", "denoised"))
    chart = Chart(lines, "epoch", "loss", log_y=True)
    return draw_twice(chart, "", "Loss by epoch, on training pairs and on pairs held out")


def _draw_resolution(curve: ResolutionCurve | None) -> DrawnChart | None:
    if curve is None or len(curve.frequency) == 0:
        return None
    lines = [
        Line(curve.frequency, curve.before, "before", "noisy"),
        Line(curve.frequency, curve.after, "after", "denoised"),
        Line(curve.frequency, curve.threshold, "threshold", "threshold"),
    ]
    if curve.own is not None:
        lines.insert(2, Line(curve.frequency, curve.own, "after, own network", "own"))
    crossings: list[tuple[float | None, Role]] = [
        (curve.resolution_before, "noisy"),
        (curve.resolution_after, "denoised"),
        (curve.resolution_own, "own"),
    ]
    marks = [(1 / pixels, role) for pixels, role in crossings if pixels and pixels > 0]
    chart = Chart(lines, "frequency in 1/pixel", "correlation", x_range=(0, 0.5), y_range=(-0.1, 1.02), marks=marks)
    return draw_twice(
        chart, "", "Fourier ring correlation by frequency, before and after denoising, with the threshold"
    )


def _group(settings: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Put single settings first, then each stage with its rows (dotted name, value)."""
    single = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    stages = {name: list(_rows(value)) for name, value in settings.items() if isinstance(value, Mapping)}
    return ({"general": list(_rows(single))} if single else {}) | stages


def _rows(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _setting(value)


def _setting(value: object) -> str:
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(item) for item in value) or "empty"
    return "empty" if isinstance(value, (str, Mapping)) and not value else str(value)


def _period(pixels: float | None, pixel_size: float | None) -> str:
    if pixels is None or not math.isfinite(pixels):
        return "not reached"
    length = f" ({readable_number(pixels * pixel_size * 1e6)} µm)" if pixel_size else ""
    return f"{readable_number(pixels)} pixels{length}"
