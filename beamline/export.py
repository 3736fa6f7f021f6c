"""Slices out of an archive, as files that other programs read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietbeam.compress.archive import Archive, open_archive
from quietbeam.compress.preview import pixel_size_of

from .atomic import atomic_path
from .ome_zarr import write_ome_zarr

__all__ = ["FORMATS", "extract", "format_of", "parse_slices"]


def parse_slices(text: str | None, num_slices: int) -> slice:
    """Read ``10:20``, ``10:``, ``:20``, ``7`` or ``-1`` as slices of a volume; negative ones count from the end.

    Parameters
    ----------
    text : str or None
        None is all.
    num_slices : int
        Slices there are.

    Returns
    -------
    slice
        With 0 <= start < stop <= num_slices.

    Raises
    ------
    ValueError
        Naming what was expected.
    """
    if text is None:
        return slice(0, num_slices)
    try:
        first, colon, last = text.partition(":")
        start = int(first) if first or not colon else 0
        stop = (int(last) if last else num_slices) if colon else (start + 1 or num_slices)
    except ValueError:
        raise ValueError(f"expected slices like 10:20 or 7, got {text!r}") from None
    start, stop = (index + num_slices if index < 0 else index for index in (start, stop))
    if not 0 <= start < stop <= num_slices:
        raise ValueError(f"slices {text} are not there: the volume has slices 0 to {num_slices - 1}")
    return slice(start, stop)


def format_of(output: Path) -> str:
    """Tell the format from the name of what is to be made.

    Parameters
    ----------
    output : Path
        File, or folder for TIFF and Zarr; without a suffix, a folder of TIFF files.

    Returns
    -------
    str
        One of `FORMATS`.

    Raises
    ------
    ValueError
        If no format has this suffix.
    """
    suffix = output.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f"{output}: no format has the suffix {suffix}; name one with -f: {', '.join(FORMATS)}")
    return _SUFFIXES[suffix]


def extract(path: Path, output: Path, slices: str | None, file_format: str) -> Path:
    """Decode slices of an archive into a file or, for TIFF and Zarr, a folder of files.

    Parameters
    ----------
    path : Path
        Archive, or output folder that holds one.
    output : Path
        File or folder to make; never one that is there.
    slices : str or None
        As for `parse_slices`.
    file_format : str
        One of `FORMATS`.

    Returns
    -------
    Path
        What was made.

    Raises
    ------
    ArchiveError
        If the archive is damaged.
    FileExistsError
        If `output` is there.
    ReductionError
        If the format is zarr and that package is missing.
    """
    if output.exists():
        raise FileExistsError(f"{output} is there already: choose another -o")
    with open_archive(path, cache_bytes=0) as archive, atomic_path(output) as temporary:
        FORMATS[file_format](archive, temporary, parse_slices(slices, archive.shape[0]))
    return output


def _chunks(archive: Archive, slices: slice) -> list[slice]:
    size = archive.header.chunk_slices
    starts = range(slices.start - slices.start % size, slices.stop, size)
    return [slice(max(start, slices.start), min(start + size, slices.stop)) for start in starts]


def _to_npy(archive: Archive, path: Path, slices: slice) -> None:
    shape = (slices.stop - slices.start, *archive.shape[1:])
    with path.open("wb") as file:
        kind = archive.dtype.newbyteorder("<")
        np.lib.format.write_array_header_1_0(file, {"descr": kind.str, "fortran_order": False, "shape": shape})
        for chunk in _chunks(archive, slices):
            file.write(np.ascontiguousarray(archive[chunk], dtype=kind).data)


def _to_h5(archive: Archive, path: Path, slices: slice) -> None:
    import h5py

    pixel_size = pixel_size_of(archive.header)
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        group = entry.create_group("data")
        file.attrs["default"], entry.attrs["default"] = "entry", "data"
        entry.attrs["NX_class"], group.attrs["NX_class"], group.attrs["signal"] = "NXentry", "NXdata", "data"
        shape = (slices.stop - slices.start, *archive.shape[1:])
        data = group.create_dataset("data", shape, archive.dtype, chunks=(1, *shape[1:]), fletcher32=True)
        if unit := archive.metadata.get("unit"):
            data.attrs["units"] = str(unit)
        if pixel_size is not None:
            data.attrs["pixel_size_m"] = pixel_size
        data.attrs["first_slice"], data.attrs["max_error"] = slices.start, archive.header.max_error
        entry.attrs["quietbeam"] = json.dumps(archive.metadata, sort_keys=True)
        for chunk in _chunks(archive, slices):
            data[chunk.start - slices.start : chunk.stop - slices.start] = archive[chunk]


def _to_tiff(archive: Archive, path: Path, slices: slice) -> None:
    import tifffile

    path.mkdir()
    digits = len(str(archive.shape[0] - 1))
    for chunk in _chunks(archive, slices):
        for index, image in enumerate(archive[chunk], chunk.start):
            _write_tiff(tifffile.imwrite, path / f"slice_{index:0{digits}d}.tiff", image)


def _write_tiff(write: Callable[..., object], path: Path, image: NDArray[Any]) -> None:
    write(path, image, photometric="minisblack", software="quietbeam", metadata=None)


def _to_zarr(archive: Archive, path: Path, slices: slice) -> None:
    write_ome_zarr(
        path,
        (archive[chunk] for chunk in _chunks(archive, slices)),
        (slices.stop - slices.start, *archive.shape[1:]),
        archive.dtype,
        pixel_size=pixel_size_of(archive.header),
        first_slice=slices.start,
        attributes={"quietbeam": {"max_error": archive.header.max_error, "metadata": archive.metadata}},
    )


FORMATS: dict[str, Callable[[Archive, Path, slice], None]] = {
    "tiff": _to_tiff,
    "h5": _to_h5,
    "npy": _to_npy,
    "zarr": _to_zarr,
}

_SUFFIXES = {"": "tiff", ".tif": "tiff", ".tiff": "tiff", ".npy": "npy", ".zarr": "zarr"} | dict.fromkeys(
    (".h5", ".hdf5", ".hdf", ".nxs"), "h5"
)
