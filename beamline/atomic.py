"""Files, and folders of files, that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_path", "file_sha256", "remove", "sync", "write_atomically"]

_BLOCK = 8 * 2**20


@contextmanager
def atomic_path(path: Path, writer: str = "") -> Iterator[Path]:
    """Give a temporary name in the same folder; what is written there is flushed and renamed to `path` at the end.

    Parameters
    ----------
    path : Path
        Final name; a file of that name is replaced by a file, never a folder that holds something.
    writer : str
        Tells apart those that may write the same at once. What a killed one leaves is then for others to remove.

    Yields
    ------
    Path
        Temporary name, for a file or a folder; nothing is there, also if a killed process had left something. If the
        block raises, what was written is removed and `path` is as before.
    """
    temporary = path.with_name(f".{path.name}.{writer}.partial" if writer else f".{path.name}.partial")
    remove(temporary)
    try:
        yield temporary
        for inner in temporary.rglob("*"):
            sync(inner)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there; of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all.

    Parameters
    ----------
    path : Path
        Final name.
    content : bytes
        What it shall hold.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Hash a file's content, in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
