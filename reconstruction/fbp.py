"""Filtered backprojection by the ASTRA toolbox: the slow reference on a CPU, fast on a GPU.

Both filter here, in the same way, so that they differ only in how ASTRA interpolates between the columns of a row.

References
----------
.. [1] van Aarle et al., Fast and flexible x-ray tomography using the ASTRA toolbox, Optics Express 24(22), 25129,
   2016, doi 10.1364/OE.24.025129.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .angles import angular_weights
from .errors import ReductionError
from .filters import FilterName, filter_rows, padded_length

__all__ = ["cuda_is_available", "fbp", "fbp_cuda"]


def fbp(
    sinograms: NDArray[np.float32],
    theta: NDArray[np.float64],
    rotation_axis: float,
    *,
    filter_name: FilterName = "ram-lak",
    weights: NDArray[np.float64] | None = None,
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Reconstruct slices by filtering here and backprojecting with ASTRA's linear projector on the CPU.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals.
    theta : float64, shape (angle,)
        Angles in radians.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.
    filter_name : {"ram-lak", "shepp-logan", "cosine", "hann", "butterworth"}
        Window of the ramp filter.
    weights : float64, shape (angle,), optional
        Share of the turn of each projection in radians; `angular_weights` of `theta` if not given.
    num_threads : int
        Threads of the filter: ASTRA's CPU algorithms run on one thread.

    Returns
    -------
    float32, shape (row, column, column)
        Slices in the unit of `sinograms` per pixel, the axis in their middle.
    """
    rows = _weighted_rows(sinograms, theta, rotation_axis, filter_name, weights, num_threads)
    size = sinograms.shape[-1]
    return np.stack([_backproject(sinogram, theta, size) for sinogram in rows])


def fbp_cuda(
    sinograms: NDArray[np.float32],
    theta: NDArray[np.float64],
    rotation_axis: float,
    *,
    filter_name: FilterName = "ram-lak",
    weights: NDArray[np.float64] | None = None,
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Reconstruct slices by filtering here and backprojecting all of them at once with ASTRA on a GPU.

    The GPU interpolates between columns with the eight fractional bits of its textures.

    Parameters
    ----------
    sinograms, theta, rotation_axis, filter_name, weights
        As for `fbp`.
    num_threads : int
        Threads of the filter, which runs on the CPU.

    Returns
    -------
    float32, shape (row, column, column)
        Slices in the unit of `sinograms` per pixel, the axis in their middle.

    Raises
    ------
    ReductionError
        If ASTRA finds no CUDA device.
    """
    if not cuda_is_available():
        raise ReductionError(
            "FBP on the GPU needs a CUDA device and its driver, and ASTRA finds none here: choose the method gridrec"
        )
    rows = _weighted_rows(sinograms, theta, rotation_axis, filter_name, weights, num_threads)
    return _backproject_stack(rows, theta, sinograms.shape[-1])


def cuda_is_available() -> bool:
    """Whether ASTRA finds a CUDA device; without one its CUDA algorithms end the process."""
    import astra

    return bool(astra.use_cuda())


def _weighted_rows(
    sinograms: NDArray[np.float32],
    theta: NDArray[np.float64],
    rotation_axis: float,
    filter_name: FilterName,
    weights: NDArray[np.float64] | None,
    num_threads: int,
) -> NDArray[np.float32]:
    """Filter the rows and weigh them; the axis is in their middle, and they just cover the corners of the slice."""
    size, length = sinograms.shape[-1], padded_length(sinograms.shape[-1])
    omega = 2 * np.pi * fft.rfftfreq(length)
    spectrum = filter_rows(sinograms, filter_name, num_threads=num_threads)
    spectrum *= np.exp(1j * omega * (rotation_axis - (length - 1) / 2)).astype(np.complex64)
    centred = fft.irfft(spectrum, n=length, axis=-1, workers=num_threads)
    margin = max(0, length // 2 - math.ceil(size / math.sqrt(2)) - 1)
    weights = angular_weights(theta) if weights is None else weights
    return np.asarray(centred[..., margin : length - margin] * weights[:, None].astype(np.float32), dtype=np.float32)


def _backproject(rows: NDArray[np.float32], theta: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    import astra

    rays = astra.create_proj_geom("parallel", 1.0, rows.shape[1], theta)
    projector = astra.create_projector("linear", rays, astra.create_vol_geom(size, size))
    try:
        return np.asarray(astra.OpTomo(projector).BP(rows), dtype=np.float32)
    finally:
        astra.projector.delete(projector)


def _backproject_stack(rows: NDArray[np.float32], theta: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    import astra

    projector = astra.create_projector("cuda3d", *_stack_geometry(rows, theta, size))
    try:
        return np.asarray(astra.OpTomo(projector).BP(rows), dtype=np.float32)
    finally:
        astra.projector3d.delete(projector)


def _stack_geometry(
    rows: NDArray[np.float32], theta: NDArray[np.float64], size: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Geometry of the rays and of the slices for ASTRA in three dimensions."""
    import astra

    num_rows, _, num_columns = rows.shape
    # The first row of ASTRA's volumes, unlike of its images, has the lowest y: mirrored, the sample turns backwards.
    rays = astra.create_proj_geom("parallel3d", 1.0, 1.0, num_rows, num_columns, -theta)
    return rays, astra.create_vol_geom(size, size, num_rows)
