"""One codec, and one decoder in a file, for several scans; what was taken is told, and nothing depends on paths."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from quietbeam.beamline.codec_reuse import (
    codec_settings_for_followers,
    decoder_share,
    decoders_folder,
    decoders_of_series,
)
from quietbeam.beamline.progress import Silence
from quietbeam.beamline.reduce import reduce_scan
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.beamline.stage_keys import StageKeys
from quietbeam.beamline.workspace import LEARNED_CODEC
from quietbeam.compress.archive import open_archive, verify_archive
from quietbeam.compress.packed_codec import packed_sha256
from quietbeam.compress.shared_decoder import DECODERS

from .jobs import answer, small_scan, small_settings

LARGEST_ERROR = 50.0
"""1/m, of values up to some 20,000: coarse, so that a codec which has hardly learned still pays."""


def series_settings(output: Path) -> ReductionSettings:
    """All scans share the codec of the first, and one decoder."""
    settings = small_settings(
        archive__codec="dcnn",
        archive__embed=False,
        archive__keep_latents="always",
        archive__max_error=LARGEST_ERROR,
        codec__reuse="first",
        codec__options={"steps_per_epoch": 5, "batch_size": 4},
        training__epochs=1,
    )
    return decoders_of_series(settings, output)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans: the codec of the first one, ``a``, serves the second, ``b/c``."""
    root = tmp_path_factory.mktemp("codecs")
    settings = series_settings(root / "series")
    reduce_scan(small_scan(root / "a.h5"), root / "series" / "a", settings, progress=Silence())
    follower = codec_settings_for_followers(settings, root / "series" / "a")
    reduce_scan(small_scan(root / "c.h5", seed=1), root / "series" / "b" / "c", follower, progress=Silence())
    return root / "series"


def decisions(output: Path) -> dict[str, list[str]]:
    with open_archive(output / "denoised.h5") as archive:
        return {name: rest for name, *rest in archive.metadata["decisions"]}  # type: ignore[union-attr, misc]


def test_the_followers_take_codec_and_decoder_of_the_first(series: Path) -> None:
    (decoder,) = (series / DECODERS).iterdir()
    for output in (series / "a", series / "b" / "c"):
        with open_archive(output / "denoised.h5") as archive:
            assert archive.shares_decoder
            assert archive.entry("codec").sha256 == decoder.stem
            assert np.isfinite(archive[:]).all()
        assert verify_archive(output / "denoised.h5").ok
    assert json.loads((series / "a" / "manifest.json").read_text())["files"].keys() >= {LEARNED_CODEC}
    assert not (series / "b" / "c" / LEARNED_CODEC).exists()  # that of the first is enough


def test_what_was_taken_is_told(series: Path) -> None:
    sha256 = hashlib.sha256((series / "a" / LEARNED_CODEC).read_bytes()).hexdigest()
    value, reason = decisions(series / "b" / "c")["codec taken"]
    assert value == f"sha256 {sha256[:12]}"
    assert "made for values from " in reason
    assert "those here go from " in reason
    assert "codec taken" not in decisions(series / "a")
    assert "with the same decoder share if a chunk needs them" in decisions(series / "a")["codec"][1]


def test_the_same_codec_from_another_place_is_the_same_result(series: Path, tmp_path: Path) -> None:
    settings = series_settings(series)
    shutil.copy(series / "a" / LEARNED_CODEC, tmp_path)
    moved = codec_settings_for_followers(settings, tmp_path)
    assert moved.codec.trained == tmp_path / LEARNED_CODEC
    assert not reduce_scan(series.parent / "c.h5", series / "b" / "c", moved, progress=Silence())
    done = answer("embed", series / "b" / "c", "-o", tmp_path / "whole.h5")
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path / 'whole.h5'}, which needs no other file\n")
    with open_archive(tmp_path / "whole.h5") as whole, open_archive(series / "b" / "c" / "denoised.h5") as apart:
        np.testing.assert_array_equal(whole[:], apart[:])
        assert not whole.shares_decoder
    again = answer("embed", tmp_path / "whole.h5", "-o", tmp_path / "again.h5")
    assert again.returncode == 2
    assert "holds its decoder already" in again.stderr


def test_keys_know_the_codec_taken_and_where_the_decoder_is_but_no_paths() -> None:
    plain = StageKeys("scan", small_settings())
    for same in (
        {"archive__decoders": Path("x")},
        {"codec__reuse": "first"},
        {"codec__trained": Path("y")},
    ):
        assert StageKeys("scan", small_settings(**same)).result == plain.result
    apart, taken = (
        StageKeys("scan", small_settings(archive__embed=False)),
        StageKeys("scan", small_settings(), None, "1"),
    )
    for keys in (apart, taken):
        assert keys.result != plain.result
        assert keys.payloads(b"", "denoised", 1.0) != plain.payloads(b"", "denoised", 1.0)
    assert apart.codec("denoised") == plain.codec("denoised")
    assert taken.codec("denoised") != plain.codec("denoised")


def test_a_file_that_is_no_such_codec_is_refused_before_anything_is_done(series: Path, tmp_path: Path) -> None:
    scan, trained = series.parent / "a.h5", series / "a" / LEARNED_CODEC
    for codec, path, message in (
        ("crae2", trained, f"codec.trained={trained}: expected the codec crae2, got dcnn: set archive.codec=dcnn"),
        ("dcnn", series / "a" / "network.safetensors", "not a codec file"),
        ("dcnn", tmp_path / "none", "not a codec file"),
    ):
        sets = ("--set", f"archive.codec={codec}", "--set", f"codec.trained={path}")
        done = answer("reduce", scan, "-o", tmp_path / "out", *sets)
        assert (done.returncode, message in done.stderr.replace("\n", " ")) == (3, True), done.stderr
    assert not (tmp_path / "out" / "work").exists()
    assert packed_sha256(trained) == hashlib.sha256(trained.read_bytes()).hexdigest()


def test_followers_learn_on_their_own_where_nothing_is_shared(series: Path, tmp_path: Path) -> None:
    given = small_settings(archive__codec="dcnn")
    assert codec_settings_for_followers(given, series / "a") == given  # codec.reuse is per-scan
    first = small_settings(codec__reuse="first")
    assert codec_settings_for_followers(first, tmp_path) == first  # the first one's codec learned nothing
    named = small_settings(codec__reuse="first", codec__trained=tmp_path)
    assert codec_settings_for_followers(named, series / "a") == named


def test_a_shared_decoder_costs_a_scan_nothing() -> None:
    embedded, apart = small_settings().archive, small_settings(archive__embed=False).archive
    assert decoder_share(embedded, b"1234", (2, 2, 2)) == 0.5
    assert decoder_share(apart, b"1234", (2, 2, 2)) == 0
    assert decoders_folder(embedded, Path("out")) is None
    assert decoders_folder(apart, Path("some/out")) == Path("some", DECODERS).absolute()
    elsewhere = small_settings(archive__embed=False, archive__decoders="there").archive
    assert decoders_folder(elsewhere, Path("some/out")) == Path("there").absolute()
    assert decoders_of_series(small_settings(archive__decoders="there"), Path("s")).archive.decoders == Path("there")
