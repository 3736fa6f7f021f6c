"""Volumes by the name of a file: ``.npy``, TIFF, a data set in HDF5, an archive of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from quietbeam.compress.archive import is_archive, open_archive
from quietbeam.reconstruction.errors import ReductionError

__all__ = ["Volume", "open_volume"]


class Volume(Protocol):
    """A volume that is read by slices."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Slices, rows, columns."""

    @property
    def dtype(self) -> Any:
        """NumPy's type of a voxel."""

    def __getitem__(self, index: slice, /) -> NDArray[Any]:
        """Read slices."""


@contextmanager
def open_volume(name: str) -> Iterator[Volume]:
    """Open a volume for reading.

    Parameters
    ----------
    name : str
        A ``.npy`` file, a TIFF file of many pages, an archive, or ``FILE.h5:/PATH``; of an HDF5 file with one data set
        of three axes, the file is enough.

    Yields
    ------
    Volume
        Of three axes, real and not complex.

    Raises
    ------
    ReductionError
        If there is no such volume.
    """
    text, _, inner = name.partition(":/")
    path = Path(text)
    if not path.is_file():
        raise ReductionError(f"{path}: there is no such file: give a .npy, .tif or archive file, or FILE.h5:/PATH")
    if path.suffix == ".npy":
        yield _checked(name, _map_npy(path))
    elif path.suffix.lower() in (".tif", ".tiff"):
        yield _checked(name, _read_tiff(path))
    elif is_archive(path):
        with open_archive(path) as archive:
            yield archive
    else:
        with _hdf5(path) as file:
            yield _checked(name, _data_set(path, file, inner))


def _map_npy(path: Path) -> NDArray[Any]:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise ReductionError(f"{path}: cannot be read as a .npy file ({error})") from error


def _read_tiff(path: Path) -> NDArray[Any]:
    import tifffile

    try:
        return np.asarray(tifffile.imread(path))
    except (tifffile.TiffFileError, ValueError, OSError) as error:
        raise ReductionError(f"{path}: cannot be read as a TIFF file ({error})") from error


@contextmanager
def _hdf5(path: Path) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ReductionError(f"{path}: is neither .npy, TIFF, an archive nor HDF5 ({error})") from error
    with file:
        yield file


def _data_set(path: Path, file: h5py.File, inner: str) -> h5py.Dataset:
    if inner:
        if not isinstance(file.get(inner), h5py.Dataset):
            raise ReductionError(f"{path}: has no data set /{inner}; it has {', '.join(_volumes(file)) or 'none'}")
        return file[inner]
    found = _volumes(file)
    if len(found) != 1:
        raise ReductionError(
            f"{path}: expected one data set of three axes, found {len(found)} ({', '.join(found)}): "
            f"name it as {path}:/PATH"
        )
    return file[found[0]]


def _volumes(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(
        lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) and item.ndim == 3 else None
    )
    return [f"/{name}" for name in found]


def _checked(name: str, volume: Any) -> Any:
    if len(volume.shape) != 3 or 0 in volume.shape:
        raise ReductionError(f"{name}: expected a volume of three axes (slice, y, x), got the shape {volume.shape}")
    if np.dtype(volume.dtype).kind not in "iuf":
        raise ReductionError(f"{name}: expected integers or floats, got {volume.dtype}")
    return volume
