"""How near slices are to the truth, or to what they were before they were packed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

__all__ = ["ms_ssim", "msle", "psnr", "ssim"]

WINDOW = 11
"""Pixels along a side of the Gaussian window of the structural similarity."""
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, from fine to coarse."""
SMALLEST_SIDE = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1
"""Pixels that still fill a window at the coarsest scale."""


def psnr(truth: NDArray[np.floating], image: NDArray[np.floating], *, data_range: float | None = None) -> float:
    """Peak signal-to-noise ratio, 20 log10(range / root mean square error).

    Parameters
    ----------
    truth, image : float, the same shape
        What is right and what is measured against it.
    data_range : float, optional
        Peak; by default the largest minus the smallest value of `truth`.

    Returns
    -------
    float
        Decibel; inf for equal arrays.

    Raises
    ------
    ValueError
        If the shapes differ, a value is not finite, or the range is not positive.
    """
    error = _mean_square(_difference(truth, image))
    return 20 * math.log10(_peak(truth, data_range)) - 10 * math.log10(error) if error > 0 else math.inf


def ssim(truth: NDArray[np.floating], image: NDArray[np.floating], *, data_range: float | None = None) -> float:
    """Structural similarity [1]_, mean over the pixels of each slice and over the slices.

    With the means m, variances v and covariance c of x and y in a Gaussian window of 11 pixels and standard deviation
    1.5, and C1 = (0.01 range)^2, C2 = (0.03 range)^2,

        SSIM = (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1) * (2 c + C2) / (v_x + v_y + C2)

    Parameters
    ----------
    truth, image : float, shape (..., y, x)
        What is right and what is measured against it; sides of 11 pixels or more.
    data_range : float, optional
        Range of the values; by default the largest minus the smallest value of `truth`.

    Returns
    -------
    float
        -1 to 1; 1 for equal arrays.

    Raises
    ------
    ValueError
        If the shapes differ, a side is too short, a value is not finite, or the range is not positive.

    References
    ----------
    .. [1] Wang, Bovik, Sheikh, Simoncelli, Image quality assessment: from error visibility to structural similarity,
       IEEE Transactions on Image Processing 13(4), 600-612, 2004, doi 10.1109/TIP.2003.819861.
    """
    return _mean_of_slices(_ssim_of_slice, truth, image, data_range, smallest=WINDOW)


def ms_ssim(truth: NDArray[np.floating], image: NDArray[np.floating], *, data_range: float | None = None) -> float:
    """Structural similarity at five scales [1]_, mean over the slices.

    Each scale is the one before with 2 x 2 pixels averaged to one. With SSIM = l cs, where l compares the means and cs
    contrast and structure, and the exponents w of `SCALE_WEIGHTS`,

        MS-SSIM = SSIM_5^w_5 product_{j < 5} cs_j^w_j

    A mean below 0, which has no such power, counts as 0.

    Parameters
    ----------
    truth, image : float, shape (..., y, x)
        What is right and what is measured against it; sides of 161 pixels or more.
    data_range : float, optional
        Range of the values; by default the largest minus the smallest value of `truth`.

    Returns
    -------
    float
        0 to 1; 1 for equal arrays.

    Raises
    ------
    ValueError
        If the shapes differ, a side is too short, a value is not finite, or the range is not positive.

    References
    ----------
    .. [1] Wang, Simoncelli, Bovik, Multiscale structural similarity for image quality assessment, 37th Asilomar
       Conference on Signals, Systems and Computers, 1398-1402, 2003, doi 10.1109/ACSSC.2003.1292216.
    """
    return _mean_of_slices(_ms_ssim_of_slice, truth, image, data_range, smallest=SMALLEST_SIDE)


def msle(truth: NDArray[np.floating], image: NDArray[np.floating]) -> float:
    """Mean square Laplacian error [1]_: how well edges are kept.

    MSLE = mean of (L truth - L image)^2 with the five-point Laplacian of a slice,

        (L f)(y, x) = f(y - 1, x) + f(y + 1, x) + f(y, x - 1) + f(y, x + 1) - 4 f(y, x)

    whose border is mirrored. A smooth error hardly counts, a shift of all values not at all.

    Parameters
    ----------
    truth, image : float, shape (..., y, x)
        What is right and what is measured against it.

    Returns
    -------
    float
        In the square of the slices' unit per pixel^4; 0 for equal arrays. Values of different slices compare only if
        they were scaled alike.

    Raises
    ------
    ValueError
        If the shapes differ or a value is not finite.

    References
    ----------
    .. [1] Hejazi, Chand, Fritsch, Bruno, D-CNN and VQ-VAE autoencoders for compression and denoising of industrial
       x-ray computed tomography images, 2025, arXiv 2507.07704.
    """
    error = _difference(truth, image)
    along_row, along_column = (correlate1d(error, [1.0, -2.0, 1.0], axis=axis, mode="reflect") for axis in (-2, -1))
    return _mean_square(along_row + along_column)


def _difference(truth: NDArray[np.floating], image: NDArray[np.floating]) -> NDArray[np.float64]:
    if truth.shape != image.shape:
        raise ValueError(f"truth and image must have one shape, got {truth.shape} and {image.shape}")
    return np.asarray(image - truth.astype(np.float64))


def _mean_square(values: NDArray[np.float64]) -> float:
    mean = float(np.mean(np.square(values)))
    if not math.isfinite(mean):
        raise ValueError("truth and image must be finite: a value is nan or inf, or none is there")
    return mean


def _peak(truth: NDArray[np.floating], data_range: float | None) -> float:
    peak = float(truth.max() - truth.min()) if data_range is None else data_range
    if not 0 < peak < math.inf:
        raise ValueError(f"data_range must be positive, got {peak}: give one where the truth is constant")
    return peak


def _mean_of_slices(
    measure: Callable[[NDArray[np.float64], NDArray[np.float64], float], float],
    truth: NDArray[np.floating],
    image: NDArray[np.floating],
    data_range: float | None,
    *,
    smallest: int,
) -> float:
    _mean_square(_difference(truth, image))
    shape = truth.shape[-2:]
    if truth.ndim < 2 or min(shape) < smallest:
        raise ValueError(f"slices must have sides of {smallest} pixels or more, got shape {truth.shape}")
    peak = _peak(truth, data_range)
    # In double precision: the variances are small differences of squares.
    pairs = zip(*(array.reshape(-1, *shape).astype(np.float64) for array in (truth, image)), strict=True)
    return float(np.mean([measure(right, found, peak) for right, found in pairs]))


def _ssim_of_slice(
    truth: NDArray[np.float64], image: NDArray[np.float64], data_range: float, mean_constant: float = 0.01
) -> float:
    from skimage.metrics import structural_similarity

    # The settings of Wang et al.; the library's own defaults are others.
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "K1": mean_constant, "K2": 0.03}
    similarity = structural_similarity(truth, image, data_range=data_range, **wang)  # type: ignore[no-untyped-call]
    return float(similarity)


def _contrast_structure(truth: NDArray[np.float64], image: NDArray[np.float64], data_range: float) -> float:
    """SSIM without its comparison of the means: with so large a constant that term is 1."""
    return _ssim_of_slice(truth, image, data_range, mean_constant=1e6)


def _ms_ssim_of_slice(truth: NDArray[np.float64], image: NDArray[np.float64], data_range: float) -> float:
    product = 1.0
    for weight in SCALE_WEIGHTS[:-1]:
        product *= max(_contrast_structure(truth, image, data_range), 0.0) ** weight
        truth, image = _halve(truth), _halve(image)
    return float(product * max(_ssim_of_slice(truth, image, data_range), 0.0) ** SCALE_WEIGHTS[-1])


def _halve(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average 2 x 2 pixels; an odd last row or column is doubled first."""
    even = np.pad(image, [(0, side % 2) for side in image.shape], mode="edge")
    height, width = even.shape
    return np.asarray(even.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)))
