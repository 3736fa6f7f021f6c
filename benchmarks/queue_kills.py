"""What becomes of submissions when the worker is killed again and again.

python benchmarks/queue_kills.py [--tiny] [--json FILE]

light jobs: 500 submissions within a minute of jobs that take a tenth of a second each, and every tenth of them 1.5 s,
with SIGKILL to the worker every few seconds and a new worker after it, and one left in peace at the end. Against it a
queue of files in folders (todo, doing, done), once as it is, and once with what lies in doing put back when the worker
starts. `not done` counts the submissions without a result at the end; `begun` how often a job was started; `at once`
how often two processes were at work on one output.

reductions: the same with real reductions of small simulated scans by quietbeam, whose results are verified.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rows import Row, arguments, report

from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.submission import Submission, submission_of_scan, submit
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan
from quietbeam.beamline.verifying.results import verify_output

HERE = Path(__file__).parent
LIGHT_JOB = (sys.executable, "-I", "-S", str(HERE / "light_job.py"))
WORKER = """
import json, sys
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.worker import Worker, run_worker
from quietbeam.beamline.jobs.worker_settings import WorkerSettings
folder, command, until_empty = json.loads(sys.argv[1])
settings = {"output": folder + "/out", "poll_seconds": 0.05, "retry_seconds": 1, "publish": {"formats": ()}}
worker = Worker(JobQueue(folder + "/jobs.db"), WorkerSettings.model_validate(settings), command=command)
sys.exit(run_worker(worker, until_empty=until_empty))
"""
MAX_ATTEMPTS = 1000
"""No job shall fail for having been killed too often: it is the kills that are studied."""
SMALL = {
    "network.depth": 10,
    "training.epochs": 3,
    "training.steps_per_epoch": 6,
    "training.held_out_batches": 2,
    "pairs.crop_size": 32,
    "archive.chunk_slices": 4,
    "compute.chunk_slices": 4,
    "compute.threads": 1,
}

Start = Callable[[bool], "subprocess.Popen[bytes]"]


class Size(NamedTuple):
    """How many submissions, within how many seconds, and the seconds between kills, from and to."""

    num_jobs: int
    seconds: float
    shortest: float
    longest: float


LIGHT, REDUCTIONS = Size(500, 60.0, 1.0, 5.0), Size(8, 60.0, 8.0, 16.0)
TINY_LIGHT, TINY_REDUCTIONS = Size(30, 4.0, 0.6, 1.2), Size(1, 4.0, 5.0, 5.0)


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        rows = _light_rows(Path(folder), TINY_LIGHT if given.tiny else LIGHT)
        rows += _reduction_rows(Path(folder) / "reductions", TINY_REDUCTIONS if given.tiny else REDUCTIONS)
    report(rows, given.json)


def _light_rows(folder: Path, size: Size) -> list[Row]:
    case = f"{size.num_jobs} light jobs within {size.seconds:g} s"
    rows = _queue_rows(case, folder / "queue", size)
    for method, more in (("folders", ()), ("folders, put back at start", ("--put-back",))):
        rows += _folder_rows(case, method, folder / method.replace(", ", "_").replace(" ", "_"), size, more)
    return rows


def _queue_rows(case: str, folder: Path, size: Size) -> list[Row]:
    folder.mkdir()
    queue = JobQueue(folder / "jobs.db", max_attempts=MAX_ATTEMPTS)
    submissions = [_light_submission(folder, number) for number in range(size.num_jobs)]
    kills, seconds = _work_and_kill(
        lambda until_empty: _start_worker(folder, until_empty, LIGHT_JOB),
        [lambda submission=submission: submit(queue, submission) for submission in submissions],
        size,
    )
    done = queue.counts()["done"]
    return _rows(case, "quietbeam", folder, size, kills=kills, done=done, seconds=seconds)


def _folder_rows(case: str, method: str, folder: Path, size: Size, more: tuple[str, ...]) -> list[Row]:
    for name in ("todo", "doing", "done", "failed"):
        (folder / name).mkdir(parents=True)
    command = [sys.executable, str(HERE / "folder_worker.py"), str(folder), *more]
    kills, seconds = _work_and_kill(
        lambda until_empty: subprocess.Popen([*command, *["--until-empty"] * until_empty]),  # noqa: S603
        [lambda number=number: _put_file(folder, number) for number in range(size.num_jobs)],
        size,
    )
    done = len(list((folder / "done").iterdir()))
    return _rows(case, method, folder, size, kills=kills, done=done, seconds=seconds)


def _reduction_rows(folder: Path, size: Size) -> list[Row]:
    folder.mkdir()
    queue = JobQueue(folder / "jobs.db", max_attempts=MAX_ATTEMPTS)
    scans = [_small_scan(folder / f"scan_{number:02d}.h5", number) for number in range(size.num_jobs)]
    submissions = [submission_of_scan(scan, settings=SMALL) for scan in scans]
    kills, seconds = _work_and_kill(
        lambda until_empty: _start_worker(folder, until_empty, None),
        [lambda submission=submission: submit(queue, submission) for submission in submissions],
        size,
    )
    jobs = queue.jobs()
    verified = sum(not verify_output(Path(job.result["output"])).damaged for job in jobs if job.result)
    values = {
        "submitted": size.num_jobs,
        "done": queue.counts()["done"],
        "verified": verified,
        "kills": kills,
        "of a running job": sum(job.losses for job in jobs),
    }
    case = f"{size.num_jobs} reductions"
    rows = [Row(case, "quietbeam", metric, float(value), "") for metric, value in values.items()]
    return [*rows, Row(case, "quietbeam", "time", seconds, "s")]


def _work_and_kill(start: Start, submissions: list[Callable[[], object]], size: Size) -> tuple[int, float]:
    """Submit evenly in time and kill workers meanwhile; the kills, and the seconds until all was worked off."""
    generator, kills, began = random.Random(0), 0, time.monotonic()  # noqa: S311
    submitting = threading.Thread(target=_submit_all, args=(submissions, size.seconds))
    submitting.start()
    while submitting.is_alive():
        worker = start(False)
        time.sleep(generator.uniform(size.shortest, size.longest))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        kills += 1
    if start(True).wait() != 0:
        raise SystemExit("the last worker failed")
    return kills, time.monotonic() - began


def _submit_all(submissions: list[Callable[[], object]], seconds: float) -> None:
    for one in submissions:
        one()
        time.sleep(seconds / len(submissions))


def _start_worker(folder: Path, until_empty: bool, command: tuple[str, ...] | None) -> subprocess.Popen[bytes]:
    told = json.dumps([str(folder), command, until_empty])
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", WORKER, told], stderr=log)  # noqa: S603


def _rows(case: str, method: str, folder: Path, size: Size, *, kills: int, done: int, seconds: float) -> list[Row]:
    notes = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    begun = sum(note["event"] == "begin" for note in notes)
    values = {
        "submitted": size.num_jobs,
        "done": done,
        "not done": size.num_jobs - done,
        "begun": begun,
        "at once": sum(note["event"] == "overlap" for note in notes),
        "kills": kills,
    }
    rows = [Row(case, method, metric, float(value), "") for metric, value in values.items()]
    return [*rows, Row(case, method, "time", seconds, "s")]


def _light_settings(folder: Path, number: int) -> dict[str, object]:
    return {"light.seconds": 0.1 if number % 10 else 1.5, "light.journal": str(folder / "journal.jsonl")}


def _light_submission(folder: Path, number: int) -> Submission:
    scan = f"/scans/scan_{number:03d}.h5"
    return Submission(key=f"{scan}:default", name=Path(scan).name, scan=scan, settings=_light_settings(folder, number))


def _put_file(folder: Path, number: int) -> None:
    """Lay down a submission, there whole or not at all."""
    name = f"scan_{number:03d}"
    job = {"key": name, "output": str(folder / "out" / name), "settings": _light_settings(folder, number)}
    temporary = folder / f"{name}.partial"
    temporary.write_text(json.dumps(job))
    temporary.rename(folder / "todo" / f"{name}.json")


def _small_scan(path: Path, seed: int) -> Path:
    shape = {"num_rows": 16, "num_columns": 48, "num_angles": 48, "seed": seed}
    return simulate_scan(path, SimulateSettings.model_validate(shape))


if __name__ == "__main__":
    main()
