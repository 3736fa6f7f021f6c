"""The files made of a result, each there whole or not at all, and made only once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from quietbeam.beamline.atomic import atomic_path
from quietbeam.beamline.export import FORMATS as EXPORTS
from quietbeam.beamline.journal import stage_key
from quietbeam.compress.archive import Archive, open_archive

from .nxtomoproc import DATASET, write_nxtomoproc
from .provenance import Provenance
from .published import FOLDER, describe, is_intact, read_record, write_record
from .settings import PublishSettings
from .tiff_stack import value_range, write_tiff_stack

__all__ = ["NAMES", "publish_files"]

NAMES = {"nxtomoproc": "volume.nxs", "zarr": "volume.zarr", "tiff": "tiff"}
"""File or folder of each format."""
Writer = Callable[[Archive, Path], None]


def publish_files(provenance: Provenance, settings: PublishSettings) -> dict[str, Any]:
    """Make the files that are asked for and not there yet; what is there of another result goes.

    Parameters
    ----------
    provenance : Provenance
        Of the result.
    settings : PublishSettings
        The formats.

    Returns
    -------
    dict
        Format to size and hash, see `quietbeam.beamline.publishing.published.describe`.

    Raises
    ------
    ArchiveError
        If the archive is damaged.
    ReductionError
        If a format needs a package that is missing.
    """
    folder = provenance.output / FOLDER
    folder.mkdir(exist_ok=True)
    key = stage_key("files", provenance.key, settings.source_name, settings.source_type, settings.probe)
    recorded = read_record(folder, key)
    files = {
        name: entry for name, entry in recorded.items() if name in NAMES and is_intact(folder / NAMES[name], entry)
    }
    missing = [name for name in NAMES if name in settings.formats and name not in files]
    if not recorded or files.keys() != recorded.keys():
        write_record(folder, key, provenance.manifest["key"], files)
        for name in NAMES.keys() - files.keys() - set(missing):
            _remove(folder / NAMES[name])
    for name in missing:
        with open_archive(provenance.archive, cache_bytes=0) as archive, _replacing(folder / NAMES[name]) as path:
            _writer(name, provenance, settings)(archive, path)
        files[name] = describe(folder / NAMES[name])
        write_record(folder, key, provenance.manifest["key"], files)
    return files


def _writer(name: str, provenance: Provenance, settings: PublishSettings) -> Writer:
    writers: dict[str, Writer] = {
        "nxtomoproc": lambda archive, path: write_nxtomoproc(archive, path, provenance, settings),
        "zarr": lambda archive, path: EXPORTS["zarr"](archive, path, slice(0, len(archive))),
        "tiff": lambda archive, path: write_tiff_stack(archive, path, _extremes(archive, path.parent)),
    }
    return writers[name]


def _extremes(archive: Archive, folder: Path) -> tuple[float, float]:
    """Take least and largest value from the NeXus file, which is made first, or decode the archive once more."""
    path = folder / NAMES["nxtomoproc"]
    if not path.exists():
        return value_range(archive)
    with h5py.File(path, "r") as file:
        attributes = file[DATASET].attrs
        return float(attributes["minimum"]), float(attributes["maximum"])


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """As `atomic_path`, but a folder that holds something is replaced too."""
    old = path.with_name(f".{path.name}.old")
    _remove(old)
    with atomic_path(path) as temporary:
        yield temporary
        if path.is_dir():
            path.replace(old)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
