"""The column of the rotation axis, from projections that look at the sample from opposite sides."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from .caveats import Caveat
from .errors import ScanError

__all__ = ["AxisSettings", "RotationAxis", "find_rotation_axis", "opposite_pairs"]

DISAGREEMENT = 2.0
"""Pixels between the methods' answers from which the user is told."""
OFF_CENTRE = 0.35
"""Share of the detector's width between the axis and the nearer edge below which much was seen from one side only."""


class AxisSettings(BaseModel):
    """Where the rotation axis is looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: float | None = Field(
        None, description="Column of the axis in pixels, 0 = centre of the first; None finds it."
    )
    num_rows: int = Field(32, ge=1, description="Detector rows looked at, spread over the height.")
    num_vo_rows: int = Field(3, ge=1, description="Rows given to Vo's method, the slowest; the median counts.")


class RotationAxis(NamedTuple):
    """The axis and where it comes from.

    Attributes
    ----------
    column : float
        Column in pixels; 0 is the centre of the first pixel.
    method : str
        Name of the method that was taken.
    score : float
        Correlation, -1 to 1, of opposite projections mirrored about the axis.
    candidates : dict of str to (float, float)
        Column and score by each method.
    caveats : tuple of Caveat
        What speaks against the value.
    """

    column: float
    method: str
    score: float
    candidates: dict[str, tuple[float, float]]
    caveats: tuple[Caveat, ...]


def find_rotation_axis(
    sinograms: NDArray[np.float32], theta: NDArray[np.float64], settings: AxisSettings | None = None
) -> RotationAxis:
    """Find the column of the rotation axis by several methods and take the one that mirrors the projections best.

    Phase correlation of opposite projections (all pairs of a full turn, after taking off each column's mean and with it
    the rings; the first and last projection of a half turn) and Vo's double-wedge method [1]_, both of algotom.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals of some detector rows.
    theta : float64, shape (angle,)
        Angles in radians, ascending.
    settings : AxisSettings, optional
        A column given there is taken as it is, and scored.

    Returns
    -------
    RotationAxis
        Column in pixels, 0 at the centre of the first pixel.

    Raises
    ------
    ScanError
        If the column given lies outside the detector.

    References
    ----------
    .. [1] Vo et al., Reliable method for calculating the center of rotation in parallel-beam tomography, Optics Express
       22(16), 19078, 2014, doi 10.1364/OE.22.019078.
    """
    settings = settings or AxisSettings()
    num_columns = sinograms.shape[-1]
    front, back = _opposite_projections(sinograms, theta)
    if settings.column is not None:
        if not 0 <= settings.column < num_columns:
            raise ScanError(f"rotation_axis must lie in [0, {num_columns}), got {settings.column:g}")
        found = {"given": settings.column}
    else:
        found = {
            "phase correlation": _by_phase_correlation(front, back, one_pair=len(front) == len(sinograms)),
            "Vo": _by_vo(sinograms, theta, settings.num_vo_rows),
        }
    candidates = {name: (column, _mirror_score(front, back, column)) for name, column in found.items()}
    method = max(candidates, key=lambda name: candidates[name][1])
    column, score = candidates[method]
    caveats = (*_disagreement(found), *_near_the_edge(column, num_columns))
    return RotationAxis(column, method, score, candidates, caveats)


def opposite_pairs(theta: NDArray[np.float64]) -> NDArray[np.intp]:
    """Find the projections that look along one line from opposite sides.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians, ascending.

    Returns
    -------
    intp, shape (pair, 2)
        Indices of the front and the back projection; of a half turn only its two ends, however near to opposite.
    """
    front = np.arange(theta.size)
    back = _nearest(theta, theta + np.pi)
    step = (theta[-1] - theta[0]) / max(theta.size - 1, 1)
    matched = np.abs(theta[back] - theta - np.pi) <= 0.51 * step
    if matched.sum() < 2:
        return np.array([[0, theta.size - 1]])
    return np.stack([front[matched], back[matched]], axis=1)


def _nearest(ascending: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.intp]:
    """Index of the nearest value, the first of several equally near."""
    above = np.minimum(np.searchsorted(ascending, wanted), ascending.size - 1)
    below = np.maximum(above - 1, 0)
    below_is_nearer = np.abs(ascending[below] - wanted) <= np.abs(ascending[above] - wanted)
    return np.searchsorted(ascending, ascending[np.where(below_is_nearer, below, above)])


def _opposite_projections(
    sinograms: NDArray[np.float32], theta: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Front and back rows, shape (row * pair, column), without what a column has in common."""
    pairs = opposite_pairs(theta)
    if len(pairs) > 1:
        sinograms = sinograms - sinograms.mean(axis=1, keepdims=True)
    front, back = sinograms[:, pairs[:, 0]], sinograms[:, pairs[:, 1]]
    return front.reshape(-1, front.shape[-1]), back.reshape(-1, back.shape[-1])


def _by_phase_correlation(front: NDArray[np.float32], back: NDArray[np.float32], *, one_pair: bool) -> float:
    from algotom.prep.calculation import find_center_based_phase_correlation

    if len(front) == 1:  # the method wants an image
        front, back = np.repeat(front, 2, axis=0), np.repeat(back, 2, axis=0)
    # A pair of projections shares slow shading, which its gradient has not; many pairs have lost it with their mean.
    column = find_center_based_phase_correlation(front, back, gradient=one_pair)
    return float(np.clip(column, 0, front.shape[1] - 1))


def _by_vo(sinograms: NDArray[np.float32], theta: NDArray[np.float64], num_rows: int) -> float:
    from algotom.prep.calculation import find_center_vo

    # The method expects both ends of the half turn: without the second, it is off by a pixel.
    half_turn = slice(0, int(np.abs(theta - theta[0] - np.pi).argmin()) + 1)
    rows = np.unique(np.linspace(0, len(sinograms) - 1, num_rows + 2).astype(int)[1:-1])
    first, last = sinograms.shape[2] // 4, 3 * sinograms.shape[2] // 4
    with warnings.catch_warnings():  # a minimum at the end of the range shows in the score
        warnings.simplefilter("ignore", UserWarning)
        found = [find_center_vo(sinograms[row, half_turn], first, last, ncore=1) for row in rows]
    return float(np.median(found))


def _mirror_score(front: NDArray[np.float32], back: NDArray[np.float32], column: float) -> float:
    """Correlation of the front rows with the back rows mirrored about `column`, where both were measured."""
    num_columns = front.shape[1]
    mirrored = 2 * column - np.arange(num_columns)
    inside = (mirrored >= 0) & (mirrored <= num_columns - 1)
    if inside.sum() < 3:
        return -1.0
    rows = np.arange(len(back))[:, None]
    grid = np.broadcast_arrays(rows, mirrored[inside][None, :])
    seen = ndimage.map_coordinates(back, grid, order=1, mode="nearest")
    a, b = front[:, inside].ravel(), seen.ravel()
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else 0.0


def _disagreement(found: dict[str, float]) -> tuple[Caveat, ...]:
    if np.ptp(list(found.values())) <= DISAGREEMENT:
        return ()
    columns = ", ".join(f"{name} {column:.2f}" for name, column in found.items())
    return (Caveat("axis-methods-disagree", f"the methods put the rotation axis at different columns ({columns})"),)


def _near_the_edge(column: float, num_columns: int) -> tuple[Caveat, ...]:
    reach = min(column, num_columns - 1 - column)
    if reach >= OFF_CENTRE * (num_columns - 1):
        return ()
    what = f"the axis lies near the edge of the detector (column {column:.1f} of {num_columns})"
    risk = f"half-acquisition scans are not stitched, values beyond {reach:.0f} pixels from the axis are wrong"
    return (Caveat("offset-axis", f"{what}: {risk}"),)
