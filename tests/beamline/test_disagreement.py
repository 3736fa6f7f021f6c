"""A reduction that applies the network to each pair's input and keeps how far the answers differ."""

import json

import numpy as np
import pytest

from quietbeam.beamline.stage_keys import StageKeys
from quietbeam.beamline.verifying.results import verify_output
from quietbeam.compress.archive import open_archive

from .jobs import reduce_command, results, run, small_scan, small_settings

AVERAGE = ("--set", "inference.mode=average", "--set", "inference.disagreement=true")


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return small_scan(tmp_path_factory.mktemp("scan") / "scan.h5", num_rows=6, num_columns=32, num_angles=32)


@pytest.fixture(scope="module")
def reduced(scan, tmp_path_factory):
    output = tmp_path_factory.mktemp("average") / "out"
    done = run(reduce_command(scan, output, *AVERAGE))
    assert done.returncode == 0, done.stderr
    return output


@pytest.mark.slow
def test_the_disagreement_lies_beside_the_archive_and_is_checked_with_it(reduced):
    disagreement = np.load(reduced / "disagreement.npy")
    with open_archive(reduced / "denoised.h5") as archive:
        assert disagreement.shape == archive.shape
    assert disagreement[:, 16, 16].all()
    assert not disagreement[:, 0, 0].any()  # outside the circle
    assert "disagreement.npy" in (reduced / "report.html").read_text()
    assert not verify_output(reduced).damaged
    content = (reduced / "disagreement.npy").read_bytes()
    (reduced / "disagreement.npy").write_bytes(content[:-1] + b"\xff")
    assert [fault.split(":")[0] for fault in verify_output(reduced).damaged] == ["disagreement.npy"]
    (reduced / "disagreement.npy").write_bytes(content)


@pytest.mark.slow
def test_a_run_that_was_stopped_at_the_disagreement_goes_on_from_there(scan, reduced, tmp_path):
    obstacle = tmp_path / "disagreement.npy" / "in the way"
    obstacle.mkdir(parents=True)
    assert run(reduce_command(scan, tmp_path, *AVERAGE)).returncode != 0
    assert (tmp_path / "network.safetensors").exists()
    assert not (tmp_path / "manifest.json").exists()
    obstacle.rmdir()
    obstacle.parent.rmdir()
    done = run(reduce_command(scan, tmp_path, *AVERAGE))
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == results(reduced)


@pytest.mark.slow
def test_other_settings_take_the_disagreement_away(scan, reduced):
    again = run(reduce_command(scan, reduced, "--overwrite"))
    assert again.returncode == 0, again.stderr
    assert not (reduced / "disagreement.npy").exists()
    assert "disagreement.npy" not in json.loads((reduced / "manifest.json").read_text())["files"]
    assert not verify_output(reduced).damaged


def test_how_the_network_is_applied_is_part_of_what_is_denoised_and_not_of_what_is_trained():
    full, average = (StageKeys("scan", small_settings(inference__mode=mode)) for mode in ("full", "average"))
    assert full.denoised(5.0, b"network") != average.denoised(5.0, b"network")
    assert full.result != average.result
    assert full.training(5.0) == average.training(5.0)
