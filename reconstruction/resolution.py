"""How fine the details are that two images of one scene have in common: Fourier ring and shell correlation."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = ["FRC", "fourier_ring_correlation", "fourier_shell_correlation", "half_bit_threshold"]

HALF_BIT = 2**0.5 - 1
"""Signal-to-noise ratio (of power) at which a Fourier sample holds half a bit: log2(1 + SNR) = 1/2."""


class FRC(NamedTuple):
    """Correlation of two images ring by ring, or of two volumes shell by shell, in the Fourier domain.

    Attributes
    ----------
    frequency : float64, shape (ring,)
        Middle of the ring in 1/pixel, up to 0.5.
    correlation : float64, shape (ring,)
        -1 to 1; 0 where a ring has no power.
    num_samples : int64, shape (ring,)
        Fourier samples of the ring in the full plane; of a real image, half of them are free.
    num_independent : float64, shape (ring,)
        Samples of all slices, over how many the window ties together, also across rings: the correlation of noise alone
        scatters by one over the square root of it or a little less, where the noise of the slices is independent.
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    num_samples: NDArray[np.int64]
    num_independent: NDArray[np.float64]

    def resolution(self, threshold: float | NDArray[np.floating] = 1 / 7) -> float:
        """Find the frequency where the correlation first stays below a threshold for two rings.

        Parameters
        ----------
        threshold : float, or float array of shape (ring,)
            Correlation, one for all rings or one for each, as of `half_bit_threshold`.

        Returns
        -------
        float
            Frequency in 1/pixel; 0.5 if it never does.
        """
        below = self.correlation < threshold
        both = np.flatnonzero(below & np.append(below[1:], True))
        return float(self.frequency[both[0]]) if both.size else 0.5


def half_bit_threshold(
    num_independent: NDArray[np.floating] | NDArray[np.integer], *, half_data: bool = True
) -> NDArray[np.float64]:
    """Correlation above which a ring holds half a bit of information per sample [1]_.

    With n samples in a ring and the signal-to-noise ratio S of the two images,

        T(n) = (S + (2 sqrt(S) + 1) / sqrt(n)) / (S + 1 + 2 sqrt(S) / sqrt(n))

    Half a bit in the image from all data takes S = 0.4142 there, and half of that, 0.2071, in each of two images from
    half of the data. Without the terms of n that is a correlation of 0.293 and 0.172.

    Parameters
    ----------
    num_independent : float or int, shape (ring,)
        Independent samples of each ring, as `FRC.num_independent`.
    half_data : bool
        The two images are from one half of the data each, as sections are, and the question is what the image from all
        data holds. False: the question is what each of the two images holds.

    Returns
    -------
    float64, shape (ring,)
        Threshold; 1 where a ring has one sample or none.

    References
    ----------
    .. [1] van Heel and Schatz, Fourier shell correlation threshold criteria, Journal of Structural Biology 151,
       250-262, 2005, doi 10.1016/j.jsb.2005.05.009.
    """
    snr = HALF_BIT / 2 if half_data else HALF_BIT
    scatter = 1 / np.sqrt(np.maximum(num_independent, 1.0))
    cross = 2 * np.sqrt(snr) * scatter
    return np.asarray((snr + cross + scatter) / (snr + 1 + cross), dtype=np.float64)


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

    Raises
    ------
    ValueError
        If the shapes differ, or there are fewer than two axes.

    References
    ----------
    .. [1] van Heel and Schatz, Fourier shell correlation threshold criteria, Journal of Structural Biology 151,
       250-262, 2005, doi 10.1016/j.jsb.2005.05.009.
    """
    return _correlate(first, second, 2, num_rings)


def fourier_shell_correlation(
    first: NDArray[np.float32], second: NDArray[np.float32], *, num_shells: int | None = None
) -> FRC:
    """Correlate two volumes of the same scene with noise of their own, shell by shell [1]_.

    As `fourier_ring_correlation`, over shells of the three-dimensional transform: a structure that goes on from slice
    to slice counts once.

    Parameters
    ----------
    first, second : float32, shape (slice, y, x)
        Volumes of cubic voxels; a Hann window takes off the border of all three axes.
    num_shells : int, optional
        Number of shells up to 0.5 / pixel; by default a quarter of the smallest side.

    Returns
    -------
    FRC
        Correlation against frequency.

    Raises
    ------
    ValueError
        If the shapes differ, or there are not three axes.

    References
    ----------
    .. [1] van Heel and Schatz, Fourier shell correlation threshold criteria, Journal of Structural Biology 151,
       250-262, 2005, doi 10.1016/j.jsb.2005.05.009.
    """
    if first.ndim != 3:
        raise ValueError(f"volumes must have the axes (slice, y, x), got shape {first.shape}")
    return _correlate(first, second, 3, num_shells)


def _correlate(first: NDArray[np.float32], second: NDArray[np.float32], num_axes: int, num_rings: int | None) -> FRC:
    """Correlate over the last axes; what lies before them is summed."""
    if first.shape != second.shape or first.ndim < num_axes:
        raise ValueError(f"expected two arrays of one shape with (y, x) last, got {first.shape} and {second.shape}")
    shape = first.shape[-num_axes:]
    num_rings = num_rings or max(min(shape) // 4, 2)
    ring = _rings(shape, num_rings)
    times = _times_in_full_plane(shape)

    def over_rings(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.bincount(ring, (times * values).ravel(), num_rings + 1)[:num_rings].astype(np.float64)

    a, b = _spectra(first, shape), _spectra(second, shape)
    power = np.sqrt(over_rings(_summed(np.abs(a) ** 2)) * over_rings(_summed(np.abs(b) ** 2)))
    cross = over_rings(_summed((a * b.conj()).real))
    correlation = np.divide(cross, power, out=np.zeros(num_rings), where=power > 0)
    frequency = (np.arange(num_rings) + 0.5) / (2 * num_rings)
    num_samples = over_rings(np.ones(times.shape))
    return FRC(
        frequency, correlation, np.rint(num_samples).astype(np.int64), num_samples * len(a) / _tied_together(shape)
    )


def _spectra(images: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.complex64]:
    """Half transforms of the windowed images, one axis in front for all that are summed."""
    axes = tuple(range(-len(shape), 0))
    window = reduce(np.multiply.outer, [_hann(size) for size in shape]).astype(np.float32)
    spectra = fft.rfftn(window * (images - images.mean(axis=axes, keepdims=True)), axes=axes)
    return np.asarray(spectra.reshape(-1, *spectra.shape[-len(shape) :]))


def _summed(values: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(values.sum(axis=0, dtype=np.float64))


def _hann(size: int) -> NDArray[np.float64]:
    return np.asarray(np.hanning(size + 2)[1:-1])


def _tied_together(shape: tuple[int, ...]) -> float:
    """How many neighbouring samples the window makes one of: 35/18 along each long axis."""
    windows = [_hann(size) for size in shape]
    return float(np.prod([w.size * np.sum(w**4) / np.sum(w**2) ** 2 for w in windows]))


def _rings(shape: tuple[int, ...], num_rings: int) -> NDArray[np.intp]:
    """Give each sample of a half transform the number of its ring, flat; the corners are one ring more."""
    frequencies = [fft.fftfreq(size) for size in shape[:-1]] + [fft.rfftfreq(shape[-1])]
    square = reduce(np.add.outer, [frequency**2 for frequency in frequencies])
    return np.asarray(np.minimum(np.sqrt(square) * 2 * num_rings, num_rings).astype(np.intp).ravel())


def _times_in_full_plane(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """How many samples of the full transform each sample of a half transform stands for."""
    width = shape[-1]
    times = np.full(width // 2 + 1, 2.0)
    times[0] = 1
    if width % 2 == 0:
        times[-1] = 1
    return np.broadcast_to(times, (*shape[:-1], times.size))
