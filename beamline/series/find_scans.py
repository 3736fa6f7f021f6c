"""The scans that a person means by paths, patterns, folders and lists, each with a name of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

# The readers enter their table when they are imported.
from quietbeam.beamline import scan as _  # noqa: F401
from quietbeam.beamline.recording import ScanSettings
from quietbeam.reconstruction.errors import ScanError

from .folder_search import LeftOut, Looked, look_at_file, search_folder
from .scan_names import common_folder, fold, name_scans, safe_name

__all__ = ["Findings", "FoundScan", "find_scans", "is_there", "merge", "missing_paths"]

_MAGIC = re.compile(r"[*?\[]")
_LIST = "@"


@dataclass(frozen=True)
class FoundScan:
    """One scan of a series.

    Attributes
    ----------
    name : str
        Of its folder below the output folder; no other scan of the series has it.
    path : Path
        What `quietbeam.beamline.scan.open_scan` takes.
    source : str
        What the scan is known by, for people too: its path without links, or ``run UID``.
    run : dict, optional
        Reference of a run, to be put at `path` before that is opened.
    problem : str
        Why there is nothing to open; empty if there is.
    """

    name: str
    path: Path
    source: str
    run: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    problem: str = ""


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes
    ----------
    scans : tuple of FoundScan
        In the order of their names.
    left_out : tuple of LeftOut
        What was met in a folder, by a pattern or in a catalogue, and is no scan.
    """

    scans: tuple[FoundScan, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def find_scans(
    targets: Sequence[str],
    settings: ScanSettings | None = None,
    *,
    output: Path,
    taken: Mapping[str, str] | None = None,
) -> Findings:
    """Find scans.

    Parameters
    ----------
    targets : sequence of str
        Files; folders, which are searched with all below them; patterns such as ``raw/**/*.h5``; ``@list.txt``, a text
        file with one of these a line. A file that is named is taken whatever it is, also if it is not there: that is
        told when it is reduced (`missing_paths` tells before). What a folder or a pattern gives is looked at, and left
        out if it is no scan.
    settings : ScanSettings, optional
        What the user knows of the scans.
    output : Path
        Folder of the series; what is in it is no scan.
    taken : mapping, optional
        Source to name, of scans that were named before.

    Returns
    -------
    Findings
        Each scan once.

    Raises
    ------
    ScanError
        If a list or a folder cannot be read.
    """
    settings, taken, ours = settings or ScanSettings(), taken or {}, output.resolve()
    scans: dict[str, _Met] = {}
    left_out: dict[Path, str] = {}
    for met in _look_at_all(targets, settings, taken):
        if met.path.resolve().is_relative_to(ours):
            continue
        if isinstance(met.looked, LeftOut):
            left_out.setdefault(met.path, met.looked.why)
        else:
            scans.setdefault(str(met.path.resolve()), met)
    names = name_scans(_stems(scans, taken), taken)
    found = [
        FoundScan(names[source], met.path, source, problem=_why_unreachable(met.path)) for source, met in scans.items()
    ]
    out = [LeftOut(path, why) for path, why in left_out.items()]
    return Findings(tuple(sorted(found, key=lambda one: one.name)), tuple(sorted(out, key=lambda one: one.path)))


def missing_paths(targets: Sequence[str]) -> list[str]:
    """Name the paths that a person gave by themselves, in no list and no pattern, and that do not exist."""
    named = [target for target in targets if not target.startswith(_LIST) and not _MAGIC.search(target)]
    return [target for target in named if not is_there(Path(target)) and not _why_unreachable(Path(target))]


def is_there(path: Path) -> bool:
    """Tell whether there is a file or a folder that can be looked at; one in a folder that is closed to us is not."""
    try:
        return path.exists()
    except OSError:
        return False


def _why_unreachable(path: Path) -> str:
    """Tell why it cannot even be told whether a file is there; empty if it can."""
    try:
        path.exists()
    except OSError as error:
        return f"{path}: cannot be looked at ({error.strerror})"
    return ""


class _Met(NamedTuple):
    """What was met, and the folder that a person named and it was met in."""

    root: Path
    looked: Looked

    @property
    def path(self) -> Path:
        return self.looked.path if isinstance(self.looked, LeftOut) else self.looked

    @property
    def stem(self) -> str:
        return self.path.name if self.path == self.root else str(self.path.relative_to(self.root))


def _stems(scans: Mapping[str, _Met], taken: Mapping[str, str]) -> dict[str, str]:
    """Name scans by their paths below the folders that were named; where a name is not free, by longer paths."""
    others = [name for source, name in taken.items() if source not in scans]
    count = Counter([*map(fold, others), *(fold(safe_name(met.stem)) for met in scans.values())])
    shared = {source for source, met in scans.items() if count[fold(safe_name(met.stem))] > 1}
    common = common_folder([scans[source].path.parent for source in shared])
    return {
        source: str(met.path.relative_to(common)) if source in shared else met.stem for source, met in scans.items()
    }


def merge(findings: Sequence[Findings]) -> Findings:
    """Put findings together; a scan that was found twice counts once."""
    scans = {one.source: one for each in reversed(findings) for one in each.scans}
    left_out = tuple(one for each in findings for one in each.left_out)
    return Findings(tuple(sorted(scans.values(), key=lambda one: one.name)), left_out)


def _look_at_all(targets: Sequence[str], settings: ScanSettings, known: Mapping[str, str]) -> Iterator[_Met]:
    for target in _without_lists(targets):
        path = _plain(Path(target).absolute())
        if is_there(path) and path.is_dir():
            yield from (_Met(path, looked) for looked in _look_into(path, settings, known))
        elif is_there(path) or not _MAGIC.search(target):
            yield _Met(path.parent, path)
        else:
            yield from _look_for(target, settings, known)


def _plain(path: Path) -> Path:
    """Take ``..`` out of a path, whose name may be a link and stays."""
    return path.parent.resolve() / path.name if ".." in path.parts[:-1] else path


def _without_lists(targets: Sequence[str]) -> Iterator[str]:
    """Put the lines of lists in their place; empty ones, and those that begin with #, are for people."""
    for target in targets:
        if not target.startswith(_LIST) or is_there(Path(target)):
            yield target
            continue
        try:
            lines = Path(target.removeprefix(_LIST)).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ScanError(f"{target.removeprefix(_LIST)}: this list of scans cannot be read ({error})") from error
        yield from (line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))


def _look_into(folder: Path, settings: ScanSettings, known: Mapping[str, str]) -> Iterator[Looked]:
    """Search a folder; one that was named and holds nothing that could be a scan is told of like a file."""
    found = list(search_folder(folder, settings, known))
    yield from found or [LeftOut(folder, "holds no HDF5 file, no folder of TIFF files and no run")]


def _look_for(pattern: str, settings: ScanSettings, known: Mapping[str, str]) -> Iterator[_Met]:
    """Take what a pattern gives: files that are scans, and folders as if they were named."""
    root, matches = _matches(pattern)
    searched: set[Path] = set()
    if not matches:
        yield _Met(root, LeftOut(Path(pattern), "no file has such a name"))
    for path in matches:
        if searched.intersection(path.parents):
            continue
        if path.is_dir():
            searched.add(path)
            yield from (_Met(root, looked) for looked in _look_into(path, settings, known))
        else:
            yield from (_Met(root, looked) for looked in look_at_file(path, settings, known))


def _matches(pattern: str) -> tuple[Path, list[Path]]:
    """Expand a pattern below the folder before its first star; hidden names only where it asks for them."""
    parts = Path(pattern).absolute().parts
    first = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    root = Path(*parts[:first])
    found = sorted(root.glob("/".join(parts[first:])))
    dotted = any(part.startswith(".") for part in parts[first:])
    return root, [path for path in found if dotted or not any(part.startswith(".") for part in path.parts[first:])]
