"""Ring removal: a column of uneven response is a stripe in the sinogram and a ring in the slice."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["STRIPE_METHODS", "StripeSettings", "remove_stripes"]

LARGE_SIZE, SMALL_SIZE, SMOOTH_SIZE, FULL_WIDTH = 51, 21, 15, 2048
"""Windows of the methods' authors, and the detector that they are for, pixels."""
NUM_FREQUENCIES = 20
"""Frequencies along the row that the fitted parabolas keep; the rest of them is stripes."""
MIN_SIZE = 3
"""Angles and columns below which there is nothing to compare a column with."""
MIN_WAVELETS = 32
"""Angles and columns below which algotom has no level of wavelets."""
OFFSET = 10.0
"""What is added to a sinogram, over its largest value, so that a method that multiplies columns adds to them."""


class StripeSettings(BaseModel):
    """Method of ring removal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["all", "sorting", "filtering", "fitting", "wavelet-fft", "normalization", "none"] = Field(
        "all",
        description="all kinds of stripes; partial and full ones (sorting), what of them changes slowly (filtering), "
        "faint ones in a smooth sample (fitting), many narrow ones (wavelet-fft), full ones alone (normalization); or "
        "none; by algotom.",
    )
    snr: float = Field(3.0, gt=0, description="How far a stripe stands out to be treated as a large one.")
    large_size: int | None = Field(None, ge=3, description="Window of large stripes, pixels; None: by the width.")
    small_size: int | None = Field(None, ge=3, description="Window of small stripes, pixels; None: by the width.")


Sinogram = NDArray[np.floating[Any]]
StripeMethod = Callable[[Sinogram, StripeSettings], Sinogram]
STRIPE_METHODS: dict[str, StripeMethod] = {}
"""Functions of one sinogram, shape (angle, column), by the name of the method."""


def removes(name: str) -> Callable[[StripeMethod], StripeMethod]:
    """Enter a method into the table."""

    def enter(method: StripeMethod) -> StripeMethod:
        STRIPE_METHODS[name] = method
        return method

    return enter


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
        Sinograms without stripes; one too small for the method, or too large in its values, comes back as it is.

    Notes
    -----
    The windows of 51 and 21 pixels that [1]_ uses are meant for detectors 2048 pixels wide. On a narrow detector they
    span structures of the sample and shade the slices, so windows that are not given are scaled with the width.

    References
    ----------
    .. [1] Vo, Atwood, Drakopoulos, Superior techniques for eliminating ring artifacts in x-ray micro-tomography, Optics
       Express 26(22), 28396, 2018, doi 10.1364/OE.26.028396 (all, sorting, filtering, fitting).
    .. [2] Munch, Trtik, Marone, Stampanoni, Stripe and ring artifact removal with combined wavelet - Fourier filtering,
       Optics Express 17(10), 8567, 2009, doi 10.1364/OE.17.008567 (wavelet-fft).
    """
    settings = settings or StripeSettings()
    if settings.method == "none" or not sinograms.size:
        return sinograms
    return np.stack([_remove_stripes(sinogram, settings) for sinogram in sinograms])


def _remove_stripes(sinogram: NDArray[np.float32], settings: StripeSettings) -> NDArray[np.float32]:
    """Apply a method to a copy; where it cannot work, the sinogram stays as it is."""
    if min(sinogram.shape) < MIN_SIZE or sinogram.min() == sinogram.max():
        return sinogram
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a narrow sinogram, all wavelets reach beyond its edges
        cured = STRIPE_METHODS[settings.method](sinogram.copy(), settings).astype(np.float32)
    return cured if cured.shape == sinogram.shape and np.isfinite(cured).all() else sinogram


@removes("all")
def _remove_all(sinogram: Sinogram, settings: StripeSettings) -> Sinogram:
    """Apply the three steps of algotom's remove_all_stripe."""
    from algotom.prep.removal import remove_dead_stripe, remove_large_stripe

    large = settings.large_size or _scaled(LARGE_SIZE, sinogram.shape[1], at_least=5)
    sinogram = _where_columns_differ(remove_dead_stripe, sinogram, settings.snr, large, residual=False)
    sinogram = _where_columns_differ(remove_large_stripe, sinogram, settings.snr, large)
    return _sort(sinogram, settings)


@removes("sorting")
def _sort(sinogram: Sinogram, settings: StripeSettings) -> Sinogram:
    from algotom.prep.removal import remove_stripe_based_sorting

    return np.asarray(remove_stripe_based_sorting(sinogram, _small_size(sinogram, settings)))


@removes("filtering")
def _filter(sinogram: Sinogram, settings: StripeSettings) -> Sinogram:
    from algotom.prep.removal import remove_stripe_based_filtering

    return np.asarray(remove_stripe_based_filtering(sinogram, size=_small_size(sinogram, settings)))


@removes("fitting")
def _fit(sinogram: Sinogram, settings: StripeSettings) -> Sinogram:
    """Fit a parabola to each column and smooth what was fitted; the method multiplies, which air would not bear."""
    from algotom.prep.removal import remove_stripe_based_fitting

    offset = OFFSET * float(np.abs(sinogram).max())
    return np.asarray(remove_stripe_based_fitting(sinogram.astype(np.float64) + offset, 2, NUM_FREQUENCIES) - offset)


@removes("wavelet-fft")
def _damp_wavelets(sinogram: Sinogram, settings: StripeSettings) -> Sinogram:
    from algotom.prep.removal import remove_stripe_based_wavelet_fft

    return np.asarray(remove_stripe_based_wavelet_fft(sinogram)) if min(sinogram.shape) >= MIN_WAVELETS else sinogram


@removes("normalization")
def _normalise(sinogram: Sinogram, settings: StripeSettings) -> Sinogram:
    from algotom.prep.removal import remove_stripe_based_normalization

    return np.asarray(
        remove_stripe_based_normalization(sinogram, max(1.0, SMOOTH_SIZE * sinogram.shape[1] / FULL_WIDTH))
    )


def _where_columns_differ(
    method: Callable[..., Sinogram], sinogram: Sinogram, *arguments: float, **options: bool
) -> Sinogram:
    """Apply a method that finds stripes by how far columns stand out; where none differ at all, it has none to find."""
    try:
        return method(sinogram.copy(), *arguments, **options)
    except (ValueError, TypeError):  # with valid windows: less spread among the columns than it can measure
        return sinogram


def _small_size(sinogram: Sinogram, settings: StripeSettings) -> int:
    return settings.small_size or _scaled(SMALL_SIZE, sinogram.shape[1], at_least=3)


def _scaled(window: int, width: int, *, at_least: int) -> int:
    """Scale a window with the detector's width, to an odd number of pixels."""
    return max(at_least, 2 * round((window * width / FULL_WIDTH - 1) / 2) + 1)
