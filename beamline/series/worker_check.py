"""Whether a worker on another machine can do the work: the same program, and the same folders."""

from __future__ import annotations

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

__all__ = ["WorkerCheck", "complaint_about", "describe_worker", "written_tokens"]


def describe_worker(tokens: tuple[Path, ...]) -> dict[str, Any]:
    """Tell what matters of the process that this is called in.

    Parameters
    ----------
    tokens : tuple of Path
        Files that it should see.

    Returns
    -------
    dict
        Versions, and what the files hold: None where one is not there.
    """
    python = ".".join(platform.python_version_tuple()[:2])
    seen = [path.read_text() if path.is_file() else None for path in tokens]
    return {"quietbeam": importlib.metadata.version("quietbeam"), "Python": python, "seen": seen}


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
        found = self._client.run(describe_worker, tuple(self._tokens), workers=list(workers), on_error="return")
        threads = self._client.nthreads(list(workers))
        said = {
            worker: complaint_about(answer, self._here, self._tokens, threads=threads.get(worker, 1))
            for worker, answer in found.items()
        }
        return {worker: complaint for worker, complaint in said.items() if complaint}


def complaint_about(answer: Any, here: dict[str, Any], tokens: dict[Path, str], *, threads: int = 1) -> str:
    """Tell why a worker cannot be used.

    Parameters
    ----------
    answer : dict or Exception
        From `describe_worker` there, or why there is none.
    here : dict
        From `describe_worker` here.
    tokens : dict of Path to str
        Files that it should have seen, and what they hold.
    threads : int
        Calls that it makes at a time.

    Returns
    -------
    str
        What to do about it; empty if it can be used.
    """
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
    if threads != 1:
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
