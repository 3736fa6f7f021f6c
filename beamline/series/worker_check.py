"""Whether a worker on another machine can do the work: the same program, and the same folders."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quietbeam.beamline.atomic import write_atomically

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["AT_WORK", "WorkerCheck", "complaint_about", "describe_worker", "written_tokens"]

AT_WORK = "is still at work for an earlier command, or another one: wait until that ends, or restart the worker"
"""Said of a worker that can be used when it has ended what it does."""

CALL_PREFIX = "quietbeam-"
"""Begins the keys of our calls."""

ANSWER_SECONDS = 60.0
"""Time that a worker has to tell of itself; it may import from a slow disk first."""


def describe_worker(tokens: tuple[Path, ...], dask_worker: Any = None) -> dict[str, Any]:
    """Tell what matters of the process that this is called in.

    Parameters
    ----------
    tokens : tuple of Path
        Files that it should see.
    dask_worker : distributed.Worker, optional
        Of this process.

    Returns
    -------
    dict
        Versions, what the files hold: None where one is not there, and whether a call of ours is under way; its thread
        goes on when the one who asked for it has gone.
    """
    python = ".".join(platform.python_version_tuple()[:2])
    seen = [path.read_text() if path.is_file() else None for path in tokens]
    calls = [] if dask_worker is None else [str(task.key) for task in list(dask_worker.state.executing)]
    return {
        "quietbeam": importlib.metadata.version("quietbeam"),
        "Python": python,
        "seen": seen,
        "at work": any(key.startswith(CALL_PREFIX) for key in calls),
        "threads": 1 if dask_worker is None else dask_worker.state.nthreads,
    }


class WorkerCheck:
    """Compares workers with this process.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    tokens : dict of Path to str
        Files that every worker should see, and what they hold; from `written_tokens`.
    """

    def __init__(self, client: Client, tokens: dict[Path, str]) -> None:
        self._client, self._tokens = client, tokens
        self._here = describe_worker(tuple(tokens))

    def __call__(self, workers: Collection[str]) -> dict[str, str]:
        """Tell which workers cannot be used, and why."""
        if not workers:
            return {}
        found: dict[str, Any] = self._client.sync(self._ask_all, sorted(workers))
        said = {worker: complaint_about(answer, self._here, self._tokens) for worker, answer in found.items()}
        return {worker: complaint for worker, complaint in said.items() if complaint}

    async def _ask_all(self, workers: list[str]) -> dict[str, Any]:
        """Ask each by itself, so that one that does not answer keeps no other from being used."""
        answers = await asyncio.gather(*map(self._ask, workers))
        return dict(zip(workers, answers, strict=True))

    async def _ask(self, worker: str) -> Any:
        run = self._client.run(describe_worker, tuple(self._tokens), workers=[worker], on_error="return")
        try:
            return (await asyncio.wait_for(run, ANSWER_SECONDS))[worker]
        except OSError as error:
            return error


def complaint_about(answer: Any, here: dict[str, Any], tokens: dict[Path, str]) -> str:
    """Tell why a worker cannot be used.

    Parameters
    ----------
    answer : dict or Exception
        From `describe_worker` there, or why there is none.
    here : dict
        From `describe_worker` here.
    tokens : dict of Path to str
        Files that it should have seen, and what they hold.

    Returns
    -------
    str
        What to do about it; empty if it can be used.
    """
    if type(answer) is TimeoutError:
        return f"does not answer within {ANSWER_SECONDS:g} s: restart it"
    if isinstance(answer, OSError) and not isinstance(answer, FileNotFoundError | PermissionError):
        return ""  # it has just gone: at the next look it is no more among the workers
    if isinstance(answer, BaseException):
        return f"quietbeam cannot be run there ({type(answer).__name__}: {answer}): install the version of here"
    for name in ("quietbeam", "Python"):
        if answer[name] != here[name]:
            return f"has {name} {answer[name]}, here it is {here[name]}: install the version of here"
    for path, seen in zip(tokens, answer["seen"], strict=True):
        if seen != tokens[path]:
            return f"does not see {path.parent}: choose a folder that all machines share"
    if answer["at work"]:
        return AT_WORK
    if answer["threads"] != 1:
        threads = answer["threads"]
        return f"makes {threads} calls at a time: start it with --nthreads 1, which does not limit our own threads"
    return ""


@contextmanager
def written_tokens(folders: Collection[Path]) -> Iterator[dict[Path, str]]:
    """Write a file into each folder while the block runs, which workers are asked for."""
    text = uuid.uuid4().hex
    tokens = {folder.resolve() / f".seen-by-workers-{text}": text for folder in folders}
    try:
        for path in tokens:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode())
        yield tokens
    finally:
        for path in tokens:
            path.unlink(missing_ok=True)
