"""SIGKILL in each stage: the same command ends with the same results, and nothing is ever half there."""

import signal
import subprocess
import time

import pytest

from quietbeam.beamline.journal import Journal
from quietbeam.beamline.verifying.results import verify_output
from quietbeam.compress.archive import open_archive

from .jobs import reduce_command, results, run, small_scan

pytestmark = pytest.mark.slow

MORE = ("--set", "training.steps_per_epoch=30", "--set", "codec.options.steps_per_epoch=40")
"""Longer epochs than in the other tests, so that a kill finds them under way."""

STAGES = {
    "identify": ("work/identity.json", 1),
    "screen": ("work/screen.json", 1),
    "axis": ("work/axis.json", 1),
    "reconstruct": ("work/reconstruct.jsonl", 3),
    "train": ("work/training.safetensors", 1),
    "denoise": ("work/denoise.jsonl", 3),
    "fit codec": ("work/codec.safetensors", 1),
    "encode": ("work/encode.jsonl", 2),
    "archive": ("denoised.h5", 1),
    "network": ("network.safetensors", 1),
    "report": ("report.html", 1),
    "manifest": ("manifest.json", 1),
}
"""File that shows that the stage is under way or just done, and how many lines it must have."""
FINAL = ("denoised.h5", "network.safetensors", "report.html", "manifest.json")


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return small_scan(tmp_path_factory.mktemp("scan") / "scan.h5", num_rows=24)


@pytest.fixture(scope="module")
def undisturbed(scan, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run(reduce_command(scan, output, *MORE)).returncode == 0
    return results(output)


def kill_when(command, path, lines):
    """Start a command and kill it as soon as a file has so many lines; tell whether it was still running."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if path.read_bytes().count(b"\n") >= lines or (lines == 1 and path.exists()):
                break
        except OSError:
            pass
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_started_again_it_ends_the_same(stage, scan, undisturbed, tmp_path):
    output = tmp_path / "out"
    raw = scan.read_bytes()
    name, lines = STAGES[stage]
    killed = kill_when(reduce_command(scan, output, *MORE), output / name, lines)
    assert killed or stage == "manifest", "the job ended before the stage was seen"
    check_final_files(output)
    again = run(reduce_command(scan, output, *MORE))
    assert again.returncode == 0, again.stderr
    assert results(output) == undisturbed
    assert not (output / "work").exists()
    assert not verify_output(output).damaged
    assert scan.read_bytes() == raw


def test_killed_in_every_stage_of_one_job(scan, undisturbed, tmp_path):
    output = tmp_path / "out"
    kills = 0
    for name, lines in list(STAGES.values())[:-1]:
        kills += kill_when(reduce_command(scan, output, *MORE), output / name, lines)
        check_final_files(output)
    assert kills >= len(STAGES) - 2
    assert run(reduce_command(scan, output, *MORE)).returncode == 0
    assert results(output) == undisturbed


def check_final_files(output):
    """What has its final name is whole."""
    for name in FINAL:
        path = output / name
        if path.exists() and name == "denoised.h5":
            with open_archive(path) as archive:
                assert archive[:].shape == archive.shape
        elif path.exists():
            assert path.stat().st_size > 1000


def test_a_journal_never_counts_a_chunk_twice(scan, tmp_path):
    output = tmp_path / "out"
    kill_when(reduce_command(scan, output, *MORE), output / "work/reconstruct.jsonl", 3)
    journal = (output / "work/reconstruct.jsonl").read_text()
    key = journal.splitlines()[0].split('"')[3]
    stops = [record["stop"] for record in Journal(output / "work/reconstruct.jsonl", key).records]
    assert stops == sorted(set(stops))
