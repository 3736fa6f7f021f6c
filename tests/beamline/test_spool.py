"""The spool: a submission in it is whole, is taken once, and is not lost whoever is killed."""

import errno
import logging
import signal
from pathlib import Path

import pytest

from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.spool import Spool

from .submissions import output, python, run_submission, use_own_places


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    use_own_places(tmp_path, monkeypatch)


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "jobs.db.spool")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_taken_in_order_and_stays_until_removed(spool):
    submissions = [run_submission(f"run-{number}", priority=number) for number in range(3)]
    paths = [spool.write(submission) for submission in submissions]
    assert names(spool.folder) == [path.name for path in paths]
    for _ in range(2):
        assert [spooled.submission for spooled in spool.take()] == submissions
    for spooled in spool.take():
        spooled.remove()
        spooled.remove()
    assert len(spool) == 0
    assert list(Spool(spool.folder / "none").take()) == []


def test_damaged_files_are_put_aside_with_the_reason_and_hold_up_nothing(spool, tmp_path, caplog):
    good = run_submission("run-good")
    spool.write(good)
    text = good.to_json()
    damaged = {
        "0-half.json": text[: len(text) // 2],
        "1-list.json": "[]",
        "2-unknown.json": text.replace('"key"', '"colour"'),
        "3-other.json": text.replace("submission-1", "submission-2"),
        "4-ranges.json": text.replace("[[0, 10, 1]]", '[["a", null]]'),
        "5-empty.json": "",
        "6-bytes.json": "\udcff",
        "7-deep.json": "[" * 100000,
    }
    for name, content in damaged.items():
        (spool.folder / name).write_text(content, errors="surrogateescape")
    (spool.folder / ".half.json.partial").write_text(text[:10])
    with JobQueue(tmp_path / "jobs.db") as queue:
        assert queue.ingest() == 1
        assert [job.run_uid for job in queue.jobs()] == ["run-good"]
    assert names(spool.folder) == [".half.json.partial", "refused"]
    refused = spool.folder / "refused"
    assert names(refused) == sorted([*damaged, *(f"{name}.reason.txt" for name in damaged)])
    assert (refused / "0-half.json").read_text() == damaged["0-half.json"]
    assert "unknown field 'colour'" in (refused / "2-unknown.json.reason.txt").read_text()
    assert "expected 'quietbeam-submission-1', got 'quietbeam-submission-2'" in caplog.text


def test_a_file_that_cannot_be_read_stays_and_is_told_once(spool, tmp_path, caplog):
    spool.write(run_submission("run-a"))
    (spool.folder / "0.json").mkdir()
    with JobQueue(tmp_path / "jobs.db") as queue, caplog.at_level(logging.WARNING):
        assert [queue.ingest() for _ in range(3)] == [1, 0, 0]
    assert names(spool.folder) == ["0.json"]
    assert caplog.text.count("cannot be read now and stays") == 1


def test_a_file_that_cannot_be_removed_holds_up_nothing_and_is_taken_once(spool, tmp_path, monkeypatch, caplog):
    """As in a sticky folder, where another user's files cannot be removed."""
    for number in range(3):
        spool.write(run_submission(f"run-{number}"))
    stuck, unlink = min(names(spool.folder)), Path.unlink

    def sticky(path, missing_ok=False):
        if path.name == stuck:
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", sticky)
    with JobQueue(tmp_path / "jobs.db") as queue:
        assert [queue.ingest() for _ in range(3)] == [3, 0, 0]
        assert queue.counts()["queued"] == 3
        assert names(spool.folder) == [stuck]
        assert len(queue.spool) == 0
    assert caplog.text.count("is in the queue, but stays here as well") == 1


def test_what_was_spooled_twice_with_other_settings_is_told(spool, tmp_path, caplog):
    for epochs in (1, 1, 2):
        spool.write(run_submission("run-a", settings={"training.epochs": epochs}))
    with JobQueue(tmp_path / "jobs.db") as queue, caplog.at_level(logging.INFO):
        queue.ingest()
        assert queue.find(1).submission.settings == {"training.epochs": 1}
    assert caplog.text.count("is there already as job 1, queued, which keeps its own priority and settings") == 1


def test_killed_between_the_database_and_the_file_a_submission_is_one_job(spool, tmp_path):
    for number in range(3):
        spool.write(run_submission(f"run-{number}"))
    script = """
import os, signal, sys
from quietbeam.beamline.jobs.queue import JobQueue
queue = JobQueue(sys.argv[1])
for spooled in queue.spool.take():
    queue.put(spooled.submission)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = python(script, tmp_path / "jobs.db")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(spool) == 3
    with JobQueue(tmp_path / "jobs.db") as queue:
        assert queue.counts()["queued"] == 1
        claimed = queue.claim("here:1")
        assert queue.ingest() == 3
        assert [(job.run_uid, job.state) for job in queue.jobs()] == [
            ("run-2", "queued"),
            ("run-1", "queued"),
            ("run-0", "running"),
        ]
        assert queue.finish(claimed, {})
    assert len(spool) == 0


def test_writers_and_takers_at_once_lose_nothing_and_see_no_half_file(spool, tmp_path):
    write = """
import sys
from quietbeam.beamline.jobs.spool import Spool
from quietbeam.beamline.jobs.submission import submission_of_scan
for number in range(100):
    Spool(sys.argv[1]).write(submission_of_scan(f"/{sys.argv[2]}/{number}"))
"""
    take = """
import sys, time
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.spool import Spool
with JobQueue(sys.argv[1], timeout=20) as queue:
    until = time.monotonic() + 20
    while queue.counts()["queued"] < 200 and time.monotonic() < until:
        queue.ingest(Spool(sys.argv[2]))
"""
    other = tmp_path / "elsewhere.spool"
    takers = [python(take, tmp_path / "jobs.db", other) for _ in range(2)]
    writers = [python(write, folder, name) for name, folder in {"a": spool.folder, "b": other}.items()]
    for process in [*writers, *takers]:
        output(process)
    with JobQueue(tmp_path / "jobs.db") as queue:
        assert queue.counts()["queued"] == 200
    assert names(spool.folder) == names(other) == []


def test_nothing_is_left_of_what_could_not_be_written(spool):
    script = """
import resource, sys
from quietbeam.beamline.jobs.request import Submission
from quietbeam.beamline.jobs.spool import Spool
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    Spool(sys.argv[1]).write(Submission(key="k", name="x" * 2000, scan="/s"))
except OSError as error:
    print(error.errno)
"""
    assert int(output(python(script, spool.folder))) == errno.EFBIG
    assert names(spool.folder) == []


def test_the_folder_above_is_never_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        Spool(tmp_path / "not mounted" / "a.spool").write(run_submission("run-a"))
    assert not (tmp_path / "not mounted").exists()
