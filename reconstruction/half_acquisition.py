"""Scans over a full turn with the axis near the detector's edge, which see nearly twice the detector's width.

Up to r pixels from the axis, as far as the detector reaches on its near side, a line is seen twice: as s at theta and,
from behind, as -s at theta + pi. Each projection is multiplied by a weight [1]_ with

    w(s) + w(-s) = 1,    w(s) = cos^2(pi / 4 (1 - s / r)) for |s| <= r, 1 beyond on the far side, 0 on the near side,

with s counted from the axis towards the far side. Opposite projections then add up to the one of a wide detector,

    w(s) p(theta, s) + w(-s) p(theta + pi, -s) = p(theta, s),

and, as filter and backprojection are linear, this addition happens in the slice: zeros are added to the rows up to the
width of the wide detector, and the full turn is reconstructed with weights of sum 2 pi. No two projections need be
opposite and nothing is interpolated, as stitching opposite projections needs [2]_; and a section of the projections
can be reconstructed on its own.

References
----------
.. [1] Wang, X-ray micro-CT with a displaced detector array, Medical Physics 29(7), 1634-1636, 2002, doi
   10.1118/1.1489043; its weight for rays that are parallel.
.. [2] Vo et al., Data processing methods and data acquisition for samples larger than the field of view in
   parallel-beam tomography, Optics Express 29(12), 17849-17874, 2021, doi 10.1364/OE.418448.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .angles import angular_gaps, covers_full_turn, largest_steps, typical_gap
from .errors import ScanError

__all__ = [
    "MIN_OVERLAP",
    "OFF_CENTRE",
    "HalfAcquisition",
    "extend",
    "inner_excess",
    "is_half_acquisition",
    "joins_opposite",
    "missing_of_full_turn",
    "overlap_weights",
    "sees_beyond",
    "sees_end",
    "wide_detector",
]

MIN_OVERLAP = 1.0
"""Fewest pixels between the axis and the nearer edge: without them, the middle of the slice is not seen."""
OFF_CENTRE = 0.35
"""Share of the detector's width between the axis and the nearer edge below which much was seen from one side only."""
MIN_OFFSET = 1.0
"""Pixels from the axis to the middle of the detector up to which there is nothing to win by joining."""
SAMPLE, AIR = 0.05, 0.03
"""Line integral of the sample, over that of the columns seen twice, and at least: a flat field may be 2 % off."""
JUST_BEYOND = 0.02
"""Share of the detector's columns, next to those seen twice, that see whatever of the sample reaches further."""
FALL = 0.5
"""Line integral at the far edge, over that just beyond the reach, below which the sample ends on the detector."""
INNER = 0.9
"""Radius that the excess is averaged over, in reaches of the near side: at the rim it has no bound."""


class HalfAcquisition(NamedTuple):
    """The sinograms of a detector wide enough for all that was seen, its axis in the middle.

    Reconstruct them with ``angular_weights(theta, turn=2 * pi)``.

    Attributes
    ----------
    sinograms : float32, shape (row, angle, wide column)
        Weighted line integrals, 0 where the detector did not reach.
    rotation_axis : float
        Column of the axis on the wide detector.
    """

    sinograms: NDArray[np.float32]
    rotation_axis: float


def sees_beyond(sinograms: NDArray[np.float32], rotation_axis: float) -> bool:
    """Tell whether the far side of the detector sees the sample where the near side does not reach.

    Averaged over a turn, matter far from the axis is seen at every distance up to its own: whatever lies beyond the
    near edge shows in the first columns beyond.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals of some detector rows.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.

    Returns
    -------
    bool
        True if their mean there is more than `AIR`, and than `SAMPLE` of that of the columns seen twice.
    """
    within, beyond = _parts(sinograms, rotation_axis)
    beyond = beyond[: max(3, round(JUST_BEYOND * sinograms.shape[-1]))]
    return bool(beyond.size and beyond.mean() > max(AIR, SAMPLE * within.mean()))


def sees_end(sinograms: NDArray[np.float32], rotation_axis: float) -> bool:
    """Tell whether the sample that reaches beyond the near edge ends before the far one.

    Where it does not, the sample is wider than the detector on both sides.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals of some detector rows.
    rotation_axis : float
        Column of the axis.

    Returns
    -------
    bool
        True if the mean line integral at the far edge is less than `FALL` of that just beyond the reach.
    """
    _, beyond = _parts(sinograms, rotation_axis)
    return bool(beyond.size and beyond[-2:].mean() < FALL * beyond[:2].mean())


def inner_excess(sinograms: NDArray[np.float32], rotation_axis: float) -> float:
    """Estimate by how much a half turn makes what was seen from both sides too high, where it lacks the lines beyond.

    With p the mean over the angles of the line integrals at s from the axis, filtered backprojection has the mean over
    the disc of radius r about it

        1 / (pi r^2) (int_{|s| < r} p ds - int_{|s| > r} p w ds),    w = |s| / sqrt(s^2 - r^2) - 1,

    as the ramp filter turns the disc's semicircular profile into 1 within r and -w beyond. A half turn has the second
    integral, beyond the near edge, on one side only.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals of some detector rows.
    rotation_axis : float
        Column of the axis.

    Returns
    -------
    float
        Mean excess over the mean attenuation, both up to `INNER` of the reach; 0 where the latter is not positive.
    """
    profile, outwards, reach = _profile(sinograms, rotation_axis)
    radius = INNER * reach
    edges = np.stack([outwards - 0.5, outwards + 0.5])

    def beyond(least: float) -> float:
        low, high = np.maximum(edges, least)
        weights = (np.sqrt(high**2 - radius**2) - high) - (np.sqrt(low**2 - radius**2) - low)  # integrals of w
        return float((weights * profile).sum())

    whole = float(profile[np.abs(outwards) <= radius].sum()) - 2 * beyond(radius)
    return beyond(reach) / whole if whole > 0 else 0.0


def missing_of_full_turn(theta: NDArray[np.float64]) -> float:
    """Add up the gaps of a full turn that nothing was measured in, each without the step that it would have anyhow.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians, in any order.

    Returns
    -------
    float
        Radians; 0 for a full turn.
    """
    _, gaps = angular_gaps(theta, 2 * np.pi)
    if covers_full_turn(theta):
        return 0.0
    return float((gaps - typical_gap(gaps))[gaps > largest_steps(gaps)].sum())


def joins_opposite(
    asked: bool | None, theta: NDArray[np.float64], rotation_axis: float, num_columns: int, *, sees_beyond: bool
) -> bool:
    """Decide whether opposite projections are joined to slices wider than the detector: once, for all who do so.

    Parameters
    ----------
    asked : bool or None
        What the settings say; None sees whether it is a half-acquisition.
    theta : float64, shape (angle,)
        Angles in radians, in any order.
    rotation_axis : float
        Column of the axis.
    num_columns : int
        Width of the detector in pixels.
    sees_beyond : bool
        Whether the far side sees the sample where the near side does not reach.

    Returns
    -------
    bool
        True if they are joined.
    """
    return is_half_acquisition(theta, rotation_axis, num_columns, sees_beyond=sees_beyond) if asked is None else asked


def is_half_acquisition(
    theta: NDArray[np.float64], rotation_axis: float, num_columns: int, *, sees_beyond: bool
) -> bool:
    """Tell a half-acquisition: a full turn, and an axis beside the middle with much that was seen from one side only.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians, in any order.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.
    num_columns : int
        Width of the detector in pixels.
    sees_beyond : bool
        Whether the far side sees the sample where the near side does not reach.

    Returns
    -------
    bool
        True if the turn is closed and the axis nearer to an edge than `OFF_CENTRE` of the width; or more than
        `MIN_OFFSET` pixels beside the middle, if the far side sees more of the sample.
    """
    last = num_columns - 1
    near_an_edge = min(rotation_axis, last - rotation_axis) < OFF_CENTRE * last
    wider = sees_beyond and abs(last / 2 - rotation_axis) > MIN_OFFSET
    return (near_an_edge or wider) and covers_full_turn(theta)


def overlap_weights(num_columns: int, rotation_axis: float) -> NDArray[np.float64]:
    """Weigh the columns so that a line seen from both sides counts once.

    Parameters
    ----------
    num_columns : int
        Width of the detector in pixels.
    rotation_axis : float
        Column of the axis.

    Returns
    -------
    float64, shape (column,)
        From 1 on the far side of the axis to 0 at the near edge, 1/2 on the axis.

    Raises
    ------
    ScanError
        If the axis is nearer than `MIN_OVERLAP` pixels to the edge, or outside.
    """
    outwards, overlap = _outwards(num_columns, rotation_axis)
    if not overlap >= MIN_OVERLAP:
        most = num_columns - 1 - MIN_OVERLAP
        raise ScanError(
            f"rotation_axis of a half-acquisition must lie in [{MIN_OVERLAP:g}, {most:g}], got {rotation_axis:g}: the "
            "middle of the slice was not seen, or the axis is wrong"
        )
    weights = np.cos(np.pi / 4 * (1 - np.clip(outwards / overlap, -1, 1))) ** 2
    return np.asarray(weights)


def wide_detector(num_columns: int, rotation_axis: float) -> tuple[int, int]:
    """Count the columns to add so that the axis comes to the middle and what was seen fits into the slice.

    Whole columns are added on the near side, so that the measured ones stay on their grid, and an even number of them:
    an axis that is found a tenth of a pixel off makes slices of the same size. The axis comes to lie within half a
    pixel of the middle, and up to half a pixel of the rim may be cut off.

    Parameters
    ----------
    num_columns : int
        Width of the detector in pixels.
    rotation_axis : float
        Column of the axis.

    Returns
    -------
    before, after : int
        Columns to add before the first and after the last; one of them is 0. The wide detector has an odd or an even
        number of columns as the detector has.
    """
    missing = 2 * round(abs(num_columns - 1 - 2 * rotation_axis) / 2)
    return (missing, 0) if rotation_axis < (num_columns - 1) / 2 else (0, missing)


def extend(sinograms: NDArray[np.float32], rotation_axis: float) -> HalfAcquisition:
    """Turn the sinograms of a half-acquisition into those of a wide detector.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals over a full turn, at any angles; of a section or a time step as well as of all projections.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.

    Returns
    -------
    HalfAcquisition
        Weighted and padded sinograms, and the axis on the wide detector.

    Raises
    ------
    ScanError
        If the axis is nearer than `MIN_OVERLAP` pixels to the edge, or outside.
    """
    num_columns = sinograms.shape[-1]
    weights = overlap_weights(num_columns, rotation_axis).astype(np.float32)
    before, after = wide_detector(num_columns, rotation_axis)
    wide = np.zeros((*sinograms.shape[:-1], before + num_columns + after), np.float32)
    np.multiply(sinograms, weights, out=wide[..., before : before + num_columns])
    return HalfAcquisition(wide, before + rotation_axis)


def _profile(
    sinograms: NDArray[np.float32], rotation_axis: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mean over rows and angles, pixels from the axis towards the far side, and those to the near edge."""
    return sinograms.mean(axis=(0, 1), dtype=np.float64), *_outwards(sinograms.shape[-1], rotation_axis)


def _outwards(num_columns: int, rotation_axis: float) -> tuple[NDArray[np.float64], float]:
    """Pixels of each column from the axis towards the far side, and those from the axis to the near edge."""
    last = num_columns - 1
    side = 1 if rotation_axis < last / 2 else -1
    return side * (np.arange(num_columns, dtype=np.float64) - rotation_axis), min(rotation_axis, last - rotation_axis)


def _parts(sinograms: NDArray[np.float32], rotation_axis: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean line integrals of the columns seen twice, and outwards of those further than a pixel beyond."""
    profile, outwards, reach = _profile(sinograms, rotation_axis)
    order = np.argsort(outwards)
    profile, outwards = profile[order], outwards[order]
    return profile[np.abs(outwards) <= reach], profile[outwards > reach + 1]
