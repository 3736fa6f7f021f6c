"""Failed jobs repaired: which settings would have helped, and the job queued again with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from quietbeam.reconstruction.errors import QueueError

from .jobs.queue import JobQueue, JobRow
from .jobs.trust import refusal

__all__ = ["advice", "retry_job", "settings_over"]

_SETTINGS = {
    "--flats": "scan.flats=FILE",
    "--darks": "scan.darks=FILE",
    "--angles": "scan.angles=START:STOP",
    "--angle-lines": "scan.angle_lines=FIRST:STOP",
}
"""What the options of `quietbeam reduce`, which reasons name, are as settings."""


def advice(job: JobRow) -> str:
    """Give the command that repairs a failed job, if its reason names options or settings; else nothing.

    Parameters
    ----------
    job : JobRow
        The job.

    Returns
    -------
    str
        One line.
    """
    if job.state != "failed":
        return ""
    if "there is no profile" in job.reason:
        return f"quietbeam submit {job.run_uid or job.submission.scan} --profile NAME"
    told = [setting for option, setting in _SETTINGS.items() if re.search(rf"{option}\b", job.reason)]
    ways = [" ".join(f"--set {setting}" for setting in told)] if told else []
    ways += ["--set scan.normalised=attenuation"] if "--normalised" in job.reason else []
    if not ways and "--set " in job.reason:
        return f"quietbeam retry {job.id} --set STAGE.NAME=VALUE, with the setting that the reason names"
    return f"quietbeam retry {job.id} {', or '.join(ways)}" if ways else ""


def retry_job(
    queue: JobQueue,
    which: str,
    *,
    force: bool = False,
    settings: Mapping[str, object] | None = None,
    priority: int | None = None,
) -> Iterator[str]:
    """Queue a job again as a person asks for it.

    Parameters
    ----------
    queue : JobQueue
        The queue.
    which : str
        As for `JobQueue.find`.
    force : bool
        Also a job that is done.
    settings : mapping, optional
        ``STAGE.NAME`` -> value, over those that the job has.
    priority : int, optional
        Instead of the job's.

    Yields
    ------
    str
        What was done; and where nothing was changed, what might have to be.

    Raises
    ------
    QueueError
        If the job is running, or done and `force` is not given; or if it asks for what only a person may ask for.
    """
    before = queue.find(which)
    source = "console" if settings else None
    asked = settings_over(before, settings) if settings else None
    job = queue.retry(before.id, force=force, settings=asked, priority=priority, source=source)
    yield f"job {job.id}, {job.name}: {job.state}"
    if not settings and (todo := advice(before)):
        yield f"  if it fails again: {todo}"


def settings_over(job: JobRow, settings: Mapping[str, object]) -> dict[str, object]:
    """Put settings over those of the job, which then is a person's: none of its own may open a file that nobody saw."""
    if refused := refusal(replace(job.submission, settings={})):
        raise QueueError(f"job {job.id} ({job.name}): {refused}")
    own = {} if refusal(job.submission) else job.submission.settings
    return {**own, **settings}
