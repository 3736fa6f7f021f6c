"""The ramp of filtered backprojection and its windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = ["BUTTERWORTH_CUTOFF", "BUTTERWORTH_ORDER", "FilterName", "filter_rows", "padded_length", "ramp_filter"]

FilterName = Literal["ram-lak", "shepp-logan", "cosine", "hann", "butterworth"]

BUTTERWORTH_CUTOFF = 0.25
"""Frequency in cycles per pixel, half of the highest one, at which the Butterworth window is 1/2."""
BUTTERWORTH_ORDER = 2
"""Order of the Butterworth window: it falls as the frequency to the power -2 times the order."""

_WINDOWS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    # argument: frequency in cycles per pixel, 0 to 0.5
    "ram-lak": np.ones_like,
    "shepp-logan": lambda f: np.sinc(f),
    "cosine": lambda f: np.cos(np.pi * f),
    "hann": lambda f: np.cos(np.pi * f) ** 2,
    "butterworth": lambda f: 1 / (1 + (f / BUTTERWORTH_CUTOFF) ** (2 * BUTTERWORTH_ORDER)),
}


def padded_length(num_columns: int) -> int:
    """Even length of a fast transform that keeps a filtered row of `num_columns` free of wrap-around."""
    return 2 * int(fft.next_fast_len(num_columns, real=True))


def ramp_filter(length: int, name: FilterName = "ram-lak") -> NDArray[np.float64]:
    """Transfer function of the ramp, exact in the space domain.

    Sampling ``|f|`` in the frequency domain loses the mean of the row, and with it the amplitude of the slice; the
    transform of the band-limited kernel h(0) = 1/4, h(odd n) = -1 / (pi n)^2, h(even n) = 0 does not [1]_.

    The windows at frequency f, in cycles per pixel: 1 (ram-lak), sinc(f) (shepp-logan), cos(pi f) (cosine),
    cos(pi f)^2 (hann), and 1 / (1 + (f / `BUTTERWORTH_CUTOFF`)^(2 `BUTTERWORTH_ORDER`)) (butterworth [2]_, the gain in
    power as tomopy has it).

    Parameters
    ----------
    length : int
        Length of the padded row.
    name : {"ram-lak", "shepp-logan", "cosine", "hann", "butterworth"}
        Window that the ramp is multiplied with.

    Returns
    -------
    float64, shape (length // 2 + 1,)
        Filter in 1/pixel at the frequencies of `numpy.fft.rfftfreq`.

    Raises
    ------
    ValueError
        If no window has the name.

    References
    ----------
    .. [1] Kak and Slaney, Principles of Computerized Tomographic Imaging, section 3.3, 1988.
    .. [2] Butterworth, On the theory of filter amplifiers, Experimental Wireless and the Wireless Engineer 7, 536-541,
       1930.
    """
    if name not in _WINDOWS:
        raise ValueError(f"filter_name must be one of {', '.join(_WINDOWS)}, got {name!r}")
    n = np.minimum(np.arange(length), length - np.arange(length))
    kernel = np.zeros(length)
    kernel[0] = 0.25
    odd = n % 2 == 1
    kernel[odd] = -1.0 / (np.pi * n[odd]) ** 2
    return np.asarray(fft.rfft(kernel).real * _WINDOWS[name](fft.rfftfreq(length)), dtype=np.float64)


def filter_rows(
    sinograms: NDArray[np.float32], name: FilterName = "ram-lak", *, num_threads: int = 1
) -> NDArray[np.complex64]:
    """Transform of the zero-padded, ramp-filtered rows.

    Parameters
    ----------
    sinograms : float32, shape (..., column)
        Rows to filter.
    name : {"ram-lak", "shepp-logan", "cosine", "hann", "butterworth"}
        Window of the ramp.
    num_threads : int
        Threads of the transform.

    Returns
    -------
    complex64, shape (..., padded_length(column) // 2 + 1)
        Spectrum of the filtered rows.
    """
    length = padded_length(sinograms.shape[-1])
    spectrum = fft.rfft(sinograms, n=length, axis=-1, workers=num_threads)
    spectrum *= ramp_filter(length, name).astype(np.float32)
    return np.asarray(spectrum, dtype=np.complex64)
