"""The commands around the queue as a person uses them: what they say, how they end, what they leave in the queue."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from quietbeam.beamline.console import main
from quietbeam.beamline.jobs.leases import this_worker
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.request import json_text
from quietbeam.beamline.jobs.submission import submission_of_run, submission_of_scan

from .jobs import SMALL, command, run, small_scan
from .submissions import reference

STARTUP = 0.5
"""Seconds that a person waits for help, of processor time: the clock's depend on who else computes."""


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Where the queue is by default."""
    monkeypatch.setenv("QUIETBEAM_QUEUE", str(tmp_path / "jobs.db"))
    for name in ("QUIETBEAM_TILED", "TILED_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "jobs.db"


@pytest.fixture
def queue(path):
    with JobQueue(path) as made:
        yield made


@pytest.fixture
def says(monkeypatch, capsys):
    """Give a command in this process; what it says."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["quietbeam", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as ended:
            assert (ended.code or 0) == code, capsys.readouterr()
        captured = capsys.readouterr()
        call.out = captured.out
        return re.sub(r"[\s│╭╮╰╯─]+", " ", captured.out + captured.err)

    return call


def run_of(uid, **start):
    """The reference of a tomography run."""
    made = reference(uid)
    made["start"] |= {"tomo": {}} | start
    keys = {"det": {"shape": [1, 4, 8], "dtype": "array", "external": "STREAM:"}}
    made["streams"] = [
        stream | {"time": 100.0, "times": [], "columns": {}, "data_keys": keys} for stream in made["streams"]
    ]
    return made


def test_a_scan_goes_all_the_way_through_the_queue(tmp_path, queue, says):
    scan = small_scan(tmp_path / "foam.h5")
    sets = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    assert "foam.h5: queued: job 1" in says("submit", scan, *sets, "--priority", "2")
    assert "known: job 1, queued" in says("submit", scan)
    assert "worker: output is missing" in says("worker", "--until-empty", code=2)
    worked = run(command("worker", "--until-empty", "--output", tmp_path / "out"))
    assert worked.returncode == 0, worked.stderr
    job = queue.find(1)
    assert (job.state, job.priority, job.reason) == ("done", 2, "")
    text = says("status", "-1")
    for word in ("job 1: foam.h5", "state done", "training.epochs=3", job.result["output"], str(scan)):
        assert word in text
    assert "1 done" in says("status")
    assert "is done" in says("retry", "1", code=1)
    assert "job 1, foam.h5: queued" in says("retry", scan, "--force")
    assert "job 1, foam.h5: cancelled" in says("cancel", "-1")
    says("status", "--json")
    assert json.loads(says.out)["counts"]["cancelled"] == 1
    assert f"{job.result['output']}: published in" in says("publish", job.result["output"])


def test_runs_are_named_by_their_uid_their_documents_or_as_the_latest(tmp_path, queue, says):
    for number, uid in enumerate(("11111111-a", "22222222-b", "33333333-c")):
        started = run_of(uid, time=100.0 + number, scan_id=number)
        queue.put(submission_of_run(started, is_job=False))
    assert "run 33333333-c: queued: job 1" in says("submit", "-1", "--profile", "fast")
    assert "run 11111111-a: queued: job 2" in says("submit", "111111")
    document = tmp_path / "run.json"
    document.write_text(json_text(run_of("44444444-d")))
    assert "run 44444444-d: queued: job 3" in says("submit", document)
    text = says("submit", "22222222-b", "55555555", tmp_path / "absent.h5", code=4)
    assert "run 22222222-b: queued: job 4" in text
    assert "55555555: neither a file nor a run" in text
    assert "absent.h5: no such file" in text
    assert [job.key for job in queue.jobs()][-1] == "33333333-c:fast"
    assert "44444444" in says("status", "44444444")
    says("status", "444444", "--json")
    shown = json.loads(says.out)
    assert (shown["run_uid"], shown["name"]) == ("44444444-d", "scan 7 (44444444)")


def test_a_person_is_heard_before_the_plan(queue, says):
    asked = {"enabled": False, "profile": "strong", "priority": 5}
    queue.put(submission_of_run(run_of("11111111-a", tomo_denoise=asked), is_job=False))
    says("submit", "11111111", "--profile", "fast")
    job = queue.find(-1)
    assert (job.profile, job.priority) == ("fast", 5)


def test_mistakes_are_told_in_one_line(tmp_path, path, says):
    for arguments in (["status"], ["status", "1"], ["retry", "1"], ["cancel", "1"], ["publish", "--pending"]):
        assert f"{path}: no queue is here" in says(*arguments, code=1)
    assert not path.exists()
    queue = JobQueue(path)
    queue.put(submission_of_scan(tmp_path / "a.h5"))
    assert "no job '7'" in says("retry", "7", code=1)
    assert "no such option: --forse" in says("retry", "1", "--forse", code=2)
    assert "did you mean training.minutes?" in says("submit", tmp_path, "--set", "training.minuts=3", code=2)
    assert "give one of --dir, --zmq, --tiled" in says("watch", code=2)
    assert "give one of" in says("watch", "--dir", tmp_path, "--zmq", "127.0.0.1:5578", code=2)
    assert "--allow-remote" in says("watch", "--zmq", "0.0.0.0:5578", code=2)
    assert "absent: not a folder" in says("watch", "--dir", tmp_path / "absent", code=1)
    assert "expected a time such as 2h" in says("catch-up", "--since", "yesterday", code=2)
    assert "no answer from Tiled" in says("catch-up", "--tiled", "http://127.0.0.1:9", code=1)
    assert "give either output folders or --pending" in says("publish", code=2)
    assert "absent.toml: cannot be read" in says("worker", "--config", tmp_path / "absent.toml", code=2)
    (tmp_path / "worker.toml").write_text("outptu = 'x'")
    assert "did you mean output?" in says("worker", "--config", tmp_path / "worker.toml", "--output", "x", code=2)


def test_jobs_go_to_a_spool_where_there_is_no_database(tmp_path, queue, says):
    spool = tmp_path / "elsewhere.spool"
    scan = small_scan(tmp_path / "foam.h5")
    assert f"queued: waits in {spool}" in says("submit", scan, "--queue", spool)
    assert "is a spool" in says("status", "--queue", spool, code=1)
    assert len(list(spool.glob("*.json"))) == 1


def test_catching_up_says_what_it_did(tmp_path, queue, says):
    text = says("catch-up", "--since", "2h")
    assert "nothing to catch up with" in text
    queue.put(submission_of_run(run_of("11111111-a", time=time.time() - 3600) | {"stop": None}, is_job=False))
    assert "scan 7 (11111111): remembered: cut off" in says("catch-up", "--since", "2h")
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents/bad.jsonl").write_text("{}\n")
    text = says("catch-up", "--since", "2h", "--documents", tmp_path / "documents", "--dry-run", code=4)
    assert "bad.jsonl, line 1" in text
    assert queue.jobs() == []


def test_publish_pending_tells_each_job_that_is_still_not_published(tmp_path, queue, says):
    assert "nothing waits to be published" in says("publish", "--pending")
    queue.put(submission_of_scan(tmp_path / "a.h5"))
    queue.finish(queue.claim(this_worker()), {"output": str(tmp_path / "gone")}, state="done_unpublished")
    assert "job 1, a.h5: " in says("publish", "--pending", code=1)
    assert queue.counts()["done_unpublished"] == 1


def test_status_is_shown_again_and_again_until_it_is_stopped(tmp_path, queue):
    queue.put(submission_of_scan(tmp_path / "a.h5"))
    process = subprocess.Popen(command("status", "--watch"), stdout=subprocess.PIPE, text=True)
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "a.h5" in out


def test_help_is_quick_and_names_the_commands(tmp_path):
    script = """
import resource
import sys
from quietbeam.beamline.console import app
app(["--help"], standalone_mode=False)
print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), {"torch", "numpy", "sqlite3", "tiled"} & set(sys.modules))
"""
    arguments = command()
    arguments[2] = script
    text = run(arguments).stdout
    for name in ("worker", "status", "submit", "retry", "cancel", "catch-up", "watch", "publish"):
        assert f" {name} " in text
    seconds, heavy = text.splitlines()[-1].split(" ", 1)
    assert (heavy, float(seconds) < STARTUP) == ("set()", True)
