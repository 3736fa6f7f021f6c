"""Values that no sample made: zingers and dead pixels. Each sinogram is treated by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

__all__ = ["OutlierSettings", "fill_dead", "remove_zingers"]

MAD_TO_STD = 1.4826
"""Standard deviation of a Gaussian over its median absolute deviation."""

_NEIGHBOURING_FRAMES = np.array([[[True] * 3, [False] * 3, [True] * 3]])


class OutlierSettings(BaseModel):
    """Which values count as outliers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    zinger_threshold: float | None = Field(
        12.0, gt=0, description="Height over the neighbours, in standard deviations of the noise; None = off."
    )


def fill_dead(sinograms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Interpolate values that are not finite along the detector row, linearly.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Sinograms with nan or inf where nothing was measured.

    Returns
    -------
    float32, shape (row, angle, column)
        Finite everywhere; a row without any finite value becomes 0.
    """
    filled = np.array(sinograms)
    columns = np.arange(sinograms.shape[-1])
    for index in np.argwhere(~np.isfinite(filled).all(axis=-1)):
        row = filled[tuple(index)]
        good = np.isfinite(row)
        row[~good] = np.interp(columns[~good], columns[good], row[good]) if good.any() else 0
    return filled


def remove_zingers(
    sinograms: NDArray[np.float32], settings: OutlierSettings | None = None
) -> tuple[NDArray[np.float32], int]:
    """Replace bright spots of a single frame, where an x-ray hit the sensor, by the median of the frames around it.

    A value is one that stands out over all values of the two neighbouring frames in its own and the next columns, and
    over the median of its row: an edge that moves through the sinogram has neighbours in both directions.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Transmission; a zinger stands out upwards.
    settings : OutlierSettings, optional
        Threshold.

    Returns
    -------
    float32, shape (row, angle, column)
        Sinograms without zingers.
    int
        Number of values replaced.
    """
    settings = settings or OutlierSettings()
    if settings.zinger_threshold is None:
        return sinograms, 0
    median = ndimage.median_filter(sinograms, size=(1, 5, 1), mode="mirror")
    noise = MAD_TO_STD * np.median(np.abs(sinograms - median), axis=(1, 2), keepdims=True)
    frames = ndimage.maximum_filter(sinograms, footprint=_NEIGHBOURING_FRAMES, mode="mirror")
    row = ndimage.median_filter(sinograms, size=(1, 1, 5), mode="mirror")
    zingers = (sinograms - np.maximum(frames, row) > settings.zinger_threshold * noise) & (noise > 0)
    return np.where(zingers, median, sinograms), int(zingers.sum())
