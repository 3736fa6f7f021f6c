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

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .angles import covers_full_turn
from .errors import ScanError
from .rotation_axis import OFF_CENTRE

__all__ = ["MIN_OVERLAP", "HalfAcquisition", "extend", "is_half_acquisition", "overlap_weights", "wide_detector"]

MIN_OVERLAP = 1.0
"""Fewest pixels between the axis and the nearer edge: without them, the middle of the slice is not seen."""


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


def is_half_acquisition(theta: NDArray[np.float64], rotation_axis: float, num_columns: int) -> bool:
    """Tell a half-acquisition: a full turn, and an axis so near an edge that much was seen from one side only.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians, in any order.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.
    num_columns : int
        Width of the detector in pixels.

    Returns
    -------
    bool
        True if the turn is closed and the axis nearer to an edge than `OFF_CENTRE` of the width.
    """
    reach = min(rotation_axis, num_columns - 1 - rotation_axis)
    return reach < OFF_CENTRE * (num_columns - 1) and covers_full_turn(theta)


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
    last = num_columns - 1
    overlap = min(rotation_axis, last - rotation_axis)
    if not overlap >= MIN_OVERLAP:
        raise ScanError(
            f"rotation_axis of a half-acquisition must lie in [{MIN_OVERLAP:g}, {last - MIN_OVERLAP:g}], got "
            f"{rotation_axis:g}: the middle of the slice was not seen, or the axis is wrong"
        )
    side = 1 if rotation_axis < last / 2 else -1
    outwards = side * (np.arange(num_columns) - rotation_axis)
    weights = np.cos(np.pi / 4 * (1 - np.clip(outwards / overlap, -1, 1))) ** 2
    return np.asarray(weights)


def wide_detector(num_columns: int, rotation_axis: float) -> tuple[int, int]:
    """Count the columns to add so that the axis comes to the middle and all that was seen fits into the slice.

    Whole columns are added on the near side, so that the measured ones stay on their grid; the axis comes to lie at the
    middle or less than half a pixel from it, towards the far side.

    Parameters
    ----------
    num_columns : int
        Width of the detector in pixels.
    rotation_axis : float
        Column of the axis.

    Returns
    -------
    before, after : int
        Columns to add before the first and after the last; one of them is 0. The wide detector may have an odd or an
        even number of columns.
    """
    missing = math.ceil(abs(num_columns - 1 - 2 * rotation_axis))
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
