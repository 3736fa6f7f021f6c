"""Ring removal: a column of uneven response is a stripe in the sinogram and a ring in the slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["StripeSettings", "remove_stripes"]

LARGE_SIZE, SMALL_SIZE, FULL_WIDTH = 51, 21, 2048
"""Windows of the method's authors, and the detector that they are for, pixels."""


class StripeSettings(BaseModel):
    """Method of ring removal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["all", "sorting", "none"] = Field(
        "all", description="all kinds of stripes, only partial and full ones (sorting), or none; by algotom."
    )
    snr: float = Field(3.0, gt=0, description="How far a stripe stands out to be treated as a large one.")
    large_size: int | None = Field(None, ge=3, description="Window of large stripes, pixels; None: by the width.")
    small_size: int | None = Field(None, ge=3, description="Window of small stripes, pixels; None: by the width.")


def remove_stripes(sinograms: NDArray[np.float32], settings: StripeSettings | None = None) -> NDArray[np.float32]:
    """Take stripes off the whole sinograms, before they are split into sections.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals.
    settings : StripeSettings, optional
        Method and windows.

    Returns
    -------
    float32, shape (row, angle, column)
        Sinograms without stripes.

    Notes
    -----
    The windows of 51 and 21 pixels that [1]_ uses are meant for detectors 2048 pixels wide. On a narrow detector they
    span structures of the sample and shade the slices, so windows that are not given are scaled with the width.

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
    from algotom.prep.removal import remove_dead_stripe, remove_large_stripe, remove_stripe_based_sorting

    large = settings.large_size or _scaled(LARGE_SIZE, sinogram.shape[1], at_least=5)
    small = settings.small_size or _scaled(SMALL_SIZE, sinogram.shape[1], at_least=3)
    if settings.method == "all":  # the three of algotom's remove_all_stripe
        sinogram = _where_columns_differ(remove_dead_stripe, sinogram, settings.snr, large, residual=False)
        sinogram = _where_columns_differ(remove_large_stripe, sinogram, settings.snr, large)
    return np.asarray(remove_stripe_based_sorting(sinogram, small), dtype=np.float32)


def _where_columns_differ(
    method: Callable[..., NDArray[np.float32]], sinogram: NDArray[np.float32], *arguments: float, **options: bool
) -> NDArray[np.float32]:
    """Apply a method that finds stripes by how far columns stand out; where none differ at all, it has none to find."""
    try:
        with np.errstate(invalid="ignore"):  # 0 / 0 where all columns are alike
            return method(sinogram.copy(), *arguments, **options)
    except ValueError:  # its only cause with valid windows: less spread among the columns than it can measure
        return sinogram


def _scaled(window: int, width: int, *, at_least: int) -> int:
    """Scale a window with the detector's width, to an odd number of pixels."""
    return max(at_least, 2 * round((window * width / FULL_WIDTH - 1) / 2) + 1)
