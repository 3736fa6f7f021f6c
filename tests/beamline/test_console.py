"""The command as a person uses it: messages, exit codes, no traceback."""

import json

import h5py
import numpy as np
import pytest
import tifffile

from .jobs import answer, command, reduce_command, run, small_scan


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return small_scan(tmp_path_factory.mktemp("scan") / "scan.h5")


@pytest.fixture(scope="module")
def reduced(scan, tmp_path_factory):
    """The folder that a reduction was started in without naming an output, and the finished process."""
    folder = tmp_path_factory.mktemp("here")
    arguments = reduce_command(scan, "OUT")
    at = arguments.index("-o")
    done = run(arguments[:at] + arguments[at + 2 :], cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture(scope="module")
def output(reduced):
    return reduced[0] / "scan_reduced"


def fails(arguments, code, *messages):
    done = answer(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for message in messages:
        assert message in done.stderr.replace("\n", " ")


def test_errors_have_their_exit_codes(scan, output, tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5")
    fails(["reduce", tmp_path / "absent.h5"], 3, "absent.h5")
    fails(["reduce", tmp_path / "text.h5"], 3, "text.h5")
    fails(["reduce", scan, "--set", "training.minuts=1"], 2, "did you mean")
    fails(["reduce", scan, "--config", tmp_path / "absent.toml"], 2, "cannot be read")
    fails(["reduce", scan, "-o", output], 1, "holds the results of another scan or of other settings", "--overwrite")
    fails(["reduce", scan, "-o", tmp_path / "text.h5"], 1, "text.h5")
    fails(["reduce", scan, "-o", tmp_path / "x", "--rotation-axis", "500"], 3, "must lie in [0, 47], got 500")
    fails(["reduce", scan, "-o", tmp_path / "x", "--set", "sections.num_sections=30"], 1, "sections need at least")
    fails(["verify", tmp_path], 7, "no manifest here")
    fails(["verify", tmp_path / "absent"], 2, "does not exist")
    fails(["reduce", scan, "-o", tmp_path / "x", "--set", "compute.device=cuda"], 1, "no CUDA device")
    fails(["extract", output, "-o", tmp_path / "slices", "-f", "jpg"], 2, "tiff, h5, npy")
    fails(["extract", output, "-o", tmp_path / "slices.png"], 2, "no format has the suffix .png")
    fails(["extract", output, "-o", tmp_path / "slices", "--slices", "20:30"], 2, "slices 0 to 15")
    fails(["extract", output, "-o", tmp_path / "slices", "--slices", "a:b"], 2, "expected slices like 10:20")
    fails(["extract", output, "-o", tmp_path / "text.h5"], 2, "there already")
    fails(["inspect", tmp_path / "text.h5"], 3, "text.h5")
    fails(["nonsense"], 2, "nonsense")


def test_verify_passes_and_names_what_is_damaged(output, tmp_path):
    done = answer("verify", output)
    assert done.returncode == 0
    assert "verified" in done.stdout
    assert answer("verify", output / "denoised.h5").returncode == 0
    for name in ("denoised.h5", "report.html", "network.safetensors"):
        path = output / name
        content = path.read_bytes()
        path.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
        done = answer("verify", output)
        path.write_bytes(content)
        assert done.returncode == 7
        assert f"DAMAGED  {name}" in done.stdout
    (output / "report.html").rename(tmp_path / "report.html")
    done = answer("verify", output)
    (tmp_path / "report.html").rename(output / "report.html")
    assert done.returncode == 7
    assert "report.html: missing" in done.stdout


def test_verify_says_what_is_no_archive(scan):
    done = answer("verify", scan)
    assert done.returncode == 7
    assert "is no quietbeam archive" in done.stdout


def test_extract_gives_the_slices(output, tmp_path):
    for file_format, name in (("npy", "a.npy"), ("h5", "a.h5"), ("tiff", "a")):
        done = answer("extract", output, "-o", tmp_path / name, "--slices", "3:9", "-f", file_format)
        assert done.returncode == 0, done.stderr
    volume = np.load(tmp_path / "a.npy")
    assert volume.shape == (6, 48, 48)
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["entry/data/data"][:], volume)
        assert file["entry/data/data"].attrs["units"] == "1/m"
    files = sorted((tmp_path / "a").iterdir())
    assert [path.name for path in files][:2] == ["slice_03.tiff", "slice_04.tiff"]
    np.testing.assert_array_equal(np.stack([tifffile.imread(path) for path in files]), volume)


def test_inspect_tells_scans_and_archives_apart(scan, output):
    assert "DXchange" in answer("inspect", scan).stdout
    for path in (output, output / "denoised.h5"):
        text = answer("inspect", path).stdout
        assert "bits per voxel" in text
        assert "16 x 48 x 48" in text


QUICK = ("--set", "training.epochs=1", "--set", "training.steps_per_epoch=1", "--set", "compute.threads=1")
"""Settings with which this machine is soon measured."""


def test_dry_run_says_what_it_takes_and_writes_nothing(scan, tmp_path):
    done = run(command("reduce", scan, "-o", tmp_path / "out", "--set", "network.depth=4", *QUICK, "--dry-run"))
    assert done.returncode == 0, done.stderr
    for word in ("memory", "disk", "time", "sections", "DXchange"):
        assert word in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_log_has_lines_and_no_control_characters(reduced):
    _, done = reduced
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert "rotation axis: " in done.stdout
    assert "scan_reduced/report.html" in done.stdout


def test_version():
    assert run(command("--version")).stdout.startswith("quietbeam 0.")


def test_settings_are_printed_as_json():
    assert json.loads(answer("settings", "--set", "network.depth=7").stdout)["network"]["depth"] == 7
    assert "properties" in json.loads(answer("settings", "--schema").stdout)


def test_default_output_lies_here_and_is_named_after_the_scan(reduced):
    folder, _ = reduced
    assert [path.name for path in folder.iterdir()] == ["scan_reduced"]
    assert (folder / "scan_reduced/manifest.json").exists()


def test_a_job_under_way_locks_its_output(scan, tmp_path):
    from quietbeam.beamline.workspace import Workspace

    with Workspace(tmp_path / "out").locked():
        done = run(reduce_command(scan, tmp_path / "out"))
    assert done.returncode == 6
    assert "another process is at work here" in done.stderr.replace("\n", " ")


def test_write_only_where_allowed(scan, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    done = run(reduce_command(scan, blocked / "out"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
