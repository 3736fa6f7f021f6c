"""The post-scan hook: subscribed to a RunEngine, it puts one job into the queue for each tomography run that ends.

::

    from quietbeam.beamline.hook import PostScan
    denoise = PostScan("/data/queue/jobs.db")
    RE.subscribe(denoise)

It keeps references, never pixels; it never raises into the RunEngine, whatever the documents or the queue are like, and
leaves the work on the queue's disk to a thread of its own. Nothing heavy is imported here.
"""

from __future__ import annotations

import atexit
import json
import logging
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quietbeam.reconstruction.errors import QuietbeamError

from .hook_rules import Rules, Wants, looks_like_tomography, may_be_tomography
from .hook_thread import HookThread
from .jobs.destination import SUBMIT_TIMEOUT
from .jobs.known_runs import FEWEST_CHARACTERS
from .jobs.places import default_queue
from .jobs.queue import QueueError
from .jobs.submission import Destination, Submission, open_queue, submission_of_run, submission_of_scan
from .runs.collector import RunCollector, RunEvent, RunsCollector
from .runs.reference import run_uid

if TYPE_CHECKING:
    from .jobs.queue import JobQueue, JobRow

__all__ = ["PostScan"]

logger = logging.getLogger(__name__)

_RETRY_EVERY = 30.0
_AT_EXIT = 2.0
_AT_LAST = 5.0
_MAX_UNDELIVERED = 1000
_MAX_KNOWN_RUNS = 256


class PostScan:
    """Queues tomography runs when they end, without ever holding up or harming a scan.

    What the database cannot take goes to the spool beside it; what neither can take is kept and tried again.

    Parameters
    ----------
    queue : Path, str, JobQueue or Destination, optional
        The queue's database, or a spool folder; `default_queue` if not given. It need not be there yet.
    profile : str
        Profile of the jobs; ``tomo_denoise`` in a run's metadata may name another.
    wants : callable, optional
        ``wants(start, reference) -> bool`` for runs whose metadata have neither ``tomo_denoise`` nor ``tomo``; by
        default those with streams of projections and of flats.
    statuses : iterable of str
        Exit statuses of the runs that are queued; others are only remembered.
    priority : int
        Of the jobs; higher first.

    Attributes
    ----------
    enabled : bool
        False: documents are passed over.
    errors : int
        What went wrong so far: documents that made no sense, runs that could not be queued.
    last_error : str
        The newest of it.
    """

    def __init__(
        self,
        queue: Path | str | JobQueue | Destination | None = None,
        profile: str = "default",
        *,
        wants: Wants | None = None,
        statuses: Iterable[str] = ("success",),
        priority: int = 0,
    ) -> None:
        self.enabled = True
        self.errors = 0
        self.last_error = ""
        queue = default_queue() if queue is None else queue
        self.destination = open_queue(queue)
        self._delivering = open_queue(queue, timeout=SUBMIT_TIMEOUT)
        self._rules = Rules(profile, priority, tuple(statuses), wants or looks_like_tomography)
        self._collector = RunsCollector(self._tell)
        self._thread: HookThread[RunCollector] = HookThread(self._handle, self._idle, every=_RETRY_EVERY)
        self._lock = threading.Lock()
        self._undelivered: dict[str | None, Submission] = {}
        self._failed: str | None = None
        self._known: dict[str, None] = {}
        self._latest: Mapping[str, Any] | None = None
        self._told: set[str] = set()
        self._newest: str | int | None = None
        self._last_run: dict[str, Any] | None = None
        self._open_runs: dict[str, None] = {}
        atexit.register(self.flush, _AT_EXIT)
        if self.destination.is_plain_folder:
            logger.warning(
                "%s is a folder, and taken as a spool: a worker looks there only with spools = [%s] in its settings; "
                "give the path of a database, or end the folder's name with .spool if that is meant",
                self.destination.path,
                json.dumps(str(self.destination.path)),
            )

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a document; the RunEngine calls this."""
        if not self.enabled or doc is self._latest:  # the same again: subscribed both for the session and for a plan
            return
        try:
            with self._lock:
                self._latest = doc
                if name == "start":
                    self._told.clear()
                elif name == "stop":
                    self._check_known(doc)
                self._collector(name, doc)
        except Exception as error:
            self._count(f"a {_text(name)} document could not be used ({type(error).__name__}: {_text(error)})")

    def _check_known(self, doc: Mapping[str, Any]) -> None:
        """Tell of a run that began before the hook listened; a stop document that comes twice is no news."""
        uid = doc["run_start"]
        if uid not in self._known:
            self._count(f"run {uid!s:.40} began before the hook listened: not queued, catch-up may find it")

    def _tell(self, run: RunCollector, event: RunEvent) -> None:
        if event == "start":
            self._known[run.uid] = None
            if len(self._known) > _MAX_KNOWN_RUNS:
                del self._known[next(iter(self._known))]
        elif event == "lost":
            logger.warning("run %s never ended: remembered for catch-up", run.uid)
        self._thread.put(run)

    def _count(self, problem: str, kind: str = "", level: int = logging.ERROR) -> None:
        """Count an error; the log gets each kind (or text) once for each run."""
        self.errors += 1
        self.last_error = problem
        if (kind or problem) not in self._told:
            self._told.add(kind or problem)
            logger.log(level, "%s; the acquisition goes on", problem)

    def _handle(self, run: RunCollector) -> None:
        """Take a run to the queue, in the hook's thread."""
        reference = run.reference
        if reference["stop"] is None:
            self._open_runs[run.uid] = None
            if len(self._open_runs) > _MAX_KNOWN_RUNS:
                del self._open_runs[next(iter(self._open_runs))]
        else:
            self._open_runs.pop(run.uid, None)
            self._last_run = reference
        submission = self._submission(reference)
        if submission.is_job or may_be_tomography(reference):
            self._keep(submission)
        self._retry()

    def _submission(self, reference: dict[str, Any]) -> Submission:
        try:
            return self._rules.submission(reference)
        except BaseException as error:  # a predicate that wants to end the session is no reason to end this thread
            problem = f"{type(error).__name__} in deciding whether it is wanted: {_text(error)}"
            self._count(f"run {run_uid(reference)}: {problem}")
            return submission_of_run(reference, source="hook", is_job=False)

    def _keep(self, submission: Submission) -> None:
        """Keep what is to be delivered: the newest of each run; of too many, jobs the longest."""
        before = self._undelivered.get(submission.run_uid)
        if before is None or submission.is_job or not before.is_job:
            self._undelivered[submission.run_uid] = submission
        if len(self._undelivered) > _MAX_UNDELIVERED:
            runs = (uid for uid, kept in self._undelivered.items() if not kept.is_job)
            dropped = self._undelivered.pop(next(runs, next(iter(self._undelivered))))
            what = "the job is lost, submit it later" if dropped.is_job else "the run is not remembered"
            self._count(f"{dropped.name}: dropped, too many wait for a queue: {what}")

    def _idle(self) -> None:
        self._retry()
        self._delivering.take_rescued()

    def _retry(self) -> None:
        """Deliver what is kept, in order; where nothing can be delivered, only one is tried."""
        kept = list(self._undelivered.items())
        failed = next((k for k, (uid, _) in enumerate(kept) if uid == self._failed), -1)
        for uid, submission in kept[failed + 1 :] + kept[: failed + 1]:  # the one that failed last may be to blame
            try:
                self._deliver(submission)
            except Exception as error:
                kind = _text(error).replace(submission.name, "")  # each time another one may be tried
                self._count(f"{submission.name} is kept and tried again: {_text(error)}", kind)
                self._failed = uid
                if isinstance(error, QueueError):
                    return
            else:
                del self._undelivered[uid]

    def _deliver(self, submission: Submission) -> None:
        delivery = self._delivering.deliver(submission, log=False)
        if delivery.problem:
            waits = f"{submission.name} {delivery.waits}"
            self._count(f"{delivery.problem}; {waits}", delivery.problem, logging.WARNING)
        if submission.is_job:
            self._newest = submission.key

    def flush(self, timeout: float = _AT_LAST) -> bool:
        """Wait until the queue has all that ended so far.

        Parameters
        ----------
        timeout : float
            Seconds to wait at most.

        Returns
        -------
        bool
            Whether it has.
        """
        return self._thread.flush(timeout) and not self._undelivered

    def close(self) -> None:
        """Bring what is left to the queue, close it and end the thread; a later document begins anew."""
        atexit.unregister(self.flush)
        self._thread.close(_AT_LAST)
        self.destination.close()
        self._delivering.close()

    @property
    def last(self) -> JobRow | None:
        """The newest job of this hook as it stands now; None before there is one, or while it waits in the spool.

        None also where there is only a spool, or the queue cannot be read; `trouble` tells.
        """
        self.flush()
        if self._newest is None:
            return None
        try:
            return self.destination.queue().find(self._newest)
        except (QueueError, OSError):
            return None

    def trouble(self) -> str:
        """Tell in one line why the jobs cannot be seen from here; empty if they can."""
        if self.destination.is_spool:
            return f"spool {self.destination.path}: the worker's database tells of the jobs"
        try:
            self.destination.queue().counts()
        except (QueueError, OSError) as error:
            return " ".join(str(error).split())
        return ""

    def status(self) -> None:
        """Print the queue as a table, or why it cannot be read, and what went wrong here."""
        from rich.console import Console

        from .jobs.status import render_status

        self.flush()
        console = Console()
        if trouble := self.trouble():
            console.print(trouble, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(render_status(self.destination.queue()))
        console.print(self._own_status(), markup=False, highlight=False, soft_wrap=True)

    def _own_status(self) -> str:
        parts = [f"hook {'on' if self.enabled else 'off'}, profile {self._rules.profile}"]
        parts += [f"{len(self._undelivered)} not delivered yet"] if self._undelivered else []
        parts += [f"{self.errors} errors, the last: {self.last_error}"] if self.errors else []
        return "; ".join(parts)

    def submit(
        self,
        which: str | Path | Literal[-1] = -1,
        *,
        profile: str | None = None,
        priority: int | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> JobRow | None:
        """Queue a run or a scan on disk now, whatever the rules say.

        Parameters
        ----------
        which : str, Path or -1
            Uid of a run that the queue knows, or its first characters, 6 at least; -1 for the last run of this session
            that ended; or a path.
        profile, priority : optional
            Those of the run's metadata, or else of the hook, if not given.
        settings : mapping, optional
            ``STAGE.NAME`` -> value, over the profile.

        Returns
        -------
        JobRow or None
            The job: the one that is there already if the same was queued before, with the priority and settings given
            here if it still waits. None if it went to the spool.

        Raises
        ------
        QuietbeamError
            If there is no such run or path, the run has not ended, nothing could take it, or the same was queued before
            with others than the priority and settings given here and no longer waits.
        """
        self.flush()
        is_scan = str(which) != "-1" and Path(str(which)).exists()
        reference = None if is_scan else self._find_run(which)
        options = self._rules.options(reference["start"] if reference else {})
        given = {"profile": profile, "priority": priority, "settings": settings}
        options |= {name: value for name, value in given.items() if value is not None}
        if reference is not None:
            submission = submission_of_run(reference, **options)
        elif is_scan:
            submission = submission_of_scan(str(which), **options)
        else:
            raise QuietbeamError(
                f"no run of uid {which!r} is known, nor one alone that begins so, and no scan lies at that path: give "
                f"a uid ({FEWEST_CHARACTERS} characters of it at least), a path, or -1"
            )
        delivery = self.destination.deliver(submission)
        self._newest = submission.key
        if delivery.spooled or delivery.job:
            return delivery.job
        return self._revise(submission.key, priority, settings)

    def _revise(self, key: str, priority: int | None, settings: Mapping[str, object] | None) -> JobRow:
        from .retrying import settings_over

        queue = self.destination.queue()
        asked = settings_over(queue.find(key), settings) if settings else None
        return queue.revise(key, priority=priority, settings=asked)

    def _find_run(self, which: str | Path | int) -> dict[str, Any] | None:
        if which in (-1, "-1"):
            if self._last_run is None:
                raise QuietbeamError("no run ended in this session: give a run's uid, or the path of a scan")
            return self._last_run
        if any(_is_meant(uid, which) for uid in list(self._open_runs)):
            raise QuietbeamError(f"run {which} has not ended: submit it then; a job of it now would be cut short")
        if self._last_run is not None and _is_meant(run_uid(self._last_run), which):
            return self._last_run
        return None if self.destination.is_spool else self.destination.queue().find_run(str(which))

    def retry(self, which: str | int = -1, *, force: bool = False) -> JobRow:
        """Queue a job again that failed, or with `force` one that is done.

        Parameters
        ----------
        which : str or int
            Number of a job, uid of its run or the first characters of it, or -1 for the latest.
        force : bool
            Also if it is done.

        Raises
        ------
        QueueError
            If there is no such job, or it is running or done.
        """
        self.flush()
        return self.destination.queue().retry(which, force=force)

    def cancel(self, which: str | int) -> JobRow:
        """Cancel a job that waits or runs; `which` is as for `retry`.

        Raises
        ------
        QueueError
            If there is no such job, or it has ended.
        """
        self.flush()
        return self.destination.queue().cancel(which)


def _is_meant(uid: str, which: object) -> bool:
    text = str(which)
    return uid == text or (len(text) >= FEWEST_CHARACTERS and uid.startswith(text))


def _text(value: object) -> str:
    """Say in few words what a value is, even if it does not want to be said."""
    try:
        return f"{value!s:.200}"
    except Exception:
        return f"<{type(value).__name__}>"
