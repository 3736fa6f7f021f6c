"""The durable queue: one SQLite file that holds every job and the last known reference of every run."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from quietbeam.reconstruction.errors import QueueError, UnknownJobError

from . import known_runs, leases
from .database import Database
from .disks import file_system, is_network_disk
from .finding import find_job
from .job_rows import DONE, STATES, JobRow, insert_job, job_row
from .places import is_own, rescue_folders, spool_folder
from .request import Submission, json_text, storable
from .spool import Spool

__all__ = ["JobQueue", "JobRow", "QueueError", "UnknownJobError"]

logger = logging.getLogger(__name__)


class JobQueue:
    """Jobs that survive crashes of whoever submits and whoever works; many processes may use one at once.

    Nothing is ever removed, so that a scan that is told again is known. Several threads may use it, also after a fork.

    Parameters
    ----------
    path : Path or str
        The file, on a local disk; made if it is not there (its folder too, if the one above is there).
    timeout : float
        Seconds to wait for another process that writes.
    max_attempts : int
        How often a job submitted here is begun before it fails.
    now : callable
        The clock: seconds since 1970.
    disk : callable
        Tells the type of file system of a path.

    Attributes
    ----------
    path : Path
        The file.
    spool : Spool
        The folder of `path` with ``.spool`` behind it, where submissions wait that the database could not take.

    Raises
    ------
    QueueError
        If the disk is a network disk, or the file cannot be opened, is damaged, newer, or something else. Any method
        raises it too when the file cannot be used.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        timeout: float = 5.0,
        max_attempts: int = 3,
        now: Callable[[], float] = time.time,
        disk: Callable[[Path], str] = file_system,
    ) -> None:
        if max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {max_attempts}")
        self.path = Path(path).absolute()
        self.spool = Spool(spool_folder(self.path))
        self.max_attempts, self.now = max_attempts, now
        _check_disk(self.path, disk(self.path))
        self._database = Database(self.path, timeout)
        self._late = leases.LateLeases()

    def put(self, submission: Submission) -> JobRow | None:
        """Take a submission; when this returns it is on the disk.

        The run's reference is kept if it is more complete than what was known; a queued job takes it.

        Returns
        -------
        JobRow or None
            The new job; None if its key is there already, whatever became of that job, or if it is no job.
        """
        now = self.now()
        with self._database.transaction() as connection:
            if submission.run is not None:
                known_runs.remember_run(connection, submission.run, now)
            key = storable(submission.key)
            is_known = connection.execute("SELECT 1 FROM jobs WHERE key = ?", (key,)).fetchone()
            if is_known or not submission.is_job:
                return None
            return insert_job(connection, submission, self.max_attempts, now)

    def ingest(self, *spools: Spool) -> int:
        """Take what waits in the own spool, in those where `submit` leaves what this one could not take, and in others.

        A file is removed after its submission is on the disk: killed between the two, it is taken again, to no effect.

        Returns
        -------
        int
            How many files were taken.
        """
        taken = 0
        for spool in (self.spool, *spools):
            rescue = filter(is_own, rescue_folders(spool.folder))
            for place in (spool, *map(Spool, rescue)):
                taken += self._ingest(place)
        return taken

    def claim(self, worker: str, *, lease: float = 60.0, device: str = "") -> JobRow | None:
        """Give out the next job to one worker only: highest priority first, then in order.

        A job whose lease ran out is given out again, or has failed if its attempts are used up. Where its worker's
        process lives on this machine it gets another `lease` seconds: the clock may have been set.

        Parameters
        ----------
        worker : str
            Who asks, as `leases.this_worker` names it.
        lease : float
            Seconds that the job is kept for it; `beat` makes it longer.
        device : str
            What it works on, for people.
        """
        return leases.claim(self._database, self._late, worker, lease=lease, device=device, now=self.now())

    def beat(self, job: JobRow, *, lease: float = 60.0, progress: str = "") -> bool:
        """Keep a job for another `lease` seconds and say how far it is; False: cancelled or given to another, stop."""
        return leases.beat(self._database, job, lease=lease, progress=progress, now=self.now())

    def finish(self, job: JobRow, result: Mapping[str, object], *, state: str = "done") -> bool:
        """Hand in the result: the job is ``done`` or ``done_unpublished``; False: it was no longer the caller's."""
        if state not in DONE:
            raise ValueError(f"a job finishes as {' or '.join(DONE)}, got {state!r}")
        return leases.finish(self._database, job, result, state, self.now())

    def fail(self, job: JobRow, reason: str, *, retry_after: float | None = None) -> str:
        """Say why an attempt failed.

        Parameters
        ----------
        job : JobRow
            As `claim` gave it.
        reason : str
            For people.
        retry_after : float or None
            Seconds until it may be begun again, if attempts are left; None: it has failed for good.

        Returns
        -------
        str
            The job's state now: ``failed`` or ``queued``, or what others made of it if it was no longer the caller's.
        """
        return leases.fail(self._database, job, reason, retry_after, self.now())

    def postpone(self, job: JobRow, reason: str, *, seconds: float) -> None:
        """Put a job of the caller's back into the queue for `seconds`; the attempt does not count."""
        leases.postpone(self._database, job, reason, seconds=seconds, now=self.now())

    def release_dead(self, host: str) -> int:
        """Put back the jobs of workers on this host whose process is gone, without waiting for their leases.

        Parameters
        ----------
        host : str
            `socket.gethostname` of this machine; process numbers of another one, or of a container, mean nothing here.

        Returns
        -------
        int
            How many jobs.
        """
        return leases.release_dead(self._database, host, self.now())

    def revise(
        self, which: int | str, *, priority: int | None = None, settings: Mapping[str, object] | None = None
    ) -> JobRow:
        """Give a job that waits another priority, or settings of a person's in place of its own.

        Raises
        ------
        QueueError
            If it does not wait any more, and others than its own are asked for.
        ValueError
            If the priority is out of bounds.
        """
        job = self.find(which)
        asked = replace(
            job.submission,
            priority=job.priority if priority is None else priority,
            settings=job.submission.settings if settings is None else json.loads(json_text(dict(settings))),
        )
        if asked == job.submission:
            return job
        if job.state != "queued":
            todo = "cancel it first, then " if job.state == "running" else ""
            force = "--force " if job.state in DONE else ""
            raise QueueError(
                f"{self.path}: is there already as job {job.id} ({job.name}), {job.state}, with another priority or "
                f"other settings; {todo}`quietbeam retry {job.id} {force}--set STAGE.NAME=VALUE` runs it again"
            )
        source = "console" if asked.settings != job.submission.settings else job.source
        columns = asked.priority, source, json_text(asked.to_dict() | {"run": None, "source": source})
        changed = self._change(job, "priority=?, source=?, submission=?", *columns)
        return changed or self.revise(job.id, priority=priority, settings=settings)

    def retry(
        self,
        which: int | str,
        *,
        force: bool = False,
        settings: Mapping[str, object] | None = None,
        priority: int | None = None,
        source: str | None = None,
    ) -> JobRow:
        """Queue a job again, with all its attempts; one that waits for a time is begun at once.

        Parameters
        ----------
        which : int or str
            As for `find`.
        force : bool
            Also a job that is done.
        settings : mapping, optional
            ``STAGE.NAME`` -> value, in place of those it was submitted with.
        priority, source : optional
            In place of those it was submitted with.

        Raises
        ------
        QueueError
            If it is running, or done and `force` is not given.
        """
        job = self.find(which)
        if job.state == "running" or (job.state in DONE and not force):
            todo = "cancel it first" if job.state == "running" else "its result is kept; force runs it again"
            raise QueueError(f"{self.path}: job {job.id} ({job.name}) is {job.state}; {todo}")
        asked = job.submission.to_dict() | {"run": None}
        asked |= {} if settings is None else {"settings": dict(settings)}
        asked |= {"priority": job.priority if priority is None else priority, "source": source or job.source}
        changed = self._change(
            job,
            """state='queued', attempts=0, losses=0, not_before=0, lease_until=NULL, reason='', progress='',
            started=NULL, finished=NULL, result=NULL, priority=?, source=?, submission=?""",
            *(asked["priority"], asked["source"]),
            json_text(asked),
        )
        return changed or self.retry(job.id, force=force, settings=settings, priority=priority, source=source)

    def cancel(self, which: int | str, reason: str = "cancelled") -> JobRow:
        """Cancel a queued or running job; the worker of a running one is told by its next `beat`.

        Raises
        ------
        QueueError
            If it has ended otherwise.
        """
        job = self.find(which)
        if job.state == "cancelled":
            return job
        if job.state not in ("queued", "running"):
            raise QueueError(f"{self.path}: job {job.id} ({job.name}) is {job.state} already; nothing to cancel")
        ended = "state='cancelled', lease_until=NULL, reason=?, finished=?"
        changed = self._change(job, ended, storable(reason), self.now())
        return changed or self.cancel(job.id, reason)

    def published(self, job_id: int, result: Mapping[str, object]) -> bool:
        """Say that the result of a job that was ``done_unpublished`` is published; False: it is in another state."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE jobs SET state='done', result=?, reason='', updated=? WHERE id=? AND state='done_unpublished'",
                (json_text(dict(result)), self.now(), job_id),
            )
            return changed.rowcount == 1

    def find(self, which: int | str) -> JobRow:
        """Find a job by its number, -1 (the latest), its key, its path, its run's uid or the first 6 characters of it.

        Raises
        ------
        UnknownJobError
            A `QueueError` and a `LookupError`, naming what there is.
        """
        return find_job(self._database, which)

    def jobs(self, *, states: Iterable[str] | None = None, limit: int | None = None) -> list[JobRow]:
        """Give the jobs in some states (default: all), the latest first, at most `limit` of them."""
        wanted = STATES if states is None else tuple(states)
        if unknown := set(wanted) - set(STATES):
            raise ValueError(f"no such state: {', '.join(sorted(unknown))}; there are {', '.join(STATES)}")
        marks = ", ".join("?" * len(wanted))
        rows = self._database.read(
            f"SELECT * FROM job_rows WHERE state IN ({marks}) ORDER BY id DESC LIMIT ?",  # noqa: S608
            (*wanted, -1 if limit is None else limit),
        )
        return [job_row(row) for row in rows]

    def waiting(self, *, limit: int | None = None) -> list[JobRow]:
        """Give the queued jobs in the order in which they will be given out, at most `limit` of them."""
        rows = self._database.read(
            "SELECT * FROM job_rows WHERE state = 'queued' ORDER BY priority DESC, id LIMIT ?",
            (-1 if limit is None else limit,),
        )
        return [job_row(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Count the jobs in each state, also where there are none."""
        rows = self._database.read("SELECT state, count(*) AS number FROM jobs GROUP BY state")
        return dict.fromkeys(STATES, 0) | {row["state"]: row["number"] for row in rows}

    def run(self, uid: str) -> dict[str, Any] | None:
        """Give the last known reference of a run, also of one that is no job; None if it was never told."""
        return known_runs.run_reference(self._database, uid)

    def find_run(self, which: str) -> dict[str, Any] | None:
        """Give a known run by its uid, at least 6 first characters of it, or -1 (the one that ended last), or None."""
        return known_runs.find_run(self._database, which)

    def open_runs(self, *, since: float | None = None) -> list[dict[str, Any]]:
        """Give the references of runs that have neither a stop document nor a job, oldest first.

        Parameters
        ----------
        since : float, optional
            Only runs that began at this time (seconds since 1970) or later.
        """
        return known_runs.open_runs(self._database, since)

    def close(self) -> None:
        """Close the file; used again, it is opened again."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def _ingest(self, spool: Spool) -> int:
        taken = 0
        for spooled in spool.take():
            try:
                job = self.put(spooled.submission)
                if job is None and spooled.submission.is_job:
                    self._tell_known(spooled.submission)
            except QueueError:
                raise
            except Exception as error:  # whatever is wrong with one file, the others are taken
                spool.refuse(spooled.path, f"{type(error).__name__}: {error}")
                continue
            try:
                spooled.remove()
            except OSError as error:
                spool.keep(spooled.path, error)
            taken += 1
        return taken

    def _tell_known(self, asked: Submission) -> None:
        job = self.find(asked.key)
        if (asked.priority, asked.settings) != (job.priority, job.submission.settings):
            known = f"is there already as job {job.id}, {job.state}, which keeps its own priority and settings"
            logger.info("%s, submitted through a spool: %s", asked.name, known)

    def _change(self, job: JobRow, assignments: str, *values: object) -> JobRow | None:
        """Change a job if it still is in the state in which it was read; None: it is not."""
        now = self.now()
        with self._database.transaction() as connection:
            changed = connection.execute(
                f"UPDATE jobs SET {assignments}, updated=? WHERE id=? AND state=? AND token=?",  # noqa: S608
                (*values, now, job.id, job.state, job.token),
            )
            if not changed.rowcount:
                return None
            return job_row(connection.execute("SELECT * FROM job_rows WHERE id = ?", (job.id,)).fetchone())


def _check_disk(path: Path, kind: str) -> None:
    if is_network_disk(kind):
        raise QueueError(
            f"{path}: lies on a network disk ({kind}), where several machines would damage a database; put the queue "
            f"on a local disk of the worker, and let others submit into a folder that it watches, such as {path}.spool"
        )
