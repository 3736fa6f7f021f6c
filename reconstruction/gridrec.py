"""Fourier reconstruction: the slices' spectra on polar lines, spread on a grid and transformed back.

The Fourier slice theorem turns filtered backprojection into one sum over the polar grid of all rays,

    f(x, y) = sum_j w_j  sum_k Q_j(k) exp(2 pi i k (x cos(theta_j) + y sin(theta_j) + axis) / M) / M

with Q_j the spectrum of the filtered row j, padded to M columns, and w_j the share of the half turn of angle j. It is
the class of method that the field calls GridRec [1]_; padding, the exact ramp, and a kernel whose transform is divided
out make it right in amplitude. The rotation axis is a phase: it may lie between two columns at no cost.

References
----------
.. [1] Dowd et al., Developments in synchrotron x-ray computed microtomography at the National Synchrotron Light Source,
   Proc. SPIE 3772, 224-236, 1999, doi 10.1117/12.363725.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .angles import angular_weights
from .argument_checks import check_geometry, check_section_indices, check_weights
from .filters import FilterName, padded_length, ramp_filter
from .polar_grid import BATCH, PolarLines, empty_grid, fold_border, read_lines, spread, write_pixels
from .spreading_kernel import grid_size, kernel_transform, tap_polynomials
from .threads import for_each

__all__ = ["GridrecPlan", "gridrec", "polar_lines"]

_ANGLES = 32
_ROWS = 32
"""Projections, and rows of the slices, that are transformed at a time, so that they stay in the cache."""


class GridrecPlan:
    """What of a reconstruction depends on the geometry only, and the memory it works in, for any number of slices.

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

    Raises
    ------
    ValueError
        If an angle or the axis is not finite, or the axis is not on the detector.

    Notes
    -----
    The memory is that of one grid per thread, ``(G / 2 + 3) (G + 3) 64`` bytes with G about 1.25 `num_columns`,
    whatever the number of slices.
    """

    def __init__(
        self,
        theta: NDArray[np.float64],
        num_columns: int,
        rotation_axis: float,
        *,
        filter_name: FilterName = "ram-lak",
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        check_geometry(theta, rotation_axis, num_columns=num_columns)
        self.theta, self.num_columns, self.weights = np.asarray(theta, np.float64), num_columns, weights
        self._size, self._length = grid_size(num_columns), padded_length(num_columns)
        self._ramp = ramp_filter(self._length, filter_name).astype(np.float32)
        self._ramp[0] /= 2  # both halves of the plane have it
        self._lines = polar_lines(self.theta, num_columns, rotation_axis)
        self._polynomials = tap_polynomials()
        scale = 1 / kernel_transform(num_columns)
        alternating = (-1.0) ** (np.arange(num_columns) - num_columns // 2)  # u_y is counted from -size / 2
        self._scale_x, self._scale_y = scale.astype(np.float32), (scale * alternating).astype(np.float32)
        self._grids: SimpleQueue[NDArray[np.float32]] = SimpleQueue()

    def reconstruct(self, sinograms: NDArray[np.float32], *, num_threads: int = 1) -> NDArray[np.float32]:
        """Reconstruct slices from all projections.

        Parameters
        ----------
        sinograms : float32, shape (row, angle, column)
            Line integrals.
        num_threads : int
            Batches of slices worked on at the same time; the result does not depend on it.

        Returns
        -------
        float32, shape (row, column, column)
            Slices in the unit of `sinograms` per pixel, the axis in their middle.
        """
        weights = angular_weights(self.theta) if self.weights is None else self.weights
        everything = np.arange(self.theta.size)
        return self._reconstruct(sinograms, [(everything, weights)], num_threads)[:, 0]

    def reconstruct_sections(
        self,
        sinograms: NDArray[np.float32],
        sections: Sequence[NDArray[np.intp]],
        *,
        weights: Sequence[NDArray[np.float64]] | None = None,
        num_threads: int = 1,
    ) -> NDArray[np.float32]:
        """Reconstruct slices from each of several sections; each projection is filtered and spread once.

        Parameters
        ----------
        sinograms : float32, shape (row, angle, column)
            Line integrals of all projections.
        sections : sequence of intp arrays
            Projections of each section.
        weights : sequence of float64 arrays, optional
            Weights of the projections of each section; by default of `angular_weights`.
        num_threads : int
            As in `reconstruct`.

        Returns
        -------
        float32, shape (row, section, column, column)
            Slices as `reconstruct` gives them for the projections of each section alone.
        """
        check_section_indices(sections, self.theta.size)
        if weights is None:
            weights = [angular_weights(self.theta[section]) for section in sections]
        return self._reconstruct(sinograms, list(zip(sections, weights, strict=True)), num_threads)

    def _reconstruct(
        self,
        sinograms: NDArray[np.float32],
        parts: Sequence[tuple[NDArray[np.intp], NDArray[np.float64]]],
        num_threads: int,
    ) -> NDArray[np.float32]:
        num_rows, num_columns = len(sinograms), self.num_columns
        expected = (self.theta.size, num_columns)
        if sinograms.ndim != 3 or sinograms.shape[1:] != expected:
            raise ValueError(f"sinograms must have shape (row, {expected[0]}, {expected[1]}), got {sinograms.shape}")
        for projections, weights in parts:
            check_weights(weights, projections.size)
        slices = np.empty((num_rows, len(parts), num_columns, num_columns), np.float32)

        def reconstruct_batch(task: int) -> None:
            batch, part = divmod(task, len(parts))
            rows = slice(batch * BATCH, (batch + 1) * BATCH)
            self._reconstruct_batch(sinograms[rows], parts[part], slices[rows, part])

        for_each(reconstruct_batch, -(-num_rows // BATCH) * len(parts), num_threads)
        return slices

    def _reconstruct_batch(
        self,
        sinograms: NDArray[np.float32],
        part: tuple[NDArray[np.intp], NDArray[np.float64]],
        slices: NDArray[np.float32],
    ) -> None:
        with self._borrowed_grid() as grid:
            self._spread(grid, sinograms, *part)
            fold_border(grid)
            plane = grid.view(np.complex64)[:, 1 : self._size + 1, : len(sinograms)]
            self._write_slices(slices, fft.ifft(plane, axis=1, norm="forward", overwrite_x=True))

    @contextmanager
    def _borrowed_grid(self) -> Iterator[NDArray[np.float32]]:
        """Lend a grid that no other thread works in."""
        try:
            grid = self._grids.get_nowait()
        except Empty:
            grid = empty_grid(self._size)
        try:
            yield grid
        finally:
            self._grids.put(grid)

    def _spread(
        self,
        grid: NDArray[np.float32],
        sinograms: NDArray[np.float32],
        projections: NDArray[np.intp],
        weights: NDArray[np.float64],
    ) -> None:
        grid[:] = 0
        padded = np.zeros((len(sinograms), _ANGLES, self._length), np.float32)
        lines = self._lines.part(projections)._replace(weight=weights / self._length)
        for first in range(0, projections.size, _ANGLES):
            block = projections[first : first + _ANGLES]
            rows = padded[:, : block.size]
            rows[..., : self.num_columns] = sinograms[:, block]
            spectra = fft.rfft(rows, axis=-1)
            spread(grid, spectra, self._ramp, lines.part(slice(first, first + _ANGLES)), self._polynomials)

    def _write_slices(self, slices: NDArray[np.float32], plane: NDArray[np.complex64]) -> None:
        lines = np.empty((len(slices), _ROWS, self._size // 2 + 1), np.complex64)
        y = (np.arange(self.num_columns) - self.num_columns // 2) % self._size
        for first in range(0, self.num_columns, _ROWS):
            part = y[first : first + _ROWS]
            spectra = lines[:, : part.size]
            read_lines(spectra, plane, part)
            pixels = fft.irfft(spectra, n=self._size, axis=-1, norm="forward")
            write_pixels(slices, pixels, first, self._scale_y, self._scale_x)


def polar_lines(theta: NDArray[np.float64], num_columns: int, rotation_axis: float) -> PolarLines:
    """Lay the lines of the projections into the half plane u_x >= 0 of the fine grid.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians.
    num_columns : int
        Columns of the detector.
    rotation_axis : float
        Column of the axis.

    Returns
    -------
    PolarLines
        With weight 1.
    """
    cosine, sine = np.cos(theta), np.sin(theta)
    sign = np.where(cosine < 0, -1.0, 1.0)
    length = padded_length(num_columns)
    step = sign * grid_size(num_columns) / length
    # The transform's middle pixel is num_columns // 2; ours lies between the pixels when the number is even.
    offset = num_columns // 2 - (num_columns - 1) / 2
    turn = 2 * np.pi / length * (rotation_axis + offset * (cosine - sine))
    return PolarLines(step * cosine, -step * sine, turn, np.ones_like(theta), sign)


def gridrec(
    sinograms: NDArray[np.float32],
    theta: NDArray[np.float64],
    rotation_axis: float,
    *,
    filter_name: FilterName = "ram-lak",
    weights: NDArray[np.float64] | None = None,
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
    filter_name : {"ram-lak", "shepp-logan", "cosine", "hann", "butterworth"}
        Window of the ramp filter.
    weights : float64, shape (angle,), optional
        Share of the half turn of each angle in radians; by default of `angular_weights`.
    num_threads : int
        Batches of slices worked on at the same time; the result does not depend on it.

    Returns
    -------
    float32, shape (row, column, column)
        Slices in the unit of `sinograms` per pixel, the axis in their middle.
    """
    plan = GridrecPlan(theta, sinograms.shape[-1], rotation_axis, filter_name=filter_name, weights=weights)
    return plan.reconstruct(sinograms, num_threads=num_threads)
