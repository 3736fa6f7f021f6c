"""Ring removal: a column of uneven response is a stripe in the sinogram and a ring in the slice."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .threads import for_each

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


def remove_stripes(
    sinograms: NDArray[np.float32], settings: StripeSettings | None = None, *, num_threads: int = 1
) -> tuple[NDArray[np.float32], int]:
    """Take stripes off the whole sinograms, before they are split into sections.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals.
    settings : StripeSettings, optional
        Method and windows.
    num_threads : int
        Threads, over rows; the result does not depend on it.

    Returns
    -------
    float32, shape (row, angle, column)
        Sinograms without stripes.
    int
        Number of sinograms that come back as they are: too small for the method, or with values too large for it. One
        of a single value has no stripes and does not count.

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
        return sinograms, 0
    cured, left = np.empty_like(sinograms), [False] * len(sinograms)

    def cure(row: int) -> None:
        without = _remove_stripes(sinograms[row], settings)
        cured[row], left[row] = (sinograms[row], True) if without is None else (without, False)

    with warnings.catch_warnings():  # not in the threads, which share what is shown
        warnings.simplefilter("ignore")  # of a narrow sinogram, all wavelets reach beyond its edges
        for_each(cure, len(sinograms), num_threads)
    return cured, sum(left)


def _remove_stripes(sinogram: NDArray[np.float32], settings: StripeSettings) -> NDArray[np.float32] | None:
    """Apply a method to a copy; None where it cannot work."""
    if sinogram.min() == sinogram.max():
        return sinogram
    if min(sinogram.shape) < MIN_SIZE:
        return None
    try:
        with np.errstate(all="ignore"):
            cured = STRIPE_METHODS[settings.method](sinogram.copy(), settings).astype(np.float32)
    except (ValueError, TypeError):  # what algotom's libraries say of shapes and values that they cannot bear
        return None
    return cured if cured.shape == sinogram.shape and np.isfinite(cured).all() else None


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

    if min(sinogram.shape) < MIN_WAVELETS:
        raise ValueError(f"wavelets need {MIN_WAVELETS} angles and columns, got {sinogram.shape}")
    return np.asarray(remove_stripe_based_wavelet_fft(sinogram))


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
    except ValueError as error:
        if "noise-free" not in str(error):  # algotom's word for less spread among the columns than it can measure
            raise
        return sinogram


def _small_size(sinogram: Sinogram, settings: StripeSettings) -> int:
    return settings.small_size or _scaled(SMALL_SIZE, sinogram.shape[1], at_least=3)


def _scaled(window: int, width: int, *, at_least: int) -> int:
    """Scale a window with the detector's width, to an odd number of pixels."""
    return max(at_least, 2 * round((window * width / FULL_WIDTH - 1) / 2) + 1)
