from __future__ import annotations

import gc
import json
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.plans import count
from bluesky.protocols import Readable

from quietbeam.beamline.hook import PostScan
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.plans import tomo_step_scan
from quietbeam.reconstruction.errors import QuietbeamError

from .hook_documents import documents, keys, scan, tell


def test_a_scan_becomes_one_job_with_its_reference(station, hook, queue, capfd):
    station.RE.subscribe(hook)
    (uid,) = station.RE(scan(station, md={"sample": "wood"}))
    assert hook.flush()
    (job,) = queue.jobs()
    assert (job.key, job.run_uid, job.source, job.state) == (f"{uid}:default", uid, "hook", "queued")
    assert job.name == f"scan 1 ({uid[:8]})"
    reference = job.submission.run
    assert reference["stop"]["exit_status"] == "success"
    assert [stream["name"] for stream in reference["streams"]] == ["dark", "flat", "primary"]
    assert [stream["resources"][0]["ranges"] for stream in reference["streams"]] == [[[0, n, 1]] for n in (2, 2, 4)]
    assert len(json.dumps(reference)) < 10_000
    assert hook.last.id == job.id
    assert (hook.errors, capfd.readouterr().out) == (0, "")


def test_the_reference_does_not_grow_with_the_pixels(hook, queue):
    uid = tell(hook, documents(tomo={}, frames=100_000))
    assert len(json.dumps(queue.run(uid))) < 4000


def test_a_hook_that_nobody_else_holds_stays_subscribed(station, tmp_path, queue):
    station.RE.subscribe(PostScan(tmp_path / "jobs.db"))
    gc.collect()
    station.RE(scan(station))
    deadline = time.monotonic() + 5
    while not queue.jobs() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(queue.jobs()) == 1


def test_aborted_and_failed_scans_are_remembered_not_queued(hook, queue, station, tmp_path, caplog):
    station.RE.subscribe(hook)

    def failing():
        raise RuntimeError("no beam")
        yield

    @bpp.run_decorator(md={"tomo": {}})
    def fails():
        yield from bps.null()
        yield from failing()

    with pytest.raises(RuntimeError, match="no beam"):
        station.RE(fails())
    uid = tell(hook, documents(tomo={}, status="abort"))
    assert queue.jobs() == []
    assert queue.run(uid)["stop"]["exit_status"] == "abort"
    assert queue.open_runs() == []
    assert [f"ended with '{status}': remembered, not queued" in caplog.text for status in ("fail", "abort")] == [
        True
    ] * 2
    other = PostScan(tmp_path / "jobs.db", statuses=("success", "abort"))
    uid = tell(other, documents(tomo={}, status="abort"))
    assert keys(queue) == [f"{uid}:default"]
    other.close()


def test_a_run_that_never_ended_is_found_later(hook, queue):
    uid = tell(hook, documents(tomo={}, status=None))
    assert queue.jobs() == []
    (reference,) = queue.open_runs()
    assert reference["start"]["uid"] == uid
    assert [stream["name"] for stream in reference["streams"]] == ["dark", "flat", "primary"]
    assert reference["streams"][2]["resources"][0]["ranges"] == [[0, 3, 1]]


def test_interleaved_runs_replays_and_doubled_stops_make_one_job_each(hook, queue):
    first, second = list(documents(tomo={})), list(documents(tomo={}))
    for one, other in zip(first, second, strict=True):
        tell(hook, [one])
        tell(hook, [other])
    for name, doc in [first[-1], *first, *second]:
        hook(name, dict(doc))
        hook(name, doc)
        hook(name, doc)
    assert hook.flush()
    assert keys(queue) == [f"{first[0][1]['uid']}:default", f"{second[0][1]['uid']}:default"]
    assert hook.errors == 0
    assert all(
        [stream["resources"][0]["ranges"] for stream in job.submission.run["streams"]] == [[[0, 3, 1]]] * 3
        for job in queue.jobs()
    )


def test_monitors_are_no_frames(station, hook, queue):
    station.RE.subscribe(hook)
    plan = scan(station, md={"tomo": {"num_projections": 4, "rotation": "rotation"}})
    station.RE(bpp.monitor_during_wrapper(plan, [station.rotation.user_readback]))
    assert hook.flush()
    (job,) = queue.jobs()
    assert any("monitor" in stream["name"] for stream in job.submission.run["streams"])
    assert "of" not in job.name


def test_off_means_off(hook, queue):
    hook.enabled = False
    tell(hook, documents(tomo={}))
    assert hook.last is None
    hook.enabled = True
    late = list(documents(tomo={}))
    hook.enabled = False
    hook(*late[0])
    hook.enabled = True
    tell(hook, late[1:])
    assert "began before the hook listened" in hook.last_error
    assert queue.jobs() == []


def test_metadata_with_dots_fail_the_plan_itself_not_the_hook(RE, hook):
    from ophyd.sim import det

    RE.subscribe(hook)
    with pytest.raises(Exception, match="does not match any of the regexes"):
        RE(count([det], 1, md={"tomo_denoise": {"params": {"training.epochs": 3}}}))
    assert hook.errors == 0


def test_the_queue_sees_the_job_while_the_file_is_still_open(station, hook, queue):
    """The stop document comes before the detector is unstaged, if the run was opened within its stage cycle."""
    seen = []

    def look(name, doc):
        hook.flush()
        seen.append((len(queue.jobs()), station.detector.camera.file is not None))

    station.RE.subscribe(hook)
    station.RE.subscribe(look, "stop")

    @bpp.stage_decorator([station.detector])
    @bpp.run_decorator(md={"tomo": {}})
    def plan():
        yield from bps.trigger_and_read([station.detector], name="primary")

    station.RE(plan())
    assert seen == [(1, True)]


def test_console(station, hook, queue, capsys, tmp_path):
    station.RE.subscribe(hook)
    with pytest.raises(QuietbeamError, match="no run ended"):
        hook.submit(-1)
    (uid,) = station.RE(scan(station, md={"tomo_denoise": {"enabled": False, "profile": "fast", "priority": 3}}))
    assert hook.last is None
    job = hook.submit(-1)
    assert (job.run_uid, job.profile, job.priority, job.source) == (uid, "fast", 3, "console")
    assert hook.submit(uid).id == job.id  # there already
    hook.submit(uid, priority=9, settings={"training.epochs": 4})
    again = hook.submit(uid)
    assert (again.id, again.priority, dict(again.submission.settings)) == (job.id, 9, {"training.epochs": 4})
    assert hook.submit(uid, profile="strong", settings={"training.epochs": 2}).id > job.id
    file = tmp_path / "scan.h5"
    file.touch()
    assert hook.submit(file).submission.scan == str(file)
    assert hook.last.name == "scan.h5"
    with pytest.raises(QuietbeamError, match="no run of uid 'elsewhere'"):
        hook.submit("elsewhere")
    assert hook.cancel(job.id).state == "cancelled"
    with pytest.raises(QuietbeamError, match=rf"as job {job.id} .*, cancelled, .*`quietbeam retry {job.id} --set"):
        hook.submit(uid, profile="fast", priority=1)
    assert hook.submit(uid, priority=9).state == "cancelled"
    assert hook.retry(job.id).state == "queued"
    hook("stop", {"run_start": "nobody"})
    hook.status()
    printed = capsys.readouterr().out
    assert "scan.h5" in printed
    assert "hook on, profile default; 1 errors, the last: run nobody began before" in printed


def test_a_run_is_submitted_when_it_has_ended_and_whole(hook, queue):
    first = tell(hook, documents(tomo_denoise=False))
    documents_ = list(documents(tomo_denoise=False))
    second = tell(hook, documents_[:-1])
    with pytest.raises(QuietbeamError, match=f"run {second} has not ended"):
        hook.submit(second)
    with pytest.raises(QuietbeamError, match=f"run {second[:6]} has not ended"):
        hook.submit(second[:6])
    assert hook.submit(-1).run_uid == first
    tell(hook, documents_[-1:])
    assert [hook.submit(uid[:6]).run_uid for uid in (second, first)] == [second, first]
    for few in (second[:5], first[:5]):
        with pytest.raises(QuietbeamError, match="6 characters of it at least"):
            hook.submit(few)
    assert hook.submit(-1).run_uid == second
    assert queue.find(second).submission.run["stop"] is not None


def test_a_spool_folder_will_do(tmp_path, capsys):
    hook = PostScan(tmp_path / "inbox.spool")
    uid = tell(hook, documents(tomo={}))
    hook.status()
    assert "the worker's database tells" in capsys.readouterr().out
    assert hook.submit(-1) is None
    hook.close()
    with JobQueue(tmp_path / "jobs.db") as queue:
        from quietbeam.beamline.jobs.spool import Spool

        queue.ingest(Spool(tmp_path / "inbox.spool"))
        assert keys(queue) == [f"{uid}:default"]


def test_two_run_engines_in_threads_share_a_hook(hook, queue):
    def work():
        for _ in range(5):
            for name, doc in documents(tomo={}):
                hook(name, doc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hook.flush(20)
    assert len(queue.jobs()) == 20
    assert hook.errors == 0


LIGHT = """
import sys, time
begin = time.process_time()
import quietbeam.beamline.hook
seconds = time.process_time() - begin
heavy = {"torch", "h5py", "pydantic", "numba", "scipy", "rich", "tiled", "bluesky", "ophyd_async", "IPython", "zarr"}
print(sorted(heavy & set(sys.modules)), seconds)
"""


def test_importing_the_hook_is_light():
    runs = [subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True) for _ in range(2)]
    heavy, seconds = zip(*(run.stdout.rsplit(maxsplit=1) for run in runs), strict=True)
    assert set(heavy) == {"[]"}
    assert min(map(float, seconds)) < 0.5


FORKING = """
import os, sys
sys.path.insert(0, {folder!r})
from quietbeam.beamline.hook import PostScan
import event_model
hook = PostScan({queue!r})
def tell():
    run = event_model.compose_run(metadata={{"tomo": {{}}}})
    hook("start", run.start_doc)
    hook("stop", run.compose_stop())
    assert hook.flush()
tell()
pid = os.fork()
tell()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_forked_process_goes_on_by_itself_and_the_end_of_the_session_waits(tmp_path):
    code = FORKING.format(folder=str(tmp_path), queue=str(tmp_path / "jobs.db"))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        assert connection.execute("SELECT count(*) FROM runs WHERE stopped").fetchone() == (3,)
    connection.close()
    at_exit = code.replace("    assert hook.flush()\n", "").split("pid = ")[0]
    subprocess.run([sys.executable, "-c", at_exit], check=True, timeout=60)
    with JobQueue(tmp_path / "jobs.db") as queue:
        assert queue.open_runs() == []
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        assert connection.execute("SELECT count(*) FROM runs WHERE stopped").fetchone() == (4,)
    connection.close()


PER_DOCUMENT = 0.001
"""Seconds, half of the documents; a loaded machine may hold up a few."""
HELD_UP = 0.1
"""Seconds, the best of a few runs: less than the hook waits for a database that another process has locked."""


def test_time_in_the_run_engine(station, tmp_path):
    """Also of the documents that tell the queue something: start, the first data, stop."""
    JobQueue(tmp_path / "jobs.db").close()
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    hook = PostScan(tmp_path / "jobs.db")
    runs = []

    def timed(name, doc):
        if name == "start":
            runs.append([])
        begin = time.perf_counter()
        hook(name, doc)
        runs[-1].append((time.perf_counter() - begin, name))

    station.RE.subscribe(timed)
    for _ in range(3):
        station.RE(tomo_step_scan(station.detector, station.rotation, num=10, num_darks=0, num_flats=0))
        assert hook.flush(20)
    other.close()
    with JobQueue(tmp_path / "jobs.db") as queue:
        assert queue.ingest() > len(runs)  # each delivery waited in vain
    best = [min(same) for same in zip(*runs, strict=True)]
    assert [name for _, name in best][:: len(best) - 1] == ["start", "stop"]
    seconds = sorted(seconds for seconds, _ in best)
    assert len(seconds) > 30
    assert seconds[len(seconds) // 2] < PER_DOCUMENT / 4
    assert seconds[-1] < HELD_UP
    hook.close()


def test_the_simulated_detector_is_what_bluesky_calls_a_detector(station):
    assert isinstance(station.detector, Readable)
