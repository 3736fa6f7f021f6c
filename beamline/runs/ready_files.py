"""Waiting for the files of a run: documents may arrive before the detector's writer has written all, or closed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import h5py

from quietbeam.beamline.hdf5_links import Place, locate, open_hdf5, open_unlocked
from quietbeam.reconstruction.caveats import Caveat
from quietbeam.reconstruction.errors import NotReadyError, ScanError

from .local_files import local_file

__all__ = ["Need", "ReadyFiles"]

_POLL_SECONDS = 0.2
# A file that has not changed for so long is not being written, as far as one can tell without taking a lock on it.
_SETTLED_SECONDS = 10.0


class Need(NamedTuple):
    """What must be in a file: so many indices of a dataset, each of so many frames, or numbers (no pixel dimensions).

    Any file with content will do where there is no `dataset`.
    """

    uri: str
    dataset: str | None
    stop: int
    per_index: int = 1
    pixel_dimensions: int = 2


class _Look(NamedTuple):
    """What one look at a file showed: its state, how many indices the dataset has, and size and time of change."""

    state: Literal["missing", "unreadable", "open", "closed"]
    length: int = 0
    signature: tuple[int, int] = (0, 0)
    reason: str = ""


@dataclass
class ReadyFiles:
    """The files of a run, waited for together.

    Parameters
    ----------
    path_map : sequence of (str, str)
        As of `local_file`.
    roots : tuple of Path
        Folders that links in the files may lead to.
    seconds : float
        How long to wait at most for all of them, from the first wait on.
    """

    path_map: Sequence[tuple[str, str]]
    roots: tuple[Path, ...]
    seconds: float
    _still_open: dict[Path, None] = field(default_factory=dict, init=False)
    _settled: set[Path] = field(default_factory=set, init=False)
    _deadline: float | None = field(default=None, init=False)

    def local(self, uri: str) -> Path:
        """Path of a file here, waited for until it is there.

        Raises
        ------
        NotReadyError
            If it does not come.
        """
        path = local_file(uri, self.path_map)
        # A folder may come late, too, but where not even the one above it is known, the path is wrong.
        if path.parent.parent.exists():
            self._wait_until(lambda: local_file(uri, self.path_map).exists())
            path = local_file(uri, self.path_map)
        if not path.exists():
            raise NotReadyError(
                f"{uri} is not here: {path} does not exist; bring the file, or tell where its folder lies with "
                f'--set scan.path_map=\'[["{path.parent}", "/the/folder/here"]]\''
            )
        return path

    def wait(self, needs: Iterable[Need], *, all_needed: bool = True) -> None:
        """Wait until everything is in the files, and the files are closed.

        A writer that keeps its file open beyond the time is put up with, if all is there.

        Parameters
        ----------
        needs : iterable of Need
            What to wait for.
        all_needed : bool
            False: too little is put up with, too, when the time is over.

        Raises
        ------
        NotReadyError
            If a file does not come, cannot be opened, or holds too little when the time is over.
        """
        for need, look in self._look_until_ready(list(needs)):
            path = local_file(need.uri, self.path_map)
            if look.state == "unreadable":
                raise NotReadyError(
                    f"{path} cannot be read after waiting {self.seconds:g} s (scan.wait_seconds): {look.reason}; is "
                    "its writer still at work, or was it killed?"
                )
            if all_needed and look.length < need.stop:
                raise NotReadyError(
                    f"{path}:{need.dataset} has {look.length * need.per_index} of {need.stop * need.per_index} frames "
                    f"after waiting {self.seconds:g} s (scan.wait_seconds); is the detector still writing, or was the "
                    "disk full?"
                )
            if look.state == "open":
                self._still_open[path] = None

    def _look_until_ready(self, needs: list[Need]) -> list[tuple[Need, _Look]]:
        """Look at all files again and again, but not at those that are ready."""
        paths = [self.local(need.uri) for need in needs]
        looks = [_Look("missing")] * len(needs)
        pending = list(range(len(needs)))

        def is_ready() -> bool:
            for k in pending.copy():
                before, looks[k] = looks[k], _look(paths[k], needs[k], self.roots)
                if looks[k].length >= needs[k].stop and self._is_settled(paths[k], before, looks[k]):
                    pending.remove(k)
            return not pending

        self._wait_until(is_ready)
        return list(zip(needs, looks, strict=True))

    def _is_settled(self, path: Path, before: _Look, now: _Look) -> bool:
        """Tell whether a file is closed, and did not change since the look before, or for a long time."""
        if now.state == "closed" and path not in self._settled:
            same = before.state == "closed" and before.signature == now.signature
            if same or time.time() - now.signature[1] / 1e9 > _SETTLED_SECONDS:
                self._settled.add(path)
        return path in self._settled

    def _wait_until(self, is_ready: Callable[[], bool]) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + self.seconds
        while not is_ready():
            left = self._deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(_POLL_SECONDS, left))

    def count(self, need: Need) -> int:
        """Count the indices of a dataset, however many there should be; 0 if the file cannot be read.

        Raises
        ------
        NotReadyError
            If the file does not come.
        """
        return _look(self.local(need.uri), need, self.roots).length

    def caveats(self) -> tuple[Caveat, ...]:
        """Tell of files that were not closed in time."""
        if not self._still_open:
            return ()
        names = ", ".join(path.name for path in self._still_open)
        message = (
            f"{names} was still open for writing after {self.seconds:g} s (scan.wait_seconds); all frames are there "
            "and were taken, but the file will change when it is closed"
        )
        return (Caveat("file-still-open", message),)


def _look(path: Path, need: Need, roots: tuple[Path, ...]) -> _Look:
    """Look at a file without a lock, which could hinder its writer."""
    try:
        stat = path.stat()
        signature = (stat.st_size, stat.st_mtime_ns)
        if need.dataset is None:
            return _Look("closed", need.stop if stat.st_size else 0, signature)
        with open_unlocked(path) as file:
            is_open = file.swmr_mode
        return _Look("open" if is_open else "closed", _num_indices(path, need, roots), signature)
    except FileNotFoundError:
        return _Look("missing")
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, ScanError) as error:
        return _Look("unreadable", reason=" ".join(str(error).split()))


def _num_indices(path: Path, need: Need, roots: tuple[Path, ...]) -> int:
    """Count the indices in a dataset, whose frames may have a dimension of their own or simply follow each other."""
    place = locate(Place(path, need.dataset or "/"), roots)
    if place is None:
        raise ScanError(f"it has no dataset {need.dataset}")
    with open_hdf5(place.path) as file:
        found = file[place.inner]
        shape: tuple[int, ...] | None = found.shape if isinstance(found, h5py.Dataset) else None
    if shape is None or len(shape) < need.pixel_dimensions:
        raise ScanError(f"{need.dataset} has shape {shape}, expected at least {need.pixel_dimensions} dimensions")
    return math.prod(shape[: len(shape) - need.pixel_dimensions]) // need.per_index
