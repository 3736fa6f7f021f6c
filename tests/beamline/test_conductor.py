"""Scans through their stages on a pool: the same results however often something dies."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from quietbeam.beamline.cluster import ClusterSettings, open_pool
from quietbeam.beamline.series.conductor import Conductor
from quietbeam.beamline.series.find_scans import FoundScan
from quietbeam.beamline.series.pool import InProcess
from quietbeam.beamline.series.worker_plan import WorkerPlan

from . import series_work
from .series_work import CHUNK, NUM_SLICES, notes, work

ROOT = Path(__file__).parents[2]
TWO_WORKERS = WorkerPlan(2, 1, 2**31, (), "for a test")
NUM_PIECES = 2 * NUM_SLICES // CHUNK


class Told:
    """A sink that remembers."""

    def __init__(self):
        self.events, self.failures = [], {}

    def begin(self, found, settings):
        self.events.append(("begin", found.name))

    def progress(self, name, stage, done, total):
        assert 0 < done <= total

    def done(self, name):
        self.events.append(("done", name))

    def failed(self, name, failure):
        self.events.append(("failed", name))
        self.failures[name] = failure

    def names(self, event):
        return sorted(name for what, name in self.events if what == event)


class Alike:
    """The same settings for all."""

    def settings_for(self, index, name):
        return "settings"

    def finished(self, name, output):
        assert (output / "result.json").exists()

    def failed(self, name):
        pass


class FirstServes(Alike):
    """The first scan that is done serves the others."""

    def __init__(self, *names):
        self.open, self.first = list(names), None

    def settings_for(self, index, name):
        return "settings" if self.first or name == self.open[0] else None

    def finished(self, name, output):
        self.first = self.first or name

    def failed(self, name):
        self.open.remove(name)


class Room:
    """Room for some scans at a time."""

    def __init__(self, most=99):
        self.most, self.taken, self.largest = most, set(), 0

    def take(self, found, settings):
        if len(self.taken) >= self.most:
            return False
        self.taken.add(found.name)
        self.largest = max(self.largest, len(self.taken))
        return True

    def give_back(self, name):
        self.taken.remove(name)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    sys.path.insert(0, str(ROOT))  # where the workers find the tests' own modules
    settings = ClusterSettings(allowed_failures=1)
    with open_pool(None, settings, TWO_WORKERS, folder) as pool:
        yield pool
    sys.path.remove(str(ROOT))


def conduct(pool, output, *names, troubles=None, policy=None, room=None):
    told = Told()
    room = room or Room()
    Conductor(pool, work(output, troubles), sink=told, policy=policy or Alike(), space=room).run(
        [(index, FoundScan(name, Path(name), name)) for index, name in enumerate(names)]
    )
    assert not room.taken
    return told


def result(output, name):
    return (output / name / "result.json").read_bytes()


def test_all_scans_give_the_same_here_and_there(tmp_path, two_workers):
    here = conduct(InProcess(), tmp_path / "here", "a", "b", "c")
    there = conduct(two_workers, tmp_path / "there", "a", "b", "c")
    assert here.names("done") == there.names("done") == ["a", "b", "c"]
    assert len({result(tmp_path / where, name) for where in ("here", "there") for name in "abc"}) == 1
    pids = {note["pid"] for name in "abc" for note in notes(tmp_path / "there" / name)}
    assert len(pids) == 2 and os.getpid() not in pids


def test_a_worker_that_dies_costs_its_piece_only(tmp_path, two_workers):
    told = conduct(two_workers, tmp_path, "a", "b", "c", troubles={"b": "die once"})
    assert told.names("done") == ["a", "b", "c"]
    assert result(tmp_path, "b") == result(tmp_path, "a")
    begun = Counter((note["stage"], note["start"]) for note in notes(tmp_path / "b"))
    assert begun.pop(("square", CHUNK)) == 2
    assert set(begun.values()) == {1}
    assert all(len(notes(tmp_path / name)) == NUM_PIECES for name in "ac")


def test_an_answer_that_went_with_its_worker_is_asked_for_again(two_workers):
    """It is known to be there, but not yet fetched, when the worker dies."""
    tickets = [two_workers.submit(series_work.sleep, seconds) for seconds in (0.1, 0.3)]
    first, pid = two_workers.next_done()
    time.sleep(1)
    workers = [child.pid for child in psutil.Process().children(recursive=True) if "spawn_main" in str(child.cmdline())]
    (other,) = set(workers) - {pid}
    os.kill(other, signal.SIGKILL)
    time.sleep(1)  # until the scheduler knows
    second, another = two_workers.next_done()
    assert ([first, second], another not in (other, None)) == (tickets, True)


def test_a_worker_that_dies_is_missed_while_others_answer(two_workers):
    """Its long call is made again, long before those of the others are all done."""
    long = two_workers.submit(series_work.sleep, 3600)
    quick = {two_workers.submit(series_work.sleep, 0.05, priority=1) for _ in range(400)}
    assert two_workers.next_done()[0] in quick
    (worker,) = (sent.worker for sent in two_workers._sent.values() if sent.task.ticket == long)
    os.kill(two_workers._client.run(os.getpid, workers=[worker])[worker], signal.SIGKILL)
    until, num_done = time.monotonic() + 10, 0
    while worker in two_workers._workers and time.monotonic() < until:
        num_done += two_workers.next_done()[0] in quick
    two_workers.cancel(quick)
    assert worker not in two_workers._workers and num_done < 300
    os.kill(pid_of(two_workers, long), signal.SIGKILL)
    while two_workers.next_done()[0] != long:
        pass


def pid_of(pool, ticket):
    """Give the process that makes a call, as soon as it has been sent."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for sent in pool._sent.values():
            if sent.task.ticket == ticket:
                return pool._client.run(os.getpid, workers=[sent.worker])[sent.worker]
        pool._look()
        pool._take_lost()
        pool._send()
        time.sleep(0.1)
    raise AssertionError("it was not sent again")


def test_a_scan_that_always_ends_its_worker_fails_alone(tmp_path, two_workers):
    told = conduct(two_workers, tmp_path, "a", "b", "c", "d", troubles={"b": "die"})
    assert told.names("done") == ["a", "c", "d"]
    failure = told.failures["b"]
    assert (failure.kind, failure.exit_code) == ("lost", 1)
    assert "the worker died 2 times at the same piece of work (out of memory?)" in failure.reason
    # No other piece is blamed for it, and none is done again but those that ran on the worker of the other scan.
    assert all(len(notes(tmp_path / name)) == NUM_PIECES for name in "acd")


@pytest.mark.parametrize(
    ("trouble", "kind", "reason", "exit_code"),
    [
        ("refuse", "refused", "these are no projections", 3),
        ("crash", "crashed", "RuntimeError: nobody foresaw this", 1),
    ],
)
def test_a_failure_ends_one_scan_and_its_waiting_pieces(tmp_path, trouble, kind, reason, exit_code):
    told = conduct(InProcess(), tmp_path, "a", "b", "c", troubles={"b": trouble})
    assert told.names("done") == ["a", "c"]
    failure = told.failures["b"]
    assert (failure.kind, failure.reason, failure.exit_code) == (kind, reason, exit_code)
    assert ("go_wrong" in failure.trace) == (kind == "crashed")
    assert [note["start"] for note in notes(tmp_path / "b")] == [0, CHUNK]


def test_after_an_interruption_the_same_call_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        conduct(InProcess(), tmp_path, "a", "b", troubles={"b": "interrupt"})
    told = conduct(InProcess(), tmp_path, "b", troubles={"b": "interrupt"})
    assert told.names("done") == ["b"]
    assert len(notes(tmp_path / "b")) == NUM_PIECES + 1


def test_one_scan_more_than_there_are_workers_is_on_its_way(tmp_path, two_workers):
    while two_workers.num_workers < 2:  # one may just be coming back after another test
        two_workers.submit(series_work.sleep, 0.1)
        two_workers.next_done()
    for pool, most in ((InProcess(), 1), (two_workers, 3)):
        room = Room()
        conduct(pool, tmp_path / str(most), *"abcde", room=room)
        assert room.largest == most


def test_a_scan_waits_for_room_on_the_disk(tmp_path, two_workers):
    told = conduct(two_workers, tmp_path, *"abc", room=Room(most=1))
    assert told.events == [(what, name) for name in "abc" for what in ("begin", "done")]


@pytest.mark.parametrize("where", ["begin", "progress", "done", "finished"])
def test_what_cannot_be_noted_of_a_scan_ends_none_but_it(tmp_path, where):
    told, policy, room = Told(), Alike(), Room()
    spoiled = policy if where == "finished" else told
    note = getattr(spoiled, where)

    def full(found, *args):
        if getattr(found, "name", found) == "b":
            raise OSError(errno.ENOSPC, "No space left on device", "index.json")
        note(found, *args)

    setattr(spoiled, where, full)
    scans = [(index, FoundScan(name, Path(name), name)) for index, name in enumerate("abc")]
    Conductor(InProcess(), work(tmp_path), sink=told, policy=policy, space=room).run(scans)
    done = {"a", "b", "c"} if where == "progress" else {"a", "c"}
    assert (set(told.names("done")), set(told.failures), room.taken) == (done, set("abc") - done, set())


def test_a_scan_of_another_command_is_left_alone(tmp_path):
    with series_work.locked(series_work.Request(tmp_path / "b")):
        told = conduct(InProcess(), tmp_path, *"abc")
    assert told.names("done") == ["a", "c"]
    assert "b" in told.failures


def test_the_next_scan_is_first_where_the_first_fails(tmp_path):
    policy = FirstServes(*"abcd")
    told = conduct(InProcess(), tmp_path, *"abcd", troubles={"a": "refuse"}, policy=policy)
    assert policy.first == "b"
    assert told.events[:4] == [("begin", "a"), ("failed", "a"), ("begin", "b"), ("done", "b")]
    assert told.names("done") == ["b", "c", "d"]


DRIVER = """
import sys
from pathlib import Path
from quietbeam.beamline.cluster import ClusterSettings, open_pool
from quietbeam.beamline.series.worker_plan import WorkerPlan
if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from tests.beamline.series_work import stay
    folder = Path(sys.argv[2])
    with open_pool(None, ClusterSettings(), WorkerPlan(2, 1, 2**31, (), ""), folder) as pool:
        for _ in range(2):
            pool.submit(stay, folder)
        pool.next_done()
"""


def test_workers_end_with_the_one_that_started_them(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen([sys.executable, script, ROOT, tmp_path]) as driver:
        workers = wait_for_workers(tmp_path)
        driver.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(workers, timeout=5)
    assert len(gone) == 2 and not alive


def wait_for_workers(folder, timeout=60):
    """Give both workers, which run nothing that lets the interpreter do anything else."""
    until = time.monotonic() + timeout
    while len(notes(folder)) < 2:
        assert time.monotonic() < until, "the workers did not begin"
        time.sleep(0.1)
    return [psutil.Process(note["pid"]) for note in notes(folder)]
