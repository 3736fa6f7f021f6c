"""What a facility's workflow calls when a run has ended."""

import json
import logging
from pathlib import Path

import pytest
from bluesky.plan_stubs import close_run, open_run
from bluesky_tiled_plugins import TiledWriter

from quietbeam.beamline import end_of_run
from quietbeam.beamline.end_of_run import end_of_run_workflow
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.plans import tomo_fly_scan
from quietbeam.reconstruction.errors import QuietbeamError

WRONG_KEY = "f" * 32


@pytest.fixture
def stops(station, tiled):
    """Stop documents of the runs that went to the catalogue."""
    stops = []
    container = tiled.client if "ended" in tiled.client else tiled.client.create_container("ended").parent
    station.RE.subscribe(TiledWriter(container["ended"]))
    station.RE.subscribe(lambda name, doc: stops.append(doc), "stop")
    return stops


@pytest.fixture
def queue(tiled, tmp_path, monkeypatch):
    monkeypatch.setenv("TILED_URI", f"{tiled.uri}/api/v1/metadata/ended")
    monkeypatch.delenv("QUIETBEAM_TILED", raising=False)
    monkeypatch.setenv("TILED_API_KEY", WRONG_KEY)
    monkeypatch.setenv("QUIETBEAM_QUEUE", str(tmp_path / "jobs.db"))
    with JobQueue(tmp_path / "jobs.db") as made:
        yield made


def scan(station, **settings):
    options = {"num": 4, "num_darks": 2, "num_flats": 2, "out_of_beam": 20.0, "exposure": 0.001} | settings
    (uid,) = station.RE(tomo_fly_scan(station.detector, station.rotation, station.x, station.shutter, **options))
    return uid


def test_a_run_becomes_a_job_once_and_the_key_goes_nowhere(station, stops, queue, tiled, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    uid = scan(station, md={"tomo_denoise": {"profile": "strong"}})
    (stop,) = stops
    said = end_of_run_workflow(stop, tiled.api_key, dry_run=True)
    assert (said["done"], said["dry_run"], queue.jobs(), queue.run(uid)) == ("queued", True, [], None)
    done = end_of_run_workflow(stop, api_key=tiled.api_key)
    assert json.loads(json.dumps(done)) == done
    (job,) = queue.jobs()
    assert (done["run"], done["done"], job.run_uid, job.profile) == (uid, "queued", uid, "strong")
    assert job.source == "end-of-run"
    again = end_of_run_workflow(stop, tiled.api_key)
    assert (again["done"], again["why"], len(queue.jobs())) == ("known", "job 1, queued, profile strong", 1)
    stored = b"".join(path.read_bytes() for path in Path(tmp_path).glob("jobs.db*") if path.is_file())
    assert uid.encode() in stored
    assert tiled.api_key.encode() not in stored
    assert tiled.api_key not in caplog.text + json.dumps(done)


def test_runs_that_did_not_end_well_are_not_queued(station, stops, queue, tiled):
    station.RE(aborted())
    done = end_of_run_workflow(stops[-1], tiled.api_key)
    assert (done["done"], done["why"], queue.jobs()) == ("remembered", "it ended with abort", [])


def aborted():
    yield from open_run(md={"tomo": {}})
    yield from close_run(exit_status="abort", reason="the beam was lost")


def test_what_is_wrong_is_told(queue, tiled, monkeypatch):
    monkeypatch.setattr(end_of_run, "LAG_SECONDS", 0.0)
    with pytest.raises(QuietbeamError, match="no run begins with 00000000-0000"):
        end_of_run_workflow({"run_start": "00000000-0000-0000-0000-000000000000"}, tiled.api_key)
    with pytest.raises(ValueError, match="expected a stop document"):
        end_of_run_workflow({"uid": "a start document"})
    with pytest.raises(QuietbeamError, match="no answer from Tiled") as told:
        end_of_run_workflow({"run_start": "00000000"})  # with the environment's key, which is wrong
    assert WRONG_KEY not in str(told.value)
    monkeypatch.delenv("TILED_URI")
    with pytest.raises(QuietbeamError, match="set QUIETBEAM_TILED or TILED_URI"):
        end_of_run_workflow({"run_start": "00000000"})


def test_an_end_that_is_late_in_the_catalogue_is_waited_for(station, stops, queue, tiled, monkeypatch):
    uid = scan(station)
    run = tiled.client["ended"][uid]
    stop = dict(run.metadata["stop"])
    run.replace_metadata(metadata={"start": dict(run.metadata["start"])})
    monkeypatch.setattr(end_of_run, "LAG_SECONDS", 0.0)
    with pytest.raises(QuietbeamError, match="has not been told that it ended"):
        end_of_run_workflow(stop, tiled.api_key)
    monkeypatch.setattr(end_of_run, "LAG_SECONDS", 30.0)
    monkeypatch.setattr(end_of_run.time, "sleep", lambda _: run.update_metadata(metadata={"stop": stop}))
    assert end_of_run_workflow(stop, tiled.api_key)["done"] == "queued"
    assert queue.find(uid).submission.run["stop"] == stop
