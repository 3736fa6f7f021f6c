"""The worker: takes jobs from the queue, has each done by a process of its own, and tells the queue how it went.

What is promised, wherever worker, job or machine are killed: every job that was submitted is in the queue in one state;
no two processes work on a job's folder at a time; a job that was interrupted is taken up where it stopped; it is
recorded as done once. A process that was killed between its last step and the record is started again, and finds that
there is nothing left to do.

The worker itself computes nothing: no library that could crash is loaded into it.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Sequence
from types import FrameType

from .attempt import Attempt
from .child_process import COMMAND
from .job_rows import JobRow, JobState
from .leases import this_worker
from .outcomes import Outcome, retry_delay
from .queue import JobQueue, QueueError
from .spool import Spool
from .worker_settings import WorkerSettings

__all__ = ["Worker", "run_worker"]

INTERRUPTED = 130
MANY_CRASHES = 3
"""Different jobs that crash in a row: then something is wrong with the machine, and they are not to blame."""

logger = logging.getLogger(__name__)


class Worker:
    """Works through a queue, one job at a time on each device.

    Parameters
    ----------
    queue : JobQueue
        The queue.
    settings : WorkerSettings
        Output, devices, times.
    command : sequence of str, optional
        Program that does a job, as `quietbeam.beamline.jobs.child` does by default.
    """

    def __init__(self, queue: JobQueue, settings: WorkerSettings, *, command: Sequence[str] | None = None) -> None:
        self.queue, self.settings, self.command = queue, settings, tuple(command or COMMAND)
        self.name = this_worker()
        self._spools = tuple(Spool(folder) for folder in settings.spools)
        self._stopped = threading.Event()
        self._ingesting, self._spool_trouble = threading.Lock(), ""
        self._waiting: dict[int, tuple[str, float]] = {}

    def stop(self) -> None:
        """Take no more jobs, end those under way and put them back; `run` returns soon after."""
        self._stopped.set()

    def run(self, until_empty: bool = False) -> None:
        """Work until `stop` is called.

        Parameters
        ----------
        until_empty : bool
            End when no job is waiting or running, those that are to be tried again later included.

        Raises
        ------
        QueueError
            If the queue cannot be used at the beginning; later on it is tried again and again.
        """
        released = self.queue.release_dead(socket.gethostname())
        logger.info("worker %s begins on %s%s", self.name, self.queue.path, _of_dead_workers(released))
        slots = [
            threading.Thread(target=self._work, args=(device, until_empty), name=f"slot {number} {device}")
            for number, device in enumerate(self.settings.devices)
        ]
        for slot in slots:
            slot.start()
        for slot in slots:
            slot.join()
        logger.info("worker %s ends", self.name)

    def _work(self, device: str, until_empty: bool) -> None:
        """Do job after job on one device; whatever goes wrong, the next one is tried."""
        crashed: set[int] = set()
        trouble = ""
        while not self._stopped.is_set():
            try:
                job = self._next(device)
                if job is not None:
                    has_crashed = self._do(job, device).action == "retry"
                    crashed = crashed | {job.id} if has_crashed else set()
                    self._pause(len(crashed))
                elif until_empty and self._is_empty():
                    return
                else:
                    self._stopped.wait(self.settings.poll_seconds)
                trouble = ""
            except QueueError as error:
                if str(error) != trouble:  # one line, however long it lasts
                    logger.warning("the queue cannot be used, it is tried again: %s", error)
                trouble = str(error)
                self._stopped.wait(self.settings.poll_seconds)
            except Exception:
                logger.exception("an error that nobody foresaw; the job comes back when its lease has run out")
                self._stopped.wait(self.settings.poll_seconds)

    def _next(self, device: str) -> JobRow | None:
        with self._ingesting:
            self._ingest()
        return self.queue.claim(self.name, lease=self.settings.lease_seconds, device=device)

    def _ingest(self) -> None:
        """Take what waits in spools; one that cannot be taken holds up no job that is in the queue."""
        try:
            self.queue.ingest(*self._spools)
            self._spool_trouble = ""
        except QueueError:
            raise
        except Exception as error:
            if str(error) != self._spool_trouble:
                logger.exception("a spool of %s cannot be taken in", self.queue.path)
            self._spool_trouble = str(error)

    def _is_empty(self) -> bool:
        counts = self.queue.counts()
        return not counts.get("queued") and not counts.get("running")

    def _pause(self, num_crashed: int) -> None:
        """Let no queue be used up by a machine on which every job crashes."""
        seconds = self.settings.crash_pause_seconds
        if num_crashed >= MANY_CRASHES and seconds:
            logger.warning("%d jobs in a row crashed; the next begins in %g s", num_crashed, seconds)
            self._stopped.wait(seconds)

    def _do(self, job: JobRow, device: str) -> Outcome:
        began = time.monotonic()
        attempt = Attempt(self.queue, job, self.settings, device=device, command=self.command, stopped=self._stopped)
        outcome = self._limit_waiting(job, attempt.run(lambda text: _log(job, text)))
        told = self._tell(job, outcome)
        _log(job, f"{told} after {time.monotonic() - began:.1f} s{_because(outcome)}")
        return outcome

    def _limit_waiting(self, job: JobRow, outcome: Outcome) -> Outcome:
        """Let a job wait for space or a lock for some time only, as long as this worker knows of it."""
        wait, since = self._waiting.pop(job.id, ("", 0.0))
        if not outcome.waits_for:
            return outcome
        since = since if wait == outcome.waits_for else time.monotonic()
        hours = self.settings.space_wait_hours if outcome.waits_for == "space" else self.settings.lock_wait_hours
        if time.monotonic() - since <= 3600 * hours:
            self._waiting[job.id] = (outcome.waits_for, since)
            return outcome
        return Outcome(action="failed", reason=f"waited for {outcome.waits_for} for {hours:g} hours: {outcome.reason}")

    def _tell(self, job: JobRow, outcome: Outcome) -> str:
        """Tell the queue, again and again where it cannot be reached: what was done is worth the wait."""
        while True:
            try:
                return self._tell_once(job, outcome)
            except QueueError as error:
                logger.warning("job %d: %s cannot be recorded, it is tried again: %s", job.id, outcome.action, error)
                if self._stopped.wait(self.settings.poll_seconds):
                    raise

    def _tell_once(self, job: JobRow, outcome: Outcome) -> str:
        match outcome.action:
            case "done":
                state: JobState = "done_unpublished" if outcome.reason else "done"
                return state if self.queue.finish(job, outcome.result, state=state) else "cancelled or taken away"
            case "failed":
                return self.queue.fail(job, outcome.reason)
            case "retry":
                delay = retry_delay(job.attempts, self.settings.retry_seconds)
                return self.queue.fail(job, outcome.reason, retry_after=delay)
            case "postponed":
                self.queue.postpone(job, outcome.reason, seconds=outcome.seconds)
                return "postponed"
            case "lost":
                return "cancelled or taken away"


def run_worker(worker: Worker, *, until_empty: bool = False) -> int:
    """Run a worker as a program: one line of the log for each event, an orderly end on SIGTERM and Ctrl-C.

    Parameters
    ----------
    worker : Worker
        The worker.
    until_empty : bool
        See `Worker.run`.

    Returns
    -------
    int
        Exit code: 0, or 130 after Ctrl-C.

    Raises
    ------
    QueueError
        See `Worker.run`.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:  # a second signal may come while the first is being handled
            worker.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        worker.run(until_empty)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return INTERRUPTED if signal.SIGINT in received else 0


def _log(job: JobRow, text: str) -> None:
    logger.info("job %d, %s: %s", job.id, job.name, text)


def _because(outcome: Outcome) -> str:
    return ": " + outcome.reason.replace("\n", " | ") if outcome.reason else ""


def _of_dead_workers(released: int) -> str:
    return f"; {released} jobs of workers that are gone are back in the queue" if released else ""
