"""The queue beside a model of it: any order of calls leaves what the model says."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quietbeam.beamline.jobs.queue import JobQueue, QueueError

from .submissions import LEASE, Clock, run_submission


class QueueMachine(RuleBasedStateMachine):
    """The queue beside a model: a dictionary of what each job should be."""

    keys = st.sampled_from([f"run-{number}" for number in range(5)])

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock, self.model, self.held, self.ends = Clock(), {}, [], {}
        self.queue = JobQueue(self.folder / "jobs.db", now=self.clock, max_attempts=2)

    def teardown(self):
        self.queue.close()
        shutil.rmtree(self.folder)

    def is_ours(self, job):
        known = self.model[job.run_uid]
        return known["state"] == "running" and known["token"] == job.token

    def job_of(self, number):
        return list(self.model)[number % len(self.model)]

    @rule(key=keys, priority=st.integers(-1, 1))
    def submit(self, key, priority):
        job = self.queue.put(run_submission(key, priority=priority))
        assert (job is None) == (key in self.model)
        if job is not None:
            rank = (-priority, len(self.model))
            self.model[key] = {"state": "queued", "attempts": 0, "token": 0, "not_before": 0, "rank": rank}

    @rule(seconds=st.sampled_from([1.0, LEASE + 1]))
    def wait(self, seconds):
        self.clock.time += seconds

    @rule()
    def claim(self):
        now, ready = self.clock.time, []
        for key, known in self.model.items():
            is_lost = known["state"] == "running" and known["lease_until"] < now
            if is_lost or (known["state"] == "queued" and known["not_before"] <= now):
                ready.append((known["rank"], key))
        for _, key in list(ready):
            known = self.model[key]
            if known["state"] == "running" and known["attempts"] >= 2:
                known["state"] = "failed"
                ready.remove((known["rank"], key))
        job = self.queue.claim("here:1", lease=LEASE)
        assert (job.run_uid if job else None) == (min(ready)[1] if ready else None)
        if job is not None:
            known = self.model[job.run_uid]
            token, attempts = known["token"] + 1, known["attempts"] + 1
            known |= {"state": "running", "attempts": attempts, "token": token, "lease_until": now + LEASE}
            self.held.append(job)

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 9))
    def beat(self, number):
        job = self.held[number % len(self.held)]
        assert self.queue.beat(job, lease=LEASE) == self.is_ours(job)
        if self.is_ours(job):
            self.model[job.run_uid]["lease_until"] = self.clock.time + LEASE

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 9), state=st.sampled_from(["done", "done_unpublished"]))
    def finish(self, number, state):
        job = self.held[number % len(self.held)]
        is_ours = self.is_ours(job)
        assert self.queue.finish(job, {"token": job.token}, state=state) == is_ours
        if is_ours:
            self.model[job.run_uid]["state"] = state
            self.ends[job.run_uid] = self.ends.get(job.run_uid, 0) + 1

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 9), retry_after=st.sampled_from([None, 0.0, 5.0]))
    def fail(self, number, retry_after):
        job = self.held[number % len(self.held)]
        known = self.model[job.run_uid]
        if self.is_ours(job):
            again = retry_after is not None and known["attempts"] < 2
            known["state"] = "queued" if again else "failed"
            known["not_before"] = self.clock.time + (retry_after or 0)
        assert self.queue.fail(job, "no reason", retry_after=retry_after) == known["state"]

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 9))
    def postpone(self, number):
        job = self.held[number % len(self.held)]
        if self.is_ours(job):
            known = self.model[job.run_uid]
            known |= {"state": "queued", "attempts": known["attempts"] - 1, "not_before": self.clock.time + 5}
        self.queue.postpone(job, "the disk is full", seconds=5)

    @precondition(lambda self: self.model)
    @rule(number=st.integers(0, 9), force=st.booleans())
    def retry(self, number, force):
        key = self.job_of(number)
        known = self.model[key]
        if known["state"] == "running" or (known["state"].startswith("done") and not force):
            with pytest.raises(QueueError):
                self.queue.retry(key, force=force)
            return
        if known["state"].startswith("done"):
            self.ends[key] -= 1
        assert self.queue.retry(key, force=force).state == "queued"
        known |= {"state": "queued", "attempts": 0, "not_before": 0}

    @precondition(lambda self: self.model)
    @rule(number=st.integers(0, 9))
    def cancel(self, number):
        key = self.job_of(number)
        if self.model[key]["state"] in ("done", "done_unpublished", "failed"):
            with pytest.raises(QueueError, match="nothing to cancel"):
                self.queue.cancel(key)
        else:
            assert self.queue.cancel(key).state == "cancelled"
            self.model[key]["state"] = "cancelled"

    @rule()
    def restart(self):
        self.queue.close()
        self.queue = JobQueue(self.folder / "jobs.db", now=self.clock, max_attempts=2)

    @invariant()
    def as_the_model_says(self):
        jobs = {job.run_uid: (job.state, job.attempts, job.token) for job in self.queue.jobs()}
        assert jobs == {key: (known["state"], known["attempts"], known["token"]) for key, known in self.model.items()}
        assert sum(self.queue.counts().values()) == len(self.model)
        assert all(ends <= 1 for ends in self.ends.values())


QueueMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestQueueMachine = QueueMachine.TestCase
