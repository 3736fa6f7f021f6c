"""What has been made of a result: ``published.json``, with size and hash of each file or folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quietbeam.beamline.atomic import file_sha256, write_atomically

__all__ = ["FOLDER", "RECORD", "describe", "is_intact", "read_record", "write_record"]

FOLDER, RECORD = "published", "published.json"
FORMAT = "quietbeam-published-1"


def read_record(folder: Path, key: str) -> dict[str, Any]:
    """Read what is said to have been made; nothing if there is no record, or one of another result.

    Parameters
    ----------
    folder : Path
        Where the files are.
    key : str
        Of the result.

    Returns
    -------
    dict
        Name to what `describe` gave.
    """
    try:
        record = json.loads((folder / RECORD).read_text())
        return dict(record["files"]) if (record["format"], record["key"]) == (FORMAT, key) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_record(folder: Path, key: str, manifest_key: str, files: dict[str, Any]) -> None:
    """Note what is whole; to be written after the files.

    Parameters
    ----------
    folder : Path
        Where the files are.
    key, manifest_key : str
        Of all that the files hold, and of the result that they were made from.
    files : dict
        Name to what `describe` gave.
    """
    record = {"format": FORMAT, "key": key, "manifest_key": manifest_key, "formats": sorted(files), "files": files}
    write_atomically(folder / RECORD, json.dumps(record, indent=1).encode() + b"\n")


def describe(path: Path) -> dict[str, Any]:
    """Describe a file, or a folder by all that is in it.

    Parameters
    ----------
    path : Path
        What was made.

    Returns
    -------
    dict
        ``name``, ``bytes``, ``sha256``; of a folder, ``num_files``, and the hash is over the names and hashes of its
        files. ``seen`` is a hash of names, sizes and times of change, by which an untouched file is known quickly.
    """
    entry = {"name": path.name, "bytes": sum(file.stat().st_size for file in _files(path)), "sha256": _digest(path)}
    return entry | ({"num_files": sum(1 for _ in _files(path))} if path.is_dir() else {}) | {"seen": _seen(path)}


def is_intact(path: Path, entry: object) -> bool:
    """Tell whether a file or folder is as it was described; its content is read only where it may have changed."""
    if not isinstance(entry, dict) or not path.exists():
        return False
    return entry.get("seen") == _seen(path) or entry.get("sha256") == _digest(path)


def _files(path: Path) -> Iterator[Path]:
    yield from sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else (path,)


def _digest(path: Path) -> str:
    if path.is_file():
        return file_sha256(path)
    lines = (f"{file.relative_to(path).as_posix()}\0{file_sha256(file)}\n" for file in _files(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _seen(path: Path) -> str:
    stats = ((file.relative_to(path).as_posix(), file.stat()) for file in _files(path))
    lines = (f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n" for name, stat in stats)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
