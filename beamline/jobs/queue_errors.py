"""What is wrong with the queue's file, in words."""

from __future__ import annotations

import sqlite3
from pathlib import Path

__all__ = ["explanation", "is_busy"]


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another process or thread holds a lock."""
    return _error_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def explanation(path: Path, error: sqlite3.Error, timeout: float) -> str:
    """Say what happened to the queue's file and what to do.

    Parameters
    ----------
    path : Path
        The file.
    error : sqlite3.Error
        What SQLite said.
    timeout : float
        Seconds that were waited for a lock.
    """
    name = _error_name(error)
    damaged = (
        "the queue's file is damaged; move it away together with its -wal and -shm files: a new one is made. Finished "
        f"results and what lies in {path}.spool are not lost; `quietbeam catch-up` finds the scans that were queued"
    )
    locked = f"the queue has been locked by another for more than {timeout:g} s; try again, or end that process"
    what_to_do = {
        "SQLITE_BUSY": locked,
        "SQLITE_LOCKED": locked,
        "SQLITE_FULL": f"no space left for the queue; free some on the disk of {path.parent}",
        "SQLITE_READONLY": f"the queue may not be written; give write permission for {path} and its folder",
        "SQLITE_CANTOPEN": f"the queue cannot be opened; make {path.parent} and give write permission for it",
        "SQLITE_IOERR": f"the disk of the queue fails or is full; look after the disk of {path.parent}",
        "SQLITE_CORRUPT": damaged,
        "SQLITE_NOTADB": damaged,
    }
    family = "_".join(name.split("_")[:2])
    return f"{path}: {what_to_do.get(family, 'the queue cannot be used')} ({name or type(error).__name__}: {error})"


def _error_name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
