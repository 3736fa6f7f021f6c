"""Codecs side by side, through the command."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from quietbeam.beamline.codec_comparison import choose_codecs, compare_codecs
from quietbeam.beamline.console import app
from quietbeam.compress.codec import known_codecs
from quietbeam.compress.sweeps import CLASSICAL, LEARNED, LOSSLESS, sweep_settings
from quietbeam.reconstruction.errors import ReductionError

CODECS = ("sz3", "zfp", "blosc2")


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    path = tmp_path_factory.mktemp("volume") / "volume.npy"
    z, y, x = np.meshgrid(*(np.linspace(0, 3, n) for n in (9, 33, 31)), indexing="ij")
    np.save(path, (np.sin(3 * x * y + z) + 0.1 * np.random.default_rng(0).normal(size=x.shape)).astype(np.float32))
    return path


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_every_codec_of_the_table_has_a_sweep():
    assert {"lattice", "crae", *CLASSICAL, *LOSSLESS, *LEARNED} == set(known_codecs())
    for name in known_codecs():
        assert sweep_settings(name, 2.0, epochs=3)


def test_a_time_to_train_goes_to_codecs_that_learn():
    (settings,) = sweep_settings("crae2", 1.0, minutes=0.5)
    assert settings.minutes == 0.5
    assert settings.epochs is None
    assert "minutes" not in type(sweep_settings("sz3", 1.0, minutes=0.5)[0]).model_fields


def test_rates_are_printed_and_written(volume, tmp_path):
    options = [word for name in CODECS for word in ("--codec", name)]
    done = run("compare", volume, *options, "--chunk-slices", 4, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "rates.json").read_text())
    assert {row["codec"] for row in rows} == set(CODECS)
    rates = [row["bits_per_voxel"] for row in rows if row["codec"] == "sz3"]
    assert rates == sorted(rates)
    assert all(row["largest_error"] == 0 for row in rows if row["codec"] == "blosc2") is False  # to 16 bits
    assert (tmp_path / "rates.csv").read_text().count("\n") == len(rows) + 1
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert all(name in done.output for name in CODECS)


def test_the_trade_off_point_is_told_and_drawn(volume, tmp_path):
    done = run("tradeoff", volume, "--codec", "sz3", "--codec", "zfp", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "tradeoff.json").read_text())
    assert content["trade_off_point"] in content["front"]
    assert f"trade-off point: {content['trade_off_point']['name']}" in done.output
    assert (tmp_path / "tradeoff.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_compared_is_told(volume, tmp_path):
    with pytest.raises(ReductionError, match=r"there is no codec sz4; known are ae, bitshuffle"):
        choose_codecs(["sz4"])
    np.save(tmp_path / "constant.npy", np.ones((3, 4, 5), np.float32))
    with pytest.raises(ReductionError, match=r"must be finite and not constant"):
        compare_codecs(str(tmp_path / "constant.npy"), ["sz3"])
    done = run("tradeoff", volume, "--codec", "blosc2", "--slices", "0:2")
    assert done.exit_code == 0 or "lossless" in str(done.exception)


def test_the_default_is_ours_and_the_classical_ones():
    assert choose_codecs([])[0] == "lattice"
    assert set(LEARNED) <= set(choose_codecs([], learned=True))
