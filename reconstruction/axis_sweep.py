"""One slice about many columns: what a person looks at to judge the rotation axis, with the sharpness of each.

About a wrong column a half turn bends edges into half circles, which spread the grey values: the entropy of their
histogram rises [1]_; a half-acquisition, which sees lines once or with unequal weights, does the same. A full turn
shows every edge twice, in halves: it loses gradient [2]_. Each measure fails where the other holds.

References
----------
.. [1] Donath et al., Automated determination of the center of rotation in tomography data, J. Optical Society of
   America A 23(5), 1048-1057, 2006, doi 10.1364/JOSAA.23.001048.
.. [2] Kingston et al., Reliable automatic alignment of tomographic projection data by passive auto-focus, Medical
   Physics 38(9), 4934-4945, 2011, doi 10.1118/1.3609096.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .acquisition import Acquisition
from .angles import angular_weights, covers_full_turn
from .half_acquisition import extend, joins_opposite, sees_beyond, wide_detector
from .reconstructors import ReconstructionSettings, reconstruct

__all__ = ["AxisSweep", "sharpness", "sweep_rotation_axis"]

INSIDE = 0.45
"""Radius that is judged, over the slice's width: the rim shows what lies outside of the field of view."""
BLUR = 1.5
"""Pixels, against the noise."""
BINS, TAILS = 256, 1e-3
"""Of the histogram, and the share of the values of all slices beyond either end of it."""


class AxisSweep(NamedTuple):
    """One slice about each of some columns.

    Attributes
    ----------
    columns : float64, shape (column,)
        Rotation axis of each slice, ascending.
    slices : float32, shape (column, y, x)
        Reconstructions of one detector row, the axis in their middle, in 1/pixel.
    sharpness : float64, shape (column,)
        Higher is sharper; of no unit, to compare within one sweep.
    best : float
        Column of the sharpest slice, by a parabola through its neighbours where the columns are evenly spaced.
    """

    columns: NDArray[np.float64]
    slices: NDArray[np.float32]
    sharpness: NDArray[np.float64]
    best: float


def sweep_rotation_axis(
    sinogram: NDArray[np.float32],
    theta: NDArray[np.float64],
    columns: NDArray[np.float64],
    settings: ReconstructionSettings | None = None,
    *,
    num_threads: int = 1,
) -> AxisSweep:
    """Reconstruct one detector row about each of some columns.

    Parameters
    ----------
    sinogram : float32, shape (angle, column)
        Line integrals of one row.
    theta : float64, shape (angle,)
        Angles in radians.
    columns : float64, shape (column,)
        Rotation axes to try, ascending; 0 is the centre of the first pixel.
    settings : ReconstructionSettings, optional
        Method, filter, and whether opposite projections are joined; None decides for all columns as a reduction about
        the middle one would.
    num_threads : int
        Threads of the method.

    Returns
    -------
    AxisSweep
        Slices and their sharpness. Those of a half-acquisition have its whole field of view.

    Raises
    ------
    ValueError
        If there is no column, they do not ascend, or one lies outside of the detector.
    ScanError
        If opposite projections are to be joined, and there is no full turn or an axis on the edge.
    """
    columns = np.asarray(columns, np.float64)
    last = sinogram.shape[-1] - 1
    if columns.size == 0 or (np.diff(columns) <= 0).any() or not 0 <= columns[0] <= columns[-1] <= last:
        raise ValueError(f"columns to sweep must ascend within [0, {last}], got {columns.tolist()}")
    settings = settings or ReconstructionSettings()
    middle = float(np.median(columns))
    beyond = sees_beyond(sinogram[None], middle)
    joined = joins_opposite(settings.half_acquisition, theta, middle, last + 1, sees_beyond=beyond)
    scan = Acquisition.from_angles(theta, half_acquisition=joined)
    size = min(_width(last + 1, column, joined=joined) for column in columns)
    together = np.stack([_slice(sinogram, scan, float(column), size, settings, num_threads) for column in columns])
    seen_twice = covers_full_turn(theta) and not joined
    scores = sharpness(together, seen_twice=seen_twice)
    return AxisSweep(columns, together, scores, _best(columns, scores))


def sharpness(slices: NDArray[np.float32], *, seen_twice: bool) -> NDArray[np.float64]:
    """Score slices of one row, reconstructed about different columns.

    Parameters
    ----------
    slices : float32, shape (column, y, x)
        To compare with one another.
    seen_twice : bool
        Whether each line was seen from both sides with one weight: a full turn, not joined.

    Returns
    -------
    float64, shape (column,)
        The mean square of the gradient where lines were seen twice, else the negentropy of the histogram in nats; 0
        where nothing is seen.
    """
    inside = _disc(slices.shape[-1], INSIDE)
    blurred = ndimage.gaussian_filter(slices, (0, BLUR, BLUR))
    if seen_twice:
        squares = np.square(np.gradient(blurred, axis=1)) + np.square(np.gradient(blurred, axis=2))
        return np.asarray(squares[:, inside].mean(axis=1), np.float64)
    values = blurred[:, inside]
    low, high = np.quantile(values, [TAILS, 1 - TAILS])
    if not high > low:
        return np.zeros(len(slices))
    return np.array([_negentropy(np.histogram(row, BINS, (low, high))[0] / row.size) for row in values])


def _width(num_columns: int, column: float, *, joined: bool) -> int:
    return num_columns + (sum(wide_detector(num_columns, column)) if joined else 0)


def _slice(
    sinogram: NDArray[np.float32],
    scan: Acquisition,
    column: float,
    size: int,
    settings: ReconstructionSettings,
    num_threads: int,
) -> NDArray[np.float32]:
    """Reconstruct the middle of a slice, so many pixels wide."""
    rows = sinogram[None]
    if scan.half_acquisition:
        rows, column = extend(rows, column)
    weights = angular_weights(scan.theta, scan.turn)
    image = reconstruct(rows, scan.theta, column, settings, weights=weights, num_threads=num_threads)[0]
    first = (image.shape[0] - size) // 2
    return np.asarray(image[first : first + size, first : first + size])


def _disc(size: int, radius: float) -> NDArray[np.bool_]:
    r2 = (np.arange(size) - (size - 1) / 2) ** 2
    return np.asarray(r2[:, None] + r2 <= (radius * size) ** 2)


def _negentropy(shares: NDArray[np.float64]) -> float:
    shares = shares[shares > 0]
    return float((shares * np.log(shares)).sum())


def _best(columns: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    peak = int(np.argmax(scores))
    steps = np.diff(columns[max(peak - 1, 0) : peak + 2])
    if steps.size < 2 or not np.isclose(steps[0], steps[1]):
        return float(columns[peak])
    before, at, after = scores[peak - 1 : peak + 2]
    curvature = before - 2 * at + after
    return float(columns[peak] + steps[0] * (0.5 * (before - after) / curvature if curvature < 0 else 0.0))
