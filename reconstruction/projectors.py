"""Pairs of forward projection and its exact adjoint, for methods that iterate.

A pair is the matrix A of the conventions' projection model and its transpose: a slice of N x N pixels in 1/pixel to
line integrals, and back. Iterations converge only if the two belong together, which is why nothing here filters or
weighs.
"""

from __future__ import annotations

import weakref
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .errors import ReductionError
from .fbp import cuda_is_available

__all__ = ["AstraProjector", "NufftProjector", "Projector", "ProjectorName", "make_projector", "operator_norm"]

ProjectorName = Literal["nufft", "astra", "astra-cuda"]

TOLERANCE = 1e-5
"""Relative accuracy asked of the non-uniform FFT; the pair is adjoint to rounding whatever it is."""
TAIL = 8
"""Pixels beyond the corners of the slice in which the ringing of the band limit dies away."""


class Projector(Protocol):
    """A matrix A as two functions, of one slice at a time."""

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project a slice, shape (y, x), to a sinogram, shape (angle, column)."""

    def adjoint(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Backproject a sinogram, shape (angle, column), to a slice, shape (y, x), without weights."""


def make_projector(name: ProjectorName, theta: NDArray[np.float64], rotation_axis: float, size: int) -> Projector:
    """Make a projector for slices and detector rows of one size.

    Parameters
    ----------
    name : {"nufft", "astra", "astra-cuda"}
        Fourier slices, ASTRA's linear interpolation on the CPU, or ASTRA on a CUDA device.
    theta : float64, shape (angle,)
        Angles in radians.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.
    size : int
        Columns of the detector, and pixels along a side of the slice.

    Returns
    -------
    Projector
        Not to be used by two threads at once.

    Raises
    ------
    ValueError
        If the name is unknown.
    ReductionError
        If ASTRA finds no CUDA device to compute on.
    """
    if name == "nufft":
        return NufftProjector(theta, rotation_axis, size)
    if name in ("astra", "astra-cuda"):
        return AstraProjector(theta, rotation_axis, size, cuda=name == "astra-cuda")
    raise ValueError(f"projector must be nufft, astra or astra-cuda, got {name!r}")


class NufftProjector:
    """Projection by the Fourier slice theorem: a non-uniform FFT to polar lines and an inverse FFT along each.

    With pixel j at s_j = x_j cos(theta) + y_j sin(theta), column c of a row of M (padded) columns is

        (A f)(theta, c) = 1/M sum_m exp(i w_m (c - axis)) sum_j f_j exp(-i w_m s_j),    w_m = 2 pi m / M, |m| <= M/2

    A pixel of the slice is the mean of the attenuation over a square, a pixel of the detector the mean over its width.
    Their transfer functions, sinc(w cos theta) sinc(w sin theta) of the one and sinc(w) of the other, differ by less
    than 3 %, so the formula has neither.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.
    size : int
        Columns of the detector, and pixels along a side of the slice.
    """

    def __init__(self, theta: NDArray[np.float64], rotation_axis: float, size: int) -> None:
        import finufft

        self._length = _row_length(rotation_axis, size)
        self._shape = (theta.size, self._length // 2 + 1)
        self._size = size
        omega = 2 * np.pi / self._length * np.arange(self._shape[1])
        along_row, along_column = -np.outer(np.sin(theta), omega), np.outer(np.cos(theta), omega)
        # finufft's middle pixel is size // 2; ours lies between the pixels when the size is even.
        offset = size // 2 - (size - 1) / 2
        self._phase = np.exp(-1j * (omega * rotation_axis + offset * (along_row + along_column))).astype(np.complex64)
        # The library would say on the standard error that single precision limits the tolerance.
        options = {"dtype": "complex64", "nthreads": 1, "showwarn": 0}
        self._to_lines = finufft.Plan(2, (size, size), 1, TOLERANCE, -1, **options)
        self._from_lines = finufft.Plan(1, (size, size), 1, TOLERANCE, 1, **options)
        points = along_row.ravel().astype(np.float32), along_column.ravel().astype(np.float32)
        self._to_lines.setpts(*points)
        self._from_lines.setpts(*points)

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project a slice.

        Parameters
        ----------
        image : float32, shape (y, x)
            Attenuation in 1/pixel.

        Returns
        -------
        float32, shape (angle, column)
            Line integrals.
        """
        lines = self._to_lines.execute(image.astype(np.complex64)).reshape(self._shape)
        rows = fft.irfft(lines * self._phase, n=self._length, axis=-1)
        return np.ascontiguousarray(rows[:, : self._size], dtype=np.float32)

    def adjoint(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Backproject a sinogram.

        Parameters
        ----------
        sinogram : float32, shape (angle, column)
            Rows.

        Returns
        -------
        float32, shape (y, x)
            Their transpose-projection, without weights or filter.
        """
        lines = fft.rfft(sinogram.astype(np.float32, copy=False), n=self._length, axis=-1) * self._phase.conj()
        lines[:, 1:-1] *= 2  # they stand for the negative frequencies too
        image = self._from_lines.execute(lines.ravel())
        return np.ascontiguousarray(image.real / self._length, dtype=np.float32)


def _row_length(rotation_axis: float, size: int) -> int:
    """Even length of a fast transform in which nothing that wraps around comes onto the detector."""
    reach = max(rotation_axis, size - 1 - rotation_axis) + size / np.sqrt(2) + TAIL
    return 2 * int(fft.next_fast_len(int(np.ceil(max(reach, size) / 2)), real=True))


class AstraProjector:
    """Projection by ASTRA [1]_, with linear interpolation between the pixels nearest to a ray.

    On the CPU the two directions are one matrix and its transpose. On a CUDA device they differ by their interpolation;
    iterations then converge only to about that difference.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.
    size : int
        Columns of the detector, and pixels along a side of the slice.
    cuda : bool
        Compute on the CUDA device.

    Raises
    ------
    ReductionError
        If ASTRA finds no CUDA device to compute on.

    References
    ----------
    .. [1] van Aarle et al., Fast and flexible x-ray tomography using the ASTRA toolbox, Optics Express 24(22), 25129,
       2016, doi 10.1364/OE.24.025129.
    """

    def __init__(self, theta: NDArray[np.float64], rotation_axis: float, size: int, *, cuda: bool = False) -> None:
        import astra

        if cuda and not cuda_is_available():
            raise ReductionError("projector astra-cuda needs a CUDA device, and ASTRA finds none here: choose nufft")
        rays = astra.geom_2vec(astra.create_proj_geom("parallel", 1.0, size, theta))
        # Of each angle: direction of the ray, centre of the detector, step from a pixel to the next.
        rays["Vectors"][:, 2:4] += ((size - 1) / 2 - rotation_axis) * rays["Vectors"][:, 4:6]
        volume = astra.create_vol_geom(size, size)
        projector = astra.create_projector("cuda" if cuda else "linear", rays, volume)
        weakref.finalize(self, astra.projector.delete, projector)
        self._matrix = astra.OpTomo(projector)

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project a slice.

        Parameters
        ----------
        image : float32, shape (y, x)
            Attenuation in 1/pixel.

        Returns
        -------
        float32, shape (angle, column)
            Line integrals.
        """
        return np.asarray(self._matrix.FP(image), dtype=np.float32)

    def adjoint(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Backproject a sinogram.

        Parameters
        ----------
        sinogram : float32, shape (angle, column)
            Rows.

        Returns
        -------
        float32, shape (y, x)
            Their transpose-projection, without weights or filter.
        """
        return np.asarray(self._matrix.BP(sinogram), dtype=np.float32)


def operator_norm(projector: Projector, size: int, *, num_iterations: int = 30, seed: int = 0) -> float:
    """Find the largest singular value of a projector by power iteration on A^T A.

    Parameters
    ----------
    projector : Projector
        The matrix A.
    size : int
        Pixels along a side of its slice.
    num_iterations : int
        Steps.
    seed : int
        Of the slice that the iteration starts from.

    Returns
    -------
    float
        The norm in pixels, from below.
    """
    image = np.random.default_rng(seed).random((size, size), dtype=np.float32)
    square = 0.0
    for _ in range(num_iterations):
        image /= np.float32(np.linalg.norm(image))
        image = projector.adjoint(projector.forward(image))
        square = float(np.linalg.norm(image))
    return float(np.sqrt(square))
