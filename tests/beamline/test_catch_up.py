"""Runs that nobody submitted are found afterwards, once, and not before they are at rest."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

from quietbeam.beamline.jobs.request import json_text
from quietbeam.beamline.jobs.submission import open_queue, submission_of_run, submit
from quietbeam.beamline.runs.collector import RunCollector
from quietbeam.beamline.runs.local_files import local_file
from quietbeam.beamline.watching.catch_up import catch_up, parse_since
from quietbeam.beamline.watching.intake import Intake
from quietbeam.beamline.watching.targets import submit_target
from quietbeam.reconstruction.errors import ScanError

from .end_station import ANGLE, DATA

LATER = 3600.0
"""Seconds after which a run that did not change is at rest."""

KILLED = """
import json
import os
import sys
from pathlib import Path
from beamline.end_station import make_end_station
from quietbeam.beamline.hook import PostScan
from quietbeam.beamline.plans import tomo_step_scan
folder = Path(sys.argv[1])
station = make_end_station(folder / "raw", rows=4, columns=8)
hook = PostScan(folder / "jobs.db")
station.RE.subscribe(hook)

(folder / "documents").mkdir()
lines = (folder / "documents/run.jsonl").open("w", buffering=1)
station.RE.subscribe(lambda name, doc: print(json.dumps([name, doc], default=str), file=lines))

def killed_after(name, doc):
    if doc["seq_num"] == 4:
        hook.flush()
        os._exit(9)

station.RE.subscribe(killed_after, "event")
options = {"num": 4, "num_darks": 0, "num_flats": 0}
station.RE(tomo_step_scan(station.detector, station.rotation, station.x, station.shutter, **options))
"""


@pytest.fixture
def intake(queue):
    return Intake(open_queue(queue), "catch-up")


@pytest.fixture
def documents(station):
    """Documents of a real scan of six projections; `stop` is the last of them."""
    return station.fly(6)


def write(path, documents):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json_text({"name": name, "doc": doc}) + "\n" for name, doc in documents))
    return path


def reference_of(documents):
    collector = RunCollector()
    for name, doc in documents:
        collector(name, doc)
    return collector.reference


def caught(intake, **options):
    return [(run.done.what, run.done.why) for run in catch_up(intake, **({"since": 0.0} | options))]


def in_an_hour():
    return time.time() + LATER


def test_runs_in_a_folder_of_documents_are_queued_once(tmp_path, documents, intake, queue):
    uid = documents[0][1]["uid"]
    write(tmp_path / "documents/run.jsonl", documents)
    folder = {"documents": tmp_path / "documents"}
    said = Intake(intake.queue, "catch-up", dry_run=True)
    assert caught(said, **folder)[0][0] == "queued"
    assert queue.jobs() == []
    assert caught(intake, **folder, since=time.time() + 1) == []
    assert caught(intake, **folder) == [("queued", "job 1, queued, profile default")]
    assert caught(intake, **folder) == []
    (job,) = queue.jobs()
    assert (job.run_uid, job.source) == (uid, "catch-up")
    assert job.submission.run == reference_of(documents)


def test_a_run_that_the_hook_queued_under_another_profile_is_no_news(tmp_path, documents, intake, queue):
    submit(queue, submission_of_run(reference_of(documents), profile="strong", source="hook"))
    write(tmp_path / "documents/run.jsonl", documents)
    assert caught(intake, documents=tmp_path / "documents") == []
    assert [job.profile for job in queue.jobs()] == ["strong"]


def test_a_run_without_an_end_waits_until_it_is_at_rest_and_is_taken_if_it_has_all(tmp_path, documents, intake, queue):
    write(tmp_path / "documents/run.jsonl", documents[:-1])
    folder = {"documents": tmp_path / "documents"}
    assert caught(intake, **folder) == [("remembered", "still being written")]
    paths = list((tmp_path / "raw").glob("*.h5"))
    os.utime(paths[-1], (in_an_hour(), in_an_hour()))  # one of its files has changed just now
    assert caught(intake, **folder, now=in_an_hour) == [("remembered", "still being written")]
    for path in paths:
        os.utime(path, (1.0, 1.0))
    ((what, _),) = caught(intake, **folder, now=in_an_hour)
    assert what == "queued"
    assert caught(intake, **folder, now=in_an_hour) == []


def test_files_of_a_run_without_an_end_are_looked_for_where_the_worker_finds_them(tmp_path, documents, intake):
    away = str(tmp_path / "raw"), str(tmp_path / "elsewhere")
    Path(away[0]).rename(away[1])
    write(tmp_path / "documents/run.jsonl", documents[:-1])
    for path in Path(away[1]).glob("*.h5"):
        os.utime(path, (in_an_hour(), in_an_hour()))
    told = {"documents": tmp_path / "documents", "now": in_an_hour}
    assert caught(intake, **told, path_map=[away]) == [("remembered", "still being written")]
    assert caught(intake, **told)[0][0] == "queued"


def test_a_run_cut_off_midway_is_told_and_left_to_a_person(tmp_path, documents, intake, queue):
    uid = documents[0][1]["uid"]
    with h5py.File(local_file([doc for name, doc in documents if name == "stream_resource"][-1]["uri"]), "r+") as file:
        for name in (DATA, ANGLE):
            file[name].resize(4, axis=0)
    first = [(name, doc) for name, doc in documents if name not in ("stop", "stream_datum")]
    for name, doc in documents:
        if name == "stream_datum" and doc["indices"]["start"] == 0:
            ends = {"indices": {"start": 0, "stop": 1}, "seq_nums": {"start": 1, "stop": 2}}
            first.append((name, doc | ends))
    write(tmp_path / "documents/run.jsonl", first)
    ((what, why),) = caught(intake, now=in_an_hour, documents=tmp_path / "documents")
    assert (what, why) == ("remembered", f"cut off after 4 of 6 projections; quietbeam submit {uid} takes it")
    assert queue.jobs() == []
    ((_, done),) = submit_target(Intake(intake.queue, "console"), uid[:6])
    assert done.what == "queued"
    assert queue.find(uid).submission.run["stop"] is None


def test_a_run_engine_that_was_killed_after_the_last_projection(tmp_path, intake, queue):
    tests = Path(__file__).parent.parent
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path], cwd=tests, capture_output=True, text=True, timeout=100
    )
    assert killed.returncode == 9, killed.stderr
    (tmp_path / "raw").rename(tmp_path / "away")
    ((what, why),) = caught(intake, now=in_an_hour)
    assert (what, why) == (
        "remembered",
        "cut off; the queue only knows of 1 of 4 projections, --tiled or --documents may tell of more",
    )
    (tmp_path / "away").rename(tmp_path / "raw")
    assert caught(Intake(intake.queue, "catch-up", dry_run=True), now=in_an_hour)[0][0] == "queued"
    ((what, _),) = caught(intake, now=in_an_hour, documents=tmp_path / "documents")
    assert what == "queued"
    (primary,) = queue.jobs()[0].submission.run["streams"]
    assert primary["columns"]["rotation"] == [0.0, 45.0, 90.0, 135.0]


def test_a_damaged_file_is_told_and_keeps_nothing_back(tmp_path, documents, intake, queue):
    folder = tmp_path / "documents"
    write(folder / "good.jsonl", documents)
    (folder / "bad.jsonl").write_text("no documents\n")
    bad, good = catch_up(intake, since=0.0, documents=folder)
    assert (bad.done, good.done.what) == (None, "queued")
    assert "bad.jsonl, line 1" in str(bad)
    with pytest.raises(ScanError, match="no such folder"):
        list(catch_up(intake, since=0.0, documents=tmp_path / "absent"))


def test_other_runs_are_passed_over(tmp_path, documents, intake, queue):
    (_, start), *rest = documents
    other = {key: value for key, value in start.items() if key != "tomo"}
    for number, changes in enumerate(({"purpose": "analysis"}, {"raw_uid": "1"})):
        write(tmp_path / f"documents/{number}.jsonl", [("start", start | changes), *rest])
        assert caught(intake, documents=tmp_path / "documents") == []
        (tmp_path / f"documents/{number}.jsonl").unlink()
    alignment = [(name, doc) for name, doc in rest if name in ("stop",)]
    write(tmp_path / "documents/alignment.jsonl", [("start", other), *alignment])
    assert caught(intake, documents=tmp_path / "documents") == []
    assert queue.run(start["uid"]) is None


def test_times_ago_and_dates():
    now = 1_000_000.0
    for text, seconds in (("30min", 1800), ("2h", 7200), ("1.5 d", 129600), ("1w", 604800), ("90s", 90)):
        assert parse_since(text, now=now) == now - seconds
    assert parse_since("2026-11-01T00:00:00+00:00") == 1793491200.0
    assert parse_since("2026-11-01") == time.mktime((2026, 11, 1, 0, 0, 0, 0, 0, -1))
    for text in ("", "2 weeks", "yesterday", "h"):
        with pytest.raises(ValueError, match="expected a time such as 2h"):
            parse_since(text)


def test_runs_of_a_catalogue_are_caught(station, documents, tiled, intake, queue):
    from bluesky_tiled_plugins import TiledWriter

    container = tiled.client.create_container(f"missed-{time.time_ns()}")
    writer = TiledWriter(container)
    for name, doc in json.loads(json.dumps(documents)):
        writer(name, doc)
    (uid,) = list(container)
    assert caught(intake, tiled=container) == [("queued", "job 1, queued, profile default")]
    assert caught(intake, tiled=container) == []
    assert queue.find(-1).run_uid == uid
