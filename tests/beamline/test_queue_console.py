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
from quietbeam.beamline.jobs.trust import refusal

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


def test_a_scan_submitted_again_takes_what_is_asked_now_or_says_why_not(tmp_path, queue, says):
    scan = small_scan(tmp_path / "foam.h5")
    says("submit", scan, "--set", "training.epochs=3")
    again = "submit", scan, "--priority", "4", "--set", "pairs.batch_size=2"
    assert "known: job 1, queued, profile default, now with what is asked" in says(*again)
    job = queue.claim(this_worker())
    assert (job.priority, dict(job.submission.settings)) == (4, {"training.epochs": 3, "pairs.batch_size": 2})
    assert says(*again).endswith("known: job 1, running, profile default ")
    queue.fail(job, "no flats")
    text = says("submit", scan, "--set", "training.epochs=5", code=1)
    assert "is there already as job 1 (foam.h5), failed" in text
    assert "`quietbeam retry 1 --set" in text


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


def test_the_latest_run_is_one_that_ended(queue, says):
    for number, (uid, ended) in enumerate((("11111111-a", 300.0), ("22222222-b", 200.0), ("33333333-c", None))):
        run_ = run_of(uid, time=100.0 + number)
        run_["stop"] = ended and {"run_start": uid, "time": ended, "exit_status": "success"}
        queue.put(submission_of_run(run_, is_job=False))
    assert "run 11111111-a: queued" in says("submit", "-1")
    assert "run 33333333-c: queued" in says("submit", "333333")  # as it is


HOSTILE = {"profile": "/etc/own.toml", "params": {"scan": {"flats": "/etc/f.h5", "channel": 1}, "training.epochs": 3}}


def test_a_person_who_submits_a_run_has_not_vouched_for_its_metadata(queue, says, caplog):
    for uid in ("11111111-a", "22222222-b"):
        queue.put(submission_of_run(run_of(uid, tomo_denoise=HOSTILE), is_job=False))
    says("submit", "11111111")
    said = [record.getMessage() for record in caplog.records]
    assert "tomo_denoise.params: scan.flats might open any file: left out" in said
    assert "tomo_denoise.profile: '/etc/own.toml' is a path: 'default' is taken" in said
    harmless = {"scan.channel": 1, "training.epochs": 3}
    assert (queue.find(1).profile, dict(queue.find(1).submission.settings)) == ("default", harmless)
    says("submit", "22222222", "--set", "scan.flats=/mine.h5")
    assert dict(queue.find(2).submission.settings) == harmless | {"scan.flats": "/mine.h5"}


NO_ANGLES = "/a.h5 holds no angles; give them with --angles FILE, or with --angles START:STOP for equal steps"
NO_FLATS = "/a.h5 holds no flats; give them with --flats, or say --normalised if these are line integrals already"
NO_ENTRY = "/a.h5 has 3 energy channels; choose one with --set scan.channel=0 (or higher)"


def test_a_failed_job_is_repaired_with_settings(tmp_path, queue, says):
    own = {"scan.angles": "0:360", "training.epochs": 3}
    queue.put(submission_of_run(run_of("11111111-a"), settings=own, source="hook"))
    for reason, todo in {
        NO_ANGLES: "quietbeam retry 1 --set scan.angles=START:STOP",
        NO_FLATS: "quietbeam retry 1 --set scan.flats=FILE, or --set scan.normalised=attenuation",
        NO_ENTRY: "quietbeam retry 1 --set STAGE.NAME=VALUE, with the setting that the reason names",
        "there is no profile 'nosuch'": "quietbeam submit 11111111-a --profile NAME",
    }.items():
        queue.fail(queue.claim(this_worker()), reason)
        assert f"what to do {todo}" in says("status", "1")
        assert f"queued if it fails again: {todo}" in says("retry", "1")
    assert "what to do" not in says("status", "1")
    queue.fail(queue.claim(this_worker()), NO_ANGLES)
    text = says("retry", "1", "--set", "scan.angles=0:180", "--set", f"scan.flats={tmp_path}", "--priority", "7")
    assert "again:" not in text
    job = queue.claim(this_worker())
    assert job.submission.settings == {"scan.angles": "0:180", "scan.flats": str(tmp_path), "training.epochs": 3}
    assert (job.priority, job.submission.priority) == (7, 7)
    assert refusal(job.submission) is None  # a person's word, though the hook had submitted it
    assert "did you mean scan.angles?" in says("retry", "1", "--set", "scan.angels=0:180", code=2)


def test_a_persons_retry_does_not_vouch_for_what_a_plan_asked_for(tmp_path, queue, says):
    for uid, more in {
        "11111111-a": {"settings": {"scan.flats": "/etc/keys"}},
        "22222222-b": {"profile": "/x.toml"},
    }.items():
        queue.put(submission_of_run(run_of(uid), source="hook", **more))
        queue.fail(queue.claim(this_worker()), "refused")
    says("retry", "1", "--set", "training.epochs=4")
    assert queue.find(1).submission.settings == {"training.epochs": 4}
    assert "only the name of a profile is taken" in says("retry", "2", "--set", "training.epochs=4", code=1)


def test_what_can_be_no_scan_is_refused_at_once(tmp_path, queue, says):
    (tmp_path / "worker.toml").write_text("output = 'x'")
    assert "worker.toml: begins with" in says("submit", tmp_path / "worker.toml", code=3)
    assert "a folder without TIFF files" in says("submit", tmp_path, code=3)
    assert "say --elsewhere" in says("submit", "/there/a.h5", code=3)
    assert "expected the whole path" in says("submit", "a.h5", "--elsewhere", code=3)
    assert queue.jobs() == []
    assert "queued: job 1" in says("submit", "/there/a.h5", "--elsewhere")
    assert queue.find(1).submission.scan == "/there/a.h5"


def test_a_profile_that_only_the_worker_can_know_is_named(tmp_path, queue, says):
    scan = small_scan(tmp_path / "foam.h5")
    assert "profile nosuch: not known here" in says("submit", scan, "--profile", "nosuch")
    assert "not known here" not in says("submit", scan, "--profile", "strong")
    assert "profile default" in says("submit", scan, "--queue", tmp_path / "a.spool")


def test_an_aborted_run_that_a_person_asks_for_is_only_said_to_be_queued(queue, says, caplog):
    aborted = run_of("11111111-a") | {"stop": {"exit_status": "abort"}}
    queue.put(submission_of_run(aborted, is_job=False))
    assert "run 11111111-a: queued: job 1" in says("submit", "11111111")
    assert caplog.text == ""


def test_one_job_is_shown_whole_on_a_narrow_terminal(tmp_path, queue, says, monkeypatch):
    uid, output = "0123456789abcdef-" * 4, f"/data/{'very-long-folder/' * 8}scan_00001"
    queue.put(submission_of_run(run_of(uid)))
    queue.finish(queue.claim(this_worker()), {"output": output})
    monkeypatch.setenv("COLUMNS", "80")
    says("status", "1")
    assert f" {uid}\n" in says.out
    assert f" {output}\n" in says.out


def test_mistakes_are_told_in_one_line(tmp_path, path, says):
    for arguments in (["status"], ["status", "1"], ["retry", "1"], ["cancel", "1"], ["publish", "--pending"]):
        assert f"{path}: no queue is here" in says(*arguments, code=1)
    assert "give one of --dir, --zmq, --tiled" in says("watch", code=2)
    assert not path.exists()
    assert "the queue knows no run yet that ended" in says("submit", "-1", code=3)
    queue = JobQueue(path)
    queue.put(submission_of_scan(tmp_path / "a.h5"))
    assert "no job '7'" in says("retry", "7", code=1)
    assert "no such option: --forse" in says("retry", "1", "--forse", code=2)
    assert "did you mean training.minutes?" in says("submit", tmp_path, "--set", "training.minuts=3", code=2)
    assert "give neither a job nor --json" in says("status", "1", "--watch", code=2)
    for options in (["--bind"], ["--allow-remote"], ["--prefix", "x"]):
        assert f"{options[0]} goes with --zmq, not with --dir" in says("watch", "--dir", tmp_path, *options, code=2)
    assert "--settle goes with --dir, not with --zmq" in says("watch", "--zmq", "a:1", "--settle", "10", code=2)
    assert "--since goes with --dir or --tiled" in says("watch", "--zmq", "a:1", "--since", "2h", code=2)
    assert "give one of" in says("watch", "--dir", tmp_path, "--zmq", "127.0.0.1:5578", code=2)
    assert "--allow-remote" in says("watch", "--zmq", "0.0.0.0:5578", code=2)
    assert "no path" in says("watch", "--dir", tmp_path, "--profile", "/own.toml", code=2)
    assert "no path" in says("catch-up", "--profile", "own.toml", code=2)
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
