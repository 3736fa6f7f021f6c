"""A job as it stands in the queue."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .request import Submission, json_text, storable

__all__ = ["DONE", "STATES", "JobRow", "JobState", "insert_job", "job_row"]

JobState = Literal["queued", "running", "done", "done_unpublished", "failed", "cancelled"]

STATES: tuple[JobState, ...] = get_args(JobState)
DONE: tuple[JobState, ...] = ("done", "done_unpublished")

_INSERT = """
INSERT INTO jobs(key, name, run_uid, scan, priority, profile, source, max_attempts, created, updated, submission)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id
"""


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A job as it stood when it was read. Times are seconds since 1970, of the queue's clock.

    Attributes
    ----------
    id : int
        Its number; later jobs have higher ones, no number is used twice.
    key, name, run_uid, priority, profile, source
        Of the submission; `run_uid` is None for a scan on disk.
    state : str
        One of `STATES`.
    attempts, max_attempts : int
        How often a worker began it, and how often one may.
    created, updated : float
        When it was submitted, and when it last changed.
    started, finished : float or None
        When the last attempt began, and when the job ended.
    not_before : float
        A queued job is not given out before.
    lease_until : float or None
        A running job is given to another worker after this.
    worker, device : str
        Who works on it, or did last.
    reason : str
        Why it failed, waits or was cancelled.
    progress : str
        What its worker said last.
    result : dict or None
        What the worker handed in.
    submission : Submission
        What was asked for, with the run reference: for a queued job the newest one, else the one that was worked on.
    token : int
        Counts how often the job was given out: only who holds the last token may change it.
    losses : int
        How often its worker was lost.
    """

    id: int
    key: str
    name: str
    run_uid: str | None
    state: JobState
    priority: int
    profile: str
    source: str
    attempts: int
    max_attempts: int
    created: float
    updated: float
    started: float | None
    finished: float | None
    not_before: float
    lease_until: float | None
    worker: str
    device: str
    reason: str
    progress: str
    result: dict[str, Any] | None
    submission: Submission
    token: int
    losses: int


def job_row(row: sqlite3.Row) -> JobRow:
    """Make a `JobRow` of a row of the view ``job_rows``."""
    fields = dict(row)
    reference, result = fields.pop("reference"), fields["result"]
    asked = json.loads(fields["submission"]) | {"run": json.loads(reference) if reference else None}
    fields["submission"] = Submission.from_dict(asked)
    fields["result"] = json.loads(result) if result else None
    return JobRow(**fields)


def insert_job(connection: sqlite3.Connection, submission: Submission, max_attempts: int, now: float) -> JobRow:
    """Enter a submission as a new job."""
    number = connection.execute(_INSERT, _columns(submission, max_attempts, now)).fetchone()["id"]
    return job_row(connection.execute("SELECT * FROM job_rows WHERE id = ?", (number,)).fetchone())


def _columns(submission: Submission, max_attempts: int, now: float) -> tuple[object, ...]:
    return (
        storable(submission.key),
        storable(submission.name),
        submission.run_uid and storable(submission.run_uid),
        None if submission.scan is None else storable(submission.scan),
        submission.priority,
        storable(submission.profile),
        storable(submission.source),
        max_attempts,
        now,
        now,
        json_text(submission.to_dict() | {"run": None}),
    )
