"""What the commands around the queue show: all of it, again and again, or one job."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import typer

from .job_details import describe_job, job_json, queue_json
from .jobs.profiles import BUILT_IN, is_path
from .jobs.queue import JobQueue

__all__ = ["show_again_and_again", "show_job", "show_queue", "tell_of_profile"]

REFRESH_SECONDS = 2.0
PIPE_WIDTH = 160
"""Columns of the table where nobody can tell how wide a line may be."""


def show_queue(queue: JobQueue, *, as_json: bool) -> None:
    """Show the queue as a table, or as JSON."""
    if as_json:
        typer.echo(queue_json(queue))
        return
    from rich.console import Console

    from .jobs.status import render_status

    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(render_status(queue))


def show_job(queue: JobQueue, which: str, *, as_json: bool) -> None:
    """Show one job, in lines that the terminal may break but nobody cuts, or as JSON."""
    job = queue.find(which)
    for line in [json.dumps(job_json(job), indent=1)] if as_json else describe_job(job):
        typer.echo(line)


def show_again_and_again(queue: JobQueue) -> None:
    """Show the queue until Ctrl-C."""
    from rich.live import Live

    from .jobs.status import render_status

    with Live(render_status(queue), auto_refresh=False, screen=sys.stdout.isatty()) as live:
        try:
            while True:
                time.sleep(REFRESH_SECONDS)
                live.update(render_status(queue), refresh=True)
        except KeyboardInterrupt:
            return


def tell_of_profile(profile: str | None) -> None:
    """Say which profile will be used where only the worker can tell whether there is one."""
    if profile is None or profile in BUILT_IN or (is_path(profile) and Path(profile).is_file()):
        return
    known = f"{', '.join(BUILT_IN)} come with quietbeam"
    typer.echo(f"profile {profile}: not known here, the worker must have it; {known}", err=True)
