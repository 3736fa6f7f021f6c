"""Codecs side by side, through the command."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from quietbeam.beamline.codec_comparison import choose_codecs, compare_codecs, find_best, make_folder
from quietbeam.beamline.console import app
from quietbeam.compress.codec import known_codecs
from quietbeam.compress.rate_distortion import sweep
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
    constant = np.ones((3, 4, 5))
    np.save(tmp_path / "constant.npy", constant)
    with pytest.raises(ReductionError, match=r"constant, so there is nothing to compare"):
        compare_codecs(str(tmp_path / "constant.npy"), ["sz3"])
    constant[1, 2, 3:] = np.nan, 1e300
    np.save(tmp_path / "gaps.npy", constant)
    with pytest.raises(ReductionError, match=r"2 of 60 voxels are not finite"):
        compare_codecs(str(tmp_path / "gaps.npy"), ["sz3"])


def test_a_lossless_codec_is_no_trade_off_though_it_rounds(volume):
    points = compare_codecs(str(volume), ["sz3", "blosc2"])
    assert any(np.isfinite(point.psnr) for point in points if point.codec == "blosc2")
    assert {each.name.split()[0] for each in find_best(points).front} == {"sz3"}
    done = run("tradeoff", volume, "--codec", "blosc2", "--slices", "0:2")
    assert "all of these are lossless" in str(done.exception)


def test_a_time_alone_leaves_inr_out_and_the_others_in(volume):
    said = []
    points = compare_codecs(str(volume), ["inr", "sz3"], minutes=1, say=said.append)
    assert {point.codec for point in points} == {"sz3"}
    assert "inr left out: inr takes --epochs, and no time to train" in said
    with pytest.raises(ReductionError, match=r"none of these codecs could be measured: inr"):
        compare_codecs(str(volume), ["inr"], minutes=1)


def test_inr_has_one_setting_to_compare_and_a_grid_for_the_trade_off():
    (settings,) = sweep_settings("inr", 1.0, minutes=1, epochs=3)
    assert (settings.downsampling, settings.channels, settings.width, settings.epochs) == (2, 8, 110, 3)
    assert len({str(each) for each in sweep_settings("inr", 1.0, grid=True)}) == 27
    assert sweep_settings("sz3", 1.0, grid=True) == sweep_settings("sz3", 1.0)


@pytest.mark.parametrize("scale", [1, 1.4, 700])
def test_codecs_that_are_told_a_largest_error_come_to_like_qualities(scale):
    rng = np.random.default_rng(0)
    grains = gaussian_filter(rng.normal(size=(16, 64, 64)), 4) > 0
    part = scale * (gaussian_filter(grains.astype(np.float32), 0.8) + 0.003 * rng.normal(size=grains.shape))
    part = part.astype(np.float32)
    for name in ("sz3", "zfp"):
        points = sweep(name, sweep_settings(name, float(np.ptp(part))), part, similarities=False)
        decibels = [point.psnr for point in points]
        assert 34 < decibels[0] < decibels[-1] < 56  # 36 to 53 are meant; zfp goes by powers of two, 6 dB each
        assert len(set(decibels)) == len(decibels)


def test_the_range_of_a_volume_does_not_overflow(tmp_path):
    signs = np.random.default_rng(0).choice([-1, 1], (2, 8, 8))
    np.save(tmp_path / "large.npy", (3e38 * signs).astype(np.float32))
    said = []
    points = compare_codecs(str(tmp_path / "large.npy"), ["zfp", "sperr", "htj2k"], say=said.append)
    assert {point.codec for point in points} == {"sperr", "htj2k"}
    assert any(line.startswith("zfp left out: ") for line in said)  # its own sums overflow


def test_a_folder_that_cannot_be_is_told_before_the_work(volume, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in ("file", "file/folder"):
        with pytest.raises(ReductionError, match=r"a file is in the way of this folder; choose another -o"):
            make_folder(tmp_path / folder)
    for name in ("compare", "tradeoff"):
        done = run(name, volume, "--codec", "sz3", "-o", tmp_path / "file")
        assert isinstance(done.exception, ReductionError)
        assert "sz3 ..." not in done.output


def test_the_default_is_ours_and_the_classical_ones():
    assert choose_codecs([])[0] == "lattice"
    assert set(LEARNED) <= set(choose_codecs([], learned=True))
