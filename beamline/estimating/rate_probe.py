"""A small simulated scan reduced three times with the settings of a job, to see how long each stage takes here.

``python -m quietbeam.beamline.estimating.rate_probe FOLDER`` reads a `ProbePlan` as JSON and writes a list of
`ProbeRun`: the first is that of a fresh process, the second the same again, the third has more rows and steps. The
difference of the last two is what the work takes, and the rest of the first what it takes to begin.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from quietbeam.beamline.feasibility import choose_device
from quietbeam.beamline.network_registry import WarmStartSettings
from quietbeam.beamline.recording import ScanSettings
from quietbeam.beamline.scan import Scan
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.compress.codec import CodecOptions
from quietbeam.reconstruction.phase import blur_length, phase_optics

from .stage_work import STAGES, codec_steps, seconds_per_step, stage_work

__all__ = ["ProbePlan", "ProbeRun", "plan_probe", "simulate_probes"]

BUDGET = 4.0
"""Seconds that the largest probe may take on the machine of reference, without the training."""
LARGEST = 512
"""Columns and projections of a probe, at most; the stages of larger scans grow as `stage_work` says."""
SMALLEST = 32
ROWS = ((4, 14), (2, 5))
"""Rows of the small and the large probe: rather fewer of them than fewer columns."""
SMALL_STEP_SECONDS, LARGE_STEP_SECONDS = 0.1, 0.8
"""Time for the training steps of a small and of the large probe."""
CODEC_STEPS = 10
SMALL, LARGE = "small.h5", "large.h5"
"""Files of the scans."""
LOCAL = ("scratch", "memory_gib")
"""Settings of `compute` that say where and how much, not how fast."""


class ProbePlan(BaseModel):
    """What is run; two jobs of the same plan have the same rates.

    Attributes
    ----------
    settings : ReductionSettings
        Those of the job, without what belongs to one scan, and with a short training.
    num_columns, num_angles : int
        Size of the simulated projections.
    small_rows, large_rows : int
        Their height.
    small_steps, large_steps : int
        Training steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: ReductionSettings
    num_columns: int
    num_angles: int
    small_rows: int
    large_rows: int
    small_steps: int
    large_steps: int


class ProbeRun(BaseModel):
    """How one reduction went.

    Attributes
    ----------
    work, seconds : dict of str to float
        Of each stage: `stage_work`, and time; on one thread, without the time in which others used the core.
    busy : float
        Processor time over wall time.
    peak_memory, memory_of_stages : int
        Largest memory of the process so far, and what the stages take of it by the shapes; bytes.
    voxels, size, archive_bytes, other_bytes : int
        Of the volume; pixels along a side of a slice; the results' sizes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    work: dict[str, float]
    seconds: dict[str, float]
    busy: float
    peak_memory: int
    memory_of_stages: int
    voxels: int
    size: int
    archive_bytes: int
    other_bytes: int


def plan_probe(scan: Scan, settings: ReductionSettings) -> ProbePlan:
    """Choose a probe that is like a job, and small.

    Parameters
    ----------
    scan : Scan
        The measurement of the job; its shape counts, and what it tells for the retrieval of the phase.
    settings : ReductionSettings
        Of the job.

    Returns
    -------
    ProbePlan
        Of columns and projections the nearest power of two, so that scans of about the same shape share it.
    """
    short = _short_settings(scan, settings)
    probe = _fitting_probe(scan, short)
    per_step = max(seconds_per_step(short, probe.num_columns), 1e-6)
    small_steps = max(2, round(SMALL_STEP_SECONDS / per_step))
    return ProbePlan(
        settings=short,
        num_columns=probe.num_columns,
        num_angles=probe.num_projections,
        small_rows=next(small for small, large in ROWS if large == probe.num_rows),
        large_rows=probe.num_rows,
        small_steps=small_steps,
        large_steps=small_steps + max(4, round(LARGE_STEP_SECONDS / per_step)),
    )


def _fitting_probe(scan: Scan, settings: ReductionSettings) -> Scan:
    """Give the largest probe within the budget, as a scan of that shape: fewer rows first, then fewer columns."""
    narrowest, fewest = _narrowest(settings), 4 * settings.sections.num_sections
    columns, angles = (_nearest_power(count) for count in (scan.num_columns, scan.num_projections))
    while True:
        wide = replace(
            scan, num_columns=max(columns, narrowest), num_projections=max(angles, fewest), num_rows=1, sources=()
        )
        probes = [replace(wide, num_rows=large) for _, large in ROWS]
        fitting = [probe for probe in probes if sum(stage_work(probe, settings).values()) < BUDGET]
        if fitting or columns <= narrowest:
            return (fitting or probes[-1:])[0]
        columns, angles = columns // 2, angles // 2


def _narrowest(settings: ReductionSettings) -> int:
    """Count the columns that the network and the filter of the phase need at least."""
    optics = phase_optics(settings.phase, energy=None, distance=None, pixel_size=None)
    filtered = math.ceil(blur_length(**optics._asdict())) if optics else 0
    return max(SMALLEST, settings.network.largest_dilation + 1, filtered)


def _nearest_power(count: int) -> int:
    return int(min(2 ** round(math.log2(max(count, 1))), LARGEST))


def _short_settings(scan: Scan, settings: ReductionSettings) -> ReductionSettings:
    """Leave out what belongs to the one scan, and all that makes a job long."""
    updates: dict[str, Any] = {
        "scan": ScanSettings(),
        "warm_start": WarmStartSettings(),
        "rotation_axis": {"column": None},
        "pairs": {"held_out_slices": None},
        "training": {"epochs": 1, "steps_per_epoch": 1, "held_out_batches": 1, "patience": None, "minutes": 1.0},
        "archive": {"max_error": None},
        "compute": dict.fromkeys(LOCAL),
        "codec": _short_codec(settings),
    }
    if settings.phase.delta_beta:
        optics = ("energy", "distance", "pixel_size")
        updates["phase"] = {name: getattr(settings.phase, name) or getattr(scan, name) for name in optics}
    return settings.model_copy(
        update={stage: _changed(getattr(settings, stage), change) for stage, change in updates.items()}
    )


def _changed(stage: BaseModel, change: BaseModel | dict[str, Any]) -> BaseModel:
    """Replace a stage's settings, or those of them that there are."""
    if isinstance(change, BaseModel):
        return change
    known = {name: value for name, value in change.items() if name in type(stage).model_fields}
    return stage.model_copy(update=known)


def _short_codec(settings: ReductionSettings) -> CodecOptions:
    """Let a codec that learns do so for a few steps."""
    if not codec_steps(settings):
        return CodecOptions(options=settings.codec.options)
    return CodecOptions(epochs=1, options=settings.codec.options | {"steps_per_epoch": CODEC_STEPS})


def simulate_probes(plan: ProbePlan, folder: Path) -> None:
    """Write the scans of a plan to a folder: not in the process that reduces them, which is to begin afresh.

    Parameters
    ----------
    plan : ProbePlan
        Their shapes.
    folder : Path
        Where `small.h5` and `large.h5` are put.
    """
    from quietbeam.beamline.simulate import SimulateSettings, simulate_scan

    for name, rows in {SMALL: plan.small_rows, LARGE: plan.large_rows}.items():
        shape = SimulateSettings(num_rows=rows, num_columns=plan.num_columns, num_angles=plan.num_angles)
        simulate_scan(folder / name, shape)


def main() -> None:
    """Run the probes: plan on standard input, runs on standard output, scans and scratch in the folder named."""
    plan, folder = ProbePlan.model_validate_json(sys.stdin.read()), Path(sys.argv[1])
    sys.stdout.write(json.dumps([run.model_dump() for run in _runs(plan, folder)]) + "\n")


def _runs(plan: ProbePlan, folder: Path) -> list[ProbeRun]:
    cold = _run(folder / SMALL, folder / "cold", _of_steps(plan.settings, plan.small_steps))
    settings = _with_threads(plan.settings, folder / "cold")
    warm = _run(folder / SMALL, folder / "warm", _of_steps(settings, plan.small_steps))
    large = _run(folder / LARGE, folder / "large", _of_steps(settings, plan.large_steps, codec_epochs=3))
    return [cold, warm, large]


def _of_steps(settings: ReductionSettings, steps: int, codec_epochs: int = 1) -> ReductionSettings:
    codec = {"epochs": codec_epochs} if settings.codec.epochs else {}
    return settings.model_copy(
        update={
            "training": settings.training.model_copy(update={"steps_per_epoch": steps}),
            "codec": settings.codec.model_copy(update=codec),
        }
    )


def _with_threads(settings: ReductionSettings, output: Path) -> ReductionSettings:
    """Take the threads that a first run chose."""
    from quietbeam.beamline.manifest import read_manifest
    from quietbeam.beamline.workspace import MANIFEST

    decisions = read_manifest(output / MANIFEST)["decisions"]
    chosen = [int(decision["value"]) for decision in decisions if decision["name"] == "threads"]
    threads = chosen[0] if chosen else settings.compute.threads
    return settings.model_copy(update={"compute": settings.compute.model_copy(update={"threads": threads})})


def _run(path: Path, output: Path, settings: ReductionSettings) -> ProbeRun:
    from quietbeam.beamline.manifest import read_manifest
    from quietbeam.beamline.progress import Silence
    from quietbeam.beamline.reduce import reduce_scan
    from quietbeam.beamline.scan import open_scan
    from quietbeam.beamline.workspace import ARCHIVE, MANIFEST

    from .peak_memory import peak_of_stages

    began, began_cpu = time.monotonic(), time.process_time()
    reduce_scan(path, output, settings, progress=Silence())
    wall, cpu = time.monotonic() - began, time.process_time() - began_cpu
    scan, times = open_scan(path), read_manifest(output / MANIFEST)["seconds"]
    seconds = {stage: times.get(stage, 0.0) for stage in STAGES}
    seconds["other"] = max(0.0, wall - sum(seconds.values()))
    share = min(1.0, cpu / wall) if _on_one_core(settings) else 1.0
    sizes = {file.name: file.stat().st_size for file in output.iterdir() if file.is_file()}
    archive = sizes.pop(ARCHIVE)
    return ProbeRun(
        work=stage_work(scan, settings),
        seconds={stage: share * took for stage, took in seconds.items()},
        busy=cpu / wall,
        peak_memory=_peak_memory(),
        memory_of_stages=peak_of_stages(scan, settings, scan.num_columns),
        voxels=scan.num_rows * scan.num_columns**2,
        size=scan.num_columns,
        archive_bytes=archive,
        other_bytes=sum(sizes.values()),
    )


def _on_one_core(settings: ReductionSettings) -> bool:
    """Tell whether wall time beyond processor time is that of others."""
    import torch

    return torch.get_num_threads() == 1 and choose_device(settings.compute.device).type == "cpu"


def _peak_memory() -> int:
    """Largest memory of this process alone, bytes: the kernel's other count begins with that of the parent."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


if __name__ == "__main__":
    main()
