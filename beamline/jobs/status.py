"""The queue as a table for people: what runs, what waits and for how long, what became of the rest."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .job_rows import DONE, STATES, JobRow
from .queue import JobQueue

__all__ = ["render_status", "seconds_left"]

_COLOURS = {
    "queued": "cyan",
    "running": "bold yellow",
    "done": "green",
    "done_unpublished": "magenta",
    "failed": "bold red",
    "cancelled": "dim",
}
_ENDED_SHOWN = 10
_RECENT = 20
"""Finished jobs that the mean time is taken from."""


def render_status(queue: JobQueue, *, limit: int = 30) -> RenderableType:
    """Show the queue: a line of counts and a table of running jobs, the next in order, and the last that ended.

    Parameters
    ----------
    queue : JobQueue
        Only read.
    limit : int
        Rows of running and queued jobs (running ones are all shown); up to 10 that ended come below.

    Returns
    -------
    rich renderable
    """
    running = queue.jobs(states=["running"])[::-1]
    num_queued = queue.counts()["queued"]
    queued = queue.waiting(limit=max(limit - len(running), 0))
    ended = queue.jobs(states=set(STATES) - {"queued", "running"}, limit=_ENDED_SHOWN)
    table = Table("id", "scan", "state", "progress or reason", "tries", "age", "worker", box=None, pad_edge=False)
    table.columns[0].justify = "right"
    for column in table.columns:
        column.overflow = "fold"  # a path that is cut cannot be copied
    for job in running + queued + ended:
        table.add_row(*_cells(job, queue.now()))
    hidden = num_queued - len(queued)
    below = [Text(f"... and {hidden} more that wait", style="dim")] if hidden > 0 else []
    return Group(_header(queue, running, num_queued), *([table] if table.rows else []), *below)


def seconds_left(queue: JobQueue) -> float | None:
    """Estimate when all that runs and waits will be done.

    The mean time of the last finished jobs, for each that waits and the rest of each that runs, shared among those who
    work now (one, if none does).

    Returns
    -------
    float or None
        Seconds; None if nothing was finished yet, or nothing is to be done.
    """
    return _seconds_left(queue, queue.jobs(states=["running"]), queue.counts()["queued"])


def _seconds_left(queue: JobQueue, running: list[JobRow], num_queued: int) -> float | None:
    took = [_took(job) for job in queue.jobs(states=DONE, limit=_RECENT)]
    if not took or not (running or num_queued):
        return None
    mean = sum(took) / len(took)
    rest = sum(max(mean - (queue.now() - (job.started or job.updated)), 0.0) for job in running)
    return (num_queued * mean + rest) / max(len(running), 1)


def _header(queue: JobQueue, running: list[JobRow], num_queued: int) -> Text:
    counts = queue.counts()
    header = Text(str(queue.path), style="bold")
    for state, number in counts.items():
        if number:
            header.append(f"   {number} {_said(state)}", style=_COLOURS[state])
    if not any(counts.values()):
        header.append("   empty", style="dim")
    if waiting := len(queue.spool):
        header.append(f"   {waiting} in the spool", style="cyan")
    if (left := _seconds_left(queue, running, num_queued)) is not None:
        header.append(f"   all done in about {_duration(left)}", style="default")
    return header


def _cells(job: JobRow, now: float) -> list[Text]:
    return [
        Text(str(job.id)),
        Text(job.name),
        Text(_said(job.state), style=_COLOURS[job.state]),
        Text(_what_happens(job, now)),
        Text(f"{job.attempts}/{job.max_attempts}"),
        Text(_duration(now - job.created)),
        Text(f"{job.worker} {job.device}".strip()),
    ]


def _what_happens(job: JobRow, now: float) -> str:
    if job.state == "running":
        is_late = job.lease_until is not None and job.lease_until < now
        return "its worker has not been heard of" if is_late else job.progress or "begun"
    if job.state == "queued":
        wait = f"not before {_duration(job.not_before - now)}" if job.not_before > now else ""
        return ": ".join(filter(None, (wait, job.reason)))
    if job.state in DONE:
        output = (job.result or {}).get("output", "")
        return f"in {_duration(_took(job))}  {output}".strip()
    return job.reason


def _took(job: JobRow) -> float:
    return (job.finished or job.updated) - (job.started or job.created)


def _said(state: str) -> str:
    return state.replace("done_unpublished", "not published")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{timedelta(seconds=seconds).days} d"
