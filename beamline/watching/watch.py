"""Watching until told to end: a folder, documents over ZMQ, or a Tiled catalogue; all go to the queue the same way."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from quietbeam.beamline.runs.reference import run_uid
from quietbeam.reconstruction.errors import ScanError

from .folder import FolderWatcher, WatchError
from .intake import Done, Intake
from .targets import take_found
from .undelivered import Undelivered

__all__ = ["watch_catalogue", "watch_documents", "watch_folder", "watch_until_stopped"]

log = logging.getLogger(__name__)

INTERRUPTED = 130
LOOK_SECONDS = 2.0
ASK_SECONDS = 5.0
TICK_SECONDS = 0.5

Say = Callable[[str], None]


def watch_until_stopped(look: Callable[[], object], found: Undelivered | None = None, *, seconds: float) -> int:
    """Look again and again; what cannot be reached is tried again.

    Parameters
    ----------
    look : callable
        Looks once.
    found : Undelivered, optional
        Through which it gives what it finds to the queue.
    seconds : float
        Time between two looks.

    Returns
    -------
    int
        Exit code: 0 after SIGTERM, 130 after Ctrl-C.
    """
    received: list[int] = []
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    complaint = ""
    try:
        while not stopped.is_set():
            complaint = _look(look, complaint)
            if found is not None:
                found.retry()
            stopped.wait(seconds)
        if found is not None:
            found.give_up()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return INTERRUPTED if signal.SIGINT in received else 0


def _look(look: Callable[[], object], complaint: str) -> str:
    """Look once, and tell of what cannot be reached, but not the same again."""
    try:
        look()
    except WatchError as error:
        if str(error) != complaint:
            log.warning("%s; it is tried again", error)
        return str(error)
    return ""


def watch_folder(intake: Intake, watcher: FolderWatcher, say: Say) -> int:
    """Queue each scan that is complete in a folder.

    Parameters
    ----------
    intake : Intake
        Where they go.
    watcher : FolderWatcher
        Finds them.
    say : callable
        Told a line for each.

    Returns
    -------
    int
        Exit code.
    """
    found = Undelivered()

    def take(path: Path) -> None:
        try:
            for name, done in take_found(intake, path):
                _tell(say, name, done)
        except (ScanError, OSError) as error:
            log.warning("%s", error)

    def look() -> None:
        for path, _ in watcher.poll():
            found.deliver(str(path), partial(take, path))

    return watch_until_stopped(look, found, seconds=min(LOOK_SECONDS, max(watcher.settle / 4, 0.1)))


def watch_documents(
    intake: Intake, address: str, say: Say, *, bind: bool = False, allow_remote: bool = False, prefix: bytes = b""
) -> int:
    """Queue each run whose documents come over ZMQ.

    Parameters
    ----------
    intake : Intake
        Where they go.
    address
        See `quietbeam.beamline.watching.zmq_documents.DocumentReceiver`.
    say : callable
        Told a line for each run that ended.
    bind, allow_remote, prefix
        As `address`.

    Returns
    -------
    int
        Exit code.
    """
    from quietbeam.beamline.runs.collector import RunCollector, RunsCollector

    from .zmq_documents import DocumentReceiver

    found = Undelivered()

    def take(reference: dict[str, Any], event: str) -> None:
        done = intake.take_run(reference)
        if event == "stop":
            _tell(say, f"run {run_uid(reference)}", done)

    def tell(run: RunCollector, event: str) -> None:
        found.deliver(f"run {run.uid}", partial(take, run.reference, event))

    collector = RunsCollector(tell)
    with DocumentReceiver(address, collector, prefix=prefix, bind=bind, allow_remote=allow_remote) as receiver:
        say(f"listening to {receiver.address}")
        return watch_until_stopped(lambda: receiver.poll(TICK_SECONDS), found, seconds=0)


def watch_catalogue(intake: Intake, client: Any, say: Say, *, since: float, seconds: float = ASK_SECONDS) -> int:
    """Queue each run that has ended in a Tiled catalogue.

    Parameters
    ----------
    intake : Intake
        Where they go.
    client : tiled client
        Container of runs.
    say : callable
        Told a line for each run.
    since : float
        Runs that ended before are passed over, seconds of the epoch.
    seconds : float
        Time between two questions.

    Returns
    -------
    int
        Exit code.
    """
    from .tiled_runs import TiledWatcher

    found = Undelivered()

    def take(reference: dict[str, Any]) -> None:
        _tell(say, f"run {run_uid(reference)}", intake.take_run(reference))

    def receive(reference: dict[str, Any]) -> None:
        found.deliver(f"run {run_uid(reference)}", partial(take, reference))

    return watch_until_stopped(TiledWatcher(client, receive, since=since).poll, found, seconds=seconds)


def _tell(say: Say, name: str, done: Done) -> None:
    if done.what != "passed over":
        say(f"{name}: {done.what}: {done.why}")
