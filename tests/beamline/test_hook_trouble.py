from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from bluesky.plans import count

from quietbeam.beamline.hook import PostScan
from quietbeam.beamline.hook_thread import HookThread
from quietbeam.beamline.jobs.places import spool_folder
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.spool import Spool

from .hook_documents import documents, keys, scan, tell
from .submissions import use_own_places


class Hostile(dict):
    """A start document that breaks whoever looks into it."""

    def __getitem__(self, key):
        raise RuntimeError("hostile")

    get = items = keys = __iter__ = __getitem__


class UnspeakableError(Exception):
    def __str__(self):
        raise self


class Unspeakable(dict):
    def __getitem__(self, key):
        raise UnspeakableError


GARBAGE = [
    ("start", Unspeakable()),
    ("start", {}),
    ("start", None),
    ("start", Hostile(uid="u")),
    ("descriptor", {"uid": "d", "run_start": "nobody", "data_keys": 3}),
    ("event", {"descriptor": "unknown", "seq_num": "x"}),
    ("stream_datum", {}),
    ("stop", {}),
    ("stop", {"run_start": "nobody"}),
    ("nonsense", {"uid": 1}),
    (None, None),
    ("event_page", {"descriptor": []}),
]


def test_garbage_is_counted_not_raised_and_the_next_run_is_queued(hook, queue, caplog):
    broken = dict(next(iter(documents(tomo={})))[1])
    for name, doc in [*GARBAGE, ("start", broken), ("descriptor", {"uid": "d", "run_start": broken["uid"]})]:
        hook(name, doc)
    assert hook.errors >= 5
    assert "could not be used" in hook.last_error
    uid = tell(hook, documents(tomo={}))
    assert keys(queue) == [f"{uid}:default"]
    assert "Traceback" not in caplog.text


def test_an_error_is_logged_once_for_each_run(hook, caplog):
    for documents_ in (documents(tomo={}), documents(tomo={})):
        name, doc = next(iter(documents_))
        hook(name, doc)
        for _ in range(10):
            hook("descriptor", {"uid": "d", "run_start": doc["uid"]})
    assert hook.errors == 20
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 2


def test_hostile_metadata_and_a_raising_predicate_do_not_touch_the_scan(RE, tmp_path, queue):
    from ophyd.sim import det

    def wants(start, reference):
        raise ZeroDivisionError("in the predicate")

    hook = PostScan(tmp_path / "jobs.db", wants=wants)
    RE.subscribe(hook)
    (uid,) = RE(count([det], 2, md={"tomo_denoise": {"enabled": "maybe"}, "thing": threading.Lock}))
    assert hook.flush()
    assert "ZeroDivisionError" in hook.last_error
    assert queue.jobs() == []
    assert queue.run(uid)["stop"]["exit_status"] == "success"
    hook.close()


def test_a_predicate_that_wants_to_end_the_session_ends_nothing(tmp_path, queue, caplog):
    answers = iter([SystemExit, KeyboardInterrupt])

    def wants(start, reference):
        if error := next(answers, None):
            raise error("no more")
        return True

    hook = PostScan(tmp_path / "jobs.db", wants=wants)
    for _ in range(2):
        uid = tell(hook, documents())
        assert queue.run(uid)["stop"] is not None
    uid = tell(hook, documents())
    assert keys(queue) == [f"{uid}:default"]
    assert hook.errors == 2
    hook.close()


def test_a_thread_that_ended_is_replaced():
    done, thread = [], HookThread(lambda item: done.append(item), lambda: None, every=30)
    thread._items.put(None)
    thread._thread.join(5)
    thread.put("item")
    assert thread.flush(5)
    assert done == ["item"]
    thread.close(5)


def locked(path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    return other.close


def damaged(path):
    for file in path.parent.glob("jobs.db*"):
        file.unlink()
    path.write_bytes(b"no database at all" * 1000)
    return lambda: path.unlink()


def refusing(path):
    """SQLite gives an error for each row, as on a full disk."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'disk is full'); END")

    def accept():
        other.execute("DROP TRIGGER full")
        other.close()

    return accept


@pytest.mark.parametrize("trouble", [locked, damaged, refusing])
def test_what_the_database_cannot_take_goes_to_the_spool_and_the_scan_succeeds(station, tmp_path, trouble):
    path = tmp_path / "jobs.db"
    JobQueue(path).close()
    mend = trouble(path)
    hook = PostScan(path)
    statuses = []
    station.RE.subscribe(lambda name, doc: statuses.append(doc["exit_status"]), "stop")
    station.RE.subscribe(hook)
    (uid,) = station.RE(scan(station))
    assert statuses == ["success"]
    assert hook.flush(20)
    assert hook.errors > 0
    mend()
    with JobQueue(path) as queue:
        assert len(queue.spool) > 0
        queue.ingest()
        assert keys(queue) == [f"{uid}:default"]
        assert queue.run(uid)["stop"] is not None
    hook.close()


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A place for a queue in which nothing can be kept, nor anywhere else, until it is mended."""
    place = tmp_path / "file"
    place.write_text("not a folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(place))
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def mend(place):
    place.unlink()
    (place / "queue").mkdir(parents=True)
    return place / "queue" / "jobs.db"


def test_what_nothing_can_take_is_kept_and_brought_later(nowhere):
    hook = PostScan(nowhere / "queue" / "jobs.db")
    first = tell(hook, documents(tomo={}), flush=False)
    assert not hook.flush()
    assert hook.errors >= 1
    assert "kept and tried again" in hook.last_error
    path = mend(nowhere)
    second = tell(hook, documents(tomo={}))
    with JobQueue(path) as queue:
        assert sorted(keys(queue)) == sorted([f"{first}:default", f"{second}:default"])
    hook.close()


def test_each_event_of_a_run_costs_one_attempt_however_much_is_kept(nowhere):
    hook = PostScan(nowhere / "queue" / "jobs.db")
    events = 5  # start, the first data of three streams, stop
    for runs in range(1, 11):
        tell(hook, documents(tomo={}), flush=False)
        assert not hook.flush()
        assert hook.errors == runs * events
    mend(nowhere)
    tell(hook, documents(tomo={}))
    hook.close()


def test_of_too_many_that_are_kept_jobs_are_kept_the_longest(nowhere, monkeypatch, caplog):
    monkeypatch.setattr("quietbeam.beamline.hook._MAX_UNDELIVERED", 3)
    hook = PostScan(nowhere / "queue" / "jobs.db")
    jobs = [tell(hook, documents(tomo={}), flush=False) for _ in range(2)]
    for _ in range(4):
        tell(hook, documents(("dark", "flat")), flush=False)
    assert not hook.flush()
    assert caplog.text.count("dropped, too many wait for a queue: the run is not remembered") == 3
    jobs += [tell(hook, documents(tomo={}), flush=False) for _ in range(2)]
    hook.flush()
    assert caplog.text.count("the job is lost, submit it later") == 1
    path = mend(nowhere)
    tell(hook, documents())
    with JobQueue(path) as queue:
        kept = {key.partition(":")[0] for key in keys(queue)}
        assert [uid in kept for uid in jobs] == [False, True, True, True]
    hook.close()


def test_one_that_cannot_be_kept_anywhere_holds_up_no_other(tmp_path, nowhere):
    """Its number is too large for the database, and there is no spool."""
    path = tmp_path / "jobs.db"
    JobQueue(path).close()
    spool_folder(path).write_text("not a folder")
    hook = PostScan(path)
    odd = list(documents(tomo={}))
    odd[0][1]["time"] = 10**400
    tell(hook, odd, flush=False)
    uid = tell(hook, documents(tomo={}), flush=False)
    hook.flush()
    with JobQueue(path) as queue:
        assert f"{uid}:default" in keys(queue)
    hook.close()


def test_what_an_earlier_session_had_to_rescue_is_brought_without_another_scan(tmp_path, monkeypatch):
    use_own_places(tmp_path, monkeypatch)
    monkeypatch.setattr("quietbeam.beamline.hook._RETRY_EVERY", 0.05)
    path = tmp_path / "disk" / "queue" / "jobs.db"
    earlier = PostScan(path)
    uid = tell(earlier, documents(tomo={}))
    earlier.close()
    path.parent.mkdir(parents=True)
    later = PostScan(path)
    deadline = time.monotonic() + 5
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    later.close()
    with JobQueue(path) as queue:
        assert keys(queue) == [f"{uid}:default"]


def unwritable_spool(tmp_path):
    """The text of the error holds the name of the file, each time another."""
    (tmp_path / "jobs.db.spool").symlink_to("/proc/self")  # where root may not write either


def no_trouble_more(tmp_path):
    pass


@pytest.mark.parametrize("more", [no_trouble_more, unwritable_spool])
def test_a_broken_queue_is_one_line_for_each_run(tmp_path, monkeypatch, caplog, more):
    use_own_places(tmp_path, monkeypatch)
    (tmp_path / "jobs.db").write_text("no database\n" * 1000)
    more(tmp_path)
    hook = PostScan(tmp_path / "jobs.db")
    for runs in (1, 2):
        tell(hook, documents(tomo={}))
        assert (hook.errors, len(caplog.records)) == (5 * runs, runs)
    hook.close()


def test_what_is_tried_again_and_again_is_one_line(nowhere, caplog):
    hook = PostScan(nowhere / "queue" / "jobs.db")
    for runs in (1, 2):
        tell(hook, documents(tomo={}), flush=False)
        hook.flush()
        assert len(caplog.records) == runs
    for _ in range(3):
        hook._idle()
    assert len(caplog.records) == 2
    mend(nowhere)
    tell(hook, documents(tomo={}))
    hook.close()


def test_a_broken_queue_is_told_in_a_line_and_there_is_no_last_job(hook, queue, tmp_path, capsys):
    tell(hook, documents(tomo={}))
    assert hook.last is not None
    assert hook.trouble() == ""
    queue.close()
    damaged(tmp_path / "jobs.db")
    assert hook.last is None
    hook.status()
    reason, own = capsys.readouterr().out.splitlines()
    assert "the queue's file is damaged" in reason
    assert own.startswith("hook on, profile default")


def test_a_plain_folder_is_a_spool_with_a_warning(tmp_path, caplog):
    for name in ("plain", "meant.spool", "also meant"):
        (tmp_path / name).mkdir()
    for queue in (tmp_path / "meant.spool", f"{tmp_path}/also meant/"):
        PostScan(queue).close()
    assert caplog.records == []
    hook = PostScan(tmp_path / "plain")
    tell(hook, documents(tomo={}))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f'spools = ["{tmp_path}/plain"]' in record.message
    assert hook.errors == 0
    assert hook.last is None
    hook.close()


ENDING = """
import sys
from quietbeam.beamline.hook import PostScan
import event_model
hook = PostScan(sys.argv[1])
for _ in range(60):
    run = event_model.compose_run(metadata={"tomo": {}})
    hook("start", run.start_doc)
    hook("stop", run.compose_stop())
"""


def test_a_session_that_ends_while_runs_are_delivered_ends_well(tmp_path):
    for number in range(4):
        path = tmp_path / f"{number}.db"
        subprocess.run([sys.executable, "-c", ENDING, path], check=True, timeout=60)
        with JobQueue(path) as queue:
            assert queue.open_runs() == []


def test_a_path_is_submitted_though_the_database_is_none(tmp_path):
    database = tmp_path / "jobs.db"
    database.write_text("no database")
    (tmp_path / "scan.h5").write_bytes(b"frames")
    hook = PostScan(database)
    assert hook.submit(tmp_path / "scan.h5") is None
    hook.close()
    (waiting,) = Spool(spool_folder(database)).take()
    assert waiting.submission.scan == str(tmp_path / "scan.h5")
