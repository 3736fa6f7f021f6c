"""What Dask says goes into a file and not between the lines that the user reads."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["environment_kept", "logged_to"]

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
OWNERS = ("distributed", "tornado", "asyncio", "dask_jobqueue", "bokeh")
"""Loggers whose own and whose children's handlers are replaced."""


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Write what Dask logs in this process to the end of a file while the block runs."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(FORMAT))
    before = {logger: (logger.handlers[:], logger.propagate) for logger in _loggers()}
    for logger in before:
        logger.handlers, logger.propagate = [], logger.name not in OWNERS
    for name in OWNERS:
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for logger, (handlers, propagate) in before.items():
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()


def _loggers() -> list[logging.Logger]:
    """Find Dask's loggers; those of `OWNERS` are made."""
    roots = [logging.getLogger(name) for name in OWNERS]
    there = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.split(".")[0] in OWNERS]
    return list(dict.fromkeys((*roots, *there)))


@contextmanager
def environment_kept() -> Iterator[None]:
    """Take back, at the end, what Dask's nannies set in this process's environment for their workers."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
