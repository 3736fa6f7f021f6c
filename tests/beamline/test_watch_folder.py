"""A folder that scans are written to: each is found once, when it is complete, and never sooner."""

import logging
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.submission import open_queue
from quietbeam.beamline.watching.folder import FolderWatcher, WatchError, why_not_readable
from quietbeam.beamline.watching.intake import Intake
from quietbeam.beamline.watching.targets import submit_target, take_found

from .jobs import command

WRITER = """
import sys
import h5py
path, options = sys.argv[1], {"plain": {}, "swmr": {"libver": "latest"}, "unlocked": {"locking": False}}[sys.argv[2]]
with h5py.File(path, "w", **options) as file:
    frames = file.create_dataset("frames", (0, 64), "u2", maxshape=(None, 64), chunks=(1, 64))
    if sys.argv[2] == "swmr":
        file.swmr_mode = True
    for line in sys.stdin:
        frames.resize(len(frames) + 1, axis=0)
        file.flush()
        print("written", flush=True)
"""
LONGEST = 20.0
"""Seconds until a process has done its part, on a busy machine."""


class Clock:
    """A clock that is turned by hand."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def writer():
    """Start a process that has a file open and writes a frame for each line; closes it at the end of its input."""
    started = []

    def start(path, kind):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.stdin.close()
        process.stdout.close()
        process.wait(LONGEST)


def frame(process):
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "written\n"


def close(process):
    process.stdin.close()
    assert process.wait(LONGEST) == 0


def write(path, value=0):
    with h5py.File(path, "w") as file:
        file["frames"] = np.full(8, value)
    return path


def found(watcher):
    return [path for path, _ in watcher.poll()]


def test_a_slow_writer_is_waited_for_where_nothing_but_changes_tells(tmp_path, clock, writer):
    watcher = FolderWatcher(tmp_path, settle=10, clock=clock)
    process = writer(tmp_path / "slow.h5", "unlocked")
    for _ in range(4):
        frame(process)
        assert found(watcher) == []
        clock.now += 9.9
    assert found(watcher) == []
    close(process)  # the last change
    assert found(watcher) == []
    clock.now += 10
    assert found(watcher) == [tmp_path / "slow.h5"]
    clock.now += 100
    assert found(watcher) == []


@pytest.mark.parametrize("kind", ["plain", "swmr"])
def test_a_file_that_a_writer_holds_open_is_not_taken_however_long_it_pauses(tmp_path, clock, writer, kind, caplog):
    watcher = FolderWatcher(tmp_path, settle=10, clock=clock)
    process = writer(tmp_path / "held.h5", kind)
    frame(process)
    for _ in range(3):
        assert found(watcher) == []
        clock.now += 1000
    assert len(caplog.records) == 1  # it is said why, once
    close(process)
    assert found(watcher) == []
    clock.now += 10
    assert found(watcher) == [tmp_path / "held.h5"]


def test_looking_does_not_keep_a_writer_out(tmp_path):
    path = write(tmp_path / "scan.h5")
    assert why_not_readable(path) == ""
    with h5py.File(path, "r+", locking=True) as file:
        file["theta"] = np.zeros(3)
        assert "locked" in why_not_readable(path)


def test_a_file_counts_from_its_renaming_and_again_when_another_takes_its_name(tmp_path, clock):
    watcher = FolderWatcher(tmp_path, settle=5, clock=clock)
    for unfinished in (".scan.h5", "scan.h5.partial", "scan.h5.tmp", "scan.partial"):
        write(tmp_path / unfinished)
    for _ in range(2):
        assert found(watcher) == []
        clock.now += 100
    (tmp_path / ".scan.h5").rename(tmp_path / "scan.h5")
    assert found(watcher) == []
    clock.now += 5
    assert found(watcher) == [tmp_path / "scan.h5"]
    before = (tmp_path / "scan.h5").stat()
    other = write(tmp_path / "scan.h5.partial", 1)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(tmp_path / "scan.h5")  # of the same size and time: only the inode tells
    assert found(watcher) == []
    clock.now += 5
    assert found(watcher) == [tmp_path / "scan.h5"]


def test_a_file_cut_short_is_never_taken(tmp_path, clock, caplog):
    whole = write(tmp_path / "whole.dat").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[:-100])
    (tmp_path / "empty.h5").touch()
    (tmp_path / "folder.h5").mkdir()
    watcher = FolderWatcher(tmp_path, settle=1, clock=clock)
    for _ in range(3):
        assert found(watcher) == []
        clock.now += 10
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "cut.h5" in caplog.text
    assert "truncated file" in caplog.text


def test_folders_below_and_old_files_are_as_asked(tmp_path, clock):
    (tmp_path / "below" / ".hidden").mkdir(parents=True)
    for path in ("below/a.h5", "below/.hidden/b.h5", "old.h5"):
        write(tmp_path / path)
    os.utime(tmp_path / "old.h5", (1000, 1000))
    watcher = FolderWatcher(tmp_path, "**/*.h5", settle=0, since=2000, clock=clock)
    assert found(watcher) == [tmp_path / "below/a.h5"]
    (tmp_path / "below/a.h5").unlink()
    assert found(watcher) == []


@pytest.mark.parametrize("pattern", ["", "/etc/*.h5", "../*.h5"])
def test_only_names_below_the_folder_make_a_pattern(tmp_path, pattern):
    with pytest.raises(ValueError, match="below the folder"):
        FolderWatcher(tmp_path, pattern)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(WatchError, match="absent: not a folder"):
        FolderWatcher(tmp_path / "absent")


def watch(folder, queue, *more):
    arguments = ["watch", "--dir", folder, "--settle", "0.3", "--queue", queue, *more]
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process, number=signal.SIGTERM):
    process.send_signal(number)
    out, errors = process.communicate(timeout=LONGEST)
    return process.returncode, out, errors


def wait_for_jobs(queue, number):
    deadline = time.monotonic() + LONGEST
    while len(queue.jobs()) < number and time.monotonic() < deadline:
        time.sleep(0.05)
    return [job.key for job in reversed(queue.jobs())]


def test_the_command_queues_each_scan_once_over_restarts_and_a_changed_one_again(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    path = write(scans / "one.h5")
    with JobQueue(tmp_path / "jobs.db") as queue:
        first = watch(scans, queue.path, "--profile", "fast")
        (key,) = wait_for_jobs(queue, 1)
        assert end(first)[0] == 0
        assert queue.jobs()[0].submission.scan == str(path)
        assert key == f"{path}@{path.stat().st_mtime_ns}:fast"
        second = watch(scans, queue.path, "--profile", "fast")
        write(scans / "two.h5")
        assert wait_for_jobs(queue, 2)[0] == key
        write(path, 1)  # theta was added, say
        keys = wait_for_jobs(queue, 3)
        code, out, errors = end(second, signal.SIGINT)
        assert (code, errors) == (130, "")
        assert "one.h5: known: job 1" in out
        assert [key.partition("@")[0] for key in keys] == [str(path), str(scans / "two.h5"), str(path)]
        assert len(set(keys)) == len(queue.jobs()) == 3
        assert queue.find(str(path)).key == keys[2]


def test_a_scan_that_a_person_submits_too_is_one_job(tmp_path):
    path = write(tmp_path / "one.h5")
    queue = open_queue(tmp_path / "jobs.db")
    (found,) = FolderWatcher(tmp_path, settle=0).poll()
    assert [done.what for _, done in take_found(Intake(queue, "watch"), found[0])] == ["queued"]
    ((_, done),) = submit_target(Intake(queue, "console"), str(path))
    assert (done.what, done.why) == ("known", "job 1, queued, profile default")
    assert queue.queue().find(path).id == 1
    queue.close()
