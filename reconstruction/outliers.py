"""Values that no sample made: zingers and dead pixels. Each sinogram is treated by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from .threads import for_each

__all__ = ["OutlierSettings", "fill_dead", "mask_unmeasured", "remove_zingers"]

MAD_TO_STD = 1.4826
"""Standard deviation of a Gaussian over its median absolute deviation."""

LARGEST = 1e15
"""What no detector measures; float32 can still hold its square."""
LEAST_LIGHT = 1e-3
"""Transmission below which the noise is not scaled further when it is fitted."""

_NEIGHBOURING_FRAMES = np.array([[True] * 3, [False] * 3, [True] * 3])


class OutlierSettings(BaseModel):
    """Which values count as outliers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    zinger_threshold: float | None = Field(
        12.0, gt=0, description="Height over the neighbours, in standard deviations of the noise; None = off."
    )


def mask_unmeasured(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put nan in the place of what is not finite, or so large that it is no measurement.

    Parameters
    ----------
    values : float32, any shape
        Counts, transmission or line integrals.

    Returns
    -------
    float32, the same shape
        The same array if all of it may be measured.
    """
    measured = np.abs(values) <= LARGEST
    return values if measured.all() else np.where(measured, values, np.float32(np.nan))


def fill_dead(sinograms: NDArray[np.float32], *, empty: float) -> NDArray[np.float32]:
    """Interpolate values that are not finite along the detector row, linearly.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Sinograms with nan or inf where nothing was measured.
    empty : float
        Value of a row without anything finite that stands for an empty beam path: 1 for transmission, 0 for line
        integrals.

    Returns
    -------
    float32, shape (row, angle, column)
        Finite everywhere.
    """
    filled = np.array(sinograms)
    for sinogram in filled:
        bad = ~np.isfinite(sinogram)
        dead = bad.all(axis=0)
        alike = (bad == dead).all(axis=1)
        _fill_columns(sinogram, np.flatnonzero(alike), dead, empty)
        for angle in np.flatnonzero(~alike):
            _fill_columns(sinogram, np.array([angle]), bad[angle], empty)
    return filled


def _fill_columns(
    sinogram: NDArray[np.float32], angles: NDArray[np.intp], bad: NDArray[np.bool_], empty: float
) -> None:
    """Interpolate the bad columns between good ones, in place, of angles that have the same bad columns."""
    columns, good = np.flatnonzero(bad), np.flatnonzero(~bad)
    if not good.size or not columns.size:
        sinogram[np.ix_(angles, columns)] = empty
        return
    after = np.searchsorted(good, columns)
    left, right = good[np.maximum(after - 1, 0)], good[np.minimum(after, good.size - 1)]
    start, stop = (sinogram[np.ix_(angles, ends)].astype(np.float64) for ends in (left, right))
    slope = (stop - start) / np.maximum(right - left, 1)  # beyond the outermost good column, both ends are that
    sinogram[np.ix_(angles, columns)] = start + slope * (columns - left)


def remove_zingers(
    sinograms: NDArray[np.float32], settings: OutlierSettings | None = None, *, num_threads: int = 1
) -> tuple[NDArray[np.float32], int]:
    """Replace bright spots of a single frame, where an x-ray hit the sensor, by the median of the frames around it.

    A value is one that stands out over all values of the two neighbouring frames in its own and the next columns, and
    over the median of its row: an edge that moves through the sinogram has neighbours in both directions. How far it
    must stand out depends on the light it got: photon noise goes with the root of the transmission.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Transmission; a zinger stands out upwards.
    settings : OutlierSettings, optional
        Threshold.
    num_threads : int
        Threads, over rows; the result does not depend on it.

    Returns
    -------
    float32, shape (row, angle, column)
        Sinograms without zingers.
    int
        Number of values replaced.
    """
    settings = settings or OutlierSettings()
    threshold = settings.zinger_threshold
    if threshold is None:
        return sinograms, 0
    cured, counts = np.empty_like(sinograms), [0] * len(sinograms)

    def cure(row: int) -> None:
        cured[row], counts[row] = _remove_zingers(sinograms[row], threshold)

    for_each(cure, len(sinograms), num_threads)
    return cured, sum(counts)


def _remove_zingers(sinogram: NDArray[np.float32], threshold: float) -> tuple[NDArray[np.float32], int]:
    median = _median_of_five(sinogram)
    noise = _photon_noise(sinogram, median)
    frames = ndimage.maximum_filter(sinogram, footprint=_NEIGHBOURING_FRAMES, mode="mirror")
    row = _median_of_five(sinogram.T).T
    zingers = (sinogram - np.maximum(frames, row) > threshold * noise) & (noise > 0)
    return np.where(zingers, median, sinogram), int(zingers.sum())


def _median_of_five(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median of each value and the two on either side along the first axis, mirrored at its ends.

    Comparisons of whole arrays take a third of the time of scipy's filter, and let other threads run.
    """
    padded = np.pad(values, ((2, 2), (0, 0)), mode="reflect")
    first, second, third, fourth, fifth = (padded[k : k + len(values)] for k in range(5))
    low = np.maximum(np.minimum(first, second), np.minimum(third, fourth))
    high = np.minimum(np.maximum(first, second), np.maximum(third, fourth))
    return np.asarray(np.maximum(np.minimum(low, high), np.minimum(np.maximum(low, high), fifth)))


def _photon_noise(sinogram: NDArray[np.float32], median: NDArray[np.float32]) -> NDArray[np.float32]:
    """Estimate the standard deviation of each value, a sqrt(T) and at least one photon, a^2.

    With N photons in the open beam, T has the variance T / N, so that a^2 = 1 / N is one photon. It is fitted in the
    brighter half, where photons outweigh the noise of reading out.
    """
    deviation = np.abs(sinogram - median)
    fitted = (median >= np.median(median)) & (deviation > 0)  # the median is often the value itself
    if not fitted.any():
        return np.zeros_like(sinogram)
    scaled = deviation[fitted] / np.sqrt(np.maximum(median[fitted], LEAST_LIGHT))
    scale = np.float32(MAD_TO_STD * np.median(scaled))
    return np.asarray(scale * np.sqrt(np.maximum(median, scale**2)))
