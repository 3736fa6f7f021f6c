"""What there is to check of a result, unit by unit.

A unit is the smallest thing that can be named if it is damaged: a chunk of an archive with its slices, its decoder, its
preview, a file as a whole, the manifest. The units of a large archive can be shared out over several runs (`Subset`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from quietbeam.beamline.manifest import read_manifest
from quietbeam.beamline.workspace import ARCHIVE, MANIFEST
from quietbeam.compress.archive import Archive, check_part, chunk_name, describe_part, open_archive
from quietbeam.reconstruction.errors import ArchiveError

from .folder import foreign_names

__all__ = ["SMALL_FILE", "WHOLE", "Kind", "OpenResult", "Plan", "Subset", "Unit", "UnitCheck", "plan_units"]

SMALL_FILE = 2**24
"""Bytes up to which a file's hash is taken in every run, whatever the subset."""

Kind = Literal["manifest", "file", "archive", "decoder", "chunk", "preview", "raw", "foreign", "path"]


class Subset(NamedTuple):
    """One of several parts of the work; the parts together are all of it, and no two have a chunk in common.

    Attributes
    ----------
    part, num_parts : int
        Which, from 1, of how many.
    """

    part: int
    num_parts: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``1/7``; `ValueError` if it is no such thing."""
        try:
            part, num_parts = map(int, text.split("/"))
        except ValueError:
            raise ValueError(f"a subset must be like 1/7, got {text!r}") from None
        if not 1 <= part <= num_parts:
            raise ValueError(f"the part of a subset must lie in [1, {num_parts}], got {text!r}")
        return cls(part, num_parts)

    def __str__(self) -> str:
        return f"{self.part}/{self.num_parts}"

    def takes(self, number: int, seed: str) -> bool:
        """Tell whether it has the unit of that number of what `seed` stands for; neighbours go to different parts."""
        first = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
        return (first + number) % self.num_parts == self.part - 1


WHOLE = Subset(1, 1)


class Unit(NamedTuple):
    """One thing to check.

    Attributes
    ----------
    kind : str
        What it is.
    name : str
        Of the file in the folder, or of the archive's part.
    number : int
        Of a file of the scan, in the manifest's list.
    """

    kind: Kind
    name: str
    number: int = 0


class UnitCheck(NamedTuple):
    """What was found of a unit.

    Attributes
    ----------
    path : str
        Output folder or archive.
    unit : str
        What was checked, for people.
    kind : str
        What it is, for programs.
    ok : bool or None
        False if it is damaged, None if it could not be checked.
    message : str
        What is wrong, or a note.
    bytes : int
        How much was read.
    seconds : float
        How long it took.
    """

    path: str
    unit: str
    kind: Kind
    ok: bool | None
    message: str
    bytes: int
    seconds: float


class Plan(NamedTuple):
    """What there is to check of a result.

    Attributes
    ----------
    units : tuple of Unit
        In the order of checking.
    key : str
        Changes when another result has taken the place, or the units are others: their numbers count only with it.
    """

    units: tuple[Unit, ...]
    key: str


def plan_units(path: Path, subset: Subset = WHOLE, *, raw: bool = False) -> Plan:
    """List what there is to check of a result.

    Parameters
    ----------
    path : Path
        Output folder, or archive file.
    subset : Subset
        Which part of chunks and large files. The manifest, small files, the archive's index and its decoder belong to
        every part.
    raw : bool
        Whether the files of the scan are checked too, as far as the manifest tells them.

    Returns
    -------
    Plan
        A damaged part stands in it as the unit that will show the damage.
    """
    with OpenResult(path) as result:
        units = tuple(_units(result, subset, raw))
        content = json.dumps([result.key, result.files, units])
        return Plan(units, hashlib.sha256(content.encode()).hexdigest())


class OpenResult:
    """A result while it is checked; manifest and archive are opened once, when they are needed.

    Parameters
    ----------
    path : Path
        Output folder, or archive file.

    Attributes
    ----------
    is_folder : bool
        Whether it is an output folder.
    archive_path : Path
        The archive in it, or itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_folder = path.is_dir()
        self.archive_path = path / ARCHIVE if self.is_folder else path
        self._opened: Archive | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._opened is not None:
            self._opened.close()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest; what is wrong with it raises `ArchiveError`."""
        return read_manifest(self.path / MANIFEST)

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """What the manifest says of each file; nothing where there is no manifest, or none that can be read."""
        try:
            return dict(self.manifest["files"]) if self.is_folder else {}
        except ArchiveError:
            return {}

    @property
    def archive(self) -> Archive:
        """The archive; what is wrong with it raises."""
        if self._opened is None:
            self._opened = open_archive(self.archive_path, cache_bytes=0)
        return self._opened

    @property
    def key(self) -> str:
        """What tells this result from another: the archive's hash by the manifest; without one, its name and size."""
        if entry := self.files.get(ARCHIVE):
            return str(entry["sha256"])
        size = self.archive_path.stat().st_size if self.archive_path.is_file() else 0
        return f"{self.archive_path.name}:{size}"

    @cached_property
    def decoder_fault(self) -> str | None:
        """What is wrong with the archive's decoder, if anything."""
        return check_part(self.archive, "codec").fault

    def describe(self, name: str) -> str:
        """Name a part of the archive for people."""
        try:
            return describe_part(self.archive.header, name)
        except (ArchiveError, OSError):
            return name

    def scan_files(self) -> list[tuple[Path, dict[str, Any]]]:
        """Give the files of the scan, where they were, with their names, sizes and hashes."""
        identity = self.manifest["input"].get("identity")
        try:
            places = [Path(place) for place, *_ in identity["signature"]]
            files = [{name: file[name] for name in ("bytes", "sha256")} for file in identity["files"]]
            return list(zip(places, files, strict=True))
        except (KeyError, TypeError, ValueError):
            return []


def _units(result: OpenResult, subset: Subset, raw: bool) -> Iterator[Unit]:
    if result.is_folder:
        yield Unit("manifest", MANIFEST)
        if foreign_names(result.path, result.files):
            yield Unit("foreign", "")
    for name, entry in result.files.items():
        if _is_at_once(result.path / name, entry, is_archive=name == ARCHIVE) or (
            name != ARCHIVE and subset.takes(0, str(entry["sha256"]))
        ):
            yield Unit("file", name)
    if result.archive_path.exists() or not result.files:
        yield from _archive_units(result, subset)
    if raw:
        yield from _raw_units(result, subset)


def _is_at_once(path: Path, entry: dict[str, Any], *, is_archive: bool) -> bool:
    """Tell whether a file's fault shows without reading it, or it is so small that it is always read."""
    try:
        if path.stat().st_size != entry["bytes"]:
            return True
    except OSError:
        return True
    return not is_archive and entry["bytes"] <= SMALL_FILE


def _archive_units(result: OpenResult, subset: Subset) -> Iterator[Unit]:
    """List the archive's units: shared out in turn, so that each part has its share of a single large archive."""
    yield Unit("archive", result.archive_path.name)
    try:
        archive = result.archive
    except (ArchiveError, OSError):
        return
    yield Unit("decoder", "codec")
    shared = [Unit("chunk", chunk_name(chunk)) for chunk in range(archive.header.num_chunks)]
    shared += [Unit("preview", "preview")] if archive.preview_factor is not None else []
    entry = result.files.get(ARCHIVE)
    if entry and not _is_at_once(result.archive_path, entry, is_archive=True):
        shared.append(Unit("file", ARCHIVE))
    yield from (unit for number, unit in enumerate(shared) if subset.takes(number, result.key))


def _raw_units(result: OpenResult, subset: Subset) -> Iterator[Unit]:
    try:
        files = result.scan_files() if result.is_folder else []
    except ArchiveError:
        return
    if not files:
        yield Unit("raw", "the scan")
    for number, (place, file) in enumerate(files):
        if subset.takes(0, str(file["sha256"])):
            yield Unit("raw", str(place), number)
