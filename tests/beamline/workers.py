"""Workers in processes of their own, to be killed, and light jobs for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.submission import Submission
from quietbeam.beamline.jobs.worker import Worker
from quietbeam.beamline.jobs.worker_settings import WorkerSettings

LIGHT_JOB = Path(__file__).parents[2] / "benchmarks" / "light_job.py"
LIGHT = (sys.executable, "-I", "-S", str(LIGHT_JOB))
"""Command of a job that computes nothing and begins in a hundredth of a second."""

PROGRAM = """
import json, sys
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.worker import Worker, run_worker
from quietbeam.beamline.jobs.worker_settings import WorkerSettings
queue, settings, command, until_empty = json.loads(sys.argv[1])
worker = Worker(JobQueue(queue), WorkerSettings.model_validate(settings), command=command)
code = run_worker(worker, until_empty=until_empty)
heavy = {"torch", "numba", "h5py", "bluesky", "tiled"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""


def worker_settings(output: Path, **changes: object) -> WorkerSettings:
    """Settings of a worker in a hurry, that publishes nothing."""
    quick = {"poll_seconds": 0.05, "retry_seconds": 0.05, "lease_seconds": 3.0, "crash_pause_seconds": 0.0}
    return WorkerSettings.model_validate({"output": output, "publish": {"formats": ()}} | quick | changes)


def start_worker(
    queue: Path, settings: WorkerSettings, *, command: tuple[str, ...] | None = None, until_empty: bool = False
) -> subprocess.Popen[str]:
    """Start a worker; its log is its standard error, a file beside the queue."""
    told = json.dumps([str(queue), settings.model_dump(mode="json"), command, until_empty])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with queue.with_suffix(".log").open("a") as log:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, told], stderr=log, env=environment, text=True)


def work(queue: JobQueue, folder: Path, *, command: Sequence[str] | None = LIGHT, **changes: object) -> None:
    """Work until the queue is empty."""
    Worker(queue, worker_settings(folder / "out", **changes), command=command).run(until_empty=True)


@contextmanager
def working(queue: JobQueue, folder: Path, *, command: Sequence[str] = LIGHT, **changes: object) -> Iterator[None]:
    """A worker in a thread, stopped at the end whatever happens."""
    worker = Worker(queue, worker_settings(folder / "out", **changes), command=command)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


def printing(*lines: str, then: str = "") -> tuple[str, ...]:
    """Command of a job that prints some lines, whatever it is told."""
    return (sys.executable, "-I", "-S", "-c", f"import time, sys, os\nfor line in {lines!r}: print(line)\n{then}")


def light_submission(
    folder: Path, name: str, *, seconds: float = 0.0, do: str = "finish", **more: object
) -> Submission:
    """A light job; its journal is ``journal.jsonl`` in the folder."""
    settings = {"light.seconds": seconds, "light.do": do, "light.journal": str(folder / "journal.jsonl")}
    fields = {"key": f"/scans/{name}:default", "name": name, "scan": f"/scans/{name}", "settings": settings}
    return Submission(**(fields | more))  # type: ignore[arg-type]


def journal(folder: Path) -> list[dict[str, object]]:
    """What the light jobs noted."""
    path = folder / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for something to become true; it is an error if it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """Processes that a process has started, by all its threads."""
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, and nothing else, to a worker."""
    process.send_signal(signal.SIGKILL)
    process.wait(30)
