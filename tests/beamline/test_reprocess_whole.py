"""`quietbeam reprocess` as a person calls it: 24 scans, real ones too where they are at hand, a worker killed."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from .jobs import SMALL, answer, command, results, run, small_scan

DATA = Path(os.environ.get("QUIETBEAM_TEST_DATA", "absent"))
REAL, BROKEN = (
    ("scans/tooth.h5", "scans/k11_diad"),
    ("awkward/savu_stxm_not_hdf5.nxs", "awkward/i13_24888_broken_extlink.nxs"),
)
NUM_SCANS, NUM_DAMAGED = 24, 3
SECOND_CALL_SECONDS = 5.0
"""Of the processor, in which a command with nothing to do ends; its wall time is the same on a machine that is idle."""
GROWTH = 24 * 2**20
"""Bytes by which a scan four times as tall may raise the peak of a worker, 4 per cent of it; the volumes of the two on
disk differ by 49 MB."""
SETTINGS = SMALL | {
    "archive.codec": "lattice",
    "training.epochs": 1,
    "training.steps_per_epoch": 3,
    "pairs.batch_size": 1,
}
del SETTINGS["codec.epochs"], SETTINGS["codec.options.steps_per_epoch"]

pytestmark = pytest.mark.slow


def sets() -> list[str]:
    return [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]


def reprocess_command(scans: Path, output: Path, workers: int, *more: object) -> list[str]:
    return command("reprocess", scans, "-o", output, "--workers", workers, "--threads", 1, *sets(), *more)


def beamtime(folder: Path) -> Path:
    """Give a beamtime: good scans of several layouts and sizes, and three damaged ones."""
    folder.mkdir()
    real = [DATA / name for name in REAL if DATA.is_dir()]
    for path in real:
        shutil.copytree(path, folder / path.name) if path.is_dir() else shutil.copy(path, folder)
    for number in range(NUM_SCANS - NUM_DAMAGED - len(real)):
        layout, name = (("DXchange", "h5"), ("NXtomo", "nxs"))[number % 2]
        shape = {"num_rows": 5 + number % 4, "num_columns": 40 + 8 * (number % 3), "num_angles": 32 + number}
        small_scan(folder / f"day {1 + number % 2}" / f"scan_{number:02d}.{name}", layout=layout, seed=number, **shape)
    for path in folder.rglob("*_truth.npy"):
        path.unlink()
    whole = small_scan(folder / "cut_short.h5")
    os.truncate(whole, whole.stat().st_size // 2)
    for name in BROKEN:
        if DATA.is_dir():
            shutil.copy(DATA / name, folder)
        else:
            (folder / Path(name).name).write_text("<?xml version='1.0'?><scan/>")
    return folder


class Series(NamedTuple):
    """What the command did, and how often a worker was killed."""

    scans: Path
    output: Path
    done: subprocess.CompletedProcess[str]
    kills: int


def run_series(scans: Path, output: Path) -> Series:
    killed = list[int]()
    killer = threading.Thread(target=kill_a_worker, args=(output, killed), daemon=True)
    killer.start()
    done = run(reprocess_command(scans, output, 2))
    return Series(scans, output, done, len(killed))


def kill_a_worker(output: Path, killed: list[int]) -> None:
    """End a worker when some pieces of some scans are done."""
    while len(list(output.glob("*/work/reconstruct.jsonl"))) < 2:
        time.sleep(0.01)
    workers = [process for process in psutil.Process().children(recursive=True) if is_worker(process)]
    workers[0].kill()
    killed.append(workers[0].pid)


def is_worker(process: psutil.Process) -> bool:
    """Tell whether a process is a worker of Dask, which is a child of its nanny's process."""
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def rows(output: Path) -> dict[str, dict[str, str]]:
    with (output / "index.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_a_beamtime_is_accounted_for_whatever_dies(tmp_path: Path) -> None:
    """In one test, since processes that share the tests would each reduce all scans."""
    series = run_series(beamtime(tmp_path / "beamtime"), tmp_path / "out")
    check_that_21_are_done_and_3_failed_with_reasons(series)
    check_that_the_index_says_what_the_manifests_say(series)
    check_that_the_same_command_again_does_nothing(series)
    check_that_a_killed_worker_changed_nothing(series, tmp_path)


def check_that_21_are_done_and_3_failed_with_reasons(series: Series) -> None:
    assert series.done.returncode == 4, series.done.stdout + series.done.stderr
    assert series.kills == 1
    by_state: dict[str, list[dict[str, str]]] = {}
    for row in rows(series.output).values():
        by_state.setdefault(row["state"], []).append(row)
    assert {state: len(of) for state, of in by_state.items()} == {
        "done": NUM_SCANS - NUM_DAMAGED,
        "failed": NUM_DAMAGED,
    }
    names = {Path(row["source"]).name for row in by_state["failed"]}
    assert names == {"cut_short.h5", *(Path(name).name for name in BROKEN)}
    for row in by_state["failed"]:
        assert row["exit_code"] == "3"
        assert len(row["reason"]) > 20
        assert row["reason"][:60] in series.done.stderr + series.done.stdout


def check_that_the_index_says_what_the_manifests_say(series: Series) -> None:
    page = (series.output / "index.html").read_text(encoding="utf-8")
    for name, row in rows(series.output).items():
        assert name in page
        if row["state"] == "failed":
            continue
        manifest = json.loads((series.output / name / "manifest.json").read_text())
        assert int(row["archive_bytes"]) == (series.output / name / "denoised.h5").stat().st_size
        assert float(row["bits_per_voxel"]) == pytest.approx(manifest["numbers"]["bits_per_voxel"])
        assert float(row["seconds"]) > 0
    assert page.count('src="data:image/png;base64,') >= NUM_SCANS - NUM_DAMAGED
    assert run(command("verify", series.output)).returncode == 0


def check_that_the_same_command_again_does_nothing(series: Series) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in series.output.rglob("*") if path.suffix in (".h5", ".safetensors")
    }
    began = os.times()
    again = run(reprocess_command(series.scans, series.output, 2))
    ended = os.times()
    assert again.returncode == 4
    assert "0 done, 21 were done before, 3 failed" in again.stdout + again.stderr
    assert (
        ended.children_user + ended.children_system - began.children_user - began.children_system < SECOND_CALL_SECONDS
    )
    assert before == {path: path.stat().st_mtime_ns for path in before}


def check_that_a_killed_worker_changed_nothing(series: Series, folder: Path) -> None:
    """Held against `reduce`, which has no workers, for scans that were under way when the worker died and others."""
    done = [name for name, row in rows(series.output).items() if row["state"] == "done"]
    for name in done[:2] + done[-1:]:
        source = rows(series.output)[name]["source"]
        alone = answer("reduce", source, "-o", folder / name, *sets())
        assert alone.returncode == 0, alone.stderr
        found, expected = results(series.output / name), results(folder / name)
        for told in (found, expected):
            del told["report"]  # tells how much memory a worker may take
        assert found == expected


def test_peak_of_a_worker_does_not_grow_with_the_number_of_slices(tmp_path: Path) -> None:
    peaks = {}
    for num_rows in (32, 128):
        folder = tmp_path / f"scans{num_rows}"
        small_scan(folder / "scan.h5", num_rows=num_rows, num_columns=160, num_angles=64)
        more = ("--set", "compute.chunk_slices=16", "--set", "archive.chunk_slices=16", "--set", "network.depth=4")
        peaks[num_rows] = peak_of_workers(reprocess_command(folder, tmp_path / f"out{num_rows}", 2, *more))
    assert peaks[128] - peaks[32] < GROWTH, peaks


def peak_of_workers(line: list[str]) -> int:
    """Run a command; give the largest resident memory that any of its workers had, bytes."""
    peaks = {0: 0}
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        while process.poll() is None:
            for pid, peak in peaks_now(psutil.Process(process.pid)):
                peaks[pid] = peak
            time.sleep(0.05)
    assert process.returncode == 0
    assert len(peaks) >= 3
    return max(peaks.values())


def peaks_now(parent: psutil.Process) -> Iterator[tuple[int, int]]:
    for worker in filter(is_worker, parent.children(recursive=True)):
        status = Path(f"/proc/{worker.pid}/status")
        try:
            found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        except OSError:
            continue
        if found:
            yield worker.pid, 1024 * int(found[1])
