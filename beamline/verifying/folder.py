"""Finding results to check, in folders of any size, and what lies in a result's folder beside its own files."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from quietbeam.beamline.workspace import ARCHIVE, MANIFEST, METRICS, PREVIEW
from quietbeam.reconstruction.errors import QuietbeamError

__all__ = ["Found", "check_targets", "find_results", "foreign_names", "is_result"]

_OWN = frozenset({MANIFEST, METRICS, PREVIEW, ".lock", "work", "worker.log", "run.json", "published", "thumbnail.png"})
"""What quietbeam leaves in an output folder that is no part of the result."""


_INDEX = "index.json"


class Found(NamedTuple):
    """A result, or a place where there should be one.

    Attributes
    ----------
    path : Path
        Output folder, or archive file.
    problem : str or None
        Why it cannot be checked.
    is_damage : bool
        Whether that means that a result is missing; else the place may not be read.
    """

    path: Path
    problem: str | None = None
    is_damage: bool = False


def check_targets(targets: Iterable[str]) -> None:
    """Refuse targets that name nothing.

    Parameters
    ----------
    targets : iterable of str
        Output folders, archives, folders of results, or patterns such as ``2026/*/denoised.h5``.

    Raises
    ------
    ValueError
        If one does not exist, or matches nothing.
    """
    for target in targets:
        if next(_expanded(target), None) is None:
            kind = "matches nothing" if glob.has_magic(target) else "does not exist"
            raise ValueError(f"{target} {kind}: give output folders, archives, or folders of results")


def find_results(targets: Iterable[str]) -> Iterator[Found]:
    """Find results one after the other, without a list of them: there may be a hundred thousand.

    Parameters
    ----------
    targets : iterable of str
        Output folders, archives, folders of results at any depth, or patterns.

    Yields
    ------
    Found
        In the order of the targets, below a folder in that of the file system. Hidden folders are left out, and links
        to folders are not followed below a target.
    """
    for target in targets:
        for path in _expanded(target):
            if path.is_dir():
                yield from _results_of(path)
            else:
                yield Found(path)


def is_result(path: Path) -> bool:
    """Tell whether a path is itself a result: a file, or a folder with a manifest or an archive."""
    return path.is_file() or (path / MANIFEST).exists() or (path / ARCHIVE).exists()


def foreign_names(folder: Path, files: Collection[str]) -> list[str]:
    """List what lies in an output folder and is neither of the result nor otherwise quietbeam's.

    Parameters
    ----------
    folder : Path
        Output folder.
    files : collection of str
        Names that the manifest lists.

    Returns
    -------
    list of str
        Sorted names; nothing if there is no such folder.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.name not in _OWN and entry.name not in files)
    except OSError:
        return []


def _expanded(target: str) -> Iterator[Path]:
    if glob.has_magic(target) and not os.path.lexists(target):
        yield from map(Path, glob.iglob(target, recursive=True))  # noqa: PTH207 - Path.glob takes none from the root
    elif os.path.lexists(target):
        yield Path(target)


def _results_of(folder: Path) -> Iterator[Found]:
    found = None
    for found in _walk(folder):
        yield found
    if found is None:
        text = "no manifest here; the run has not finished, or this is no output folder, and none is below"
        yield Found(folder, text, is_damage=True)


def _walk(folder: Path) -> Iterator[Found]:
    """Search a folder depth first, holding the names of no more than one path of folders."""
    if is_result(folder):
        yield Found(folder)
        return
    yield from _lost_results(folder)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    yield from _walk(Path(entry.path))
    except OSError as error:
        yield Found(folder, f"cannot be read ({error.strerror})")


def _lost_results(series: Path) -> Iterator[Found]:
    """Name results that the index of a series calls done, and that are not there."""
    if not _is_series(series / _INDEX):
        return
    from quietbeam.beamline.series.ledger import read_index

    try:
        rows = read_index(series)
    except QuietbeamError as error:
        yield Found(series, str(error), is_damage=True)
        return
    for row in rows.values():
        if row.state == "done" and not is_result(series / row.name):
            text = f"no result here, although {series / _INDEX} says it is done"
            yield Found(series / row.name, text, is_damage=True)


def _is_series(index: Path) -> bool:
    try:
        with index.open("rb") as file:
            return b'"quietbeam-series-' in file.read(64)
    except OSError:
        return False
