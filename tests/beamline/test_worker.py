"""A worker and its jobs, all real processes: ends of every kind, kills, cancelling, stopping."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import time

import pytest

from quietbeam.beamline.jobs import child_process
from quietbeam.beamline.jobs.child_process import COMMAND, ChildProcess, Ending
from quietbeam.beamline.jobs.leases import this_worker
from quietbeam.beamline.jobs.lifeline import ORPHANED
from quietbeam.beamline.jobs.outcomes import judge, retry_delay
from quietbeam.beamline.jobs.output_folder import output_name
from quietbeam.beamline.jobs.submission import submission_of_scan
from quietbeam.beamline.manifest import read_manifest
from quietbeam.beamline.verifying.results import verify_output
from quietbeam.reconstruction.errors import ArchiveError, LockedError, ReductionError, ScanError, SpaceError

from .jobs import SMALL, small_scan
from .submissions import reference
from .workers import (
    LIGHT,
    children,
    is_alive,
    journal,
    kill,
    light_submission,
    printing,
    start_worker,
    wait_until,
    work,
    working,
)
from .workers import worker_settings as settings_of

SOON = 3.0
"""Seconds in which a process must have ended that lost its worker, on a machine with other load."""


# -- real jobs ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scans_are_reduced_and_bad_ones_fail_for_good(queue, tmp_path):
    scan = small_scan(tmp_path / "scan.h5")
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"no scan")
    good = queue.put(submission_of_scan(scan, settings=SMALL))
    no_scan = queue.put(submission_of_scan(bad, settings=SMALL))
    wrong = queue.put(submission_of_scan(scan, profile="fast", settings=SMALL | {"training.epoch": 3}))
    unknown = queue.put(submission_of_scan(scan, profile="fsat"))
    work(queue, tmp_path, command=None, publish={})
    job = queue.find(good.id)
    assert job.state == "done"
    output = tmp_path / "out" / output_name(job.submission, "").name
    assert job.result["output"] == str(output)
    assert job.result["numbers"] == read_manifest(output / "manifest.json")["numbers"]
    assert not verify_output(output).damaged
    assert list((output / "published").glob("*.nxs"))
    assert "rotation axis" in (output / "worker.log").read_text()
    for number, reason in ((no_scan.id, "bad.h5"), (wrong.id, "did you mean training.epochs"), (unknown.id, "'fsat'")):
        job = queue.find(number)
        assert (job.state, job.attempts) == ("failed", 1)
        assert reason in job.reason
    assert not list((tmp_path / "out").glob("*fsat*"))

    # Once more, and now nothing is left to do but what cannot be done.
    written = (output / "manifest.json").stat().st_mtime_ns
    (tmp_path / "file").write_text("in the way")
    queue.retry(good.id, force=True)
    work(queue, tmp_path, command=None, publish={"documents": str(tmp_path / "file" / "documents")})
    job = queue.find(good.id)
    assert job.state == "done_unpublished"
    assert "documents" in job.result["publish_error"]
    assert (output / "manifest.json").stat().st_mtime_ns == written


@pytest.mark.slow
def test_killed_job_and_killed_worker_go_on_where_they_were(queue, tmp_path):
    scan = small_scan(tmp_path / "scan.h5", num_rows=24)
    queue.put(submission_of_scan(scan, settings=SMALL | {"training.epochs": 40, "training.steps_per_epoch": 30}))
    settings = settings_of(tmp_path / "out", lease_seconds=600)
    worker = start_worker(queue.path, settings)
    work_folder = tmp_path / "out" / output_name(queue.find(1).submission, "").name / "work"
    trained, sections = work_folder / "training.safetensors", work_folder / "sections"
    wait_until(trained.exists)
    reconstructed = sections.stat().st_mtime_ns
    (child,) = children(worker.pid)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: queue.find(1).attempts == 2)
    assert "killed by SIGKILL" in (tmp_path / "jobs.log").read_text()

    before = trained.stat().st_mtime_ns
    wait_until(lambda: trained.stat().st_mtime_ns > before)  # the second attempt trains
    assert sections.stat().st_mtime_ns == reconstructed
    (child,) = children(worker.pid)
    kill(worker)
    killed = time.monotonic()
    wait_until(lambda: not is_alive(child), SOON)
    assert time.monotonic() - killed < SOON

    assert queue.find(1).state == "running"  # with a lease of ten minutes
    assert start_worker(queue.path, settings, until_empty=True).wait(120) == 0
    job = queue.find(1)
    assert (job.state, job.attempts, job.losses) == ("done", 3, 1)
    assert not verify_output(work_folder.parent).damaged
    assert len(read_manifest(work_folder.parent / "manifest.json")["history"]) == 40


def test_child_without_a_worker_ends_before_it_imports_anything_heavy():
    began = time.monotonic()
    assert subprocess.run(COMMAND, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode == ORPHANED
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        child.stdin.write(b'{"half a line')
        child.stdin.close()
        assert child.wait(30) == ORPHANED
    assert time.monotonic() - began < SOON


def test_child_ends_with_its_stdin(tmp_path):
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        job = {"output": str(tmp_path), "scan": str(tmp_path / "none.h5"), "run": None, "settings": {}, "publish": {}}
        child.stdin.write(json.dumps(job).encode() + b"\n")
        child.stdin.flush()
        time.sleep(0.3)  # it imports
        child.stdin.close()
        assert child.wait(SOON) == ORPHANED


# -- what becomes of a job ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (ScanError, "failed"),
        (ReductionError, "failed"),
        (ArchiveError, "retry"),
        (SpaceError, "postponed"),
        (LockedError, "postponed"),
    ],
)
def test_own_errors_are_judged_by_their_exit_code(error, action):
    outcome = judge(Ending(returncode=error.exit_code, error="why", exit_code=error.exit_code))
    assert (outcome.action, outcome.reason) == (action, "why")
    assert outcome.waits_for == {SpaceError: "space", LockedError: "the lock"}.get(error, "")


def test_scan_that_is_still_being_written_is_tried_again(tmp_path):
    """The job itself says so, and the worker does not take it for bad data."""
    job = {"output": str(tmp_path / "out"), "scan": None, "run": reference("a run"), "publish": {}}
    job["run"]["streams"][0]["data_keys"] = {"det": {"shape": [1, 4, 4], "external": "STREAM:"}}
    job["run"]["streams"][0]["resources"][0] |= {
        "uri": f"file://localhost{tmp_path}/x.h5",
        "parameters": {"dataset": "/data"},
    }
    job["settings"] = {"scan.wait_seconds": 0.0, "scan.no_darks": True, "scan.normalised": "transmission"}
    (tmp_path / "out").mkdir()
    with ChildProcess(COMMAND, job, log=tmp_path / "log") as child:
        ending = child.ending()
    assert "x.h5" in ending.error
    assert (ending.exit_code, ending.may_pass) == (ScanError.exit_code, True)
    assert judge(ending).action == "retry"


def test_result_counts_however_the_process_ended_after_it():
    outcome = judge(Ending(returncode=-signal.SIGSEGV, result={"output": "here"}))
    assert (outcome.action, outcome.result) == ("done", {"output": "here"})


def test_crash_is_told_with_its_signal_and_the_end_of_the_log(queue, tmp_path):
    queue.put(light_submission(tmp_path, "a.h5", do="crash"))
    work(queue, tmp_path)
    job = queue.find(1)
    assert (job.state, job.attempts) == ("failed", 3)
    assert job.reason == "killed by SIGABRT\nout of memory, or so"


def test_crashed_job_is_tried_again_later(queue, tmp_path, caplog):
    queue.put(light_submission(tmp_path, "a.h5", do="crash once"))
    with caplog.at_level(logging.INFO):
        work(queue, tmp_path, retry_seconds=0.5)
    job = queue.find(1)
    assert (job.state, job.attempts) == ("done", 2)
    first, second = (note["time"] for note in journal(tmp_path) if note["event"] == "begin")
    assert second - first > 0.5
    assert (tmp_path / "out" / output_name(job.submission, "").name / "worker.log.1").read_text() != ""
    told = [record.getMessage() for record in caplog.records]
    assert [text.split(":")[0] for text in told[1:-1]] == ["job 1, a.h5"] * 4
    assert "queued after" in told[2]
    assert "SIGABRT | out of memory" in told[2]


def test_delays_grow_up_to_an_hour():
    assert [retry_delay(attempts, 30) for attempts in (1, 2, 3)] == [30, 60, 120]
    assert retry_delay(5000, 30) == 3600


def test_unpublished_result_is_a_result(queue, tmp_path):
    queue.put(light_submission(tmp_path, "a.h5"))
    work(queue, tmp_path, command=printing('{"result": {"output": "here", "publish_error": "no server"}}'))
    job = queue.find(1)
    assert (job.state, job.result["publish_error"]) == ("done_unpublished", "no server")


def test_reason_of_letters_that_are_none(queue, tmp_path):
    """Names of files need not be text."""
    queue.put(light_submission(tmp_path, "a.h5"))
    stage = '{"stage": "train \\udc80", "done": 0, "total": 1}'
    work(queue, tmp_path, command=printing(stage, '{"error": "scan_\\udc80.h5 is none", "exit_code": 3}'))
    assert queue.find(1).state == "failed"
    assert queue.find(1).reason.endswith(".h5 is none")


def test_what_else_is_printed_harms_nothing(queue, tmp_path):
    queue.put(light_submission(tmp_path, "a.h5"))
    work(queue, tmp_path, command=printing("hello", "[1]", "{", "\\udc80", '{"result": {"output": "here"}}', "bye"))
    assert queue.find(1).state == "done"


def test_program_that_is_not_there_is_a_crash(queue, tmp_path):
    queue.put(light_submission(tmp_path, "a.h5"))
    work(queue, tmp_path, command=("/no/such/program",))
    assert queue.find(1).state == "failed"
    assert "/no/such/program" in queue.find(1).reason


def test_silent_job_is_killed_and_tried_again(queue, tmp_path):
    queue.put(light_submission(tmp_path, "a.h5"))
    silent = printing(
        '{"stage": "train", "done": 3, "total": 8, "note": ""}', then="sys.stdout.flush(); time.sleep(60)"
    )
    work(queue, tmp_path, command=silent, stall_minutes=0.3 / 60)
    assert queue.find(1).state == "failed"
    assert "and was killed, after train: 3 of 8" in queue.find(1).reason


def test_job_waits_for_space_for_some_time(queue, tmp_path):
    queue.put(light_submission(tmp_path, "a.h5"))
    full = printing('{"error": "disk full", "exit_code": 5}')
    with working(queue, tmp_path, command=full, space_wait_hours=0.3 / 3600):
        wait_until(lambda: queue.find(1).reason == "disk full")
        assert (queue.find(1).state, queue.find(1).attempts) == ("queued", 0)
        assert queue.find(1).not_before > time.time() + 200
        time.sleep(0.4)
        queue.retry(1)
        wait_until(lambda: queue.find(1).state == "failed")
    assert queue.find(1).reason == "waited for space for 8.33333e-05 hours: disk full"


def test_job_waits_for_a_lock_for_some_time(queue, tmp_path):
    queue.put(light_submission(tmp_path, "a.h5"))
    locked = printing('{"error": "another works here", "exit_code": 6}')
    with working(queue, tmp_path, command=locked, lock_wait_hours=0.3 / 3600, space_wait_hours=0):
        wait_until(lambda: queue.find(1).reason == "another works here")
        assert (queue.find(1).state, queue.find(1).attempts) == ("queued", 0)
        time.sleep(0.4)
        queue.retry(1)
        wait_until(lambda: queue.find(1).state == "failed")
    assert queue.find(1).reason == "waited for the lock for 8.33333e-05 hours: another works here"


def test_many_crashes_of_different_jobs_make_the_worker_pause(queue, tmp_path):
    for number in range(5):
        queue.put(light_submission(tmp_path, f"{number}.h5", do="crash"))
    with working(queue, tmp_path, crash_pause_seconds=60, retry_seconds=60):
        wait_until(lambda: sum(job.attempts for job in queue.jobs()) == 3)
        time.sleep(0.5)  # in which the others would be done
        stopped = time.monotonic()
    assert time.monotonic() - stopped < SOON
    assert sum(job.attempts for job in queue.jobs()) == 3


# -- cancelling and stopping -------------------------------------------------------------------------------------------


def test_cancelled_job_is_ended(queue, tmp_path):
    queue.put(light_submission(tmp_path, "long.h5", seconds=60))
    queue.put(light_submission(tmp_path, "next.h5"))
    worker = start_worker(queue.path, settings_of(tmp_path / "out", lease_seconds=1), command=LIGHT, until_empty=True)
    wait_until(lambda: queue.find(1).progress == "sleep: 0 of 1")
    (child,) = children(worker.pid)
    queue.cancel(1)
    assert worker.wait(30) == 0
    assert not is_alive(child)
    assert [queue.find(number).state for number in (1, 2)] == ["cancelled", "done"]
    assert [note["key"] for note in journal(tmp_path) if note["event"] == "end"] == ["/scans/next.h5:default"]


@pytest.mark.parametrize("is_whole_service", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_stopped_worker_puts_its_job_back(number, code, is_whole_service, queue, tmp_path):
    queue.put(light_submission(tmp_path, "long.h5", seconds=60))
    queue.put(light_submission(tmp_path, "next.h5"))
    worker = start_worker(queue.path, settings_of(tmp_path / "out"), command=LIGHT)
    wait_until(lambda: journal(tmp_path))
    (child,) = children(worker.pid)
    if is_whole_service:  # a service manager stops all processes, in any order
        os.kill(child, number)
    worker.send_signal(number)
    assert worker.wait(SOON) == code
    assert not is_alive(child)
    job = queue.find(1)
    assert (job.state, job.attempts, job.reason) == ("queued", 0, "the worker was stopped")
    assert queue.find(2).attempts == 0  # it took no other
    assert queue.claim(this_worker()).id == 1


def large(submission):
    """Make a submission larger than a pipe holds."""
    return dataclasses.replace(submission, scan=None, run=reference("large", size=2**18))


def test_job_that_hangs_before_it_reads_is_killed(queue, tmp_path):
    queue.put(large(light_submission(tmp_path, "a.h5")))
    began = time.monotonic()
    work(queue, tmp_path, command=printing(then="time.sleep(60)"), stall_minutes=0.3 / 60)
    assert "told no progress" in queue.find(1).reason
    assert queue.find(1).state == "failed"
    assert time.monotonic() - began < 3 * SOON


def test_large_job_arrives_whole(queue, tmp_path):
    queue.put(large(light_submission(tmp_path, "a.h5")))
    work(queue, tmp_path)
    assert queue.find(1).state == "done"


@pytest.mark.parametrize("end", ["os.abort()", "sys.exit(0)"])
def test_what_a_job_started_ends_with_it(end, tmp_path):
    starting = "import subprocess; p = subprocess.Popen(['sleep', '60']); print({'pid': p.pid}, file=sys.stderr)"
    began = time.monotonic()
    with ChildProcess(printing(then=f"{starting}\n{end}"), {}, log=tmp_path / "log") as child:
        wait_until(lambda: child.wait(0.1), SOON)  # the descendant holds the pipe
        assert child.ending().returncode == (-signal.SIGABRT if "abort" in end else 0)
    left = int((tmp_path / "log").read_text().split()[1].rstrip("}\n"))
    wait_until(lambda: not is_alive(left), SOON)
    assert time.monotonic() - began < 2 * SOON


def test_job_that_hangs_in_the_kernel_is_given_up(tmp_path, monkeypatch, caplog):
    """As on a disk that is gone: no signal is heard."""
    monkeypatch.setattr(child_process, "KILLED_SECONDS", 0.3)
    monkeypatch.setattr(child_process, "GRACE_SECONDS", 0.1)
    began = time.monotonic()
    with monkeypatch.context() as deaf:
        deaf.setattr(os, "killpg", lambda group, number: None)
        with ChildProcess(printing(then="time.sleep(60)"), {}, log=tmp_path / "log") as child:
            child.stop()
            assert child.ending().crash == "killed by SIGKILL"
    assert time.monotonic() - began < SOON
    assert caplog.text.count("was killed and has not ended") == 1
    child.process.kill()
    child.process.wait()
    child.__exit__(None, None, None)


def test_job_that_does_not_end_when_asked_is_killed(tmp_path):
    stubborn = printing("{}", then="import signal; signal.signal(15, signal.SIG_IGN); print({}); time.sleep(60)")
    with ChildProcess(stubborn, {}, log=tmp_path / "log") as child:
        time.sleep(0.3)
        child.stop()
        assert child.ending().crash == "killed by SIGKILL"
