"""Filtered backprojection by the ASTRA toolbox: the slow reference on a CPU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .angles import angular_weights
from .filters import FilterName, filter_rows, padded_length

__all__ = ["fbp"]


def fbp(
    sinograms: NDArray[np.float32],
    theta: NDArray[np.float64],
    rotation_axis: float,
    *,
    filter_name: FilterName = "ram-lak",
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Reconstruct slices by filtering here and backprojecting with ASTRA's linear projector.

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
        Not used: ASTRA's CPU algorithms run on one thread.

    Returns
    -------
    float32, shape (row, column, column)
        Slices in the unit of `sinograms` per pixel, the axis in their middle.

    References
    ----------
    .. [1] van Aarle et al., Fast and flexible x-ray tomography using the ASTRA toolbox, Optics Express 24(22), 25129,
       2016, doi 10.1364/OE.24.025129.
    """
    size = sinograms.shape[-1]
    filtered = _centre(filter_rows(sinograms, filter_name), rotation_axis, size)
    filtered *= angular_weights(theta)[:, None].astype(np.float32)
    return np.stack([_backproject(rows, theta, size) for rows in filtered])


def _centre(spectrum: NDArray[np.complex64], rotation_axis: float, size: int) -> NDArray[np.float32]:
    """Transform filtered rows back, the axis in the middle, wide enough for the corners of the slice."""
    length = padded_length(size)
    omega = 2 * np.pi * fft.rfftfreq(length)
    shift = np.exp(1j * omega * (rotation_axis - (length - 1) / 2)).astype(np.complex64)
    return np.asarray(fft.irfft(spectrum * shift, n=length, axis=-1), dtype=np.float32)


def _backproject(rows: NDArray[np.float32], theta: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    import astra

    volume = astra.create_vol_geom(size, size)
    rays = astra.create_proj_geom("parallel", 1.0, rows.shape[1], theta)
    projector = astra.create_projector("linear", rays, volume)
    try:
        data, image = astra.create_backprojection(rows, projector)
        astra.data2d.delete(data)
    finally:
        astra.projector.delete(projector)
    return np.asarray(image, dtype=np.float32)
