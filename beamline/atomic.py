"""Files, and folders of files, that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_path", "file_sha256", "remove", "remove_shared", "sync", "temporaries_of", "write_atomically"]

_BLOCK = 8 * 2**20
_WRITER = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.partial|\.partial")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder; what is written there is flushed and renamed to `path` at the end.

    The name is of this writer alone: of several at once, each writes its own, and the last one stays.

    Parameters
    ----------
    path : Path
        Final name; a file of that name is replaced by a file, never a folder that holds something.

    Yields
    ------
    Path
        Temporary name, for a file or a folder; nothing is there, and what killed processes of this machine left for
        the same `path` is removed. If the block raises, what was written is removed and `path` is as before.
    """
    for left in temporaries_of(path):
        if not _may_be_written(left, path):
            remove(left)
    temporary = _new_temporary(path)
    try:
        yield temporary
        for inner in temporary.rglob("*"):
            sync(inner)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        remove(temporary)


def temporaries_of(path: Path) -> list[Path]:
    """Give the temporary files and folders that writers of `path` have, or left when they were killed."""
    start = f".{path.name}"
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(start)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path.with_name(name) for name in names if _WRITER.fullmatch(name, len(start))]


def _new_temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.partial")


def _may_be_written(temporary: Path, path: Path) -> bool:
    """Tell whether the writer of a temporary may still be there; of other machines that is not known."""
    writer = _WRITER.fullmatch(temporary.name, len(path.name) + 1)
    if writer is None or writer[1] is None:
        return False
    if writer[1] != _machine():
        return True
    try:
        os.kill(int(writer[2]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # a process of another user
    return True


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def remove_shared(path: Path) -> None:
    """Remove a folder, if it is there, that others may still write into: they find it gone."""
    aside = _new_temporary(path)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)  # a network disk keeps open files
    else:
        aside.unlink(missing_ok=True)


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
