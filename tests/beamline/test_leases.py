"""Leases: a job goes to another worker when its own is lost, and only then, whatever the clock does."""

import socket
import time

import pytest

from quietbeam.beamline.jobs.leases import this_worker
from quietbeam.beamline.jobs.queue import JobQueue

from .submissions import LEASE, Clock, python, run_submission

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(tmp_path, clock):
    with JobQueue(tmp_path / "jobs.db", now=clock) as queue:
        yield queue


def test_a_worker_that_lost_its_job_can_change_nothing(queue, clock):
    queue.put(run_submission("run-a"))
    lost = queue.claim("here:1", lease=LEASE)
    clock.time += LEASE + 1
    other = queue.claim("here:2", lease=LEASE)
    assert (other.id, other.attempts, other.losses) == (lost.id, 2, 1)
    assert not queue.beat(lost)
    assert not queue.finish(lost, {"output": "wrong"})
    assert queue.fail(lost, "wrong") == "running"
    queue.postpone(lost, "wrong", seconds=1)
    assert queue.find(lost.id) == other
    assert queue.finish(other, {"output": "right"})
    assert queue.find(lost.id).result == {"output": "right"}


def test_a_late_worker_whose_job_nobody_took_may_hand_it_in(queue, clock):
    queue.put(run_submission("run-a"))
    job = queue.claim("here:1", lease=LEASE)
    clock.time += 10 * LEASE
    assert queue.finish(job, {})


def test_a_job_that_loses_every_worker_fails(queue, clock):
    queue.put(run_submission("run-a"))
    for attempt in range(1, 4):
        job = queue.claim("here:1", lease=LEASE)
        assert job.attempts == attempt
        queue.beat(job, lease=LEASE, progress="training")
        clock.time += LEASE + 1
    assert queue.claim("here:1") is None
    failed = queue.find("run-a:default")
    assert (failed.state, failed.finished) == ("failed", clock.time)
    assert failed.reason == 'the worker was lost 3 times, last here:1 in attempt 3 of 3 at "training"'
    assert queue.retry(failed.id).attempts == 0
    assert queue.claim("here:1").losses == 0


def test_jobs_of_a_dead_process_are_free_at_once(queue):
    host = socket.gethostname()
    dead = python("pass")
    dead.communicate()
    for number, worker in enumerate([f"{host}:{dead.pid}", this_worker(), f"other:{dead.pid}"]):
        queue.put(run_submission(f"run-{number}"))
        assert queue.claim(worker).worker == worker
    assert queue.release_dead(host) == 1
    assert [job.state for job in queue.jobs()] == ["running", "running", "queued"]
    assert "was lost" in queue.find("run-0").reason
    assert queue.claim("here:1").losses == 1


def test_a_clock_set_forward_takes_no_job_from_a_worker_that_lives(queue, clock):
    """A sister slot of the same process looks for a job between the step and the next beat."""
    for uid in ("run-a", "run-b"):
        queue.put(run_submission(uid))
    held = [queue.claim(this_worker(), lease=LEASE) for _ in range(2)]
    queue.fail(held[1], "crashed", retry_after=0)
    clock.time += HOUR
    other = queue.claim(this_worker(), lease=LEASE)
    assert other.id == held[1].id
    assert queue.claim(this_worker(), lease=LEASE) is None
    assert queue.beat(held[0], lease=LEASE)
    assert queue.find(held[0].id).lease_until == clock.time + LEASE


def test_a_worker_that_lives_but_is_silent_loses_its_job_a_lease_later(queue, clock):
    queue.put(run_submission("run-a"))
    silent = queue.claim(this_worker(), lease=LEASE)
    clock.time += LEASE + 1
    assert queue.claim(this_worker(), lease=0.1) is None
    time.sleep(0.15)
    assert queue.claim(this_worker(), lease=0.1).attempts == 2
    assert not queue.beat(silent)


def test_a_clock_set_back_keeps_no_job_waiting(queue, clock):
    queue.put(run_submission("run-a"))
    queue.postpone(queue.claim("here:1"), "darks are not there yet", seconds=30)
    clock.time -= 20
    assert queue.claim("here:1") is None
    clock.time -= DAY
    assert queue.claim("here:1").attempts == 1
