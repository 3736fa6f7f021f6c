"""500 submissions within seconds while the worker is killed again and again: none is lost, none ends twice."""

import random
import subprocess
import sys
import time
from collections import Counter

import pytest

from quietbeam.beamline.jobs.queue import JobQueue

from .workers import LIGHT, journal, kill, light_submission, start_worker, worker_settings

pytestmark = pytest.mark.slow

NUM_JOBS, NUM_SUBMITTERS, SUBMITTING_SECONDS = 500, 4, 8.0
MAX_ATTEMPTS = 6
"""More than a job can lose by kills at random in this time."""

SUBMITTER = """
import json, sys, time
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.submission import Submission, submit
queue, seconds = JobQueue(sys.argv[1], max_attempts=int(sys.argv[2])), float(sys.argv[3])
submissions = [Submission.from_json(line) for line in sys.stdin]
for submission in submissions:
    submit(queue, submission)
    time.sleep(seconds / len(submissions))
"""


def what_it_does(number):
    if number % 20 == 7:
        return "refuse"
    if number % 20 == 13:
        return "crash once"
    return "crash" if number % 100 == 50 else "finish"


def start_submitting(queue, submissions):
    command = [sys.executable, "-c", SUBMITTER, str(queue), str(MAX_ATTEMPTS), str(SUBMITTING_SECONDS)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    process.stdin.write("\n".join(submission.to_json() for submission in submissions))
    process.stdin.close()
    return process


def work_and_kill(path, settings, submitters, seed=0):
    """Kill workers at random times until all is submitted, then let one work to the end; count the kills."""
    generator, kills = random.Random(seed), 0
    while kills < 8 or any(submitter.poll() is None for submitter in submitters):
        worker = start_worker(path, settings, command=LIGHT)
        time.sleep(generator.uniform(0.5, 2.0))
        kill(worker)
        kills += 1
    assert start_worker(path, settings, command=LIGHT, until_empty=True).wait(120) == 0
    return kills


def test_killed_workers_lose_nothing_and_end_nothing_twice(tmp_path):
    path = tmp_path / "jobs.db"
    queue = JobQueue(path)
    names = [f"scan_{number:03d}.h5" for number in range(NUM_JOBS)]
    plan = {name: what_it_does(number) for number, name in enumerate(names)}
    submissions = [light_submission(tmp_path, name, seconds=0.02, do=do) for name, do in plan.items()]
    submitters = [start_submitting(path, submissions[first::NUM_SUBMITTERS]) for first in range(NUM_SUBMITTERS)]
    settings = worker_settings(tmp_path / "out", devices=("cpu", "cpu"))
    work_and_kill(path, settings, submitters)
    assert [submitter.wait() for submitter in submitters] == [0] * NUM_SUBMITTERS
    jobs = {job.name: job for job in queue.jobs()}
    check_states(jobs, plan, queue)
    check_runs(jobs, journal(tmp_path))
    outputs = [job.result["output"] for job in jobs.values() if job.result]
    assert len(set(outputs)) == len(outputs)


def check_states(jobs, plan, queue):
    """Every job stands in the queue once, in the state that befits it."""
    assert sum(queue.counts().values()) == NUM_JOBS
    assert set(jobs) == set(plan)
    expected = {"finish": "done", "crash once": "done", "refuse": "failed", "crash": "failed"}
    assert {name: job.state for name, job in jobs.items()} == {name: expected[do] for name, do in plan.items()}
    reasons = Counter(job.reason for name, job in jobs.items() if plan[name] == "refuse")
    assert reasons == {"these are no projections": sum(do == "refuse" for do in plan.values())}
    crashed = [job.reason for name, job in jobs.items() if plan[name] == "crash"]
    # The last attempt of one that crashes may also be the one that a kill ended.
    assert all("SIGABRT" in reason or "was lost" in reason for reason in crashed)
    assert any("SIGABRT" in reason for reason in crashed)
    assert sum(job.losses for job in jobs.values()) > 0, "no kill met a running job"


def check_runs(jobs, notes):
    """What is recorded did end; no two processes worked on one job at a time; nothing began after the record."""
    assert not [note for note in notes if note["event"] == "overlap"]
    ended = {note["mark"]: note["key"] for note in notes if note["event"] == "end"}
    began = {}
    for note in notes:
        if note["event"] == "begin":
            began[note["key"]] = max(note["time"], began.get(note["key"], 0))
    for job in jobs.values():
        assert began[job.key] < job.finished
        if job.state == "done":
            assert ended[job.result["mark"]] == job.key
