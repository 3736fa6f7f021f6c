"""The column of the rotation axis: several methods asked, those that agree taken, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .acquisition import MOST_MISSING
from .axis_evidence import fill_static_columns, opposite_pairs
from .axis_methods import AxisMethodName, Views, ask
from .axis_sweep import sweep_rotation_axis
from .caveats import Caveat
from .errors import ScanError
from .half_acquisition import OFF_CENTRE, inner_excess, missing_of_full_turn, sees_beyond, sees_end
from .reconstructors import ReconstructionSettings

__all__ = ["AxisSettings", "RotationAxis", "find_rotation_axis", "opposite_pairs"]

AGREEMENT, DISAGREEMENT = 1.0, 2.0
"""Pixels between two methods' answers within which they support one another, and from which the user is told."""
SHARPEST = "sharpest of rows"
"""Name of the answer that slices give, where the ends of a half turn are not opposite."""
SURE = 5.0
"""Prominence that chance does not reach."""
ALIKE = 0.5
"""Correlation of opposite projections that noise alone does not reach."""
BESIDE = 0.02
"""Share of the detector's width between the axis and its middle from which a half turn's rim is worth a word."""

NOT_OPPOSITE, STEPS = np.deg2rad(1.5), 2
"""Radians and steps, both, that the ends of a half turn may be from opposite without a word."""
SWEPT_ROWS, SWEPT_COLUMNS = 3, 17
"""Detector rows, and columns about the one found, whose slices are compared where the ends are not opposite."""
SWEPT_WIDTH = 640
"""Columns from which neighbours are averaged for it: what the ends do grows with the width, and so does the time."""
SWEPT_SHARE = 0.25
"""Spread of a column that slices tell, over what the ends may have moved the evidence."""


class AxisSettings(BaseModel):
    """Where the rotation axis is looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: float | None = Field(
        None, description="Column of the axis in pixels, 0 = centre of the first; None finds it."
    )
    methods: tuple[AxisMethodName, ...] = Field(
        ("mirror", "double wedge", "phase correlation"),
        min_length=1,
        description="Methods asked; Vo, sliding window and overlap take much longer on a wide detector.",
    )
    num_rows: int = Field(32, ge=1, description="Detector rows looked at, in the middle of the height.")
    num_vo_rows: int = Field(3, ge=1, description="Rows given to Vo's method, the slowest; the median counts.")


class RotationAxis(NamedTuple):
    """The axis and where it comes from.

    Attributes
    ----------
    column : float
        Column in pixels; 0 is the centre of the first pixel.
    spread : float
        Pixels by which the column may be off: half the range of the methods that agree, or the width of the best one's
        peak over its prominence where that is more; with what ends of a half turn that are not opposite may do to it.
    method : str
        Name of the method whose column was taken; ``given``, or ``middle`` of the detector where none found anything.
    support : tuple of str
        Methods that agree with it within a pixel, itself among them.
    score : float
        Correlation, -1 to 1, of the edges in opposite projections mirrored about the axis.
    prominence : float
        How far that, or the match of a half turn with its own mirror image, stands out of all columns', in standard
        deviations; chance rarely reaches 5.
    candidates : dict of str to (float, float)
        Column and score by each method.
    sees_beyond : bool
        Whether the far side of the detector sees the sample where the near side does not reach.
    caveats : tuple of Caveat
        What speaks against the value.
    """

    column: float
    spread: float
    method: str
    support: tuple[str, ...]
    score: float
    prominence: float
    candidates: dict[str, tuple[float, float]]
    sees_beyond: bool
    caveats: tuple[Caveat, ...]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Make the axis again of what ``_asdict`` gave, after a way through JSON that turned its tuples into lists."""
        candidates = {name: (float(column), float(score)) for name, (column, score) in record["candidates"].items()}
        caveats = tuple(Caveat(*caveat) for caveat in record["caveats"])
        made = {"support": tuple(record["support"]), "candidates": candidates, "caveats": caveats}
        return cls(**{**record, **made})


def find_rotation_axis(
    sinograms: NDArray[np.float32], theta: NDArray[np.float64], settings: AxisSettings | None = None
) -> RotationAxis:
    """Find the column of the rotation axis by several methods, and take what the best supported of them say.

    Methods that agree within a pixel support one another, each with the prominence of its column: how far the match of
    opposite projections about it, or of a half turn with its own mirror image, stands out of that about all others. Of
    those that agree, the column with the least uncertainty is taken.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals of some detector rows, finite.
    theta : float64, shape (angle,)
        Angles in radians, ascending.
    settings : AxisSettings, optional
        A column given there is taken as it is, and compared with what the methods find.

    Returns
    -------
    RotationAxis
        Column in pixels, 0 at the centre of the first pixel. Where no method finds anything it is the middle of the
        detector, with a caveat.

    Raises
    ------
    ScanError
        If the column given lies outside the detector.
    """
    settings = settings or AxisSettings()
    num_columns = sinograms.shape[-1]
    if settings.column is not None and not 0 <= settings.column <= num_columns - 1:
        raise ScanError(
            f"rotation_axis must lie in [0, {num_columns - 1}], got {settings.column:g}: give a column of the detector,"
            " 0 = centre of the first, or none to have it found"
        )
    views = Views(fill_static_columns(sinograms), theta, settings.num_vo_rows)
    asked = {name: ask(name, views) for name in settings.methods}
    found: dict[str, float] = {name: column for name, column in asked.items() if column is not None}
    if settings.column is not None:
        found = {"given": settings.column, **found}
        return _result("given", _agreeing("given", found), found, views)
    support = _best_supported(found, views)
    if support:
        # The columns of other methods are no peaks of the evidence, and its width there says nothing of them.
        method = min(support, key=lambda name: (name not in views.evidence, views.uncertainty(found[name])))
        if _is_sure(found[method], support, views):
            swept = _sharpest(found[method], views)
            if swept is not None:
                found = {**found, SHARPEST: swept}
                return _result(SHARPEST, _agreeing(SHARPEST, found), found, views)
            return _result(method, support, found, views)
    return _result("middle", ("middle",), {"middle": (num_columns - 1) / 2, **found}, views)


def _sharpest(column: float, views: Views) -> float | None:
    """Column of the sharpest slices near one that ends which are not opposite found; None where it is no peak."""
    if not _is_short(views):
        return None
    reach = max(2 * views.bias, 2.0)
    last = views.sinograms.shape[-1] - 1
    width = -(-(last + 1) // SWEPT_WIDTH)
    count = (last + 1) // width
    first = (width - 1) / 2
    low, high = np.clip((np.array([column - reach, column + reach]) - first) / width, 0, count - 1)
    if not high > low:
        return None
    tried = np.linspace(low, high, SWEPT_COLUMNS)
    rows = np.unique(np.linspace(0, len(views.sinograms) - 1, SWEPT_ROWS + 2).astype(int)[1:-1])
    options = ReconstructionSettings(half_acquisition=False)
    binned = [views.sinograms[row, :, : count * width].reshape(-1, count, width).mean(axis=2) for row in rows]
    sweeps = [sweep_rotation_axis(sinogram, views.theta, tried, options) for sinogram in binned]
    best = first + width * np.array([sweep.best for sweep in sweeps])
    sharpest = float(np.median(best))
    # Noise draws the rows apart.
    alike = np.abs(best - sharpest).max() <= max(SWEPT_SHARE * views.bias, AGREEMENT / 2)
    return sharpest if alike and first + width * tried[1] <= sharpest <= first + width * tried[-2] else None


def _is_short(views: Views) -> bool:
    """Tell whether the ends of a half turn are far from opposite."""
    step = float(np.ptp(views.theta)) / max(views.theta.size - 1, 1)
    return bool(views.not_opposite > max(NOT_OPPOSITE, STEPS * step))


def _agreeing(name: str, found: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(other for other, column in found.items() if abs(column - found[name]) <= AGREEMENT)


def _best_supported(found: Mapping[str, float], views: Views) -> tuple[str, ...]:
    """Name the methods that agree with one another and together stand out most."""
    groups = [_agreeing(name, found) for name in found]
    return max(groups, key=lambda group: sum(views.prominence(found[name]) for name in group), default=())


def _is_sure(column: float, support: tuple[str, ...], views: Views) -> bool:
    """Tell whether a column stands out by itself, or is backed by methods that chance would not bring together."""
    if views.prominence(column) >= SURE:
        return True
    # Methods that look at the same two projections agree on what the noise or the rings in them have in common.
    independent = len(views.evidence) > 1 and set(support) >= views.evidence.keys()
    return independent or (len(support) > 1 and views.score(column) >= ALIKE)


def _result(method: str, support: tuple[str, ...], found: Mapping[str, float], views: Views) -> RotationAxis:
    column = found[method]
    axis = RotationAxis(
        column=column,
        spread=_spread(method, [found[name] for name in support], column, views),
        method=method,
        support=support,
        score=views.score(column),
        prominence=views.prominence(column),
        candidates={name: (other, views.score(other)) for name, other in found.items() if name != "middle"},
        sees_beyond=sees_beyond(views.sinograms, column),
        caveats=(),
    )
    return axis._replace(caveats=(*_doubt(axis, views), *_offset(axis, views)))


def _spread(method: str, columns: list[float], column: float, views: Views) -> float:
    if method == "given":
        return 0.0
    most = (views.sinograms.shape[-1] - 1) / 2
    if method == SHARPEST:
        return float(min(max(SWEPT_SHARE * views.bias, np.ptp(columns) / 2), most))
    uncertainty = most if method == "middle" else views.uncertainty(column) + views.bias
    return float(min(max(uncertainty, np.ptp(columns) / 2), most))


def _doubt(axis: RotationAxis, views: Views) -> tuple[Caveat, ...]:
    """Tell once of an axis that is not sure, and of ends that are not opposite."""
    return (*(_disagreement(axis, views) or _weakness(axis)), *_shortness(axis, views))


def _shortness(axis: RotationAxis, views: Views) -> tuple[Caveat, ...]:
    if axis.method in ("given", "middle") or not _is_short(views):
        return ()
    missing = np.rad2deg(views.not_opposite)
    what = f"the ends of the half turn are {missing:.1f} degrees, beyond a step, from opposite"
    risk = f"the rotation axis may be off by {axis.spread:.1f} pixels; look at the slices"
    return (Caveat("short-half-turn", f"{what}: {risk}"),)


def _weakness(axis: RotationAxis) -> tuple[Caveat, ...]:
    seen = f"opposite projections correlate {axis.score:.2f} about column {axis.column:.2f}"
    if axis.method == "middle":
        answers = f"; {_answers(axis)}" if axis.candidates else ""
        what = f"no method is sure of the rotation axis, the middle of the detector was taken: {seen}{answers}"
    elif axis.prominence < SURE and axis.score < ALIKE:
        what = f"the rotation axis is doubtful: {seen}, little more than about others; look at the slices"
    else:
        return ()
    return (Caveat("weak-rotation-axis", what),)


def _disagreement(axis: RotationAxis, views: Views) -> tuple[Caveat, ...]:
    """Tell of answers that are as plausible as an axis has to be, but elsewhere."""
    plausible = {name for name, (c, score) in axis.candidates.items() if score >= ALIKE or views.prominence(c) >= SURE}
    far = {name for name, (column, _) in axis.candidates.items() if abs(column - axis.column) > DISAGREEMENT}
    # Ends that are not opposite lead astray, which is told.
    if axis.method in ("middle", SHARPEST) or not plausible & far:
        return ()
    what = f"the methods put the rotation axis at different columns ({_answers(axis)})"
    return (Caveat("axis-methods-disagree", what),)


def _answers(axis: RotationAxis) -> str:
    return ", ".join(f"{name} {column:.2f}" for name, (column, _) in axis.candidates.items())


def _offset(axis: RotationAxis, views: Views) -> tuple[Caveat, ...]:
    """Tell of an axis that leaves too much unseen: without a full turn, near an edge, or where the sample is cut off.

    Whether a full turn is joined is not decided here.
    """
    if views.full_turn:
        return ()
    column, num_columns = axis.column, views.sinograms.shape[-1]
    last = num_columns - 1
    reach = min(column, last - column)
    where = f"column {column:.1f} of {num_columns}"
    what = f"the axis lies near the edge of the detector ({where})"
    if reach >= OFF_CENTRE * last:
        beside = abs(last / 2 - column) > BESIDE * num_columns
        # A sample wider than the detector on both sides is cut off wherever the axis is.
        if not (axis.sees_beyond and beside and sees_end(views.sinograms, column)):
            return ()
        what = f"the sample reaches beyond the nearer edge of the detector, the axis is beside the middle ({where})"
    missing = np.rad2deg(missing_of_full_turn(views.theta))
    if missing <= np.rad2deg(MOST_MISSING):
        risk = f"the full turn lacks {missing:.1f} of 360 degrees, values beyond {reach:.0f} pixels from the axis are "
        risk += "wrong unless reconstruction.half_acquisition=true joins its sides, with streaks"
        return (Caveat("offset-axis", f"{what}: {risk}"),)
    risk = f"without a full turn, values beyond {reach:.0f} pixels from the axis are wrong"
    if axis.sees_beyond:
        excess = 100 * inner_excess(views.sinograms, column)
        risk += f", those within about {excess:.1f} % too high; take a full turn or centre the axis"
    return (Caveat("offset-axis", f"{what}: {risk}"),)
