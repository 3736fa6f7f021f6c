"""What a series of reductions will take on some workers, said before it begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quietbeam.beamline.estimate import Estimate
from quietbeam.beamline.estimating.disk_space import DiskNeed, refuse_full_disks

__all__ = ["Reuse", "SeriesEstimate", "check_series_space", "series_estimate"]

Reuse = Literal["per-scan", "first", "registry"]
CHUNKED = ("reconstruct", "denoise", "encode")
"""Stages whose chunks of slices go to several workers; the others of a scan are one task each."""


@dataclass(frozen=True)
class SeriesEstimate:
    """What a series will take.

    Attributes
    ----------
    seconds : float
        Wall time.
    disk_peak : int
        Largest disk while it runs, scratch of the scans under way and all results, bytes.
    output : int
        Results at the end, bytes.
    memory_per_worker : int
        Largest memory of a worker, bytes.
    longest_scan : float
        Seconds of the scan that takes longest with all workers at its disposal: more workers do not help below that.
    work : float
        Seconds of all scans on one worker.
    """

    seconds: float
    disk_peak: int
    output: int
    memory_per_worker: int
    longest_scan: float
    work: float


def series_estimate(
    estimates: Sequence[Estimate],
    num_workers: int,
    reuse: Reuse = "per-scan",
    *,
    efficiency: float = 1.0,
    moved: float = 0.0,
    bandwidth: float = math.inf,
) -> SeriesEstimate:
    """Estimate a series from its scans.

    A scan has stages that are cut into chunks of slices, which all W workers share (reconstruct, denoise, encode:
    together ``C`` seconds), and stages that are one task after another (all others: ``S`` seconds, most of it
    training). W + 1 scans are under way at a time, so that the chunks of one fill the gaps while another trains. No
    schedule is shorter than any of

    - ``sum(S + C) / (W e)``: all work, evenly spread; ``e`` is the share of their time that workers compute;
    - ``moved / bandwidth``: all bytes, through the disk that the workers share;
    - ``max(S + C / W)``: the longest scan alone, with all workers for its chunks;
    - ``ceil(n / W) mean(S) + mean(C) / W``: n scans take turns with W workers for what is one task, and the chunks of
      the last cannot begin before;

    and the largest of the four is taken: list scheduling comes near it where the scans are alike. What only the first
    scan of a process takes is added once: all workers load their libraries at the same time. With ``first``, the
    first scan is trained on alone, all others wait for its network and do not train.

    Parameters
    ----------
    estimates : sequence of Estimate
        One for each scan to be reduced, in their order; the times of one worker.
    num_workers : int
        Workers.
    reuse : {'per-scan', 'first', 'registry'}
        Who trains: each scan (``registry``: too, from a better start), or the first.
    efficiency : float
        Share of the workers' time that is computed in; the rest goes to sending and waiting.
    moved : float
        Bytes that all scans together read and write on a shared disk; the time of it is part of that of the stages.
    bandwidth : float
        Of that disk, bytes per second.

    Returns
    -------
    SeriesEstimate
        All zero where there is nothing to do.

    Raises
    ------
    ValueError
        If there is no worker, or the efficiency is not in (0, 1].
    """
    if num_workers < 1 or not 0 < efficiency <= 1:
        raise ValueError(f"expected workers and an efficiency in (0, 1], got {num_workers} and {efficiency}")
    tasks = [_Task.of(told, trains=reuse != "first" or index == 0) for index, told in enumerate(estimates)]
    groups = [tasks[:1], tasks[1:]] if reuse == "first" else [tasks]
    loading = max((sum(told.loading.values()) for told in estimates), default=0.0)
    scratch = sorted((told.scratch for told in estimates), reverse=True)
    output = sum(told.output for told in estimates)
    spread = sum(_wall_time(group, num_workers, efficiency) for group in groups)
    return SeriesEstimate(
        seconds=max(loading + spread, moved / bandwidth),
        disk_peak=sum(scratch[: num_workers + 1]) + output,
        output=output,
        memory_per_worker=max((told.memory for told in estimates), default=0),
        longest_scan=loading + max((task.chain(num_workers) for task in tasks), default=0.0),
        work=loading + sum(task.serial + task.chunked for task in tasks),
    )


@dataclass(frozen=True)
class _Task:
    """Seconds of one scan that are one task after another, and those of its chunks."""

    serial: float
    chunked: float

    @classmethod
    def of(cls, told: Estimate, *, trains: bool) -> _Task:
        seconds = {stage: took - told.loading.get(stage, 0.0) for stage, took in told.stages.items()}
        chunked = sum(seconds.pop(stage, 0.0) for stage in CHUNKED)
        return cls(sum(took for stage, took in seconds.items() if trains or stage != "train"), chunked)

    def chain(self, num_workers: int) -> float:
        return self.serial + self.chunked / num_workers


def _wall_time(tasks: Sequence[_Task], num_workers: int, efficiency: float) -> float:
    if not tasks:
        return 0.0
    spread = sum(task.serial + task.chunked for task in tasks) / (num_workers * efficiency)
    turns = -(-len(tasks) // num_workers)
    in_turns = (turns * sum(task.serial for task in tasks) + sum(task.chunked for task in tasks) / num_workers) / len(
        tasks
    )
    return max(spread, in_turns, max(task.chain(num_workers) for task in tasks))


def check_series_space(series: SeriesEstimate, output: Path, *, scratch: Path | None = None, held: int = 0) -> None:
    """Refuse to begin a series that the disk cannot hold.

    Parameters
    ----------
    series : SeriesEstimate
        Of the scans still to be done.
    output : Path
        Folder for all results; it, or one above it, is there.
    scratch : Path, optional
        Folder for scratch, if it is another one.
    held : int
        Bytes that scans under way hold in the scratch folder already: they are part of what is needed.

    Raises
    ------
    SpaceError
        With needed and free.
    """
    needs = [
        DiskNeed(output, series.output),
        DiskNeed(scratch or output, series.disk_peak - series.output, held),
    ]
    refuse_full_disks("the series", needs, "free some, choose another folder, or name fewer scans")
