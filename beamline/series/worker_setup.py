"""What a worker process does before anything else and at its end: Dask calls it as its ``--preload``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

__all__ = ["LOG_VARIABLE", "dask_setup", "dask_teardown"]

LOG_VARIABLE = "QUIETBEAM_WORKER_LOG"
"""Names the file that a worker's output goes to, in its environment."""


def dask_setup(worker: Any) -> None:
    """Bind the process to the one that started it, and its output to the log.

    Parameters
    ----------
    worker : distributed.Worker
        It is not used.
    """
    from quietbeam.beamline.jobs.lifeline import end_with_parent

    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the first one decides
    log = os.environ.get(LOG_VARIABLE)
    if log:
        _write_to(log)


def dask_teardown(worker: Any) -> None:
    """End the process when its worker closes: it holds nothing, and the libraries' own ends take seconds.

    Parameters
    ----------
    worker : distributed.Worker
        It is not used.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def _write_to(log: str) -> None:
    """Append what this process and its children print to a file."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
