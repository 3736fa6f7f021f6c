"""One slice about many columns: what a person looks at to judge the rotation axis, with the sharpness of each.

About a wrong column a half turn bends edges into half circles, which spread the grey values: the entropy of their
histogram rises [1]_; a half-acquisition sees most lines once and does the same. A full turn shows every edge twice, in
halves: it loses gradient [2]_. Each measure fails where the other holds, so the turn decides.

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

from .angles import angular_weights, covers_full_turn
from .half_acquisition import extend, is_half_acquisition
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
        Method and filter.
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
    """
    columns = np.asarray(columns, np.float64)
    last = sinogram.shape[-1] - 1
    if columns.size == 0 or (np.diff(columns) <= 0).any() or not 0 <= columns[0] <= columns[-1] <= last:
        raise ValueError(f"columns to sweep must ascend within [0, {last}], got {columns.tolist()}")
    settings = settings or ReconstructionSettings()
    half_acquisition = is_half_acquisition(theta, float(np.median(columns)), last + 1)
    slices = [
        _slice(sinogram, theta, float(column), settings, half_acquisition=half_acquisition, num_threads=num_threads)
        for column in columns
    ]
    size = min(image.shape[0] for image in slices)
    together = np.stack([_middle(image, size) for image in slices])
    seen_twice = covers_full_turn(theta) and not half_acquisition
    scores = sharpness(together, seen_twice=seen_twice)
    return AxisSweep(columns, together, scores, _best(columns, scores))


def sharpness(slices: NDArray[np.float32], *, seen_twice: bool) -> NDArray[np.float64]:
    """Score slices of one row, reconstructed about different columns.

    Parameters
    ----------
    slices : float32, shape (column, y, x)
        To compare with one another.
    full_turn : bool
        Whether they were seen from all around.

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


def _slice(
    sinogram: NDArray[np.float32],
    theta: NDArray[np.float64],
    column: float,
    settings: ReconstructionSettings,
    *,
    half_acquisition: bool,
    num_threads: int,
) -> NDArray[np.float32]:
    rows, weights = sinogram[None], None
    if half_acquisition:
        (rows, column), weights = extend(rows, column), angular_weights(theta, 2 * np.pi)
    slices = reconstruct(rows, theta, column, settings, weights=weights, num_threads=num_threads)
    return np.asarray(slices[0])


def _middle(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
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
