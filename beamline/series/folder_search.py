"""Looking through folders for scans: what is one, what is none and why."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from quietbeam.beamline.hdf5_links import is_hdf5
from quietbeam.beamline.recording import READERS, ScanSettings
from quietbeam.beamline.runs.loading import RUN_SUFFIXES, load_run, load_runs
from quietbeam.beamline.runs.reference import has_projections
from quietbeam.beamline.tiff_series import is_calibration_name, is_tiff
from quietbeam.beamline.workspace import MANIFEST
from quietbeam.compress.archive_reader import is_archive
from quietbeam.reconstruction.errors import ScanError

__all__ = ["LeftOut", "Looked", "look_at_file", "search_folder"]

HDF5_SUFFIXES = (".h5", ".hdf", ".hdf5", ".nx", ".nxs", ".nexus")
TIFF_SUFFIXES = (".tif", ".tiff")
INDEX = "index.json"
LINK = "a link to a folder; name it itself"
FEWEST_FRAMES = 2
"""TIFF files of a folder, below which it is no scan."""


@dataclass(frozen=True)
class LeftOut:
    """Something that was met and is no scan, and why."""

    path: Path
    why: str


Looked = Path | LeftOut
"""What a search gives: a scan, or something left out."""


def search_folder(folder: Path, settings: ScanSettings, known: Collection[str] = ()) -> Iterator[Looked]:
    """Go through a folder and all below it, in the order of their names.

    HDF5 files, folders of TIFF files, references and documents of runs are taken; one that is damaged is taken too, so
    that it is told of. Hidden names, archives and output folders of quietbeam, folders of flats or darks, and links to
    folders are not.

    Parameters
    ----------
    folder : Path
        Where to begin; it may be a link itself.
    settings : ScanSettings
        Where the links of HDF5 files may lead to.
    known : collection of str
        Resolved paths of scans that need not be looked at again.

    Yields
    ------
    Path or LeftOut
        Scans, and what looks like one and is none.
    """
    for place, folders, files in os.walk(folder, onerror=_refuse):
        here = Path(place)
        ours, is_series = (here / MANIFEST).is_file(), _is_index(here / INDEX)
        if (ours or is_series) and (folders or is_series):
            yield LeftOut(here, "results of quietbeam lie here: what is below it is not searched")
        folders[:] = [] if ours or is_series else sorted(name for name in folders if not name.startswith("."))
        yield from (LeftOut(here / name, LINK) for name in folders if (here / name).is_symlink())
        if not is_series:
            yield from _look_at_files(here, sorted(files), settings, known)


def _refuse(error: OSError) -> None:
    raise ScanError(f"{error.filename}: this folder cannot be looked into ({error.strerror})") from error


def _is_index(path: Path) -> bool:
    """Tell whether a folder is that of an earlier series, by the beginning of its index."""
    try:
        with path.open("rb") as file:
            return b'"quietbeam-series-' in file.read(64)
    except OSError:
        return False


def _look_at_files(folder: Path, names: list[str], settings: ScanSettings, known: Collection[str]) -> Iterator[Looked]:
    shown = [name for name in names if not name.startswith(".")]
    if _is_series_of_tiff(shown):
        aside = is_calibration_name(folder.name)
        yield LeftOut(folder, "its name says that it holds flats or darks") if aside else folder
    for name in shown:
        path = folder / name
        if name.lower().endswith((*HDF5_SUFFIXES, *RUN_SUFFIXES)) and path.is_file():
            yield from look_at_file(path, settings, known)


def _is_series_of_tiff(names: Iterable[str]) -> bool:
    frames = (name for name in names if name.lower().endswith(TIFF_SUFFIXES) and not is_calibration_name(name))
    return len(list(islice(frames, FEWEST_FRAMES))) == FEWEST_FRAMES


def look_at_file(path: Path, settings: ScanSettings, known: Collection[str]) -> Iterator[Looked]:
    """Look at one file that was met.

    Parameters
    ----------
    path : Path
        The file.
    settings, known
        See `search_folder`.

    Yields
    ------
    Path or LeftOut
        The file, or why it is no scan; nothing for JSON that is no run, of which there may be much.
    """
    if str(path.resolve()) in known:
        yield path
    elif path.suffix.lower() != ".json" or _is_reference(path):
        why = _why_no_scan(path, settings)
        yield LeftOut(path, why) if why else path


def _is_reference(path: Path) -> bool:
    """Tell a run's reference from other JSON, of which there may be much, and which nobody takes for a scan."""
    if (path.parent / MANIFEST).is_file():
        return False  # put there by a reduction
    try:
        load_run(path)
    except ScanError:
        return False
    return True


def _why_no_scan(path: Path, settings: ScanSettings) -> str:
    """Tell why a file is no scan; empty if it is one, or should be one and is damaged."""
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _why_no_run(path)
    try:
        if not is_hdf5(path):
            return "" if suffix in (*HDF5_SUFFIXES, ".json") else _why_no_image(path)
        if is_archive(path):
            return "an archive of quietbeam, no scan"
        is_known = any(reader.recognises(path, settings) for reader in READERS.values())
    except (ScanError, OSError):
        return ""
    return "" if is_known else "holds no projections with angles in a known layout"


def _why_no_image(path: Path) -> str:
    if not is_tiff(path):
        return "neither HDF5 nor TIFF nor a run"
    is_frame = _is_series_of_tiff(other.name for other in path.parent.iterdir())
    return "one frame of a folder of TIFF files: name the folder" if is_frame else ""


def _why_no_run(path: Path) -> str:
    try:
        return "" if any(map(has_projections, load_runs(path))) else "holds runs without projections"
    except ScanError as error:
        return str(error)
