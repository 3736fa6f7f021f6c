"""Ring removal: a column of uneven response is a stripe in the sinogram and a ring in the slice."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["StripeSettings", "remove_stripes"]


class StripeSettings(BaseModel):
    """Method of ring removal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["all", "sorting", "none"] = Field(
        "all", description="all kinds of stripes, only partial and full ones (sorting), or none; by algotom."
    )
    snr: float = Field(3.0, gt=0, description="How far a stripe stands out to be treated as a large one.")
    large_size: int = Field(51, ge=3, description="Window of large stripes, pixels.")
    small_size: int = Field(21, ge=3, description="Window of small stripes, pixels.")


def remove_stripes(sinograms: NDArray[np.float32], settings: StripeSettings | None = None) -> NDArray[np.float32]:
    """Take stripes off the whole sinograms, before they are split into sections.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals.
    settings : StripeSettings, optional
        Method and windows; a window wider than a quarter of the detector is narrowed to that.

    Returns
    -------
    float32, shape (row, angle, column)
        Sinograms without stripes.

    References
    ----------
    .. [1] Vo, Atwood, Drakopoulos, Superior techniques for eliminating ring artifacts in x-ray micro-tomography, Optics
       Express 26(22), 28396, 2018, doi 10.1364/OE.26.028396.
    """
    settings = settings or StripeSettings()
    if settings.method == "none":
        return sinograms
    return np.stack([_remove_stripes(sinogram, settings) for sinogram in sinograms]).astype(np.float32)


def _remove_stripes(sinogram: NDArray[np.float32], settings: StripeSettings) -> NDArray[np.float32]:
    from algotom.prep.removal import remove_all_stripe, remove_stripe_based_sorting

    widest = max(3, sinogram.shape[1] // 4)
    large, small = min(settings.large_size, widest), min(settings.small_size, widest)
    if settings.method == "sorting":
        return np.asarray(remove_stripe_based_sorting(sinogram, small), dtype=np.float32)
    return np.asarray(remove_all_stripe(sinogram, settings.snr, large, small), dtype=np.float32)
