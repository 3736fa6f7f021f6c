"""Frames in HDF5 files: found and checked once, opened only while they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ScanError

from .hdf5_links import Place, data_files, open_hdf5

__all__ = ["Axes", "Hdf5FrameSeries", "Hdf5Frames", "find_frames"]

_BLOCK_BYTES = 64 * 2**20
# Frames skipped rather than read in a request of their own.
_MAX_GAP = 4


class Axes(NamedTuple):
    """Which dimension of a dataset is which; `fixed` gives the index taken along any other one."""

    frame: int | None
    row: int | None
    column: int
    fixed: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Hdf5Frames:
    """Frames of one dataset.

    Attributes
    ----------
    place : Place
        The dataset, behind all links.
    dataset_shape : tuple of int
        Shape of the dataset as stored.
    dtype : numpy.dtype
        As stored.
    axes : Axes
        Meaning of the dataset's dimensions.
    stored : int, shape (frame,)
        Number in the dataset of each frame.
    sources : tuple of Path
        Files that hold the pixels.
    """

    place: Place
    dataset_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: Axes
    stored: NDArray[np.intp] = field(repr=False)
    sources: tuple[Path, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frame, row, column."""
        num_rows = 1 if self.axes.row is None else self.dataset_shape[self.axes.row]
        return len(self.stored), num_rows, self.dataset_shape[self.axes.column]

    def select(self, frames: NDArray[np.intp]) -> Hdf5Frames:
        """Keep these frames of the stack."""
        stored = self.stored[frames]
        return Hdf5Frames(self.place, self.dataset_shape, self.dtype, self.axes, stored, self.sources)

    def read(self, frames: NDArray[np.intp], rows: slice) -> NDArray[np.float32]:
        """Read some rows of some frames: float32, shape (frame, row, column).

        Beside the result, memory for one block of frames is taken.

        Raises
        ------
        ScanError
            If the file is damaged, or one of its sources has gone since the scan was opened.
        """
        start, stop, _ = rows.indices(self.shape[1])
        pixels = np.empty((len(frames), max(stop - start, 0), self.shape[2]), np.float32)
        if pixels.size == 0:
            return pixels
        _check_present(self.sources)
        numbers = self.stored[frames]
        order = np.argsort(numbers, kind="stable")
        limit = max(1, _BLOCK_BYTES // (pixels[0].size * self.dtype.itemsize))
        with open_hdf5(self.place.path) as file:
            dataset = file[self.place.inner]
            for block in _blocks(numbers[order], limit):
                wanted = numbers[order[block]]
                slab = self._read_slab(dataset, slice(int(wanted[0]), int(wanted[-1]) + 1), slice(start, stop))
                pixels[order[block]] = slab[wanted - wanted[0]]
        return pixels

    def _read_slab(self, dataset: h5py.Dataset, frames: slice, rows: slice) -> NDArray[Any]:
        """Read one hyperslab; dimensions that are neither frame, row nor column have length 1 and vanish."""
        axes, index = self.axes, [slice(None)] * len(self.dataset_shape)
        for dimension, number in axes.fixed:
            index[dimension] = slice(number, number + 1)
        if axes.row is not None:
            index[axes.row] = rows
        if axes.frame is not None:
            index[axes.frame] = frames
        slab = dataset[tuple(index)]
        named = [axis for axis in (axes.frame, axes.row, axes.column) if axis is not None]
        others = [axis for axis in range(slab.ndim) if axis not in named]
        shape = (frames.stop - frames.start, rows.stop - rows.start, self.shape[2])
        return np.asarray(slab.transpose(*named, *others).reshape(shape))


@dataclass(frozen=True, eq=False)
class Hdf5FrameSeries:
    """Frames of which each is a dataset of its own, of shape (row, column) or (1, row, column), in one file."""

    path: Path
    inners: tuple[str, ...] = field(repr=False)
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    @property
    def sources(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def read(self, frames: NDArray[np.intp], rows: slice) -> NDArray[np.float32]:
        """Read some rows of some frames: float32, shape (frame, row, column)."""
        start, stop, _ = rows.indices(self.shape[1])
        pixels = np.empty((len(frames), max(stop - start, 0), self.shape[2]), np.float32)
        with open_hdf5(self.path) as file:
            for image, frame in zip(pixels, frames, strict=True):
                image[:] = self._read_frame(file[self.inners[frame]], slice(start, max(start, stop)))
        return pixels

    def _read_frame(self, dataset: h5py.Dataset, rows: slice) -> NDArray[Any]:
        if dataset.shape[-2:] != self.shape[1:] or math.prod(dataset.shape[:-2]) != 1:
            raise ScanError(f"{self.path}:{dataset.name} has shape {dataset.shape}, expected a frame {self.shape[1:]}")
        return np.asarray(dataset[..., rows, :]).reshape(-1, self.shape[2])


def find_frames(place: Place, roots: tuple[Path, ...], axes: Axes | None = None) -> Hdf5Frames:
    """Look at a dataset and check that it can be frames.

    Parameters
    ----------
    place : Place
        The dataset, as of `locate`.
    roots : tuple of Path
        Folders that a virtual dataset may take its pixels from.
    axes : Axes, optional
        Meaning of the dimensions; (frame, row, column), or (row, column) for a single frame, if not given.

    Raises
    ------
    ScanError
        If the dataset has the wrong number of dimensions, is empty, or holds no numbers.
    """
    sources = data_files(place, roots)
    with open_hdf5(place.path) as file:
        dataset = file[place.inner]
        shape, dtype = dataset.shape, dataset.dtype
    axes = axes or _plain_axes(place, shape)
    if dtype.kind not in "uif":
        raise ScanError(f"{place} holds {dtype}, expected integers or floating-point numbers; convert the data first")
    if math.prod(shape) == 0:
        raise ScanError(f"{place} is empty: its shape is {shape}; was the scan stopped before the first frame?")
    num_frames = 1 if axes.frame is None else shape[axes.frame]
    return Hdf5Frames(place, shape, dtype, axes, np.arange(num_frames), sources)


def _plain_axes(place: Place, shape: tuple[int, ...] | None) -> Axes:
    if shape is None or len(shape) not in (2, 3):
        raise ScanError(f"{place} has shape {shape}, expected three dimensions (frame, row, column)")
    return Axes(0, 1, 2) if len(shape) == 3 else Axes(None, 0, 1)


def _check_present(sources: tuple[Path, ...]) -> None:
    for source in sources:
        if not source.is_file():
            raise ScanError(f"{source} has gone since the scan was opened; bring it back and try again")


def _blocks(numbers: NDArray[np.intp], limit: int) -> Iterator[slice]:
    """Cut ascending frame numbers into runs without large gaps, each spanning at most `limit` frames."""
    start = 0
    for k in range(1, len(numbers) + 1):
        if k == len(numbers) or numbers[k] - numbers[k - 1] > _MAX_GAP or numbers[k] - numbers[start] >= limit:
            yield slice(start, k)
            start = k
