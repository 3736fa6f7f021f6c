"""What is done with a run or a file that was found: queued, remembered, or passed over, and said so in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from quietbeam.beamline.hook_rules import Rules, may_be_tomography
from quietbeam.beamline.jobs.destination import Destination
from quietbeam.beamline.jobs.queue import JobRow
from quietbeam.beamline.jobs.request import Submission
from quietbeam.beamline.jobs.submission import submission_of_run, submission_of_scan
from quietbeam.beamline.jobs.trust import TRUSTED_SOURCES
from quietbeam.beamline.retrying import settings_over
from quietbeam.beamline.runs.reference import has_projections, run_uid
from quietbeam.reconstruction.errors import UnknownJobError

__all__ = ["Choice", "Done", "Intake"]


class Choice(NamedTuple):
    """What to do with a run, and why.

    ``remember`` is for what others may need, or is not to be reduced by itself; ``ignore`` for results of a reduction,
    and for runs that are no tomography.
    """

    use: Literal["job", "remember", "ignore"]
    why: str


class Done(NamedTuple):
    """What became of a run or file: the word for it, and why."""

    what: Literal["queued", "known", "remembered", "passed over"]
    why: str


@dataclass
class Intake:
    """The one place where what was found goes to the queue.

    Parameters
    ----------
    queue : Destination
        Database or spool.
    source : str
        Who submits: watch, catch-up, console, end-of-run.
    rules : Rules
        What becomes of a run, with the profile and priority of those whose plan does not say.
    profile, priority : optional
        For all, whatever the plan says.
    settings : mapping
        ``STAGE.NAME`` -> value, over the profile.
    dry_run : bool
        Only say what would be done.
    """

    queue: Destination
    source: str
    rules: Rules = field(default_factory=Rules)
    profile: str | None = None
    priority: int | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    dry_run: bool = False

    def take_run(self, reference: dict[str, Any], revise: Callable[[Choice], Choice] | None = None) -> Done:
        """Queue, remember or pass over a run.

        Parameters
        ----------
        reference : dict
            Run reference.
        revise : callable, optional
            Told what the rules say, says what is done.

        Returns
        -------
        Done
            What was done.

        Raises
        ------
        QueueError
            If nothing could take it, or it was queued before and is no longer waiting for what is asked now.
        """
        told = self.rules.submission(reference, say_why=False)  # which is said by what is returned
        choice = self._choose(reference, told)
        use, why = revise(choice) if revise else choice
        if use == "ignore":
            return Done("passed over", why)
        submission = self._submission(told, is_job=use == "job")
        if use == "remember":
            return self._remember(submission, why)
        # A run that the hook has queued under another profile is done with, unless a person asks for this one.
        known = None if self.profile else self.known_job(run_uid(reference))
        return self._known(known) if known else self._deliver(submission)

    def _choose(self, reference: dict[str, Any], told: Submission) -> Choice:
        start, stop = reference["start"], reference["stop"]
        if start.get("purpose") == "analysis" or "raw_uid" in start:
            return Choice("ignore", "a result, no measurement")
        if told.is_job:
            return Choice("job", "a tomography scan")
        if not may_be_tomography(reference):
            return Choice("ignore", "no tomography scan")
        if stop is None:
            return Choice("remember", "it has not ended")
        if stop.get("exit_status") not in self.rules.statuses:
            return Choice("remember", f"it ended with {stop.get('exit_status')}")
        if not has_projections(reference):
            return Choice("remember", "no projections; kept for scans that need its darks and flats")
        return Choice("remember", "its plan does not ask for a reduction")

    def _submission(self, told: Submission, *, is_job: bool) -> Submission:
        asked: dict[str, Any] = {"profile": told.profile, "priority": told.priority, "settings": told.settings}
        if told.run and self.source in TRUSTED_SOURCES:  # the worker will not check what the metadata ask for
            asked = self.rules.options(told.run["start"])
        submission = submission_of_run(
            told.run or {},
            profile=self.profile or asked["profile"],
            priority=asked["priority"] if self.priority is None else self.priority,
            settings={**asked["settings"], **self.settings},
            source=self.source,
            is_job=is_job,
        )
        return dataclasses.replace(submission, name=told.name)

    def take_file(self, path: Path) -> Done:
        """Queue a scan on disk; a file that is changed later is another scan, a job of its own.

        Returns
        -------
        Done
            What was done.

        Raises
        ------
        QueueError
            If nothing could take it, or it was queued before and is no longer waiting for what is asked now.
        """
        submission = submission_of_scan(
            path,
            profile=self.profile or self.rules.profile,
            priority=self.rules.priority if self.priority is None else self.priority,
            settings=self.settings,
            source=self.source,
        )
        return self._deliver(submission)

    def known_job(self, which: str) -> JobRow | None:
        """Find the job of a run; None if there is none, or only a spool to ask."""
        if self.queue.is_spool:
            return None
        try:
            return self.queue.queue().find(which)
        except UnknownJobError:
            return None

    def _deliver(self, submission: Submission) -> Done:
        if self.dry_run:
            known = self.known_job(submission.key)
            return self._known(known) if known else Done("queued", "no: this is a dry run")
        delivery = self.queue.deliver(submission)
        if delivery.job:
            return Done("queued", _said(delivery.job))
        if delivery.spooled:
            return Done("queued", f"waits in {delivery.spooled}, profile {submission.profile}")
        known = self.known_job(submission.key)
        return self._known(known) if known else Done("known", "submitted before")

    def _known(self, job: JobRow) -> Done:
        """Give a job that waits the priority and settings that a person asks for; refuse those for another."""
        if self.dry_run or (self.priority is None and not self.settings):
            return Done("known", _said(job))
        settings = settings_over(job, self.settings) if self.settings else None
        revised = self.queue.queue().revise(job.id, priority=self.priority, settings=settings)
        same = (job.priority, job.submission.settings) == (revised.priority, revised.submission.settings)
        return Done("known", _said(revised) + ("" if same else ", now with what is asked"))

    def _remember(self, submission: Submission, why: str) -> Done:
        if not self.dry_run:
            self.queue.deliver(submission)
        return Done("remembered", why)


def _said(job: JobRow) -> str:
    return f"job {job.id}, {job.state}, profile {job.profile}"
