"""The one way into the queue: a submission always lands somewhere, and a worker finds it there."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.beamline.jobs.destination import SUBMIT_TIMEOUT
from quietbeam.beamline.jobs.places import default_queue, user_and_host
from quietbeam.beamline.jobs.queue import JobQueue, QueueError
from quietbeam.beamline.jobs.request import Submission
from quietbeam.beamline.jobs.spool import Spool
from quietbeam.beamline.jobs.submission import Destination, open_queue, submission_of_run, submission_of_scan, submit

from .submissions import output, python, reference, run_submission, use_own_places


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    use_own_places(tmp_path, monkeypatch)


NOBODY = 65534

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def uids(queue):
    return sorted(job.run_uid for job in queue.jobs())


@given(
    run=st.dictionaries(st.text(), JSON, max_size=3),
    settings=st.dictionaries(st.text(), JSON, max_size=3),
    name=st.text(),
    priority=st.integers(-(2**40), 2**40),
    is_job=st.booleans(),
)
def test_a_submission_goes_through_json_unchanged(run, settings, name, priority, is_job):
    run = run | {"start": {"uid": "u"}}
    one = Submission(key="k", name=name, run=run, settings=settings, priority=priority, is_job=is_job)
    assert Submission.from_json(one.to_json()) == one
    assert "\n" not in one.to_json()
    assert one.to_json().isascii()


def test_what_json_has_no_form_for_becomes_text_or_numbers():
    start = {"uid": "u", "path": Path("/x"), ("a", 1): {2}, "n": np.int64(3), "m": np.eye(2), "nan": math.nan}
    run = json.loads(Submission(key="k", name="n", run={"start": start}).to_json())["run"]
    assert math.isnan(run["start"].pop("nan"))
    assert run["start"] == {"uid": "u", "path": "/x", "('a', 1)": "{2}", "n": 3, "m": [[1, 0], [0, 1]]}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"key": ""}, "key of a submission must not be empty"),
        ({"scan": None}, "expected one of run and scan, got neither"),
        ({"run": {"start": {"uid": "u"}}}, "expected one of run and scan, got both"),
        ({"scan": None, "run": {"start": {}}}, "run must hold the uid"),
        ({"priority": True}, "priority of a submission: expected int, got True"),
        ({"priority": "high"}, "priority of a submission: expected int, got 'high'"),
        ({"priority": 2**70}, "priority of a submission: expected at most 9007199254740992, got a number of 71 bits"),
        ({"settings": None}, "settings of a submission: expected Mapping, got None"),
        ({"colour": 1}, "unknown field 'colour'; known are key, name"),
        ({"format": "x"}, "expected 'quietbeam-submission-1', got 'x'"),
    ],
)
def test_a_wrong_submission_is_told(fields, problem):
    good = submission_of_scan("/s").to_dict()
    with pytest.raises(ValueError, match=problem):
        Submission.from_json(json.dumps(good | fields))


def test_names_and_keys(tmp_path):
    run = submission_of_run(reference("1a2b3c4d-5e6f"), profile="fast")
    assert (run.key, run.name, run.run_uid) == ("1a2b3c4d-5e6f:fast", "scan 7 (1a2b3c4d)", "1a2b3c4d-5e6f")
    (tmp_path / "link").symlink_to(tmp_path / "a.h5")
    scan = submission_of_scan(tmp_path / "link")
    assert (scan.key, scan.name, scan.scan) == (f"{tmp_path}/a.h5:default", "a.h5", f"{tmp_path}/a.h5")
    with pytest.raises(ValueError, match=r"expected a text in \['start'\]\['uid'\], got None"):
        submission_of_run({"start": {}})
    (tmp_path / "a.h5").touch()
    os.utime(tmp_path / "a.h5", ns=(0, 123))
    assert submission_of_scan(tmp_path / "link").key == f"{tmp_path}/a.h5@123:default"
    assert submission_of_scan(tmp_path).key == f"{tmp_path}:default"


def test_a_path_that_is_no_utf8_reaches_the_worker_unchanged(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.h5")
    submission = submission_of_scan(path)
    Path(tmp_path / "q.spool").mkdir()
    submit(tmp_path / "q.spool", submission)
    with JobQueue(tmp_path / "q") as queue:
        assert queue.ingest() == 1
        assert queue.put(submission) is None
        assert queue.find(path).submission.scan == path


def test_a_submission_goes_to_the_database_once(tmp_path):
    path = tmp_path / "jobs.db"
    assert submit(path, run_submission("run-a")).id == 1
    assert submit(str(path), run_submission("run-a")) is None
    with JobQueue(path) as queue:
        assert submit(queue, run_submission("run-b")).id == 2
        assert submit(open_queue(queue), run_submission("run-b")) is None
        assert uids(queue) == ["run-a", "run-b"]
    assert not (tmp_path / "jobs.db.spool").exists()


@pytest.mark.parametrize("name", ["folder", "new/", "new.spool"])
def test_a_folder_is_a_spool(tmp_path, name, caplog):
    (tmp_path / "folder").mkdir()
    destination = open_queue(f"{tmp_path}/{name}")
    destination.check()
    assert destination.deliver(run_submission("run-a")).spooled.parent == tmp_path / name
    assert caplog.text == ""
    with pytest.raises(QueueError, match="is a spool, which only takes jobs"):
        destination.queue()


LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


BRIEF_LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.close()
"""


def test_a_locked_database_sends_to_the_spool_and_the_worker_finds_it(tmp_path, caplog):
    path = tmp_path / "jobs.db"
    with JobQueue(path, timeout=0.05) as queue:
        process = python(LOCK, path)
        assert process.stdout.readline() == "locked\n"
        assert submit(open_queue(path, timeout=0.05), run_submission("run-a")) is None
        delivery = open_queue(queue).deliver(run_submission("run-b"))
        with pytest.raises(QueueError, match=r"locked by another for more than 0\.05 s; try again"):
            queue.put(run_submission("run-c"))
        process.communicate()
        assert delivery.spooled.parent == tmp_path / "jobs.db.spool"
        assert str(delivery.spooled) in caplog.text
        assert queue.ingest() == 2
        assert uids(queue) == ["run-a", "run-b"]


def test_people_and_workers_wait_longer_than_the_hook(tmp_path):
    """A lock that lasts longer than the hook waits sends no cancel or submit of a person away."""
    path = tmp_path / "jobs.db"
    JobQueue(path).close()
    process = python(BRIEF_LOCK, path, 3 * SUBMIT_TIMEOUT)
    assert process.stdout.readline() == "locked\n"
    assert submit(path, run_submission("run-a")).id == 1
    output(process)


def test_what_the_database_cannot_hold_is_spooled_not_raised(tmp_path):
    odd = reference("run-a", time=10**400)
    delivery = open_queue(tmp_path / "jobs.db").deliver(submission_of_run(odd))
    assert delivery.spooled.parent == tmp_path / "jobs.db.spool"
    assert "jobs.db: OverflowError: int too large" in delivery.problem


def spoil(path, how):
    """Make a queue unusable."""
    if how == "damaged":
        path.write_bytes(b"x" * 5000)
    elif how == "a folder above that is gone":
        path.parent.rmdir()
        path.parent.parent.rmdir()
    elif how == "a folder that is a file":
        path.parent.rmdir()
        path.parent.write_text("")


@pytest.mark.parametrize(
    ("how", "places"), [("damaged", 1), ("a folder above that is gone", 2), ("a folder that is a file", 2)]
)
def test_an_unusable_database_sends_to_a_spool_that_its_worker_finds(tmp_path, how, places, caplog):
    path = tmp_path / "disk" / "queue" / "jobs.db"
    path.parent.mkdir(parents=True)
    spoil(path, how)
    assert submit(path, run_submission("run-a")) is None
    where = [path.parent / "jobs.db.spool", tmp_path / "state" / "quietbeam"][places - 1]
    assert caplog.text.count(f"waits in {where}") == 1
    with pytest.raises(QueueError):
        open_queue(path).check()
    if path.parent.is_file():
        path.parent.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with JobQueue(path) as queue:
        assert queue.ingest() == 1
        assert uids(queue) == ["run-a"]


def test_the_last_place_is_the_temporary_folder_and_then_it_raises(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    spool = tmp_path / "gone" / "x" / "q.spool"
    spooled = open_queue(spool).deliver(run_submission("run-a")).spooled
    assert spooled.is_relative_to(tmp_path / "temporary")
    spool.parent.mkdir(parents=True)
    with JobQueue(tmp_path / "other.db") as other, JobQueue(spool.with_name("q")) as queue:
        assert other.ingest() == 0
        assert queue.ingest() == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    gone = tmp_path / "nowhere" / "x" / "jobs.db"
    with pytest.raises(QueueError, match=r"scan 7 \(run-b\) could not be submitted anywhere: .*jobs\.db.*spool.*file"):
        submit(gone, run_submission("run-b"))


@pytest.mark.parametrize("name", ["jobs.db", "inbox.spool"])
def test_what_was_rescued_is_taken_along_when_the_queue_is_reached_again(tmp_path, name, caplog):
    """A worker of another user, who looks in no folder of this one, finds it then."""
    caplog.set_level("INFO")
    path = tmp_path / "disk" / "queue" / name
    first = open_queue(path)
    rescued = [first.deliver(run_submission(uid)).spooled for uid in ("run-a", "run-b")]
    assert all(file.is_relative_to(tmp_path / "state") for file in rescued)
    assert f"until a worker or a later session of {user_and_host()} takes it" in caplog.text
    path.parent.mkdir(parents=True)
    first.deliver(run_submission("run-c"))  # its own at once
    assert not any(file.exists() for file in rescued)
    Spool(rescued[0].parent).write(run_submission("run-d"))
    first.deliver(run_submission("run-e"))  # it has looked just now
    assert len(Spool(rescued[0].parent)) == 1
    open_queue(path).deliver(run_submission("run-e"))  # a later session
    assert len(Spool(rescued[0].parent)) == 0
    assert caplog.text.count("took 2 submissions that waited in") == 1
    with JobQueue(tmp_path / "disk" / "queue" / "jobs.db") as queue:
        queue.ingest(*([] if name == "jobs.db" else [Spool(path)]))
        assert uids(queue) == ["run-a", "run-b", "run-c", "run-d", "run-e"]


def test_what_was_rescued_while_a_disk_was_gone_is_taken_along_at_once(tmp_path):
    spool, away = tmp_path / "disk" / "queue" / "inbox.spool", tmp_path / "away"
    spool.parent.mkdir(parents=True)
    destination = open_queue(spool)
    destination.deliver(run_submission("run-a"))
    spool.parents[1].rename(away)
    rescued = destination.deliver(run_submission("run-b")).spooled
    away.rename(spool.parents[1])
    destination.deliver(run_submission("run-c"))
    assert not rescued.exists()
    assert len(Spool(spool)) == 3


def test_what_was_rescued_goes_beside_a_database_that_is_broken(tmp_path):
    path = tmp_path / "disk" / "queue" / "jobs.db"
    rescued = open_queue(path).deliver(run_submission("run-a")).spooled
    path.parent.mkdir(parents=True)
    spoil(path, "damaged")
    open_queue(path).deliver(run_submission("run-b"))
    assert not rescued.exists()
    assert len(Spool(path.with_name("jobs.db.spool"))) == 2


@pytest.mark.skipif(os.getuid() != 0, reason="another user's folders can be had by root only")
def test_a_rescue_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    foreign = tmp_path / "temporary" / "quietbeam-0"
    foreign.mkdir()
    os.chown(foreign, NOBODY, NOBODY)
    with pytest.raises(QueueError, match="belongs to another user"):
        submit(tmp_path / "gone" / "x" / "jobs.db", run_submission("run-a"))


def test_the_user_s_own_queue_is_made_with_all_its_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "new" / "account"))
    monkeypatch.delenv("QUIETBEAM_QUEUE", raising=False)
    assert submit(default_queue(), run_submission("run-a")).id == 1


READ_ONLY = """
import os, sys
from quietbeam.beamline.jobs.submission import Destination, open_queue, submission_of_scan
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(open_queue(sys.argv[1]).deliver(submission_of_scan("/s")).problem)
"""


def test_a_folder_that_may_only_be_read_sends_to_the_state_folder(tmp_path):
    folder = tmp_path / "read only"
    JobQueue(tmp_path / "read only" / "jobs.db").close()
    folder.chmod(0o555)
    (folder / "jobs.db").chmod(0o444)
    state = tmp_path / "state"
    state.mkdir()
    if os.getuid() == 0:
        for path in (state, tmp_path / "temporary"):
            os.chown(path, NOBODY, NOBODY)
        ours = [path for path in (tmp_path, *tmp_path.parents) if "pytest-of-" in str(path)]
        for path in ours:
            path.chmod(0o755)
    problem = output(python(READ_ONLY, folder / "jobs.db"))
    folder.chmod(0o755)
    assert "jobs.db" in problem
    assert len(list(state.rglob("*.json"))) == 1


FILL = """
import json, resource, subprocess, sys
from pathlib import Path
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.submission import Destination, open_queue, submission_of_run
sys.path.insert(0, ".")
from submissions import reference

folder, kind = Path(sys.argv[1]), sys.argv[2]
if kind == "disk":
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], check=True)
queue = JobQueue(folder / "jobs.db")
if kind == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
destination, deliveries = open_queue(queue), []
for number in range(150):
    submission = submission_of_run(reference(f"run-{number}", size=4000))
    deliveries.append(destination.deliver(submission))
spooled = [delivery.spooled for delivery in deliveries if delivery.spooled]
if kind == "disk":
    subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
waiting = queue.counts()["queued"]
taken = queue.ingest()
places = sorted({path.parent.parent.name for path in spooled})
words = sorted({delivery.problem.split(": ")[1].split(";")[0] for delivery in deliveries if delivery.spooled})
print(json.dumps([waiting, taken, queue.counts()["queued"], places, words]))
"""


def can_mount():
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_a_full_disk_loses_nothing(tmp_path, kind):
    if kind == "disk" and not can_mount():
        pytest.skip("may not mount a small disk here")
    folder = tmp_path / "small disk"
    folder.mkdir()
    process = python(FILL, folder, kind, prefix=("unshare", "--mount") if kind == "disk" else ())
    waiting, taken, total, places, words = json.loads(output(process))
    assert 0 < waiting < 150
    assert (waiting + taken, total) == (150, 150)
    if kind == "disk":
        assert "quietbeam" in places  # the spool beside the database may take a few before
        assert words[0].startswith("no space left for the queue")
    else:
        assert places == ["small disk"]


def test_a_queue_on_a_network_disk_sends_to_the_spool_beside_it(tmp_path):
    destination = Destination(tmp_path / "jobs.db", disk=lambda path: "gpfs")
    with pytest.raises(QueueError, match=r"network disk \(gpfs\)"):
        destination.check()
    delivery = destination.deliver(run_submission("run-a"))
    assert delivery.spooled.parent == tmp_path / "jobs.db.spool"
    assert "network disk" in delivery.problem
    assert not (tmp_path / "jobs.db").exists()


def test_submitting_imports_nothing_heavy():
    script = "import sys, quietbeam.beamline.jobs.submission; print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"numpy", "torch", "numba", "h5py", "pydantic", "rich", "typer", "tiled", "bluesky", "psutil"}
    assert heavy.isdisjoint(run.stdout.split())
