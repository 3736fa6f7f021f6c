"""Scans found by looking into a folder: once they are complete, and each of them once.

The folder is looked through again and again: notices of the file system do not tell what another host writes over NFS
or GPFS.
"""

from __future__ import annotations

import fcntl
import logging
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from quietbeam.reconstruction.errors import QuietbeamError

__all__ = ["FileState", "FolderWatcher", "WatchError", "why_not_readable"]

log = logging.getLogger(__name__)

HDF5_SUFFIXES = (".h5", ".hdf", ".hdf5", ".nx", ".nxs", ".nexus")
UNFINISHED_SUFFIXES = (".partial", ".part", ".tmp", ".temp")


class WatchError(QuietbeamError):
    """What is to be watched cannot be watched; the text says why and what to do."""


@dataclass(frozen=True)
class FileState:
    """What changes while a file is written, or when another one takes its name."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState | None:
        """Look at a file; None if there is none, as after a rename, or if it is a folder."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_ino, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


@dataclass(frozen=True)
class _Sighting:
    """A file as it was seen, and since when it is so, seconds of the watcher's clock."""

    state: FileState
    since: float
    complaint: str = ""


class FolderWatcher:
    """Finds files that are complete, each of them once and again when it is changed.

    A file is complete when its inode, size and time of change have been the same for `settle` seconds and, if it is
    HDF5, when it can be opened and no writer has it open, as far as HDF5's locks and marks tell. Hidden names and those
    of unfinished files (``.partial``, ``.part``, ``.tmp``, ``.temp``) are passed over.

    Parameters
    ----------
    folder : Path
        Folder to look into.
    pattern : str
        Names, as in `pathlib.Path.glob`: ``*.h5``, or ``**/*.h5`` for all folders below too.
    settle : float
        Seconds without a change. Measured with this host's own clock, so that a file server's may differ.
    since : float, optional
        Files changed before this time (seconds of the epoch) are passed over.
    clock : callable
        Gives seconds that only grow.

    Raises
    ------
    WatchError
        If there is no such folder.
    ValueError
        If the pattern is empty or not one below the folder, or `settle` is negative.
    """

    def __init__(
        self,
        folder: Path,
        pattern: str = "*.h5",
        *,
        settle: float = 10.0,
        since: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not folder.is_dir():
            raise WatchError(f"{folder}: not a folder; name the one that the scans are written to")
        if not pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ValueError(f"expected a pattern of names below the folder, such as *.h5, got {pattern!r}")
        if settle < 0:
            raise ValueError(f"settle must not be negative, got {settle}")
        self.folder, self.pattern, self.settle, self.since = folder, pattern, settle, since
        self._clock = clock
        self._seen: dict[Path, _Sighting] = {}
        self._done: dict[Path, FileState] = {}

    def poll(self) -> list[tuple[Path, FileState]]:
        """Look once.

        Returns
        -------
        list of (Path, FileState)
            Files that have become complete since the last look, the one changed first at the front.

        Raises
        ------
        WatchError
            If the folder is gone.
        """
        now = self._clock()
        present = dict(self._look())
        self._seen = {path: self._sight(path, state, now) for path, state in present.items()}
        self._done = {path: state for path, state in self._done.items() if path in present}
        complete = [(path, state) for path, state in present.items() if self._is_complete(path, now)]
        self._done |= complete
        return sorted(complete, key=lambda item: item[1].mtime_ns)

    def _look(self) -> Iterable[tuple[Path, FileState]]:
        try:
            paths = sorted(self.folder.glob(self.pattern))
            self.folder.stat()
        except OSError as error:
            raise WatchError(f"{self.folder}: cannot be looked into ({error.strerror})") from error
        for path in paths:
            state = None if _is_unfinished(path.relative_to(self.folder)) else FileState.of(path)
            if state and (self.since is None or state.mtime_ns >= self.since * 1e9):
                yield path, state

    def _sight(self, path: Path, state: FileState, now: float) -> _Sighting:
        before = self._seen.get(path)
        return before if before and before.state == state else _Sighting(state, now)

    def _is_complete(self, path: Path, now: float) -> bool:
        sighting = self._seen[path]
        if self._done.get(path) == sighting.state or now - sighting.since < self.settle or not sighting.state.size:
            return False
        complaint = why_not_readable(path)
        if complaint and complaint != sighting.complaint:
            log.warning("%s: unchanged for %g s, yet not taken: %s", path, now - sighting.since, complaint)
        self._seen[path] = _Sighting(sighting.state, sighting.since, complaint)
        return not complaint and FileState.of(path) == sighting.state


def _is_unfinished(name: Path) -> bool:
    hidden = any(part.startswith(".") for part in name.parts)
    return hidden or name.suffix.lower() in UNFINISHED_SUFFIXES


def why_not_readable(path: Path) -> str:
    """Tell why a file cannot be taken yet.

    Parameters
    ----------
    path : Path
        A file; of one without a suffix of HDF5 nothing is asked.

    Returns
    -------
    str
        Empty if there is no reason: HDF5 opens it, it is whole, and no writer has marked or locked it.
    """
    if path.suffix.lower() not in HDF5_SUFFIXES:
        return ""
    import h5py

    try:
        if _is_locked(path):
            return "a writer has locked it"
        # Without SWMR: with it, a file that is still open for writing would be opened as well.
        with h5py.File(path, "r", locking=False):
            return ""
    except OSError as error:
        return str(error)


def _is_locked(path: Path) -> bool:
    """Tell whether a writer holds the lock that HDF5 takes; a reader's is no obstacle.

    HDF5 would hold its own lock for as long as it has the file open, and a writer that comes in that time would fail.
    This one is given back at once.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_UN)
    return False
