"""Slices of an archive as OME-Zarr 0.5: a Zarr 3 group with the volume and its reductions by 2, 4, 8 ...

The reductions are means over blocks; a block at the end of an axis has what is left. All levels are written while the
slices stream by, in memory for some slices of each.

References
----------
.. [1] Moore et al., OME-Zarr: a cloud-optimized bioimaging file format with international community support,
   Histochemistry and Cell Biology 160, 223-251, 2023, doi:10.1007/s00418-023-02209-1; version 0.5 of the format,
   https://ngff.openmicroscopy.org/0.5/.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietbeam.compress.block_means import BlockMeans, reduced_shape
from quietbeam.reconstruction.errors import ReductionError

__all__ = ["write_ome_zarr"]

SMALLEST = 64
"""Reductions end with the first whose longest side is shorter, pixels."""
CHUNK = (16, 256, 256)
"""Slices, rows, columns of a Zarr chunk."""


def write_ome_zarr(
    path: Path,
    parts: Iterable[NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    pixel_size: float | None = None,
    first_slice: int = 0,
    attributes: dict[str, Any] | None = None,
) -> None:
    """Write a volume as a multiscale image.

    Parameters
    ----------
    path : Path
        Folder to make.
    parts : iterable of arrays, each of shape (slice, y, x)
        The volume in order, any number of slices at a time.
    shape : tuple of int
        Slices, rows, columns of the volume.
    dtype : dtype
        Type of a voxel, also of the reductions; means of integers are rounded.
    pixel_size : float, optional
        Metres; without it the axes have no unit, and a voxel has the size 1.
    first_slice : int
        Where the first slice lies, slices from the origin.
    attributes : dict, optional
        Further attributes of the group, as JSON.

    Raises
    ------
    ReductionError
        If the package zarr is missing or too old.
    """
    zarr = _import_zarr()
    num_levels = _num_reductions(shape)
    group = zarr.open_group(path, mode="w-", zarr_format=3)
    group.attrs.update({**(attributes or {}), "ome": _ome(num_levels + 1, pixel_size, first_slice)})
    levels = [_Level(group, level, shape, dtype) for level in range(num_levels + 1)]
    means = BlockMeans(shape, num_levels, lambda level, plane: levels[level + 1].add(plane[None]))
    for part in parts:
        levels[0].add(part)
        means.add(part)
    means.finish()
    for level in levels:
        level.flush()


class _Level:
    """One array of the group; whole layers of chunks are written at once."""

    def __init__(self, group: Any, level: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        size = reduced_shape(shape, 2**level)
        self._array = group.create_array(
            str(level),
            shape=size,
            dtype=dtype,
            chunks=tuple(min(pair) for pair in zip(CHUNK, size, strict=True)),
            dimension_names=("z", "y", "x"),
        )
        self._slices: list[NDArray[Any]] = []
        self._num_written = 0

    def add(self, slices: NDArray[Any]) -> None:
        if self._array.dtype.kind != "f" and slices.dtype.kind == "f":
            slices = np.rint(slices)
        for plane in slices.astype(self._array.dtype, copy=False):
            self._slices.append(plane)
            if len(self._slices) == self._array.chunks[0]:
                self.flush()

    def flush(self) -> None:
        if self._slices:
            stop = self._num_written + len(self._slices)
            self._array[self._num_written : stop] = np.stack(self._slices)
            self._num_written, self._slices = stop, []


def _import_zarr() -> ModuleType:
    try:
        import zarr
    except ImportError as error:
        raise ReductionError(
            "the format zarr needs the package zarr, version 3: pip install 'quietbeam[zarr]'"
        ) from error
    if int(zarr.__version__.partition(".")[0]) < 3:
        raise ReductionError(f"the format zarr needs version 3 of the package zarr, got {zarr.__version__}: upgrade it")
    return zarr


def _num_reductions(shape: tuple[int, ...]) -> int:
    """Count how often the longest side can be halved until it is below `SMALLEST`."""
    count = 0
    while math.ceil(max(shape) / 2**count) >= SMALLEST:
        count += 1
    return count


def _ome(num_levels: int, pixel_size: float | None, first_slice: int) -> dict[str, Any]:
    """Describe the levels: where the centre of the first voxel of each lies, and the steps from there."""
    axes = [{"name": name, "type": "space"} | ({"unit": "meter"} if pixel_size else {}) for name in "zyx"]
    size = pixel_size or 1.0
    datasets = [
        {"path": str(level), "coordinateTransformations": _transformations(2**level, size, first_slice)}
        for level in range(num_levels)
    ]
    multiscale = {"name": "volume", "axes": axes, "datasets": datasets, "type": "mean"}
    return {"version": "0.5", "multiscales": [multiscale]}


def _transformations(factor: int, size: float, first_slice: int) -> list[dict[str, Any]]:
    middle = (factor - 1) / 2
    translation = [size * (first_slice + middle), size * middle, size * middle]
    return [{"type": "scale", "scale": [size * factor] * 3}, {"type": "translation", "translation": translation}]
