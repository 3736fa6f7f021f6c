"""The one way into the queue: what the hook, the console and the watchers call."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .destination import Delivery, Destination, open_queue
from .queue import JobQueue, JobRow
from .request import Submission

__all__ = ["Delivery", "Destination", "Submission", "open_queue", "submission_of_run", "submission_of_scan", "submit"]

_SHORT_UID = 8


def submission_of_run(
    reference: dict[str, Any],
    *,
    profile: str = "default",
    priority: int = 0,
    settings: Mapping[str, object] | None = None,
    source: str = "console",
    is_job: bool = True,
) -> Submission:
    """Make a submission of a bluesky run.

    Parameters
    ----------
    reference : dict
        Run reference; see `quietbeam.beamline.runs.reference`.
    profile, priority, settings, source, is_job
        See `Submission`.

    Raises
    ------
    ValueError
        If the reference holds no uid of a start document, or another argument is of the wrong type.
    """
    start = reference.get("start") or {}
    uid = start.get("uid")
    if not uid or not isinstance(uid, str):
        raise ValueError(f"run reference: expected a text in ['start']['uid'], got {uid!r}")
    number = start.get("scan_id")
    return Submission(
        key=f"{uid}:{profile}",
        name=f"run {uid[:_SHORT_UID]}" if number is None else f"scan {number} ({uid[:_SHORT_UID]})",
        run=reference,
        profile=profile,
        priority=priority,
        settings=dict(settings or {}),
        source=source,
        is_job=is_job,
    )


def submission_of_scan(
    path: Path | str,
    *,
    profile: str = "default",
    priority: int = 0,
    settings: Mapping[str, object] | None = None,
    source: str = "console",
) -> Submission:
    """Make a submission of a scan on disk, which need not be there (it may lie on the worker's disk).

    A file that is there has its time of change in the key: changed later, it is another scan, a job of its own.

    Parameters
    ----------
    path : Path or str
        File or folder.
    profile, priority, settings, source
        See `Submission`.
    """
    resolved = Path(path).resolve()
    return Submission(
        key=f"{resolved}{_time_of_change(resolved)}:{profile}",
        name=resolved.name,
        scan=str(resolved),
        profile=profile,
        priority=priority,
        settings=dict(settings or {}),
        source=source,
    )


def _time_of_change(path: Path) -> str:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ""
    return f"@{found.st_mtime_ns}" if stat.S_ISREG(found.st_mode) else ""


def submit(queue: Path | str | JobQueue | Destination, submission: Submission) -> JobRow | None:
    """Take a submission to the queue, or to a spool that the worker takes into the queue.

    Parameters
    ----------
    queue : Path, str, JobQueue or Destination
        What `open_queue` takes. Who submits often opens it once.
    submission : Submission
        What to do.

    Returns
    -------
    JobRow or None
        The new job; None if the same was submitted before, if it is no job, or if it went to a spool.

    Raises
    ------
    QueueError
        If nothing could take it: the text names each place that was tried.
    """
    return open_queue(queue).deliver(submission).job
