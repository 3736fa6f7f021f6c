"""What a reduction will take, said before it begins: memory, disk and time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .estimating.disk_space import DiskNeed, blocks_below, refuse_full_disks
from .estimating.disk_use import picture_bytes, scratch_bytes
from .estimating.machine_rates import Rates, cached_rates
from .estimating.peak_memory import peak_of_stages
from .estimating.stage_work import clock_seconds, num_passes, stage_work
from .scan import Scan
from .settings import ReductionSettings
from .workspace import Workspace

__all__ = ["Estimate", "check_space", "estimate", "num_passes"]


@dataclass(frozen=True)
class Estimate:
    """What a reduction will take.

    Attributes
    ----------
    memory, disk, output : int
        Largest memory, largest disk while it runs (scratch and results), size of the results at the end; bytes.
    stages : dict of str to float
        Seconds of each stage, named as in the report; ``other`` is what lies between them.
    loading : dict of str to float
        Seconds of these that only the first reduction of a process takes.
    origin : str
        Where the times come from, in words.
    """

    memory: int
    disk: int
    output: int
    stages: dict[str, float]
    loading: dict[str, float] = field(default_factory=dict)
    origin: str = ""

    @property
    def seconds(self) -> float:
        """Time in all, without the other load of the machine."""
        return sum(self.stages.values())

    @property
    def scratch(self) -> int:
        """Bytes of the disk that are free again at the end."""
        return self.disk - self.output


def estimate(
    scan: Scan, settings: ReductionSettings, *, slice_size: int | None = None, rates: Rates | None = None
) -> Estimate:
    """Estimate memory, disk and time from the shape of a scan.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : ReductionSettings
        All settings.
    slice_size : int, optional
        Pixels along a side of a slice, where it is wider than the detector.
    rates : Rates, optional
        Of this machine; if not given, those in the user's cache; if there are none, a rough guess.

    Returns
    -------
    Estimate
        The smallest disk that is safe; all else as near as is known.
    """
    size = slice_size or scan.num_columns
    rates = rates or cached_rates(scan, settings) or Rates()
    work = stage_work(scan, settings, slice_size=size)
    clock = clock_seconds(settings)
    stages = {stage: rates.stages[stage].seconds(amount) + clock.get(stage, 0.0) for stage, amount in work.items()}
    voxels = scan.num_rows * size**2
    encoded = int(rates.bytes_per_voxel * voxels)
    kept = 4 * voxels if settings.inference.disagreement else 0
    output = encoded + kept + int(rates.bytes_beside) + picture_bytes(size)
    disk = output + encoded + scratch_bytes(settings, scan.num_rows, size)
    memory = rates.base_memory + peak_of_stages(scan, settings, size)
    loading = {stage: rates.stages[stage].first for stage in work}
    return Estimate(memory, disk, output, stages, loading=loading, origin=rates.origin)


def check_space(scan: Scan, settings: ReductionSettings, output: Path, *, slice_size: int | None = None) -> None:
    """Refuse to begin what the disk cannot hold.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : ReductionSettings
        All settings.
    output : Path
        Folder for results and scratch; what is in it counts as free, since it is part of what is needed.
    slice_size : int, optional
        Pixels along a side of a slice, where it is wider than the detector.

    Raises
    ------
    SpaceError
        With the numbers.
    """
    needed = estimate(scan, settings, slice_size=slice_size, rates=Rates())
    scratch = Workspace(output, settings.compute.scratch).scratch
    needs = [DiskNeed(output, needed.output), DiskNeed(scratch, needed.scratch, blocks_below(scratch))]
    refuse_full_disks("the job", needs, "free some, or choose another -o")
