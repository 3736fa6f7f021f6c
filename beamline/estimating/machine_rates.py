"""How fast the machine at hand is at each stage of a reduction.

The stages are run on a small simulated scan with the settings of the job, in a process of its own (`rate_probe`), and
what they took is kept in the user's cache: $XDG_CACHE_HOME/quietbeam/rates or ~/.cache/quietbeam/rates, one file for
each machine and plan of a probe. A file that cannot be read is measured anew; what cannot be written is not kept.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from quietbeam.beamline.atomic import write_atomically
from quietbeam.beamline.feasibility import choose_device
from quietbeam.beamline.journal import stage_key
from quietbeam.beamline.scan import Scan
from quietbeam.beamline.settings import ReductionSettings

from .disk_use import picture_bytes
from .rate_probe import ProbePlan, ProbeRun, plan_probe, simulate_probes
from .stage_work import STAGES

__all__ = ["Rate", "Rates", "cached_rates", "fit_rates", "keep_rates", "measured_rates"]

FORMAT = 2
"""Raised when a file of rates means something else."""
SMALL_WORK = 0.05
"""Seconds of work below which a difference says nothing."""
PRIOR = 0.01
"""Seconds of work that the machine of reference is believed beside what is measured."""
LEAST, MOST = 1e-3, 50.0
"""Bounds of the slowness; the least is for devices."""
COMPILING = 5.0
"""Seconds by which a first run is slower than the next when functions were compiled for it: it is then run again."""
TIME_LIMIT = 300.0
"""Seconds after which a calibration is given up."""


class Rate(BaseModel):
    """What a stage takes: ``first + start + slowness * work``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: float = Field(0.1, ge=0, description="Seconds the first time in a process: loading libraries.")
    start: float = Field(0.0, ge=0, description="Seconds each time, however small the scan: making files.")
    slowness: float = Field(1.0, gt=0, description="Time over that of the machine of reference, see `stage_work`.")

    def seconds(self, work: float) -> float:
        """Time for an amount of work the first time in a process, seconds."""
        return self.first + self.start + self.slowness * work


def _guessed_stages() -> dict[str, Rate]:
    first = {"rotation axis": 0.3, "reconstruct": 0.5, "train": 1.6, "report": 0.8, "fit codec": 0.0}
    return {stage: Rate(first=first.get(stage, 0.1)) for stage in STAGES}


class Rates(BaseModel):
    """The speed and the needs of a machine; without arguments a guess."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: dict[str, Rate] = Field(default_factory=_guessed_stages, description="For each of `STAGES`.")
    base_memory: int = Field(770 * 2**20, description="Bytes of the interpreter with all libraries.")
    bytes_per_voxel: float = Field(1.0, ge=0, description="Of the archive; the guess is a generous one.")
    bytes_beside: float = Field(2.0**20, ge=0, description="Of the results that do not grow with the volume.")
    busy: float = Field(1.0, ge=0, description="Least processor time over wall time of a probe: how much was had.")
    origin: str = Field(
        "a rough guess for one core, not measured on this machine", description="Where they come from, in words."
    )
    measured: bool = Field(False, description="False for a guess.")

    @field_validator("stages")
    @classmethod
    def _check_stages(cls, stages: dict[str, Rate]) -> dict[str, Rate]:
        if set(stages) != set(STAGES):
            raise ValueError(f"expected rates of {', '.join(STAGES)}, got {', '.join(stages)}")
        return stages


def cached_rates(scan: Scan, settings: ReductionSettings) -> Rates | None:
    """Give what was measured on this machine for such a scan and such settings, or None.

    Parameters
    ----------
    scan : Scan
        The measurement; no pixel of it is read.
    settings : ReductionSettings
        All settings.

    Returns
    -------
    Rates or None
        None also where the cache cannot be read or is of another version.
    """
    return _load(_cache_file(plan_probe(scan, settings)))


def measured_rates(scan: Scan, settings: ReductionSettings) -> Rates:
    """Give what was measured on this machine, or measure it now, which takes some 15 s.

    Parameters
    ----------
    scan : Scan
        The measurement; no pixel of it is read.
    settings : ReductionSettings
        All settings, which the scan can be reduced with.

    Returns
    -------
    Rates
        Kept in the user's cache where that can be written. A guess that says why where the probe does not run.
    """
    if known := cached_rates(scan, settings):
        return known
    plan = plan_probe(scan, settings)
    runs = _probe(plan)
    if isinstance(runs, str):
        return Rates(origin=f"a rough guess: the calibration failed ({runs})")
    if _all_seconds(runs[0]) > _all_seconds(runs[1]) + COMPILING:
        again = _probe(plan)
        runs = runs if isinstance(again, str) else again
    rates = fit_rates(*runs)
    keep_rates(scan, settings, rates)
    return rates


def keep_rates(scan: Scan, settings: ReductionSettings, rates: Rates) -> None:
    """Put rates into the user's cache, for such scans and such settings; nothing happens where it cannot be written.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : ReductionSettings
        All settings.
    rates : Rates
        Of this machine.
    """
    path = _cache_file(plan_probe(scan, settings))
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, rates.model_dump_json(indent=1).encode())


def fit_rates(cold: ProbeRun, warm: ProbeRun, large: ProbeRun) -> Rates:
    """Make rates of what was measured.

    Parameters
    ----------
    cold, warm, large : ProbeRun
        A small probe in a fresh process, the same again, and one with more work.

    Returns
    -------
    Rates
        The slowness from the difference of the last two; what the first time takes from that of the first two.
    """
    stages = {stage: _fit(stage, cold, warm, large) for stage in STAGES}
    voxels = large.voxels - warm.voxels
    per_voxel = max(0.0, large.archive_bytes - warm.archive_bytes) / voxels
    beside = large.archive_bytes - per_voxel * large.voxels + large.other_bytes - picture_bytes(large.size)
    return Rates(
        stages=stages,
        base_memory=max(0, cold.peak_memory - cold.memory_of_stages),
        bytes_per_voxel=per_voxel,
        bytes_beside=max(0.0, beside),
        busy=min(cold.busy, warm.busy, large.busy),
        origin="measured on this machine",
        measured=True,
    )


def _fit(stage: str, cold: ProbeRun, warm: ProbeRun, large: ProbeRun) -> Rate:
    more_work = large.work.get(stage, 0.0) - warm.work.get(stage, 0.0)
    more_seconds = large.seconds.get(stage, 0.0) - warm.seconds.get(stage, 0.0)
    slowness = (more_seconds + PRIOR) / (more_work + PRIOR) if more_work > SMALL_WORK else 1.0
    slowness = min(max(slowness, LEAST), MOST)
    start = warm.seconds.get(stage, 0.0) - slowness * warm.work.get(stage, 0.0)
    first = cold.seconds.get(stage, 0.0) - max(start, 0.0) - slowness * cold.work.get(stage, 0.0)
    return Rate(first=max(0.0, first), start=max(0.0, start), slowness=slowness)


def _all_seconds(run: ProbeRun) -> float:
    return sum(run.seconds.values())


def _probe(plan: ProbePlan) -> list[ProbeRun] | str:
    """Run the probe in a process of its own; its last line if it fails."""
    with tempfile.TemporaryDirectory(prefix="quietbeam-") as folder:
        simulate_probes(plan, Path(folder))
        line = [sys.executable, "-m", "quietbeam.beamline.estimating.rate_probe", folder]
        try:
            done = subprocess.run(  # noqa: S603 - our own module
                line, input=plan.model_dump_json(), capture_output=True, text=True, timeout=TIME_LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return f"it did not end in {TIME_LIMIT:g} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return TypeAdapter(list[ProbeRun]).validate_json(done.stdout.splitlines()[-1])


def _load(path: Path) -> Rates | None:
    try:
        return Rates.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _cache_file(plan: ProbePlan) -> Path:
    machine = {
        "version": importlib.metadata.version("quietbeam"),
        "host": platform.node(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")},
        "device": _device(plan.settings),
    }
    return _cache_folder() / f"{stage_key('rates', FORMAT, machine, plan.model_dump(mode='json'))}.json"


def _cache_folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative path in this variable is to be ignored.
    base = Path(given) if Path(given).is_absolute() else Path(os.path.expanduser("~"), ".cache")  # noqa: PTH111
    return base / "quietbeam" / "rates"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _device(settings: ReductionSettings) -> str:
    import torch

    device = choose_device(settings.compute.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
