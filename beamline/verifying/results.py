"""Checking the units of a result: nothing is repaired, nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quietbeam.beamline.atomic import file_sha256
from quietbeam.beamline.manifest import read_manifest
from quietbeam.beamline.workspace import MANIFEST
from quietbeam.compress.archive import check_part
from quietbeam.reconstruction.errors import ArchiveError

from .folder import foreign_names
from .units import Kind, OpenResult, Unit, UnitCheck, plan_units

__all__ = ["Check", "check_units", "verify_output"]


class Check(NamedTuple):
    """What `verify_output` found.

    Attributes
    ----------
    checked : list of str
        One line for each unit that is well.
    damaged : list of str
        One line for each fault, naming the smallest unit that is damaged.
    """

    checked: list[str]
    damaged: list[str]


def check_units(path: Path, units: Sequence[Unit]) -> Iterator[UnitCheck]:
    """Check some units of a result, one after the other.

    Parameters
    ----------
    path : Path
        Output folder, or archive file.
    units : sequence of Unit
        From `plan_units`.

    Yields
    ------
    UnitCheck
        What was found.
    """
    with OpenResult(path) as result:
        for unit in units:
            yield _check(result, unit)


def verify_output(path: Path) -> Check:
    """Check the files of an output folder against its manifest, and decode its archive; or check an archive alone.

    Parameters
    ----------
    path : Path
        Output folder, or archive file.

    Returns
    -------
    Check
        Nothing is repaired.

    Raises
    ------
    ArchiveError
        If there is nothing to check.
    """
    if not path.is_file():
        read_manifest(path / MANIFEST)
    checks = list(check_units(path, plan_units(path).units))
    lines: dict[bool, list[str]] = {True: [], False: []}
    for check in checks:
        lines[bool(check.ok)].append(f"{check.unit}: {check.message}")
    return Check(lines[True], lines[False])


class _Found(NamedTuple):
    """What reading a unit gave: bytes read, what is wrong, and a note."""

    num_bytes: int
    fault: str | None = None
    note: str = ""


class _NotCheckedError(Exception):
    """A unit cannot be checked, by no fault of its own."""


def _check(result: OpenResult, unit: Unit) -> UnitCheck:
    began = time.monotonic()
    ok: bool | None
    try:
        found = _CHECKS[unit.kind](result, unit)
        ok, message = found.fault is None, found.fault or found.note
    except (_NotCheckedError, PermissionError, MemoryError) as error:
        found, ok, message = _Found(0), None, _not_checked(error)
    except FileNotFoundError:
        found, ok, message = _Found(0), False, "missing"
    except (ArchiveError, OSError) as error:
        found, ok, message = _Found(0), False, str(error)
    seconds = time.monotonic() - began
    return UnitCheck(str(result.path), _label(result, unit), unit.kind, ok, message, found.num_bytes, seconds)


def _not_checked(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"may not be read ({error.strerror})"
    return "out of memory" if isinstance(error, MemoryError) else str(error)


def _label(result: OpenResult, unit: Unit) -> str:
    if unit.kind in ("decoder", "chunk", "preview"):
        return f"{result.archive_path.name}: {result.describe(unit.name)}"
    return {"archive": f"{unit.name}: header and index", "foreign": "other files"}.get(unit.kind, unit.name)


def _check_manifest(result: OpenResult, unit: Unit) -> _Found:
    size = len((result.path / MANIFEST).read_bytes())
    return _Found(size, note=f"{len(result.manifest['files'])} files")


def _check_foreign(result: OpenResult, unit: Unit) -> _Found:
    names = foreign_names(result.path, result.files)
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return _Found(0, note=f"{len(names)} that the manifest does not list, not checked: {shown}")


def _check_file(result: OpenResult, unit: Unit) -> _Found:
    path, entry = result.path / unit.name, result.files[unit.name]
    fault = _fault_of_content(path, entry)
    return _Found(path.stat().st_size, fault, note=f"{entry['bytes']} bytes, hash as written")


def _check_raw(result: OpenResult, unit: Unit) -> _Found:
    files = result.scan_files()
    if not files:
        raise _NotCheckedError("the manifest does not tell which files the scan had")
    path, entry = files[unit.number]
    if not path.exists():
        raise _NotCheckedError("is not there any more")
    fault = _fault_of_content(path, entry)
    return _Found(path.stat().st_size, fault and f"is not what was reduced: {fault}", "is what was reduced")


def _fault_of_content(path: Path, entry: dict[str, Any]) -> str | None:
    size = path.stat().st_size
    if not path.is_file():
        return "is no file"
    if size != entry["bytes"]:
        return f"{size} bytes, expected {entry['bytes']}"
    return None if file_sha256(path) == entry["sha256"] else "the content has changed (sha256 differs)"


def _check_archive(result: OpenResult, unit: Unit) -> _Found:
    return _Found(0, note=f"{result.archive.format}, {result.archive.header.num_chunks} chunks")


def _check_part(result: OpenResult, unit: Unit) -> _Found:
    check = check_part(result.archive, unit.name)
    if check.fault is not None and unit.kind == "chunk" and result.decoder_fault is not None:
        result.archive.read_part(unit.name)
        raise _NotCheckedError("its stored bytes are whole; needs the decoder, which is missing or damaged")
    return _Found(check.num_bytes, check.fault, "decoded" if unit.kind == "chunk" else "")


_CHECKS: dict[Kind, Callable[[OpenResult, Unit], _Found]] = {
    "manifest": _check_manifest,
    "foreign": _check_foreign,
    "file": _check_file,
    "archive": _check_archive,
    "decoder": _check_part,
    "chunk": _check_part,
    "preview": _check_part,
    "raw": _check_raw,
}
