"""Where submissions go: a database with spools behind it, or a spool alone."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .disks import file_system
from .places import is_own, rescue_folders, spool_folder, user_and_host
from .queue import JobQueue, JobRow, QueueError
from .request import Submission
from .spool import Spool

__all__ = ["SUBMIT_TIMEOUT", "Delivery", "Destination", "open_queue"]

logger = logging.getLogger(__name__)

SUBMIT_TIMEOUT = 0.25
"""Seconds that the hook waits for the database, before a submission goes to the spool."""
_TIMEOUT = 5.0
_LOOK_EVERY = 30.0
_CANNOT = (QueueError, OSError, sqlite3.Error, OverflowError, ValueError)
"""What the database says of what it cannot take; numbers too large for it are among them."""


@dataclass(frozen=True)
class Delivery:
    """What became of a submission.

    Attributes
    ----------
    job : JobRow or None
        The new job in the database; None if its key was there already, if it is no job, or if it went to a spool.
    spooled : Path or None
        Its file, if it went to a spool.
    problem : str
        Why it went to another place than was meant; empty if it did not. The same for the same trouble.
    waits : str
        Then: where it waits, and for whom.
    """

    job: JobRow | None = None
    spooled: Path | None = None
    problem: str = ""
    waits: str = ""


class Destination:
    """Where submissions go. Nothing is opened before the first one, so that making it never fails.

    Parameters
    ----------
    queue : Path, str or JobQueue
        A database; or a spool: a folder that is there, or a path that ends with ``/`` or ``.spool``.
    timeout : float
        Seconds to wait for a database given by its path.
    disk : callable
        Tells the type of file system of a path.

    Attributes
    ----------
    path : Path
        The database, or the spool's folder.
    is_spool : bool
        Whether there is no database.
    is_plain_folder : bool
        Whether it is a spool only because a folder lies there: the name does not say so.
    """

    def __init__(
        self,
        queue: Path | str | JobQueue,
        *,
        timeout: float = _TIMEOUT,
        disk: Callable[[Path], str] = file_system,
    ) -> None:
        self._queue = queue if isinstance(queue, JobQueue) else None
        self._timeout, self._disk = timeout, disk
        self.path = Path(os.fspath(queue)).absolute()
        named = os.fspath(queue).endswith("/") or self.path.suffix == ".spool"
        is_folder = os.path.isdir(self.path)  # noqa: PTH112 - Path.is_dir raises where it may not look
        self.is_spool = self._queue is None and (named or is_folder)
        self.is_plain_folder = self.is_spool and not named
        self._next_look = 0.0
        self._rescue: dict[Path, Spool] = {}

    def check(self) -> None:
        """Say now what is wrong with the database or the spool's folder, without waiting for the first submission.

        Raises
        ------
        QueueError
            What is wrong, and what to do.
        """
        if not self.is_spool:
            self.queue()
        elif not os.access(self.path if self.path.exists() else self.path.parent, os.W_OK | os.X_OK):
            raise QueueError(
                f"{self.path}: the spool cannot be written; make its folder and give write permission for it"
            )

    def queue(self) -> JobQueue:
        """Give the database, opened at the first call.

        Raises
        ------
        QueueError
            If there is none, or it cannot be opened.
        """
        if self.is_spool:
            raise QueueError(f"{self.path}: is a spool, which only takes jobs; give the worker's database to see them")
        if self._queue is None:
            self._queue = JobQueue(self.path, timeout=self._timeout, disk=self._disk)
        return self._queue

    def deliver(self, submission: Submission, *, log: bool = True) -> Delivery:
        """Take a submission to the database; if that cannot take it to the spool beside it; else to one of the user's.

        What waits in those of the user is taken along once one of the others is reached; see `take_rescued`.

        Parameters
        ----------
        submission : Submission
            What to deliver.
        log : bool
            Log a problem; False for who does so.

        Raises
        ------
        QueueError
            If nothing could take it; the text names each place that was tried.
        """
        delivery = self._deliver(submission)
        if delivery.problem and log:
            logger.warning("%s; %s %s", delivery.problem, submission.name, delivery.waits)
        if delivery.spooled and delivery.spooled.parent != self._beside:
            self._next_look = 0.0  # there is something now: taken along by the next one that gets through
        else:
            self.take_rescued()
        return delivery

    def take_rescued(self) -> int:
        """Take what this user's sessions on this machine had to leave in the user's own spools to where it belongs.

        A worker of another user does not look there. Looks once in 30 s; never raises: what cannot be taken stays.

        Returns
        -------
        int
            How many were taken.
        """
        now = time.monotonic()
        if now < self._next_look:
            return 0
        self._next_look, taken = now + _LOOK_EVERY, 0
        try:
            for spool in self._rescue_spools():
                taken += self._bring(spool)
        except (*_CANNOT, RuntimeError) as error:  # RuntimeError: links in a circle
            logger.debug("%s: what waits in the user's spools stays there: %s", self.path, error)
        return taken

    def _deliver(self, submission: Submission) -> Delivery:
        problems: list[str] = []
        if not self.is_spool:
            try:
                return Delivery(self.queue().put(submission))
            except _CANNOT as error:
                known = isinstance(error, QueueError | OSError)
                problems.append(str(error) if known else f"{self.path}: {type(error).__name__}: {error}")
        return self._spool(submission, problems)

    def close(self) -> None:
        """Close the database, if it was opened; used again, it is opened again."""
        if self._queue is not None:
            self._queue.close()

    @property
    def _beside(self) -> Path:
        return self.path if self.is_spool else spool_folder(self.path)

    def _rescue_spools(self) -> Iterator[Spool]:
        for folder in filter(is_own, rescue_folders(self._beside)):
            yield self._rescue.setdefault(folder, Spool(folder))

    def _bring(self, spool: Spool) -> int:
        taken, to_database = 0, not self.is_spool
        for spooled in spool.take():
            to_database = to_database and self._put(spooled.submission)
            if not to_database:
                Spool(self._beside).write(spooled.submission)
            taken += 1
            try:
                spooled.remove()
            except OSError as error:
                spool.keep(spooled.path, error)
        if taken:
            logger.info("%s: took %d submissions that waited in %s", self.path, taken, spool.folder)
        return taken

    def _put(self, submission: Submission) -> bool:
        try:
            self.queue().put(submission)
        except _CANNOT:
            return False
        return True

    def _spool(self, submission: Submission, problems: list[str]) -> Delivery:
        beside = self._beside
        for folder in (beside, *rescue_folders(beside)):
            try:
                if folder != beside:
                    _make_private(folder.parent)
                path = Spool(folder).write(submission)
            except OSError as error:
                problems.append(f"{folder}: {error.strerror or error}")  # without the name of the file: see `problem`
                continue
            who = "a worker" if folder == beside else f"a worker or a later session of {user_and_host()}"
            waits = f"waits in {path} until {who} takes it"
            return Delivery(spooled=path, problem="; ".join(problems), waits=waits if problems else "")
        raise QueueError(f"{submission.name} could not be submitted anywhere: {'; '.join(problems)}")


def open_queue(queue: Path | str | JobQueue | Destination, *, timeout: float = _TIMEOUT) -> Destination:
    """Give the place where submissions go.

    Parameters
    ----------
    queue : Path, str, JobQueue or Destination
        See `Destination`.
    timeout : float
        Seconds to wait for a database given by its path.
    """
    return queue if isinstance(queue, Destination) else Destination(queue, timeout=timeout)


def _make_private(folder: Path) -> None:
    """Make a folder of this user alone; one that somebody else put there is refused."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_own(folder):
        raise PermissionError(f"{folder} belongs to another user")
