"""An array through an HDF5 filter, as the bytes of the one chunk that HDF5 would store."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the compression filters
import numpy as np
from numpy.typing import DTypeLike, NDArray

from quietbeam.reconstruction.errors import ArchiveError

__all__ = ["filter_chunk", "unfilter_chunk"]

_NAME = "chunk"


def filter_chunk(values: NDArray[Any], filters: Mapping[str, Any]) -> bytes:
    """Send an array through a filter.

    Parameters
    ----------
    values : array
        Less than 4 GiB.
    filters : mapping
        Arguments of ``h5py.Group.create_dataset``, for example an instance of a class of hdf5plugin.

    Returns
    -------
    bytes
        One byte, 1 if the filter left the values as they are and else 0, then the chunk.
    """
    with h5py.File(BytesIO(), "w") as file:
        data = file.create_dataset(_NAME, data=values, chunks=values.shape, **filters)
        mask, chunk = data.id.read_direct_chunk((0,) * values.ndim)
    return bytes([mask]) + bytes(chunk)


def unfilter_chunk(
    data: bytes, shape: tuple[int, ...], dtype: DTypeLike, filters: Mapping[str, Any]
) -> NDArray[np.generic]:
    """Undo `filter_chunk` with the same filters; `OSError` or `ArchiveError` if the filter cannot."""
    if not data:
        raise ArchiveError("a chunk of an HDF5 filter is empty: it is damaged or cut short, restore it from a copy")
    buffer = BytesIO()
    with h5py.File(buffer, "w") as file:
        stored = file.create_dataset(_NAME, shape=shape, dtype=dtype, chunks=shape, **filters)
        stored.id.write_direct_chunk((0,) * len(shape), data[1:], data[0])
    # A file that is open still has the chunk as it was before the filter; one that is opened again has to decode it.
    with h5py.File(buffer, "r") as file:
        return np.asarray(file[_NAME][...])
