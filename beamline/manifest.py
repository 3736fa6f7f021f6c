"""The manifest: what a run left, with the hash of each file, and what it was made from. It is written last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from quietbeam.compress.archive import verify_archive
from quietbeam.reconstruction.errors import ArchiveError

from .atomic import file_sha256, write_atomically
from .workspace import ARCHIVE, DISAGREEMENT, MANIFEST, NETWORK, REPORT

__all__ = ["FILES", "FORMAT", "OPTIONAL_FILES", "Check", "read_manifest", "verify_output", "write_manifest"]

FORMAT = "quietbeam-manifest-1"
FILES = (ARCHIVE, NETWORK, REPORT)
"""The files of a result."""
OPTIONAL_FILES = (DISAGREEMENT,)
"""Files that a result has where they were asked for."""


class Check(NamedTuple):
    """What `verify_output` found.

    Attributes
    ----------
    checked : list of str
        One line for each file that is well.
    damaged : list of str
        One line for each fault, naming the smallest unit that is damaged.
    """

    checked: list[str]
    damaged: list[str]


def write_manifest(output: Path, content: dict[str, Any]) -> None:
    """Write the manifest of a finished run.

    Parameters
    ----------
    output : Path
        Output folder, with all other files in place.
    content : dict
        What JSON can hold; the hashes of the files are added here.
    """
    names = (*FILES, *(name for name in OPTIONAL_FILES if (output / name).exists()))
    files = {name: _entry(output / name) for name in names}
    manifest = {"format": FORMAT, "files": files} | content
    write_atomically(output / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False).encode() + b"\n")


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict
        With ``files``, that names all files of a result, ``key`` and ``input``.

    Raises
    ------
    ArchiveError
        If there is none, or it is damaged or of another format.
    """
    try:
        manifest = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ArchiveError(f"{path}: no manifest here; the run has not finished, or this is no output folder") from None
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path}: cannot be read as a manifest ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArchiveError(f"{path}: expected a manifest of format {FORMAT}")
    if not _is_whole(manifest):
        raise ArchiveError(f"{path}: damaged, a part of the manifest is missing")
    return manifest


def _is_whole(manifest: dict[str, Any]) -> bool:
    tables = [manifest.get(name) for name in ("files", "input", "settings", "numbers")]
    if not all(isinstance(table, dict) for table in tables) or not isinstance(manifest.get("key"), str):
        return False
    entries = manifest["files"]
    whole = all(isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in entries.values())
    return whole and set(FILES) <= set(entries) <= {*FILES, *OPTIONAL_FILES}


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
    if path.is_file():
        return _check_archive(path)
    manifest = read_manifest(path / MANIFEST)
    check = Check([], [])
    for name, entry in manifest["files"].items():
        fault = _fault(path / name, entry)
        (check.damaged if fault else check.checked).append(fault or f"{name}: {entry['bytes']} bytes, hash as written")
    archive = _check_archive(path / ARCHIVE) if (path / ARCHIVE).exists() else Check([], [])
    return Check(check.checked + archive.checked, check.damaged + archive.damaged)


def _check_archive(path: Path) -> Check:
    found = verify_archive(path)
    if not found.ok:
        return Check([], [f"{path.name}: {fault}" for fault in found.damaged])
    return Check([f"{path.name}: {found.num_chunks} chunks decoded"], [])


def _fault(path: Path, entry: dict[str, Any]) -> str | None:
    if not path.is_file():
        return f"{path.name}: missing"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{path.name}: {size} bytes, expected {entry['bytes']}"
    return None if file_sha256(path) == entry["sha256"] else f"{path.name}: the content has changed (sha256 differs)"
