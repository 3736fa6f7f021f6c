"""Total-variation minimisation (TV-MIN): the classical way to reconstruct from few or noisy projections.

Of all slices f the one with the least

    F(f) = 1/2 |A f - p|^2 + weight * sum over pixels of |grad f|

where A is the projector, p the sinogram and |grad f| the length of the vector of forward differences (isotropic). It is
found by the primal-dual method of Chambolle and Pock [1]_ as Sidky et al. [2]_ write it for tomography (their
algorithm 4), each slice on its own. The one change is in the steps: A is some hundred times larger than the gradient,
and one dual step for both would keep the gradient's part from moving in a few hundred iterations. Each part gets a step
of its own [3]_, and the minimum stays the same.

References
----------
.. [1] Chambolle and Pock, A first-order primal-dual algorithm for convex problems with applications to imaging, Journal
   of Mathematical Imaging and Vision 40, 120-145, 2011, doi 10.1007/s10851-010-0251-1.
.. [2] Sidky, Jørgensen, Pan, Convex optimization problem prototyping for image reconstruction in computed tomography
   with the Chambolle-Pock algorithm, Physics in Medicine and Biology 57(10), 3065-3091, 2012,
   doi 10.1088/0031-9155/57/10/3065.
.. [3] Pock and Chambolle, Diagonal preconditioning for first order primal-dual algorithms in convex optimization, IEEE
   International Conference on Computer Vision, 1762-1769, 2011, doi 10.1109/ICCV.2011.6126441.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .argument_checks import check_geometry, check_sinograms
from .projectors import Projector, ProjectorName, make_projector, operator_norm
from .threads import for_each

__all__ = ["TVResult", "total_variation", "tv_min"]

BALANCE = 4.0
"""Primal step times |A|^2, without unit: of 1 to 100, the one that came near the minimum soonest for slices of 64 to
320 pixels at weights from too small to too large."""
GRADIENT_NORM_2 = 8.0
"""Bound of the square of the norm of the forward differences in two dimensions."""


class TVResult(NamedTuple):
    """Slices and how they came about.

    Attributes
    ----------
    slices : float32, shape (row, y, x)
        Attenuation in the unit of the sinograms per pixel.
    objective : float64, shape (row, iteration)
        F after each iteration.
    gap : float64, shape (row, iteration)
        How much F can at most be above its least value over all slices of up to twice the norm of the result (the
        primal-dual gap, restricted to them): 0 at the minimum, and the honest test of whether it was reached.
    """

    slices: NDArray[np.float32]
    objective: NDArray[np.float64]
    gap: NDArray[np.float64]


def tv_min(
    sinograms: NDArray[np.float32],
    theta: NDArray[np.float64],
    rotation_axis: float,
    *,
    weight: float,
    num_iterations: int = 500,
    projector: ProjectorName = "nufft",
    nonnegative: bool = False,
    num_threads: int = 1,
) -> TVResult:
    """Reconstruct slices by least squares with a penalty on their total variation.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals.
    theta : float64, shape (angle,)
        Angles in radians.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.
    weight : float
        Strength of the penalty in pixels: squares of line integrals (which have no unit) per attenuation in 1/pixel.
        The best one grows with the noise of the line integrals and with the number of angles; 0 is plain least squares.
    num_iterations : int
        Iterations; there is no other end.
    projector : {"nufft", "astra", "astra-cuda"}
        The projector, as for `make_projector`.
    nonnegative : bool
        Allow no attenuation below 0.
    num_threads : int
        Slices at a time. The result does not depend on it.

    Returns
    -------
    TVResult
        Slices with the axis in their middle, and the course of the iteration.

    Raises
    ------
    ValueError
        If shapes do not match, a value is not finite, or a setting is out of its range.
    ReductionError
        If the projector needs a CUDA device and there is none.
    """
    _check(sinograms, theta, rotation_axis, weight, num_iterations)
    num_rows, _, size = sinograms.shape
    norm = operator_norm(make_projector(projector, theta, rotation_axis, size), size)
    result = TVResult(
        np.zeros((num_rows, size, size), np.float32),
        np.zeros((num_rows, num_iterations)),
        np.zeros((num_rows, num_iterations)),
    )

    def reconstruct_row(row: int) -> None:
        matrix = make_projector(projector, theta, rotation_axis, size)  # of this thread alone
        course = TVResult(*(part[row] for part in result))
        _minimise(course, sinograms[row], matrix, norm, weight, nonnegative)

    for_each(reconstruct_row, num_rows, num_threads)
    return result


def total_variation(slices: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum of the lengths of the forward differences over the pixels of each slice.

    Parameters
    ----------
    slices : float32, shape (..., y, x)
        Slices.

    Returns
    -------
    float64, shape (...)
        In the unit of the slices.
    """
    return np.asarray(_length(_gradient(slices)).sum(axis=(-2, -1), dtype=np.float64))


def _minimise(
    course: TVResult, sinogram: NDArray[np.float32], matrix: Projector, norm: float, weight: float, nonnegative: bool
) -> None:
    """Fill in the slice and the course of the iteration; the names of the duals are those of Sidky et al."""
    step = np.float32(BALANCE / norm**2)
    data_step, gradient_step = np.float32(0.5 / BALANCE), np.float32(0.5 / (step * GRADIENT_NORM_2))
    shrink = 1 / (1 + data_step)
    image = course.slices
    p, q = np.zeros_like(sinogram), np.zeros((2, *image.shape), np.float32)
    projected, gradient = p, q
    projected_ahead, gradient_ahead = p, q  # of the slice extrapolated by one step
    slopes = np.zeros_like(course.gap)
    for iteration in range(len(course.objective)):
        p = shrink * (p + data_step * (projected_ahead - sinogram))
        q = _shorten(q + gradient_step * gradient_ahead, weight)
        slope = matrix.adjoint(p) + _transposed_gradient(q)
        image -= step * slope
        if nonnegative:
            np.maximum(image, 0, out=image)
            np.minimum(slope, 0, out=slope)  # where the slice is held at 0, only a wish to rise counts
        before = projected, gradient
        projected, gradient = matrix.forward(image), _gradient(image)
        projected_ahead, gradient_ahead = 2 * projected - before[0], 2 * gradient - before[1]
        primal = _square(projected - sinogram) / 2 + weight * float(_length(gradient).sum(dtype=np.float64))
        dual = -_square(p) / 2 - float(np.sum(p * sinogram, dtype=np.float64))
        course.objective[iteration], course.gap[iteration] = primal, primal - dual
        slopes[iteration] = np.sqrt(_square(slope))
    # The slope is 0 at the minimum; until then, a slice in its direction could still gain this much.
    course.gap[:] += 2 * np.sqrt(_square(image)) * slopes


def _gradient(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Differences to the next pixel along y and along x, shape (2, ..., y, x); 0 at the last."""
    gradient = np.zeros((2, *image.shape), image.dtype)
    np.subtract(image[..., 1:, :], image[..., :-1, :], out=gradient[0, ..., :-1, :])
    np.subtract(image[..., 1:], image[..., :-1], out=gradient[1, ..., :-1])
    return gradient


def _transposed_gradient(field: NDArray[np.float32]) -> NDArray[np.float32]:
    """Minus the divergence: the adjoint of `_gradient`."""
    image = np.zeros(field.shape[1:], field.dtype)
    image[:-1] -= field[0, :-1]
    image[1:] += field[0, :-1]
    image[:, :-1] -= field[1, :, :-1]
    image[:, 1:] += field[1, :, :-1]
    return image


def _length(field: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.sqrt(field[0] ** 2 + field[1] ** 2))


def _shorten(field: NDArray[np.float32], longest: float) -> NDArray[np.float32]:
    """Cut each vector to a length."""
    length = _length(field)
    return np.asarray(field * np.divide(longest, length, out=np.ones_like(length), where=length > longest))


def _square(values: NDArray[np.float32]) -> float:
    return float(np.sum(np.square(values), dtype=np.float64))


def _check(
    sinograms: NDArray[np.float32], theta: NDArray[np.float64], rotation_axis: float, weight: float, num_iterations: int
) -> None:
    check_sinograms(sinograms)
    check_geometry(theta, rotation_axis, num_columns=sinograms.shape[2], num_angles=sinograms.shape[1])
    if not (0 <= weight < np.inf and num_iterations >= 1):
        raise ValueError(f"weight must be 0 or more and num_iterations 1 or more, got {weight} and {num_iterations}")
