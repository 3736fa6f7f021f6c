"""The main job as a whole, on simulated scans."""

import json
import os
import re
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from quietbeam.beamline.reduce import reduce_scan
from quietbeam.beamline.score import score_against_truth
from quietbeam.beamline.settings import SettingsError
from quietbeam.beamline.simulate import truth_path
from quietbeam.beamline.verifying.results import verify_output
from quietbeam.beamline.workspace import METRICS, PREVIEW, Workspace
from quietbeam.compress.archive import open_archive
from quietbeam.noise2inverse.checkpoint import load_network
from quietbeam.reconstruction.errors import LockedError, ReductionError, ScanError, SpaceError

from .jobs import results, small_scan, small_settings

GAIN = 6.0
"""Decibel that denoising must bring over FBP on the simulated foam."""
RATIO = 8.0
"""Times that the archive must be smaller than the float32 volume."""


class Recorder:
    """Counts what a job does, and stops it at a wanted point as a crash would."""

    def __init__(self, crash_in: str | None = None, after: int = 0) -> None:
        self.crash_in, self.after = crash_in, after
        self.done, self.before = Counter(), {}
        self.decisions, self.caveats = [], []

    @contextmanager
    def stage(self, name, total, done=0):
        self.before[name] = done
        yield _Step(self, name)

    def decision(self, decision):
        self.decisions.append(decision)

    def caveat(self, caveat):
        self.caveats.append(caveat)

    def say(self, text):
        pass


class _Step:
    def __init__(self, recorder, name):
        self.recorder, self.name = recorder, name

    def advance(self, count=1, note=""):
        self.recorder.done[self.name] += count
        if self.name == self.recorder.crash_in and self.recorder.done[self.name] >= self.recorder.after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return small_scan(tmp_path_factory.mktemp("scan") / "scan.h5")


@pytest.fixture(scope="module")
def finished(scan, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "result"
    recorder = Recorder()
    assert reduce_scan(scan, output, small_settings(), progress=recorder)
    return output, recorder


def test_the_output_is_the_result_beside_the_files_of_the_training_and_no_scratch(finished):
    output, _ = finished
    names = {path.name for path in output.iterdir()} - {".lock"}
    result = {"denoised.h5", "network.safetensors", "codec.safetensors", "report.html", "manifest.json"}
    assert names == {*result, METRICS, PREVIEW}


def test_archive_holds_the_denoised_volume_and_where_it_comes_from(finished, scan):
    output, recorder = finished
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["input"]["identity"]["files"][0]["name"] == scan.name
    with open_archive(output / "denoised.h5") as archive:
        assert archive.shape == (16, 48, 48)
        assert np.isfinite(archive[:]).all()
        assert archive.metadata["unit"] == "1/m"
        assert archive.metadata["scan"]["sha256"] == manifest["input"]["identity"]["sha256"]
        assert archive.metadata["settings"]["network"]["depth"] == 10
    assert manifest["numbers"]["largest_error"] <= manifest["numbers"]["max_error"]
    assert {"rotation axis", "split", "max_error", "reconstruction"} <= {d.name for d in recorder.decisions}
    assert [list(d) for d in recorder.decisions] == [list(d.values()) for d in manifest["decisions"]]


def test_network_file_is_the_network_of_the_run(finished):
    model, provenance = load_network(finished[0] / "network.safetensors")
    assert model.in_channels == 5
    assert provenance["sections"] == {"num_sections": 4}


def test_the_same_command_does_nothing_the_second_time(finished, scan):
    output, _ = finished
    before = (output / "manifest.json").read_bytes()
    recorder = Recorder()
    assert not reduce_scan(scan, output, small_settings(), progress=recorder)
    assert not recorder.done
    assert (output / "manifest.json").read_bytes() == before
    assert not (output / "work").exists()


def test_results_of_other_settings_are_not_overwritten_unasked(scan, tmp_path):
    output = tmp_path / "out"
    reduce_scan(scan, output, small_settings(), progress=Recorder())
    other = small_settings(training__seed=5)
    first = results(output)
    with pytest.raises(ReductionError, match=r"another scan or of other settings.*--overwrite"):
        reduce_scan(scan, output, other, progress=Recorder())
    assert results(output) == first
    assert not (output / "work").exists()
    assert reduce_scan(scan, output, other, progress=Recorder(), overwrite=True)
    assert results(output)["network.safetensors"] != first["network.safetensors"]


def test_equal_runs_give_equal_results_whatever_the_chunks(finished, scan, tmp_path):
    settings = small_settings(compute__chunk_slices=6, compute__tile_size=32)
    reduce_scan(scan, tmp_path / "out", settings, progress=Recorder())
    again, first = results(tmp_path / "out"), results(finished[0])
    assert again["key"] == first["key"]
    assert again["network.safetensors"] == first["network.safetensors"]


@pytest.mark.parametrize(
    ("stage", "after", "unit"),
    [
        ("reconstruct", 8, 4),
        ("train", 9, 6),
        ("denoise", 8, 4),
        ("fit codec", 8, 5),
        ("encode", 8, 4),
        ("archive", 1, 1),
    ],
)
def test_a_stopped_job_redoes_at_most_one_chunk_or_epoch(finished, scan, tmp_path, stage, after, unit):
    first = Recorder(crash_in=stage, after=after)
    with pytest.raises(KeyboardInterrupt):
        reduce_scan(scan, tmp_path / "out", small_settings(), progress=first)
    second = Recorder()
    assert reduce_scan(scan, tmp_path / "out", small_settings(), progress=second)
    for name, total in finished[1].done.items():
        redone = first.done[name] + second.done[name] - total
        assert redone <= (unit if name == stage else 0), name
    assert results(tmp_path / "out") == results(finished[0])


def test_changed_settings_redo_only_what_depends_on_them(scan, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        reduce_scan(scan, tmp_path / "out", small_settings(), progress=Recorder("encode", 8))
    recorder = Recorder()
    reduce_scan(scan, tmp_path / "out", small_settings(archive__max_error=500.0), progress=recorder)
    assert "reconstruct" not in recorder.done
    assert recorder.done["train"] == 0
    assert recorder.done["encode"] == 16


def test_raw_data_are_not_touched(scan, tmp_path):
    before = scan.stat(), scan.read_bytes()
    reduce_scan(scan, tmp_path / "out", small_settings(), progress=Recorder())
    after = scan.stat(), scan.read_bytes()
    assert before[1] == after[1]
    assert before[0].st_mtime_ns == after[0].st_mtime_ns


def test_output_among_the_raw_data_is_refused(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    import tifffile

    for index in range(40):
        tifffile.imwrite(raw / f"frame_{index:03d}.tiff", np.ones((4, 24), np.float32))
    settings = small_settings(scan__normalised="attenuation", scan__angles="0:180")
    with pytest.raises(ReductionError, match="lies there itself"):
        reduce_scan(raw, raw / "out", settings, progress=Recorder())
    assert not (raw / "out").exists()


@pytest.mark.parametrize("place", ["denoised.h5", "work/reconstruct.jsonl", "work/sections/0/1.npy"])
def test_a_scan_in_the_place_of_a_result_is_not_replaced(scan, tmp_path, place):
    raw = tmp_path / "out" / place
    raw.parent.mkdir(parents=True)
    raw.write_bytes(scan.read_bytes())
    with pytest.raises(ReductionError, match="lies there itself"):
        reduce_scan(raw, tmp_path / "out", small_settings(), progress=Recorder())
    assert raw.read_bytes() == scan.read_bytes()


def test_a_scan_that_changes_while_it_is_reduced_is_refused(tmp_path):
    scan = small_scan(tmp_path / "scan.h5")

    class Changing(Recorder):
        def decision(self, decision):
            if decision.name == "rotation axis":
                os.utime(scan)

    with pytest.raises(ScanError, match="changed while it was reduced"):
        reduce_scan(scan, tmp_path / "out", small_settings(), progress=Changing())
    assert not (tmp_path / "out/manifest.json").exists()
    assert not (tmp_path / "out/work").exists(), "slices of two versions of the scan must not be taken up again"
    assert reduce_scan(scan, tmp_path / "out", small_settings(), progress=Recorder())


def test_a_failed_overwrite_leaves_the_old_result(scan, tmp_path):
    output = tmp_path / "out"
    reduce_scan(scan, output, small_settings(), progress=Recorder())
    first = results(output)
    with pytest.raises(ReductionError, match="sections need at least"):
        reduce_scan(scan, output, small_settings(sections__num_sections=30), progress=Recorder(), overwrite=True)
    assert results(output) == first
    assert not (output / "work").exists()
    assert not verify_output(output).damaged


def test_a_refused_command_leaves_what_a_stopped_one_needs(scan, tmp_path):
    output, other = tmp_path / "out", small_settings(training__seed=5)
    reduce_scan(scan, output, small_settings(), progress=Recorder())
    with pytest.raises(KeyboardInterrupt):
        reduce_scan(scan, output, other, progress=Recorder("denoise", 1), overwrite=True)
    before = {path.name for path in (output / "work").iterdir()}
    with pytest.raises(ReductionError, match="other settings"):
        reduce_scan(scan, output, small_settings(training__seed=6), progress=Recorder())
    assert {path.name for path in (output / "work").iterdir()} == before
    again = Recorder()
    assert reduce_scan(scan, output, other, progress=again, overwrite=True)
    assert again.before["train"] > 0


def test_a_broken_manifest_is_replaced_only_when_asked(scan, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "manifest.json").write_text("[1, 2]")
    with pytest.raises(ReductionError, match=r"manifest\.json: .*--overwrite"):
        reduce_scan(scan, output, small_settings(), progress=Recorder())
    assert reduce_scan(scan, output, small_settings(), progress=Recorder(), overwrite=True)
    assert not verify_output(output).damaged


def test_an_archive_that_fails_its_check_leaves_the_old_result(scan, tmp_path, monkeypatch):
    from quietbeam.beamline import pipeline
    from quietbeam.compress.archive import Verification

    output = tmp_path / "out"
    reduce_scan(scan, output, small_settings(), progress=Recorder())
    monkeypatch.setattr(pipeline, "verify_archive", lambda *_, **__: Verification(0, 0, ("chunk 0",), None))
    with pytest.raises(ReductionError, match="does not hold what was put in: chunk 0"):
        reduce_scan(scan, output, small_settings(training__seed=1), progress=Recorder(), overwrite=True)
    assert not verify_output(output).damaged


def test_paths_do_not_make_another_scan(tmp_path, monkeypatch):
    scan = small_scan(tmp_path / "scan.h5")
    flats = f"{tmp_path}/scan.h5:/exchange/data_white"
    reduce_scan(scan, tmp_path / "out", small_settings(scan__flats=flats), progress=Recorder())
    monkeypatch.chdir(tmp_path)
    relative = small_settings(scan__flats="scan.h5:/exchange/data_white")
    assert not reduce_scan(Path("scan.h5"), tmp_path / "out", relative, progress=Recorder())


def test_what_the_archive_would_refuse_is_refused_at_once(scan, tmp_path):
    with pytest.raises(SettingsError, match="codec"):
        small_settings(archive__codec="crea")
    with pytest.raises(SettingsError, match=r"training\.minutes.*finite"):
        small_settings(training__minutes=float("inf"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda data: np.zeros_like(data), ScanError, "cannot be used|not finite"),
        (lambda data: np.full(data.shape, np.nan, np.float32), ScanError, "cannot be used|not finite"),
    ],
)
def test_a_scan_without_anything_in_it_is_refused(tmp_path, change, error, message):
    scan = edited_scan(tmp_path / "scan.h5", change)
    with pytest.raises(error, match=message):
        reduce_scan(scan, tmp_path / "out", small_settings(), progress=Recorder())


def test_projections_brighter_than_the_flats_are_told(tmp_path):
    scan = edited_scan(tmp_path / "scan.h5", lambda data: data + np.uint16(5000))
    recorder = Recorder()
    reduce_scan(scan, tmp_path / "out", small_settings(), progress=recorder)
    assert "brighter-than-flats" in [caveat.code for caveat in recorder.caveats]


def edited_scan(path, change):
    """A simulated scan whose projections are changed."""
    small_scan(path)
    with h5py.File(path, "r+") as file:
        data = change(file["exchange/data"][:])
        del file["exchange/data"]
        file["exchange/data"] = data
    return path


@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: content[:50] + b"?" + content[51:]])
def test_a_damaged_result_is_made_again_when_asked(scan, tmp_path, damage):
    output = tmp_path / "out"
    reduce_scan(scan, output, small_settings(), progress=Recorder())
    first = results(output)
    archive = output / "denoised.h5"
    archive.write_bytes(damage(archive.read_bytes()))
    assert reduce_scan(scan, output, small_settings(), progress=Recorder(), overwrite=True)
    assert results(output) == first
    assert not verify_output(output).damaged


def test_two_jobs_on_one_output(scan, tmp_path):
    with Workspace(tmp_path / "out").locked(), pytest.raises(LockedError, match="another process"):
        reduce_scan(scan, tmp_path / "out", small_settings(), progress=Recorder())


def test_too_little_disk_is_said_with_numbers(scan, tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(SpaceError, match=r"needs 0\.\d\d GiB of disk, 0\.00 GiB are free"):
        reduce_scan(scan, tmp_path / "out", small_settings(), progress=Recorder())


def test_a_changed_scan_is_another_scan(tmp_path):
    scan = small_scan(tmp_path / "scan.h5")
    reduce_scan(scan, tmp_path / "out", small_settings(), progress=Recorder())
    small_scan(scan, seed=1)
    os.utime(scan)
    with pytest.raises(ReductionError, match="holds the results of another scan"):
        reduce_scan(scan, tmp_path / "out", small_settings(), progress=Recorder())


@pytest.mark.parametrize("codec", ["crae", "zfp", "lattice"])
def test_latents_can_be_kept_always_or_left_out(scan, tmp_path, codec):
    more = {} if codec == "crae" else {"codec__options": {}, "codec__epochs": None}
    settings = small_settings(archive__keep_latents="always", archive__codec=codec, **more)
    reduce_scan(scan, tmp_path / "out", settings, progress=Recorder())
    numbers = json.loads((tmp_path / "out/manifest.json").read_text())["numbers"]
    assert (numbers["latent_bytes"] > 0) == (codec != "lattice")
    assert numbers["largest_error"] <= numbers["max_error"]


@pytest.mark.parametrize(
    "shape",
    [{"num_rows": 1}, {"num_rows": 2}, {"num_rows": 3, "num_columns": 47}, {"num_rows": 5, "num_angles": 49}],
)
def test_thin_and_odd_scans(tmp_path, shape):
    scan = small_scan(tmp_path / "scan.h5", **shape)
    assert reduce_scan(scan, tmp_path / "out", small_settings(), progress=Recorder())


def test_hostile_names_are_harmless(tmp_path):
    folder = tmp_path / "a b;$(touch x) <script>é"
    folder.mkdir()
    scan = small_scan(folder / "scan '1'.h5", name="<script>alert(1)</script>")
    assert reduce_scan(scan, folder / "out", small_settings(), progress=Recorder())
    report = (folder / "out/report.html").read_text()
    assert "<script>alert" not in report
    assert "&lt;script&gt;alert(1)" in report


def test_report_opens_without_a_word_from_the_browser(finished, console_messages, count_pictures):
    report = finished[0] / "report.html"
    assert console_messages(report) == []
    pictures, broken = count_pictures(report)
    assert pictures >= 6
    assert broken == 0


@pytest.mark.slow
def test_denoised_volume_is_much_nearer_to_the_truth_than_fbp(tmp_path):
    scan = small_scan(tmp_path / "scan.h5", num_rows=32, num_columns=128, num_angles=192)
    settings = small_settings(
        network__depth=60,
        training__epochs=14,
        training__steps_per_epoch=30,
        pairs__crop_size=96,
        archive__chunk_slices=16,
        archive__codec="lattice",
        codec__options={},
        codec__epochs=None,
    )
    reduce_scan(scan, tmp_path / "out", settings, progress=Recorder())
    decibels = score_against_truth(tmp_path / "out", truth_path(scan))
    assert decibels["archive"] > decibels["fbp"] + GAIN
    assert decibels["archive"] > decibels["gridrec"] + GAIN
    numbers = json.loads((tmp_path / "out/manifest.json").read_text())["numbers"]
    assert numbers["volume_bytes"] > RATIO * numbers["archive_bytes"]


def test_report_tells_every_setting(finished):
    report = (finished[0] / "report.html").read_text()
    for name in ("context_slices", "zinger_threshold", "keep_latents", "min_transmission"):
        assert re.search(rf"\b{name}\b", report)
