"""Runs that no hook and no watcher submitted: found afterwards, in a catalogue, in a folder of documents, in the queue.

The queue itself knows runs that began and were never told to end, as when the RunEngine's process was killed.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from quietbeam.beamline.runs.loading import load_runs
from quietbeam.beamline.runs.local_files import local_file
from quietbeam.beamline.runs.reference import counted_frames, planned_frames, run_uid
from quietbeam.reconstruction.errors import ScanError

from .folder import WatchError
from .intake import Choice, Done, Intake

__all__ = ["Caught", "catch_up", "parse_since"]

log = logging.getLogger(__name__)

Reference = dict[str, Any]
PathMap = Sequence[tuple[str, str]]

QUIET_SECONDS = 300.0
"""A run without a stop document that did not change for so long is taken to be cut off."""

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


@dataclass(frozen=True)
class Caught:
    """A run that was found, and what was done with it.

    Attributes
    ----------
    name : str
        For people.
    done : Done or None
        What was done; None if the run could not be read.
    problem : str
        Why it could not be read.
    """

    name: str
    done: Done | None
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.done.what}: {self.done.why}" if self.done else f"{self.name}: {self.problem}"


def parse_since(text: str, *, now: float | None = None) -> float:
    """Read a time in the past.

    Parameters
    ----------
    text : str
        ``30min``, ``2h``, ``3d``, ``1w``: so long ago; or a date, ``2026-11-01`` or ``2026-11-01T09:30``, local time
        unless it names another.
    now : float, optional
        Seconds of the epoch.

    Returns
    -------
    float
        Seconds of the epoch.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if ago := re.fullmatch(r"(\d+(?:\.\d*)?)\s*(s|min|h|d|w)", text.strip()):
        return (time.time() if now is None else now) - float(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except ValueError:
        raise ValueError(f"expected a time such as 2h, 30min, 3d or 2026-11-01, got {text!r}") from None


def catch_up(
    intake: Intake,
    *,
    since: float,
    tiled: Any = None,
    documents: Path | None = None,
    quiet: float = QUIET_SECONDS,
    path_map: PathMap = (),
    now: Callable[[], float] = time.time,
) -> Iterator[Caught]:
    """Submit runs that have no job; asked again, it does nothing more.

    Parameters
    ----------
    intake : Intake
        Where they go.
    since : float
        Runs that began before are passed over, seconds of the epoch.
    tiled : tiled client, optional
        Container of runs.
    documents : Path, optional
        Folder of runs' documents as JSON lines, ``*.jsonl``.
    quiet : float
        A run without a stop document that changed within so many seconds is still being written.
    path_map : sequence of (str, str)
        Where the runs' files lie here; see `quietbeam.beamline.runs.local_files.local_file`.
    now : callable
        The clock, seconds of the epoch.

    Yields
    ------
    Caught
        For each run without a job that is of tomography, those that began first at the front.

    Raises
    ------
    QueueError
        If nothing could take a run.
    ScanError
        If there is no such folder of documents.
    WatchError
        If the catalogue does not answer. A single run that it does not give is told, and the others are taken.
    """
    finds = _Finds(intake, since)
    if tiled is not None:
        finds.look_into_catalogue(tiled)
    if documents is not None:
        finds.look_into_folder(documents)
    finds.look_into_queue()
    yield from finds.problems
    for reference in sorted(finds.runs.values(), key=_began):
        counted = reference if reference["stop"] else _as_in_files(reference, path_map)
        is_vague = run_uid(reference) in finds.vague and counted is reference
        done = intake.take_run(counted, partial(_revise, counted, path_map, now() - quiet, is_vague))
        if done.what != "passed over":
            yield Caught(_name(reference), done)


class _Finds:
    """Runs without a job, each with the most that is known of it."""

    def __init__(self, intake: Intake, since: float) -> None:
        self.runs: dict[str, Reference] = {}
        self.vague: set[str] = set()
        self.problems: list[Caught] = []
        self._intake, self._since = intake, since

    def look_into_catalogue(self, client: Any) -> None:
        from .tiled_runs import uids_since

        for uid in uids_since(client, self._since, key="start.time"):
            if not self._intake.known_job(uid):
                self._try(uid, partial(_one, client, uid))

    def look_into_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ScanError(f"{folder}: no such folder of documents")
        for path in sorted(folder.glob("*.jsonl")):
            if path.stat().st_mtime >= self._since:
                self._try(str(path), partial(load_runs, path))

    def look_into_queue(self) -> None:
        if not self._intake.queue.is_spool:
            for reference in self._intake.queue.queue().open_runs(since=self._since):
                self._add(reference, is_vague=True)

    def _try(self, name: str, read: Callable[[], list[Reference]]) -> None:
        try:
            references = read()
        except (ScanError, WatchError) as error:
            self.problems.append(Caught(name, None, str(error)))
        else:
            for reference in references:
                self._add(reference)

    def _add(self, reference: Reference, *, is_vague: bool = False) -> None:
        uid = run_uid(reference)
        if _began(reference) < self._since or self._intake.known_job(uid):
            return
        if uid not in self.runs or _completeness(reference) > _completeness(self.runs[uid]):
            self.runs[uid] = reference
            (self.vague.add if is_vague else self.vague.discard)(uid)


def _completeness(reference: Reference) -> tuple[bool, int]:
    return reference["stop"] is not None, sum(counted_frames(reference).values())


def _one(client: Any, uid: str) -> list[Reference]:
    from .tiled_runs import reference_of_run

    return [reference_of_run(client, uid)]


def _revise(reference: Reference, path_map: PathMap, at_rest_since: float, is_vague: bool, choice: Choice) -> Choice:
    """Take a run without a stop document too, if it is at rest and has all its projections.

    The hook tells the queue of the first data of a stream, and then of the end: what is only in the queue `is_vague`,
    unless the files can be looked into from here.
    """
    if reference["stop"] is not None or choice.use == "ignore":
        return choice
    if _last_change(reference, path_map) > at_rest_since:
        return Choice("remember", "still being written")
    counted, planned = counted_frames(reference)["projections"], planned_frames(reference)
    if planned is not None and counted >= planned:
        return Choice("job", "cut off after its last projection")
    taken = f"{counted} of {planned} projections" if planned else f"{counted} projections"
    if is_vague:
        return Choice("remember", f"cut off; the queue only knows of {taken}, --tiled or --documents may tell of more")
    return Choice("remember", f"cut off after {taken}; quietbeam submit {run_uid(reference)} takes it")


def _as_in_files(reference: Reference, path_map: PathMap) -> Reference:
    """Count what came after the last document in the files; the same reference if they cannot be seen from here."""
    from quietbeam.beamline.runs.open_runs import count_in_files
    from quietbeam.beamline.runs.ready_files import ReadyFiles

    try:
        return count_in_files(reference, ReadyFiles(path_map, (), 0.0))
    except (ScanError, OSError):
        return reference


def _last_change(reference: Reference, path_map: PathMap) -> float:
    """Tell when a run changed last: its events, and its files as far as they are seen from here."""
    times = [_began(reference)]
    for stream in reference["streams"]:
        times += [float(stream["time"]), *map(float, stream["times"][-1:])]
        times += [_changed(resource["uri"], path_map) for resource in stream["resources"]]
    return max(times)


def _changed(uri: str, path_map: PathMap) -> float:
    try:
        return local_file(uri, path_map).stat().st_mtime
    except (OSError, ValueError, ScanError):
        return 0.0


def _began(reference: Reference) -> float:
    began = reference["start"].get("time")
    return float(began) if isinstance(began, int | float) else 0.0


def _name(reference: Reference) -> str:
    number, uid = reference["start"].get("scan_id"), run_uid(reference)[:8]
    return f"run {uid}" if number is None else f"scan {number} ({uid})"
