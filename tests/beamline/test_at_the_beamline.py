"""The whole way of a scan: taken, hooked, queued, reduced by a worker, archived, and found again in Tiled."""

from pathlib import Path

import numpy as np
import pytest
from tiled.queries import Key

from quietbeam.beamline.hook import PostScan
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.manifest import read_manifest
from quietbeam.beamline.plans import tomo_interlaced_scan
from quietbeam.beamline.score import score_against_truth
from quietbeam.beamline.verifying.results import verify_output
from quietbeam.beamline.workspace import ARCHIVE, MANIFEST
from quietbeam.compress.archive import open_archive

from .end_station import PIXEL_SIZE, end_station
from .jobs import command, run
from .tiled_server import tiled_server

pytestmark = pytest.mark.slow

PROFILE = """
[training]
epochs = 4
steps_per_epoch = 60
[compute]
threads = 1
"""
GAIN = 3.0
"""Decibel that the archive must be above a plain reconstruction of the same scan, after four epochs."""


def settings_of_worker(folder, uri):
    return f"""
output = "{folder}/processed"
profiles = "{folder}/profiles"
[publish]
tiled_uri = "{uri}"
tiled_path = "processed"
"""


def test_an_interlaced_scan_comes_back_denoised_through_the_catalogue(tmp_path, monkeypatch):
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "quick.toml").write_text(PROFILE)
    queue = tmp_path / "queue" / "jobs.db"
    with end_station(tmp_path / "raw", rows=8, columns=96, photons=600.0) as station:
        hook = PostScan(queue=queue, profile="quick")
        station.RE.subscribe(hook)
        plan = tomo_interlaced_scan(
            station.detector,
            station.rotation,
            num=32,
            rotations=4,
            exposure=0.001,
            sample_x=station.x,
            shutter=station.shutter,
            out_of_beam=50.0,
            md={"tomo": {"pixel_size_um": PIXEL_SIZE * 1e6}},
        )
        (uid,) = station.RE(plan)
        assert hook.flush(10)
        truth = station.truth
    with tiled_server(tmp_path / "tiled", readable=[tmp_path / "processed"]) as server:
        run_worker(tmp_path, server, queue, monkeypatch)
        job = JobQueue(queue).find(uid)
        assert (job.state, job.attempts, job.reason) == ("done", 1, "")
        check_catalogue(server, uid, job)
    check_result(job, truth)


def run_worker(folder, server, queue, monkeypatch):
    config = folder / "worker.toml"
    config.write_text(settings_of_worker(folder, server.uri))
    monkeypatch.setenv("TILED_API_KEY", server.api_key)
    done = run(command("worker", "--queue", queue, "--config", config, "--until-empty"))
    assert done.returncode == 0, done.stderr
    assert server.api_key not in done.stdout + done.stderr


def check_catalogue(server, uid, job):
    """The derived run is found by the raw run's uid; its slices are those of the archive, bit for bit."""
    (found,) = server.client["processed"].search(Key("start.raw_uid") == uid).values()
    start = found.metadata["start"]
    assert start["analysis_stage"] == "denoised"
    assert start["data_session"] == "pass-000000"
    assert found.metadata["stop"]["exit_status"] == "success"
    volume = next(iter(found["primary"].values()))
    with open_archive(Path(job.result["output"]) / ARCHIVE) as archive:
        assert volume.shape == archive.shape
        for index in (0, archive.shape[0] - 1):
            np.testing.assert_array_equal(volume[index], archive[index])


def check_result(job, truth):
    """The archive is verified, and nearer to what was in the beam than plain reconstructions of the same frames."""
    output = Path(job.result["output"])
    assert not verify_output(output).damaged
    np.save(output.parent / "truth.npy", truth)
    decibels = score_against_truth(output, output.parent / "truth.npy")
    assert decibels.pop("archive") > max(decibels.values()) + GAIN
    manifest = read_manifest(output / MANIFEST)
    decisions = {decision["name"]: decision["value"] for decision in manifest["decisions"]}
    assert decisions["layout"] == "bluesky run"
    assert decisions["order of the angles"] == "interlaced"
    assert [caveat["code"] for caveat in manifest["caveats"]] == []
