"""One job in all its details, and the whole queue for programs."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from .jobs.queue import JobQueue, JobRow
from .retrying import advice
from .runs.reference import counted_frames, planned_frames

__all__ = ["describe_job", "job_json", "queue_json"]


def describe_job(job: JobRow) -> Iterator[str]:
    """Say what there is to say about a job.

    Parameters
    ----------
    job : JobRow
        The job.

    Yields
    ------
    str
        Lines.
    """
    yield f"job {job.id}: {job.name}"
    for name, text in _details(job):
        if text:
            yield f"  {name:<22} {text}"


def _details(job: JobRow) -> Iterator[tuple[str, str]]:
    attempts = f", attempt {job.attempts} of {job.max_attempts}" if job.attempts else ""
    yield "state", f"{job.state.replace('_', ', ')}{attempts}"
    yield "reason", job.reason
    yield "what to do", advice(job)
    yield "progress", job.progress if job.state == "running" else ""
    yield "not before", _when(job.not_before if job.state == "queued" and job.not_before > time.time() else None)
    yield "run", job.run_uid or ""
    yield "frames", _frames(job)
    yield "scan", job.submission.scan or ""
    yield "profile", f"{job.profile}, priority {job.priority}"
    yield "settings", ", ".join(f"{name}={value}" for name, value in job.submission.settings.items())
    yield "submitted", f"{_when(job.created)} by {job.source}"
    yield "begun", _when(job.started)
    yield "ended", _when(job.finished)
    yield "worker", f"{job.worker} {job.device}".strip()
    result = job.result or {}
    yield "output", str(result.get("output", ""))
    for name, number in (result.get("numbers") or {}).items():
        yield name.replace("_", " "), f"{number:.4g}" if isinstance(number, float) else str(number)
    for name, place in (result.get("published") or {}).items():
        yield f"published {name}", ", ".join(place) if isinstance(place, dict) else str(place or "")


def _frames(job: JobRow) -> str:
    if job.submission.run is None:
        return ""
    planned = planned_frames(job.submission.run)
    counts = ", ".join(f"{number} {role}" for role, number in counted_frames(job.submission.run).items())
    return f"{counts}; {planned} projections planned" if planned else counts


def _when(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds") if seconds else ""


def job_json(job: JobRow) -> dict[str, Any]:
    """Give a job as plain JSON, without the run's reference.

    Parameters
    ----------
    job : JobRow
        The job.

    Returns
    -------
    dict
        The fields of `JobRow`; ``settings`` and ``scan`` in place of the submission.
    """
    fields: dict[str, Any] = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    submission = fields.pop("submission")
    return fields | {"scan": submission.scan, "settings": dict(submission.settings)}


def queue_json(queue: JobQueue) -> str:
    """Give the whole queue as JSON: its path, counts by state, and all jobs, the latest first."""
    content = {"queue": str(queue.path), "counts": queue.counts(), "jobs": [job_json(job) for job in queue.jobs()]}
    return json.dumps(content, indent=1)
