"""Fourier reconstruction: the slices' spectra on polar lines, regridded by a non-uniform FFT.

The Fourier slice theorem turns filtered backprojection into one sum over the polar grid of all rays,

    f(x, y) = sum_j w_j  sum_k Q_j(k) exp(2 pi i k (x cos(theta_j) + y sin(theta_j) + axis) / M) / M

with Q_j the spectrum of the filtered row j, padded to M columns, and w_j the share of the half turn of angle j. The sum
is a type 1 non-uniform FFT (finufft). It is the class of method that the field calls GridRec [1]_; the kernel, the
padding and the exact ramp make it right in amplitude.

References
----------
.. [1] Dowd et al., Developments in synchrotron x-ray computed microtomography at the National Synchrotron Light Source,
   Proc. SPIE 3772, 224-236, 1999, doi 10.1117/12.363725.
"""

from __future__ import annotations

import finufft
import numpy as np
from numpy.typing import NDArray

from .angles import angular_weights
from .filters import FilterName, filter_rows, padded_length

__all__ = ["gridrec"]

TOLERANCE = 1e-4
"""Relative accuracy asked of the non-uniform FFT; the discretisation of the slice errs a hundred times more."""


def gridrec(
    sinograms: NDArray[np.float32],
    theta: NDArray[np.float64],
    rotation_axis: float,
    *,
    filter_name: FilterName = "ram-lak",
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Reconstruct slices by Fourier regridding.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals.
    theta : float64, shape (angle,)
        Angles in radians.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.
    filter_name : {"ram-lak", "shepp-logan", "cosine", "hann"}
        Window of the ramp filter.
    num_threads : int
        Threads of the non-uniform FFT.

    Returns
    -------
    float32, shape (row, column, column)
        Slices in the unit of `sinograms` per pixel, the axis in their middle.
    """
    num_rows, _, size = sinograms.shape
    x, y, phase = _polar_grid(theta, rotation_axis, size)
    # Two real slices travel as the real and the imaginary part of one complex transform.
    pairs = np.zeros(((num_rows + 1) // 2, theta.size, padded_length(size)), np.complex64)
    for pair, rows in zip(pairs, _pairs(sinograms), strict=True):
        pair[:] = _full_spectrum(filter_rows(rows, filter_name)) * phase
    flat = pairs.reshape(len(pairs), -1)
    options = {"dtype": "complex64", "nthreads": num_threads, "showwarn": 0}  # showwarn: the library would print
    plan = finufft.Plan(1, (size, size), len(pairs), TOLERANCE, 1, **options)
    plan.setpts(x, y)
    images = plan.execute(flat if len(pairs) > 1 else flat[0]).reshape(len(pairs), size, size)
    slices = np.stack([images.real, images.imag], axis=1).reshape(-1, size, size)[:num_rows]
    return np.ascontiguousarray(slices, dtype=np.float32)


def _pairs(sinograms: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [sinograms[i : i + 2] for i in range(0, len(sinograms), 2)]


def _full_spectrum(half: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Join the half spectra of one or two real rows to the full spectrum of first + i second."""
    length = 2 * (half.shape[-1] - 1)
    mirrored = half[..., (length - 1) // 2 : 0 : -1].conj()
    full = np.concatenate([half, mirrored], axis=-1)
    return full[0] if len(full) == 1 else np.asarray(full[0] + 1j * full[1], dtype=np.complex64)


def _polar_grid(
    theta: NDArray[np.float64], rotation_axis: float, size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.complex64]]:
    """Angular frequencies of all rays, flattened, and the factor that each ray's spectrum takes."""
    omega = 2 * np.pi * np.fft.fftfreq(padded_length(size))
    along_row, along_column = -np.outer(np.sin(theta), omega), np.outer(np.cos(theta), omega)
    # finufft's middle pixel is size // 2; ours lies between the pixels when the size is even.
    offset = size // 2 - (size - 1) / 2
    shift = omega * rotation_axis + offset * (along_row + along_column)
    weights = angular_weights(theta)[:, None] / padded_length(size)
    phase = weights * np.exp(1j * shift)
    phase[:, padded_length(size) // 2] = 0  # the highest frequency has no partner: shifted, it would not stay real
    return along_row.ravel().astype(np.float32), along_column.ravel().astype(np.float32), phase.astype(np.complex64)
