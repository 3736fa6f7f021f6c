"""Measures of how near a volume is to another, and how much of it is signal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .reconstructors import circle

__all__ = ["FRC", "fourier_ring_correlation", "noise_of_sections", "psnr"]


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
    """
    if truth.shape != image.shape:
        raise ValueError(f"truth and image must have one shape, got {truth.shape} and {image.shape}")
    peak = float(truth.max() - truth.min()) if data_range is None else data_range
    error = float(np.mean(np.square(truth.astype(np.float64) - image), dtype=np.float64))
    return float(20 * np.log10(peak) - 10 * np.log10(error)) if error > 0 else float("inf")


class FRC(NamedTuple):
    """Correlation of two images ring by ring in the Fourier domain.

    Attributes
    ----------
    frequency : float64, shape (ring,)
        Middle of the ring in 1/pixel, up to 0.5.
    correlation : float64, shape (ring,)
        -1 to 1; 0 where a ring has no power.
    num_samples : int64, shape (ring,)
        Fourier samples of the ring in the full plane; of a real image, half of them are free.
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    num_samples: NDArray[np.int64]

    def resolution(self, threshold: float = 1 / 7) -> float:
        """Find the frequency where the correlation first stays below a threshold for two rings.

        Parameters
        ----------
        threshold : float
            Correlation.

        Returns
        -------
        float
            Frequency in 1/pixel; 0.5 if it never does.
        """
        below = self.correlation < threshold
        both = np.flatnonzero(below & np.append(below[1:], True))
        return float(self.frequency[both[0]]) if both.size else 0.5


def fourier_ring_correlation(
    first: NDArray[np.float32], second: NDArray[np.float32], *, num_rings: int | None = None
) -> FRC:
    """Correlate two images of the same scene with noise of their own, ring by ring [1]_.

    FRC(q) = Re sum F1 conj(F2) / sqrt(sum |F1|^2 sum |F2|^2), summed over the ring of radius q and over all slices.

    Parameters
    ----------
    first, second : float32, shape (..., y, x)
        Slices; a Hann window takes off the border.
    num_rings : int, optional
        Number of rings up to 0.5 / pixel; by default a quarter of the smaller side.

    Returns
    -------
    FRC
        Correlation against frequency.

    References
    ----------
    .. [1] van Heel and Schatz, Fourier shell correlation threshold criteria, Journal of Structural Biology 151,
       250-262, 2005, doi 10.1016/j.jsb.2005.05.009.
    """
    height, width = first.shape[-2:]
    num_rings = num_rings or max(min(height, width) // 4, 2)
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)
    a = fft.rfft2(window * (first - first.mean(axis=(-2, -1), keepdims=True))).reshape(-1, height, width // 2 + 1)
    b = fft.rfft2(window * (second - second.mean(axis=(-2, -1), keepdims=True))).reshape(a.shape)
    radius = np.hypot(fft.fftfreq(height)[:, None], fft.rfftfreq(width)[None, :])
    ring = np.minimum((radius * 2 * num_rings).astype(int), num_rings).ravel()  # the corners go to one ring more
    times = np.broadcast_to(_times_in_full_plane(width), radius.shape)

    def over_rings(values: NDArray[np.floating]) -> NDArray[np.float64]:
        weights = (times * values.sum(axis=0, dtype=np.float64)).ravel()
        return np.bincount(ring, weights, num_rings + 1)[:num_rings].astype(np.float64)

    power = np.sqrt(over_rings(np.abs(a) ** 2) * over_rings(np.abs(b) ** 2))
    cross = over_rings((a * b.conj()).real)
    correlation = np.divide(cross, power, out=np.zeros(num_rings), where=power > 0)
    frequency = (np.arange(num_rings) + 0.5) / (2 * num_rings)
    return FRC(frequency, correlation, np.rint(over_rings(np.ones((1, *radius.shape)))).astype(np.int64))


def noise_of_sections(slices: NDArray[np.float32], shares: NDArray[np.floating]) -> NDArray[np.float64]:
    """Estimate the noise of the full reconstruction from how much the reconstructions of its sections differ.

    A section that has the share s_k of the projections has the noise variance v / s_k, where v is that of the full
    reconstruction, sum_k s_k x_k. The mean of sum_k s_k (x_k - full)^2 is then (K - 1) v. Whatever differs between the
    sections counts as noise, also the streaks of sections with few projections: the estimate is then too high.

    Parameters
    ----------
    slices : float32, shape (slice, section, y, x)
        Reconstructions of the sections.
    shares : float, shape (section,)
        Share of the projections in each section, with sum 1.

    Returns
    -------
    float64, shape (slice,)
        Standard deviation inside the circle of each slice, in the unit of `slices`.

    Raises
    ------
    ValueError
        If there are fewer than two sections, or not as many shares.
    """
    num_sections = slices.shape[1]
    if num_sections < 2 or len(shares) != num_sections:
        raise ValueError(f"noise needs two or more sections and a share of each, got {num_sections} and {len(shares)}")
    inside = circle(slices.shape[-1]) > 0
    weights = np.asarray(shares, np.float64)
    return np.array([_noise_of_one(sections[:, inside], weights) for sections in slices])


def _noise_of_one(sections: NDArray[np.float32], shares: NDArray[np.float64]) -> float:
    full = shares @ sections
    spread = [share * np.square(section - full).mean() for share, section in zip(shares, sections, strict=True)]
    return float(np.sqrt(sum(spread) / (len(shares) - 1)))


def _times_in_full_plane(width: int) -> NDArray[np.float64]:
    """How many columns of the full transform each column of a half transform stands for."""
    times = np.full(width // 2 + 1, 2.0)
    times[0] = 1
    if width % 2 == 0:
        times[-1] = 1
    return times
