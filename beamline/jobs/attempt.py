"""One attempt at a job: its inputs put together, its process watched, its end judged."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quietbeam.beamline.runs.reference import check_reference, needed_dark_flat_uid, with_dark_flat
from quietbeam.reconstruction.errors import QuietbeamError

from .child_process import ChildProcess, Ending, device_environment
from .job_rows import JobRow
from .outcomes import SPACE_SECONDS, Outcome, judge
from .output_folder import claim_output
from .profiles import ProfileError, profile_options
from .queue import JobQueue, QueueError
from .request import json_text
from .trust import refusal
from .worker_settings import WorkerSettings

__all__ = ["LOG", "Attempt"]

LOG = "worker.log"
"""What the job's process says, in the output folder."""
CALIBRATION_SECONDS = 60.0
"""Time between two looks for the run with the darks and flats."""
LONGEST_BEAT = 5.0
"""Seconds after which a job that was cancelled still runs, at most."""
TICK = 0.2
SIGNALS_APART = 0.5
"""Seconds between a signal's arrival at two processes, at most."""
_ASKED = (-signal.SIGTERM, -signal.SIGINT)

logger = logging.getLogger(__name__)


class Attempt:
    """One attempt at a job on one device.

    Parameters
    ----------
    queue : JobQueue
        That gave the job out.
    job : JobRow
        It.
    settings : WorkerSettings
        Of the worker.
    device : str
        ``auto``, ``cpu`` or ``cuda:N``.
    command : sequence of str
        Program that does the job.
    stopped : threading.Event
        Set when the worker is to stop.
    """

    def __init__(
        self,
        queue: JobQueue,
        job: JobRow,
        settings: WorkerSettings,
        *,
        device: str,
        command: Sequence[str],
        stopped: threading.Event,
    ) -> None:
        self.queue, self.job, self.settings = queue, job, settings
        self.device, self.command, self.stopped = device, command, stopped

    def run(self, say: Callable[[str], None]) -> Outcome:
        """Do the job.

        Parameters
        ----------
        say : callable
            Told where the results go, once it begins.

        Returns
        -------
        Outcome
            What to tell the queue.
        """
        try:
            message = self._message()
            output = Path(message["output"])
            say(f"started on {self.device}, attempt {self.job.attempts} of {self.job.max_attempts}: {output}")
            environment = device_environment(self.device, len(self.settings.devices), os.environ)
            with ChildProcess(self.command, message, log=output / LOG, environment=environment) as child:
                return self._watch(child) or self._judge(child.ending())
        except _NotNowError as refusal:
            return refusal.outcome
        except ProfileError as error:
            return Outcome(action="failed", reason=str(error))
        except QueueError as error:
            return Outcome(action="postponed", reason=str(error), seconds=self.settings.poll_seconds)
        except QuietbeamError as error:
            return Outcome(action="retry", reason=str(error))
        except OSError as error:
            return _no_space(error) or Outcome(action="retry", reason=str(error))
        except Exception as error:
            logger.exception("job %d: an error that nobody foresaw", self.job.id)
            return Outcome(action="retry", reason=f"{type(error).__name__}: {error}")

    def _message(self) -> dict[str, Any]:
        """Put together what the process is told."""
        submission = self.job.submission
        options = self._options()
        run = self._with_dark_flat(submission.run, options) if submission.run else None
        output = claim_output(self.settings.output.absolute(), submission, self.settings.name)
        return {
            "key": submission.key,
            "name": submission.name,
            "output": str(output),
            "scan": submission.scan,
            "run": run,
            "settings": options,
            "publish": self.settings.publish.model_dump(mode="json"),
        }

    def _options(self) -> dict[str, object]:
        """Put the settings together: the submission's go before the device's, then the profile's, the worker's."""
        submission, settings = self.job.submission, self.settings
        if refused := refusal(submission):
            raise _NotNowError(Outcome(action="failed", reason=refused))
        options: dict[str, object] = {}
        if settings.path_map:
            options["scan.path_map"] = settings.path_map
        if settings.wait_seconds is not None:
            options["scan.wait_seconds"] = settings.wait_seconds
        options |= profile_options(submission.profile, settings.profiles)
        if self.device != "auto":
            options["compute.device"] = self.device.partition(":")[0]
        options |= submission.settings
        plain: dict[str, object] = json.loads(json_text(options))
        return plain

    def _with_dark_flat(self, run: dict[str, Any], options: dict[str, object]) -> dict[str, Any]:
        """Put the run with the darks and flats, where there is one, into the reference of the projections."""
        uid = needed_dark_flat_uid(_checked(run))
        if uid is None:
            return run
        other = self.queue.run(uid)
        is_late = time.time() - self.job.created > 60 * self.settings.calibration_wait_minutes
        if other is not None and (other.get("stop") is not None or is_late):
            return with_dark_flat(run, other)
        if options.get("scan.flats") or options.get("scan.dark_flat_run"):
            return run
        if not is_late:
            reason = f"waits for the run {uid} with its darks and flats"
            raise _NotNowError(Outcome(action="postponed", reason=reason, seconds=CALIBRATION_SECONDS))
        raise _NotNowError(_without_dark_flat(uid, self.settings.calibration_wait_minutes))

    def _watch(self, child: ChildProcess) -> Outcome | None:
        """Wait for the end of the process; None when it came by itself."""
        interval = min(self.settings.lease_seconds / 3, LONGEST_BEAT)
        beaten = time.monotonic()
        while not child.wait(min(TICK, interval)):
            if self.stopped.is_set():
                child.stop()
                return None
            if self._is_stalled(child):
                child.kill()
                reason = f"told no progress for {self.settings.stall_minutes:g} minutes and was killed"
                return Outcome(action="retry", reason=f"{reason}, after {child.progress or 'nothing'}")
            if time.monotonic() - beaten >= interval:
                beaten = time.monotonic()
                if not self._beat(child.progress):
                    child.kill()
                    return Outcome(action="lost")
        return None

    def _judge(self, ending: Ending) -> Outcome:
        """Judge the end of the process, for which it is not to blame if the worker was stopped."""
        said_nothing = ending.result is None and ending.error is None
        # A service manager may stop all processes at once, and this one's end be noticed before the worker's own.
        is_asked = ending.returncode in _ASKED and self.stopped.wait(SIGNALS_APART)
        if said_nothing and (is_asked or self.stopped.is_set()):
            return Outcome(action="postponed", reason="the worker was stopped")
        return judge(ending)

    def _is_stalled(self, child: ChildProcess) -> bool:
        limit = self.settings.stall_minutes
        return limit is not None and time.monotonic() - child.heard > 60 * limit

    def _beat(self, progress: str) -> bool:
        """Keep the job; a queue that cannot be reached now is no reason to stop."""
        try:
            return self.queue.beat(self.job, lease=self.settings.lease_seconds, progress=progress)
        except QueueError as error:
            logger.warning("job %d: cannot be kept for now: %s", self.job.id, error)
            return True


class _NotNowError(Exception):
    """The job cannot begin."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def _checked(run: dict[str, Any]) -> dict[str, Any]:
    try:
        return check_reference(run)
    except ValueError as error:
        raise _NotNowError(Outcome(action="failed", reason=f"the run reference cannot be read: {error}")) from error


def _without_dark_flat(uid: str, minutes: float) -> Outcome:
    return Outcome(
        action="failed",
        reason=f"the run {uid}, which holds its darks and flats, was not seen within {minutes:g} minutes: submit that "
        "run, then retry this job, or submit this one with --set scan.flats=FILE and --set scan.darks=FILE",
    )


def _no_space(error: OSError) -> Outcome | None:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return Outcome(action="postponed", reason=str(error), seconds=SPACE_SECONDS, waits_for="space")
