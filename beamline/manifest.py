"""The manifest: what a run left, with the hash of each file, and what it was made from. It is written last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quietbeam.reconstruction.errors import ArchiveError

from .atomic import file_sha256, write_atomically
from .workspace import ARCHIVE, DISAGREEMENT, LEARNED_CODEC, MANIFEST, NETWORK, REPORT

__all__ = ["FILES", "FORMAT", "OPTIONAL_FILES", "read_manifest", "what_is_missing", "write_manifest"]

FORMAT = "quietbeam-manifest-1"
FILES = (ARCHIVE, NETWORK, REPORT)
"""The files of a result."""
OPTIONAL_FILES = (DISAGREEMENT, LEARNED_CODEC)
"""Files that a result has where they were asked for."""


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


def what_is_missing(output: Path, files: dict[str, Any]) -> str:
    """Tell which file of a result is not there with its size, without reading any.

    Parameters
    ----------
    output : Path
        Output folder.
    files : dict
        ``files`` of its manifest.

    Returns
    -------
    str
        In words; empty if all are there.
    """
    for name, entry in files.items():
        path = output / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return f"{name} of the result is {'not whole' if path.is_file() else 'missing'}"
    return ""


def _is_whole(manifest: dict[str, Any]) -> bool:
    tables = [manifest.get(name) for name in ("files", "input", "settings", "numbers")]
    if not all(isinstance(table, dict) for table in tables) or not isinstance(manifest.get("key"), str):
        return False
    entries = manifest["files"]
    whole = all(isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in entries.values())
    return whole and set(FILES) <= set(entries) <= {*FILES, *OPTIONAL_FILES}
