"""A first look at what shall be a scan, so that a slip of the hand is told at once and not by the worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from quietbeam.reconstruction.errors import ScanError

__all__ = ["check_plausible"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_SUFFIXES = (".tif", ".tiff")
_SUFFIXES = (*_TIFF_SUFFIXES, ".h5", ".hdf", ".hdf5", ".nxs", ".nx", ".nx5", ".he5")
_USER_BLOCKS = tuple(2**power for power in range(9, 21))
"""Where HDF5 may begin, behind what another program put before it, bytes."""
_MOST_FILES = 10_000
"""Of a folder that are looked at; where there are more, the worker judges."""


def check_plausible(path: Path) -> None:
    """Refuse what can be no scan: neither HDF5 nor TIFF nor a folder with TIFF files.

    An empty file, or one of zeros alone, passes if its name is that of a scan: it may be about to be written.

    Parameters
    ----------
    path : Path
        File or folder that is there; runs' documents are not looked at here.

    Raises
    ------
    ScanError
        If it cannot be read, or can be no scan.
    """
    try:
        found = _folder_problem(path) if path.is_dir() else _file_problem(path)
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror}); give a scan that this user may read") from error
    if found:
        expected = "an HDF5 or TIFF file, a folder of TIFF files, run.json, or .jsonl of documents"
        raise ScanError(f"{path}: {found}, which can be no scan; expected {expected}")


def _file_problem(path: Path) -> str:
    if not path.is_file():
        return "neither a file nor a folder"
    with path.open("rb") as file:
        start = file.read(len(_HDF5))
        if start[:4] in _TIFF or start == _HDF5:
            return ""
        if not start.strip(b"\0") and path.suffix.lower() in _SUFFIXES:
            return ""
        for offset in _USER_BLOCKS:
            file.seek(offset)
            if file.read(len(_HDF5)) == _HDF5:
                return ""
    return f"begins with {start!r}" if start else "an empty file"


def _folder_problem(path: Path) -> str:
    """Look for TIFF files in a folder and those below it, as the reader does."""
    folders = [path]
    with os.scandir(path) as entries:
        folders += [path / entry.name for entry in islice(entries, _MOST_FILES) if _is_folder(entry)]
    names = [name.lower() for name in islice(_names(folders), _MOST_FILES)]
    is_scan = any(name.endswith(_TIFF_SUFFIXES) for name in names) or len(names) == _MOST_FILES
    return "" if is_scan else "a folder without TIFF files"


def _names(folders: list[Path]) -> Iterator[str]:
    for folder in folders:
        if os.access(folder, os.R_OK | os.X_OK):
            with os.scandir(folder) as entries:
                yield from (entry.name for entry in entries)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=True)
