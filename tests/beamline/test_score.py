from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quietbeam.beamline.manifest import FILES, FORMAT
from quietbeam.beamline.score import score_against_truth
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan, truth_path
from quietbeam.compress.archive import ArchiveHeader, encode_chunk, open_archive, write_archive
from quietbeam.reconstruction.errors import ArchiveError, ReductionError
from quietbeam.reconstruction.quality import psnr
from quietbeam.reconstruction.reconstructors import available_reconstructors, circle

SETTINGS = SimulateSettings(num_rows=10, num_columns=32, num_angles=24)
MAX_ERROR = 2000.0
"""In 1/m, of a foam of some 40 000."""


def write_output(output: Path, scan: Path, **changes: Any) -> Path:
    """Write what `score` reads of a result: the truth as the archive, and a manifest."""
    output.mkdir()
    truth = np.load(truth_path(scan))
    header = ArchiveHeader(shape=truth.shape, codec=None, max_error=MAX_ERROR, chunk_slices=16)
    write_archive(output / "denoised.h5", [encode_chunk(None, truth, MAX_ERROR)], header, b"")
    manifest = {
        "format": FORMAT,
        "key": "",
        "numbers": {},
        "files": {name: {"bytes": 0, "sha256": ""} for name in FILES},
        "input": {"path": str(scan)},
        "settings": ReductionSettings().model_dump(mode="json"),
        "rotation_axis": SETTINGS.rotation_axis,
    }
    (output / "manifest.json").write_text(json.dumps(manifest | changes))
    return output


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_scan(tmp_path_factory.mktemp("scan") / "scan.h5", SETTINGS)


def test_decibels_are_those_of_quality(scan, tmp_path):
    output = write_output(tmp_path / "out", scan)
    decibels = score_against_truth(output, truth_path(scan))
    truth, inside = np.load(truth_path(scan)), circle(32) > 0
    with open_archive(output / "denoised.h5") as archive:
        expected = psnr(truth[:, inside], archive[:][:, inside], data_range=float(np.ptp(truth)))
    assert decibels["archive"] == pytest.approx(expected, abs=1e-6)
    assert set(decibels) == {"archive", *available_reconstructors()}
    assert all(0 < decibels[name] < expected for name in available_reconstructors())


def test_no_error_is_infinite_decibels(scan, tmp_path):
    output = write_output(tmp_path / "out", scan)
    with open_archive(output / "denoised.h5") as archive:
        np.save(tmp_path / "same.npy", archive[:])
    decibels = score_against_truth(output, tmp_path / "same.npy")
    assert decibels["archive"] == np.inf
    assert np.isfinite(decibels["fbp"])


def test_another_shape_is_refused(scan, tmp_path):
    np.save(tmp_path / "other.npy", np.ones((10, 16, 16), np.float32))
    with pytest.raises(ReductionError, match=r"other\.npy: shape \(10, 16, 16\), but the archive has \(10, 32, 32\)"):
        score_against_truth(write_output(tmp_path / "out", scan), tmp_path / "other.npy")


def test_missing_manifest(scan, tmp_path):
    with pytest.raises(ArchiveError, match=r"manifest\.json: no manifest here"):
        score_against_truth(tmp_path, truth_path(scan))


def test_broken_manifest(scan, tmp_path):
    output = write_output(tmp_path / "out", scan)
    (output / "manifest.json").write_text((output / "manifest.json").read_text()[:-5])
    with pytest.raises(ArchiveError, match=r"manifest\.json: (cannot be read|damaged)"):
        score_against_truth(output, truth_path(scan))


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"input": {}}, r"KeyError\('path'\)"),
        ({"rotation_axis": None}, "TypeError"),
        ({"settings": {"pairs": {"unknown": 1}}}, r"settings\.pairs\.unknown: Extra inputs are not permitted"),
    ],
)
def test_manifest_without_what_a_comparison_needs(scan, tmp_path, changes, got):
    output = write_output(tmp_path / "out", scan, **changes)
    with pytest.raises(
        ArchiveError, match=rf"manifest\.json: expected the scan's path.*{got}.*: reduce the scan again"
    ):
        score_against_truth(output, truth_path(scan))


def test_scan_that_has_gone(scan, tmp_path):
    output = write_output(tmp_path / "out", scan, input={"path": str(tmp_path / "gone.h5")})
    with pytest.raises(ReductionError, match=r"gone\.h5: the scan of .*out has gone: put it back"):
        score_against_truth(output, truth_path(scan))
