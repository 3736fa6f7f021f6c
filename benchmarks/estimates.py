"""How near the estimates before a reduction come to what it takes: memory, disk and time, each stage of it.

python benchmarks/estimates.py [--tiny] [--json FILE]

Simulated scans of three shapes and, where QUIETBEAM_TEST_DATA names their folder, three real ones, all with a short
training; each is calibrated for and then reduced in a process of its own, on one thread. Times are processor times, so
that what else the machine does counts little. The cache of calibrations is the user's.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

os.environ["NUMBA_NUM_THREADS"] = "1"

from rows import Row, arguments, in_child, report

from quietbeam.beamline.estimate import Estimate, estimate
from quietbeam.beamline.estimating.disk_space import blocks_below
from quietbeam.beamline.estimating.machine_rates import Rates, measured_rates
from quietbeam.beamline.estimating.stage_work import STAGES
from quietbeam.beamline.manifest import read_manifest
from quietbeam.beamline.progress import Silence
from quietbeam.beamline.reduce import reduce_scan
from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.settings import ReductionSettings, read_settings
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan
from quietbeam.beamline.workspace import MANIFEST

SHORT = {"training.epochs": 3, "training.steps_per_epoch": 20, "compute.threads": 1}
SMALL = {"network.depth": 20, "archive.codec": "crae2", "codec.epochs": 4, "codec.options.steps_per_epoch": 10}
SHAPES = {
    "24 x 96, 144 angles": (24, 96, 144),
    "40 x 192, 256 angles": (40, 192, 256),
    "12 x 448, 448 angles": (12, 448, 448),
}
TINY = {"12 x 48, 48 angles": (12, 48, 48)}
BETWEEN_LOOKS = 0.05
"""Seconds between two looks at the disk."""
MIB = 2**20


class Case(NamedTuple):
    """A scan and how it is reduced."""

    name: str
    path: Path
    settings: ReductionSettings


class Taken(NamedTuple):
    """What a reduction took: processor seconds of each stage, bytes."""

    stages: dict[str, float]
    memory: float
    disk: float
    output: float


def main() -> None:
    """Estimate, reduce, compare."""
    options = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        cases = list(_simulated(Path(folder), TINY if options.tiny else SHAPES))
        if not options.tiny and "QUIETBEAM_TEST_DATA" in os.environ:
            cases += list(_real(Path(os.environ["QUIETBEAM_TEST_DATA"]) / "scans"))
        in_child(_reduce, cases[0], Path(folder) / "first")  # compiles, after an installation
        rows = [row for case in cases for row in _rows(case, Path(folder))]
    report(rows, options.json)


def _simulated(folder: Path, shapes: dict[str, tuple[int, int, int]]) -> Iterator[Case]:
    for name, (rows, columns, angles) in shapes.items():
        shape = SimulateSettings(num_rows=rows, num_columns=columns, num_angles=angles)
        path = simulate_scan(folder / f"{rows}.h5", shape)
        yield Case(f"simulated, {name}", path, read_settings(None, (), SHORT))
    if shapes is SHAPES:
        yield Case(f"simulated, {name}, small network, crae2", path, read_settings(None, (), SHORT | SMALL))


def _real(folder: Path) -> Iterator[Case]:
    i13 = folder / "i13_24737"
    given: dict[str, dict[str, object]] = {
        "tooth.h5": {},
        "i13_24737/tiffs": {
            "scan.flats": i13 / "flat_00001.tiff",
            "scan.darks": i13 / "dark_00001.tiff",
            "scan.angles": str(i13 / "angles.txt"),
            "scan.angle_lines": "10:101",
        },
        "txm_tomo77": {"scan.normalised": "attenuation", "scan.angles": "0:180"},
    }
    for name, options in given.items():
        yield Case(name, folder / name, read_settings(None, (), SHORT | options))


def _rows(case: Case, folder: Path) -> Iterator[Row]:
    scan = open_scan(case.path, case.settings.scan)
    measured = estimate(scan, case.settings, rates=measured_rates(scan, case.settings))
    guess = estimate(scan, case.settings, rates=Rates())
    taken, _ = in_child(_reduce, case, folder / "result" / case.name.replace("/", " "))
    for method, told in {"quietbeam": measured, "quietbeam (not calibrated)": guess, "what it took": taken}.items():
        for (what, value), real in zip(_totals(told).items(), _totals(taken).values(), strict=True):
            yield Row(case.name, method, what, value, "s" if what == "time" else "MiB")
            yield Row(case.name, method, f"{what} over what it took", value / real, "")
        for stage in taken.stages:
            yield Row(f"{case.name}: stages", method, stage, told.stages[stage], "s")


def _totals(told: Estimate | Taken) -> dict[str, float]:
    sizes = {"memory": told.memory, "disk": told.disk, "results": told.output}
    return {"time": sum(told.stages.values())} | {what: size / MIB for what, size in sizes.items()}


def _reduce(case: Case, output: Path) -> Taken:
    """Reduce in this process, which has done nothing before."""
    began, began_cpu = time.monotonic(), time.process_time()
    with _largest_below(output) as disk:
        reduce_scan(case.path, output, case.settings, progress=Silence())
        wall, cpu = time.monotonic() - began, time.process_time() - began_cpu
    times = read_manifest(output / MANIFEST)["seconds"]
    seconds = {stage: times[stage] for stage in STAGES if stage in times}
    seconds["other"] = wall - sum(seconds.values())
    memory = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return Taken(
        stages={stage: took * cpu / wall for stage, took in seconds.items()},
        memory=1024.0 * int(memory[1]) if memory else 0.0,
        disk=max(disk),
        output=blocks_below(output),
    )


@contextmanager
def _largest_below(folder: Path) -> Iterator[list[int]]:
    """Look at the disk now and then while the block runs."""
    seen, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(BETWEEN_LOOKS):
            seen.append(blocks_below(folder))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    yield seen
    done.set()
    watcher.join()


if __name__ == "__main__":
    main()
