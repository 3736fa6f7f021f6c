"""Where submissions go: a database with spools behind it, or a spool alone."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .disks import file_system
from .places import is_own, rescue_folders, spool_folder
from .queue import JobQueue, JobRow, QueueError
from .request import Submission
from .spool import Spool

__all__ = ["SUBMIT_TIMEOUT", "Delivery", "Destination", "open_queue"]

logger = logging.getLogger(__name__)

SUBMIT_TIMEOUT = 0.25
"""Seconds that the hook waits for the database, before a submission goes to the spool."""
_TIMEOUT = 5.0
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
        Why it went to another place than was meant; empty if it did not.
    """

    job: JobRow | None = None
    spooled: Path | None = None
    problem: str = ""


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
        self.is_spool = self._queue is None and (
            os.fspath(queue).endswith("/") or self.path.suffix == ".spool" or os.path.isdir(self.path)  # noqa: PTH112
        )  # Path.is_dir raises where it may not look

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

    def deliver(self, submission: Submission) -> Delivery:
        """Take a submission to the database; if that cannot take it to the spool beside it; else to one of the user's.

        Raises
        ------
        QueueError
            If nothing could take it; the text names each place that was tried.
        """
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

    def _spool(self, submission: Submission, problems: list[str]) -> Delivery:
        beside = self.path if self.is_spool else spool_folder(self.path)
        for folder in (beside, *rescue_folders(beside)):
            try:
                if folder != beside:
                    _make_private(folder.parent)
                path = Spool(folder).write(submission)
            except OSError as error:
                problems.append(f"{folder}: {error}")
                continue
            problem = "; ".join(problems)
            if problem:
                logger.warning("%s; %s waits in %s until a worker takes it", problem, submission.name, path)
            return Delivery(spooled=path, problem=problem)
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
