"""Fourier reconstruction in torch: the twin of `gridrec` for a GPU, and for gradients with respect to the sinograms."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .angles import angular_weights
from .filters import FilterName, padded_length, ramp_filter
from .gridrec import polar_lines
from .spreading_kernel import WIDTH, grid_size, kernel, kernel_transform

__all__ = ["TorchGridrecPlan", "gridrec_torch"]


class TorchGridrecPlan:
    """What of a reconstruction depends on the geometry only, on a device.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians.
    num_columns : int
        Columns of the detector, and pixels along a side of the slices.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.
    filter_name : {"ram-lak", "shepp-logan", "cosine", "hann", "butterworth"}
        Window of the ramp filter.
    weights : float64, shape (angle,), optional
        Share of the half turn of each angle in radians; by default of `angular_weights`.
    device : torch.device or str
        Where the sinograms will be.

    Notes
    -----
    The order in which a GPU adds samples up is not fixed: two runs may differ by float32 rounding.
    """

    def __init__(
        self,
        theta: NDArray[np.float64],
        num_columns: int,
        rotation_axis: float,
        *,
        filter_name: FilterName = "ram-lak",
        weights: NDArray[np.float64] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_angles, self.num_columns = len(theta), num_columns
        self._size, self._length = grid_size(num_columns), padded_length(num_columns)
        lines = polar_lines(theta, num_columns, rotation_axis)
        frequency = np.arange(self._length // 2)  # without the highest, which has no partner
        ramp = ramp_filter(self._length, filter_name)[:-1]
        ramp[0] /= 2  # both halves of the plane have it
        weights = angular_weights(theta) if weights is None else weights
        factors = (weights / self._length)[:, None] * ramp * np.exp(1j * np.outer(lines.turn, frequency))
        first_x, taps_x = _taps(np.outer(lines.step_x, frequency) + 1)
        first_y, taps_y = _taps(np.outer(lines.step_y, frequency) + self._size // 2 + 1)
        scale = 1 / kernel_transform(num_columns)
        middle = num_columns // 2
        alternating = (-1.0) ** (np.arange(num_columns) - middle)

        def put(values: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device, dtype)

        self._factors = put(factors, torch.complex64)
        self._turned = put(lines.sign[:, None] < 0, torch.bool)
        self._first = put((first_x * (self._size + 3) + first_y).ravel(), torch.int64)
        self._taps_x, self._taps_y = (put(taps.reshape(-1, WIDTH), torch.float32) for taps in (taps_x, taps_y))
        self._scale = put(np.outer(scale * alternating, scale), torch.float32)
        self._pixels = put((np.arange(num_columns) - middle) % self._size, torch.int64)

    def reconstruct(self, sinograms: Tensor) -> Tensor:
        """Reconstruct slices; differentiable.

        Parameters
        ----------
        sinograms : float32 tensor, shape (row, angle, column)
            Line integrals, on the device of the plan.

        Returns
        -------
        float32 tensor, shape (row, column, column)
            Slices in the unit of `sinograms` per pixel, the axis in their middle.
        """
        expected = (self.num_angles, self.num_columns)
        if sinograms.ndim != 3 or tuple(sinograms.shape[1:]) != expected:
            shape = tuple(sinograms.shape)
            raise ValueError(f"sinograms must have shape (row, {expected[0]}, {expected[1]}), got {shape}")
        spectra = torch.fft.rfft(sinograms, n=self._length)[..., :-1] * self._factors
        samples = torch.where(self._turned, spectra.conj(), spectra).flatten(1)
        plane = torch.fft.ifft(self._fold(self._spread(samples)), dim=2, norm="forward")
        lines = self._full_lines(plane).transpose(1, 2)[:, self._pixels]
        pixels: Tensor = torch.fft.irfft(lines, n=self._size, norm="forward")[:, :, self._pixels]
        return pixels * self._scale

    def _spread(self, samples: Tensor) -> Tensor:
        """Spread samples, complex64, shape (row, sample), to the half plane, shape (row, u_x, u_y), with its border."""
        side = self._size + 3
        values = torch.view_as_real(samples.resolve_conj())
        grid = values.new_zeros(len(samples), (self._size // 2 + 3) * side, 2)
        for x in range(WIDTH):
            for y in range(WIDTH):
                weight = (self._taps_x[:, x] * self._taps_y[:, y])[:, None]
                grid = grid.index_add_(1, self._first + (x * side + y), values * weight)
        return torch.view_as_complex(grid).reshape(len(samples), -1, side)

    def _fold(self, grid: Tensor) -> Tensor:
        """Add what was spread across the ends of u_y to where it belongs: the plane is periodic."""
        inner = grid[:, :, 1:-2].clone()
        inner[:, :, -1] += grid[:, :, 0]
        inner[:, :, :2] += grid[:, :, -2:]
        return inner

    def _full_lines(self, plane: Tensor) -> Tensor:
        """Add the other half of the plane: complex64, shape (row, size // 2 + 1, y)."""
        lines = plane[:, 1:-1].clone()
        lines[:, 0] += plane[:, 1].conj()
        lines[:, 1] += plane[:, 0].conj()
        lines[:, -1] += plane[:, -2].conj()
        lines[:, -2] += plane[:, -1].conj()
        return lines


def _taps(position: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First grid point that each position is spread on, and the weights of all of them in a last axis."""
    first = np.floor(position) - 1
    return first, kernel((position - first)[..., None] - np.arange(WIDTH))


def gridrec_torch(
    sinograms: Tensor,
    theta: NDArray[np.float64],
    rotation_axis: float,
    *,
    filter_name: FilterName = "ram-lak",
    weights: NDArray[np.float64] | None = None,
) -> Tensor:
    """Reconstruct slices by Fourier regridding, on the device of the sinograms.

    Parameters
    ----------
    sinograms : float32 tensor, shape (row, angle, column)
        Line integrals; gradients flow back to them.
    theta, rotation_axis, filter_name, weights
        As in `quietbeam.reconstruction.gridrec.gridrec`.

    Returns
    -------
    float32 tensor, shape (row, column, column)
        Slices in the unit of `sinograms` per pixel, the axis in their middle.
    """
    plan = TorchGridrecPlan(
        theta, sinograms.shape[-1], rotation_axis, filter_name=filter_name, weights=weights, device=sinograms.device
    )
    return plan.reconstruct(sinograms)
