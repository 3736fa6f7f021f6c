"""The queue: no job is lost, none is done twice, whoever crashes; errors say what to do."""

import json
import signal
import sqlite3
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from quietbeam.beamline.jobs.disks import file_system, is_network_disk
from quietbeam.beamline.jobs.places import default_queue
from quietbeam.beamline.jobs.queue import JobQueue, QueueError, UnknownJobError
from quietbeam.beamline.jobs.schema import SCHEMA_VERSION
from quietbeam.beamline.jobs.submission import submission_of_run, submission_of_scan

from .submissions import LEASE, SIZE_OF_A_REFERENCE, Clock, output, python, reference, run_submission

PUT_MEDIAN = 1e-3
"""Seconds; without the disk's own time it is a tenth of that."""
PUT_500 = 1.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(tmp_path, clock):
    with JobQueue(tmp_path / "jobs.db", now=clock) as queue:
        yield queue


SUBMITTER = """
import sys
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.submission import submission_of_scan
with JobQueue(sys.argv[1], timeout=20) as queue:
    for number in range(int(sys.argv[2])):
        queue.put(submission_of_scan(f"/scans/{number}.h5"))
        print(number, flush=True)
"""

CLAIMER = """
import sys, time
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.leases import this_worker
with JobQueue(sys.argv[1], timeout=20) as queue:
    until = time.monotonic() + 20
    while sum(queue.counts()[state] for state in ("done",)) < int(sys.argv[2]) and time.monotonic() < until:
        job = queue.claim(this_worker())
        if job is None:
            time.sleep(0.002)
        elif queue.finish(job, {"worker": this_worker()}):
            print(job.id, job.attempts)
"""


def test_many_processes_make_one_queue_and_no_job_is_given_to_two(tmp_path):
    path, number = tmp_path / "jobs.db", 120
    processes = [python(CLAIMER, path, number) for _ in range(4)] + [python(SUBMITTER, path, number) for _ in range(2)]
    written = [output(process) for process in processes]
    finished = [line for lines in written[:4] for line in lines.splitlines()]
    # Both submitters told of the same scans.
    assert sorted(finished, key=lambda line: int(line.split()[0])) == [f"{job} 1" for job in range(1, number + 1)]


def test_what_was_put_survives_a_kill(tmp_path):
    process = python(SUBMITTER, tmp_path / "jobs.db", 100000)
    told = [process.stdout.readline() for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    told += process.communicate()[0].splitlines()
    last = int(told[-1])
    with JobQueue(tmp_path / "jobs.db") as queue:
        assert last + 1 <= queue.counts()["queued"] <= last + 2


def test_put_takes_less_than_a_millisecond(tmp_path):
    memory = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path)
    with folder as name, JobQueue(Path(name) / "jobs.db") as queue:
        took = []
        for number in range(500):
            submission = submission_of_run(reference(f"run-{number}", size=SIZE_OF_A_REFERENCE))
            begun = time.perf_counter()
            queue.put(submission)
            took.append(time.perf_counter() - begun)
    assert statistics.median(took) < PUT_MEDIAN
    assert sum(took) < PUT_500


def test_a_job_goes_through_its_life(queue, clock):
    put = queue.put(run_submission("a" * 8, settings={"training.epochs": 3}, source="hook"))
    assert (put.state, put.attempts, put.name, put.source) == ("queued", 0, "scan 7 (aaaaaaaa)", "hook")
    job = queue.claim("here:1", lease=LEASE, device="cuda:0")
    assert (job.state, job.attempts, job.worker, job.device) == ("running", 1, "here:1", "cuda:0")
    assert job.submission == run_submission("a" * 8, settings={"training.epochs": 3}, source="hook")
    assert queue.claim("here:2") is None
    assert queue.beat(job, progress="training 40 %")
    assert queue.beat(job)
    assert queue.find(job.id).progress == "training 40 %"
    clock.time += 5
    assert queue.finish(job, {"output": "/out"}, state="done_unpublished")
    assert queue.published(job.id, {"output": "/out", "published": {"tiled": "x"}})
    assert not queue.published(job.id, {})
    ended = queue.find(job.id)
    assert (ended.state, ended.result["published"], ended.finished - ended.started) == ("done", {"tiled": "x"}, 5)
    with pytest.raises(ValueError, match="done or done_unpublished"):
        queue.finish(job, {}, state="failed")


def test_a_more_complete_reference_is_taken_by_queued_jobs_only(queue):
    first, more, stopped, fewer = (
        reference("run-a", num_frames=num_frames, stopped=stopped)
        for num_frames, stopped in [(3, False), (4, False), (2, True), (9, False)]
    )
    assert queue.put(submission_of_run(first, is_job=False)) is None
    assert queue.counts()["queued"] == 0
    assert queue.open_runs() == [first]
    assert queue.open_runs(since=101.0) == []
    job = queue.put(submission_of_run(more))
    assert job.submission.run == more
    assert queue.open_runs() == []
    assert queue.put(submission_of_run(stopped)) is None
    assert queue.find(job.id).submission.run == stopped
    queue.put(submission_of_run(fewer))
    assert queue.run("run-a") == stopped
    claimed = queue.claim("here:1")
    assert claimed.submission.run == stopped
    queue.finish(claimed, {})
    newest = reference("run-a", num_frames=20)
    assert queue.put(submission_of_run(newest)) is None
    assert queue.run("run-a") == newest
    assert queue.find(job.id).submission.run == stopped
    assert queue.retry(job.id, force=True).submission.run == newest
    assert queue.claim("here:1").submission.run == newest


def test_a_cancelled_job_is_stopped_and_may_be_queued_again_with_other_settings(queue):
    queue.put(run_submission("run-a", settings={"training.epochs": 1}))
    job = queue.claim("here:1")
    queue.cancel("run-a", "wrong sample")
    assert not queue.beat(job)
    assert queue.find(job.id).reason == "wrong sample"
    again = queue.retry("run-a", settings={"training.epochs": 2})
    assert again.submission.settings == {"training.epochs": 2}
    assert again.submission.run == job.submission.run
    assert not queue.finish(job, {})


def test_a_job_that_waits_takes_another_priority_and_settings_and_no_other_job_does(queue):
    own = {"training.epochs": 1}
    for uid in ("run-a", "run-b"):
        queue.put(run_submission(uid, settings=own, source="hook"))
    assert queue.revise("run-b", priority=2).source == "hook"
    assert queue.revise("run-b", settings={"scan.crop": (1, 2)}).submission.settings == {"scan.crop": [1, 2]}
    assert queue.revise("run-b", settings={"scan.crop": (1, 2)}, priority=2) == queue.find("run-b")
    assert (queue.find("run-b").source, queue.find("run-b").submission.source) == ("console", "console")
    job = queue.claim("here:1")
    assert (job.run_uid, job.priority, job.submission.priority) == ("run-b", 2, 2)
    with pytest.raises(QueueError, match=r"job 2 .*, running, .*; cancel it first, then `quietbeam retry 2 --set"):
        queue.revise("run-b", priority=3)
    queue.finish(job, {})
    with pytest.raises(QueueError, match=r"done, .*; `quietbeam retry 2 --force --set"):
        queue.revise("run-b", settings=own)
    assert queue.revise("run-b", priority=2).state == "done"
    with pytest.raises(ValueError, match="priority of a submission"):
        queue.revise("run-a", priority=2**70)


def test_a_job_that_ends_while_it_is_cancelled_stays_as_it_ended(tmp_path):
    with JobQueue(tmp_path / "jobs.db") as other:
        other.put(run_submission("run-a"))
        job = other.claim("here:1")

        def now():  # is asked after the job was looked up, before it is changed
            other.finish(job, {"output": "/out"})
            return 1000.0

        with JobQueue(tmp_path / "jobs.db", now=now) as queue, pytest.raises(QueueError, match="is done already"):
            queue.cancel(job.id)
        assert other.find(job.id).result == {"output": "/out"}


def test_jobs_are_found_as_people_name_them(queue, tmp_path):
    queue.put(run_submission("11111111-a"))
    queue.put(run_submission("abcdef-1", profile="fast"))
    queue.put(run_submission("abcdef-1"))
    queue.put(run_submission("abcdef-2"))
    queue.put(submission_of_scan(tmp_path / "a scan.h5"))
    meant = {
        1: 1,
        "2": 2,
        -1: 5,
        "-2": 4,
        "abcdef-1": 3,
        "abcdef-1:fast": 2,
        "111111": 1,
        str(tmp_path / "a scan.h5"): 5,
    }
    assert {which: queue.find(which).id for which in meant} == meant
    with pytest.raises(UnknownJobError, match=r"may mean 2 runs \(abcdef-1, abcdef-2\); give more"):
        queue.find("abcdef")
    with pytest.raises(LookupError, match=r"no job 'abc'; the latest are 5, 4, 3, 2, 1$"):
        queue.find("abc")
    for unknown in (77, "9" * 25, -(10**30), "9" * 5000, "a\0b", "x" * 5000):
        with pytest.raises(UnknownJobError, match="no job"):
            queue.find(unknown)


def test_runs_that_are_no_jobs_are_found(queue):
    for order, uid in enumerate(["abcdef-1", "abcdef-12", "123456-1"]):
        queue.put(submission_of_run(reference(uid, time=-float(order)), is_job=False))
    found = {
        which: (queue.find_run(which) or {"start": {"uid": None}})["start"]["uid"]
        for which in ("abcdef-1", "abcdef", "123456", "12345", "-1")
    }
    assert found == {"abcdef-1": "abcdef-1", "abcdef": None, "123456": "123456-1", "12345": None, "-1": "abcdef-1"}


def test_jobs_and_states(queue):
    for number in range(3):
        queue.put(run_submission(f"run-{number}", priority=int(number == 2)))
    queue.cancel(1)
    assert [job.id for job in queue.jobs()] == [3, 2, 1]
    assert [job.id for job in queue.jobs(states=["queued"], limit=1)] == [3]
    assert [job.id for job in queue.waiting()] == [3, 2]
    with pytest.raises(ValueError, match="no such state: lost; there are queued, running"):
        queue.jobs(states=["lost"])


def test_threads_and_forks_use_one_queue(tmp_path):
    script = """
import os, sys, threading
import psutil
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.submission import submission_of_scan
queue = JobQueue(sys.argv[1], timeout=20)
def put(name):
    for number in range(20):
        queue.put(submission_of_scan(f"/{name}/{number}"))
threads = [threading.Thread(target=put, args=(f"thread-{number}",)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
def opened():
    return [file.path for file in psutil.Process().open_files()].count(str(queue.path))
before = opened()
if (child := os.fork()) == 0:
    put("child")
    # SQLite's connections must not be used, nor closed, behind a fork.
    os._exit(opened() != before + 1)
put("parent")
assert os.waitpid(child, 0)[1] == 0
print(queue.counts()["queued"])
"""
    assert output(python(script, tmp_path / "jobs.db")) == "120\n"


def test_connections_of_ended_threads_are_closed(queue):
    for _ in range(5):
        thread = threading.Thread(target=queue.counts)
        thread.start()
        thread.join()
    opened = [file.path for file in psutil.Process().open_files()]
    assert opened.count(str(queue.path)) == 2  # this thread's, and that of the last one


@pytest.mark.parametrize("what", ["deleted", "moved"])
def test_a_file_taken_away_from_an_open_queue_is_made_anew(queue, what):
    queue.put(run_submission("run-a"))
    for path in list(queue.path.parent.glob("jobs.db*")):
        path.unlink() if what == "deleted" else path.rename(path.with_name(f"old-{path.name}"))
    assert queue.put(run_submission("run-b")).id == 1
    with JobQueue(queue.path) as other:
        assert [job.run_uid for job in other.jobs()] == ["run-b"]


def test_a_damaged_file_is_named_with_what_to_do(queue):
    for number in range(50):
        queue.put(run_submission(f"run-{number}"))
    queue.close()
    size = queue.path.stat().st_size
    with queue.path.open("r+b") as file:
        file.seek(2048)
        file.write(b"\xff" * (size - 2048))
    with pytest.raises(QueueError, match=r"jobs\.db: the queue's file is damaged; move it away .*spool are not lost"):
        queue.put(run_submission("run-x"))
    queue.path.write_bytes(b"no database at all" * 100)
    with pytest.raises(QueueError, match="damaged"):
        JobQueue(queue.path)


def test_a_newer_or_foreign_database_is_left_alone(tmp_path):
    JobQueue(tmp_path / "newer.db").close()
    for name, statement in {
        "newer": f"PRAGMA user_version={SCHEMA_VERSION + 1}",
        "foreign": "CREATE TABLE t(x)",
    }.items():
        connection = sqlite3.connect(tmp_path / f"{name}.db")
        connection.execute(statement)
        connection.close()
    before = (tmp_path / "foreign.db").read_bytes()
    with pytest.raises(QueueError, match=r"newer quietbeam \(version 2 of the queue, this one knows 1\); update"):
        JobQueue(tmp_path / "newer.db")
    with pytest.raises(QueueError, match="database of something else"):
        JobQueue(tmp_path / "foreign.db")
    assert (tmp_path / "foreign.db").read_bytes() == before


def test_a_queue_on_a_network_disk_is_refused(tmp_path):
    with pytest.raises(QueueError, match=r"network disk \(nfs4\).*submit into a folder .* such as .*jobs\.db\.spool"):
        JobQueue(tmp_path / "jobs.db", disk=lambda path: "nfs4")
    assert list(tmp_path.iterdir()) == []


def test_the_file_system_is_that_of_the_deepest_mount(tmp_path):
    (tmp_path / "a disk").mkdir()
    mounts = tmp_path / "mountinfo"
    place = str(tmp_path / "a disk").replace(" ", "\\040")
    lines = ["1 0 8:1 / / rw - ext4 /dev/a rw", f"3 1 0:5 / {place} rw shared:1 - autofs auto rw"]
    lines += [f"2 1 0:4 / {tmp_path}/a rw - tmpfs t rw", f"4 1 0:6 / {place} rw - nfs4 server:/x rw"]
    mounts.write_text("\n".join(lines) + "\n")
    assert file_system(tmp_path / "a disk" / "not" / "there.db", mounts=mounts) == "nfs4"
    assert file_system(tmp_path / "jobs.db", mounts=mounts) == "ext4"
    assert file_system(tmp_path, mounts=tmp_path / "none") == "unknown"
    assert not is_network_disk(file_system(Path("/proc")))
    kinds = ["nfs", "gpfs", "lustre", "cifs", "fuse.sshfs", "fuse.glusterfs", "ext4", "xfs", "tmpfs", "fuse.ntfs-3g"]
    assert [is_network_disk(kind) for kind in kinds] == [True] * 6 + [False] * 4


def test_the_default_queue(tmp_path, monkeypatch):
    monkeypatch.setenv("QUIETBEAM_QUEUE", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_queue() == tmp_path / "quietbeam" / "jobs.db"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_queue() == tmp_path / ".local" / "state" / "quietbeam" / "jobs.db"
    monkeypatch.setenv("QUIETBEAM_QUEUE", "/x/q.db")
    assert default_queue() == Path("/x/q.db")


def test_results_hold_what_json_has_no_form_for(queue):
    queue.put(run_submission("run-a"))
    job = queue.claim("here:1")
    queue.finish(job, {"output": Path("/out"), "numbers": {"psnr": float("nan")}})
    result = queue.find(job.id).result
    assert result["output"] == "/out"
    assert json.dumps(result["numbers"]) == '{"psnr": NaN}'
