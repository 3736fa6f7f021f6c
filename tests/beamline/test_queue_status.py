"""What people are told about the queue."""

import io

import pytest
from rich.console import Console

from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.status import render_status, seconds_left
from quietbeam.beamline.jobs.submission import submission_of_scan

from .submissions import run_submission


@pytest.fixture
def queue(tmp_path):
    clock = {"now": 1000.0}
    with JobQueue(tmp_path / "jobs.db", now=lambda: clock["now"]) as queue:
        queue.wait = lambda seconds: clock.update(now=clock["now"] + seconds)
        yield queue


def shown(queue, *, width=200, **options):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render_status(queue, **options))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def work(queue, seconds):
    job = queue.claim("gpu7:12", device="cuda:0")
    queue.wait(seconds)
    queue.finish(job, {"output": "/results/a"})


def test_an_empty_queue(queue):
    assert shown(queue) == [f"{queue.path}   empty"]
    assert seconds_left(queue) is None


def test_every_state_is_told_with_what_matters(queue):
    queue.spool.write(run_submission("run-spooled"))
    for name in ("done", "[bold]failed", "cancelled", "running", "first", "waiting"):
        queue.put(submission_of_scan(f"/{name}.h5", priority=int(name == "first") - int(name == "waiting")))
    queue.cancel("/first.h5")
    work(queue, 120)
    queue.fail(queue.claim("gpu7:12"), "no flats in the scan")
    queue.cancel("/cancelled.h5", "wrong sample")
    queue.retry("/first.h5")
    queue.cancel("/running.h5")
    first = queue.claim("gpu7:12", device="cuda:0")
    queue.beat(first, progress="training 40 %")
    queue.retry("/running.h5")
    queue.postpone(queue.claim("gpu8:3"), "darks are not there yet", seconds=600)
    header, names, *rows = shown(queue)
    assert header.split("   ")[1:-1] == ["2 queued", "1 running", "1 done", "1 failed", "1 cancelled", "1 in the spool"]
    assert names.split() == ["id", "scan", "state", "progress", "or", "reason", "tries", "age", "worker"]
    cells = [[cell for cell in row.strip().split("  ") if cell] for row in rows]
    assert [[cell.strip() for cell in row] for row in cells] == [
        ["5", "first.h5", "running", "training 40 %", "1/3", "2 min", "gpu7:12 cuda:0"],
        ["4", "running.h5", "queued", "not before 10 min: darks are not there yet", "0/3", "2 min", "gpu8:3"],
        ["6", "waiting.h5", "queued", "0/3", "2 min"],
        ["3", "cancelled.h5", "cancelled", "wrong sample", "0/3", "2 min"],
        ["2", "[bold]failed.h5", "failed", "no flats in the scan", "1/3", "2 min", "gpu7:12"],
        ["1", "done.h5", "done", "in 2 min", "/results/a", "1/3", "2 min", "gpu7:12 cuda:0"],
    ]


def test_a_worker_not_heard_of_is_told(queue):
    queue.put(run_submission("run-a"))
    queue.claim("gpu7:12", lease=60)
    queue.wait(61)
    assert "its worker has not been heard of" in shown(queue)[-1]


def test_the_time_left_is_that_of_the_mean_job_shared_among_workers(queue):
    for number in range(6):
        queue.put(run_submission(f"run-{number}"))
    assert seconds_left(queue) is None
    work(queue, 100)
    work(queue, 200)
    assert seconds_left(queue) == 4 * 150
    queue.claim("a:1")
    queue.claim("b:1")
    queue.wait(50)
    assert seconds_left(queue) == (2 * 150 + 2 * 100) / 2
    queue.wait(1000)
    assert seconds_left(queue) == 2 * 150 / 2
    assert shown(queue)[0].endswith("all done in about 2 min")


def test_a_long_queue_is_cut_and_says_so(queue):
    for number in range(50):
        queue.put(run_submission(f"run-{number}"))
    queue.claim("a:1")
    lines = shown(queue, limit=5)
    assert len(lines) == 2 + 5 + 1
    assert lines[-1] == "... and 45 more that wait"


def test_a_narrow_table_breaks_what_is_long_and_cuts_nothing(queue):
    queue.put(submission_of_scan(f"/{'scan' * 20}.h5"))
    assert "…" not in "".join(shown(queue, width=60))
