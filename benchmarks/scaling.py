"""How a series of scans gets faster with more workers: measured on two, and what to expect of many.

python benchmarks/scaling.py [--tiny] [--json FILE]

measured: small simulated scans reprocessed by one worker and by two, one thread each. `efficiency` is the time of one
worker over that of all, divided by their number; `peer` is one `quietbeam reduce` after the other, as in a shell loop.

simulated: 1,000 scans of three sizes on 64 workers. The conductor is the real one; its pool keeps a clock of its own
instead of computing, and lets calls share the bandwidth of the disk. The closed formula of the dry run is held
against the clock (`formula / clock`), with training for each scan and once for all, on a fast disk and on a slow one.
Against it a plain queue of whole scans, one worker for each.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any, NamedTuple

from rows import Row, arguments, report

from quietbeam.beamline.estimate import Estimate
from quietbeam.beamline.series.conductor import Conductor, ScanWork
from quietbeam.beamline.series.find_scans import FoundScan
from quietbeam.beamline.series.pool import Ticket
from quietbeam.beamline.series.series_estimate import series_estimate
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan

GIB = 2**30
START = "from quietbeam.beamline.console import main; main()"
SMALL = {"network.depth": 20, "training.epochs": 2, "training.steps_per_epoch": 20, "compute.chunk_slices": 8}
"""Settings of the measured reductions."""
DISKS = {"disk of 40 GB/s": 40e9, "disk of 4 GB/s": 4e9}
LINK = 1e9
"""Bytes per second that one worker can move."""


class Cost(NamedTuple):
    """What a call takes.

    Attributes
    ----------
    seconds : float
        Of computing.
    moved : float
        Bytes read and written before that.
    """

    seconds: float
    moved: float


# -- simulated -------------------------------------------------------------------------------------------------------


@dataclass
class _Call:
    ticket: Ticket
    answer: Any
    moving: float
    computing: float


class ClockedPool:
    """Workers that only pass time: each moves its bytes, sharing the disk, and then computes."""

    threads = memory = None

    def __init__(self, num_workers: int, bandwidth: float) -> None:
        self.num_workers, self.bandwidth, self.clock = num_workers, bandwidth, 0.0
        self._waiting: list[tuple[Ticket, Callable[..., Any], tuple[Any, ...]]] = []
        self._running: list[_Call] = []
        self._count = 0

    def submit(self, function: Callable[..., Any], *args: Any, priority: int = 0) -> Ticket:
        """Ask for a call; the function gives its cost and its answer."""
        ticket = Ticket(priority, self._count)
        self._count += 1
        heappush(self._waiting, (ticket, function, args))
        return ticket

    def next_done(self) -> tuple[Ticket, Any]:
        """Let time pass until a call ends."""
        while self._waiting and len(self._running) < self.num_workers:
            ticket, function, args = heappop(self._waiting)
            cost, answer = function(*args)
            self._running.append(_Call(ticket, answer, cost.moved, cost.seconds))
        while True:
            if done := next((call for call in self._running if call.computing <= 0 >= call.moving), None):
                self._running.remove(done)
                return done.ticket, done.answer
            self._pass()

    def cancel(self, tickets: Collection[Ticket]) -> set[Ticket]:
        """Take back calls that have not begun."""
        gone = {ticket for ticket, _, _ in self._waiting} & set(tickets)
        self._waiting = [entry for entry in self._waiting if entry[0] not in gone]
        heapify(self._waiting)
        return gone

    def _pass(self) -> None:
        """Go to the next time at which a call has moved or computed all it has to."""
        moving = [call for call in self._running if call.moving > 0]
        rate = min(LINK, self.bandwidth / len(moving)) if moving else LINK
        step = min(call.moving / rate if call.moving > 0 else call.computing for call in self._running)
        self.clock += step
        for call in self._running:
            if call.moving > 0:
                call.moving = _less(call.moving, rate * step)
            else:
                call.computing = _less(call.computing, step)


def _less(left: float, done: float) -> float:
    return 0.0 if left - done <= 1e-9 * left else left - done


@dataclass(frozen=True)
class Sample:
    """A kind of scan: seconds of its stages on one worker, bytes that they move, and chunks of slices."""

    name: str
    seconds: dict[str, float]
    moved: dict[str, float]
    num_chunks: int

    @classmethod
    def of_size(cls, size: int) -> Sample:
        """Give a cube of `size` slices from 1.5 `size` projections, on a worker of 8 cores."""
        voxels = float(size**3)
        seconds = {"reconstruct": 9e-8 * voxels, "denoise": 4e-7 * voxels, "encode": 8e-8 * voxels}
        seconds |= {"train": 600.0, "identify": 1.5e-9 * voxels, "archive": 6e-8 * voxels, "report": 5.0}
        moved = {"identify": 3 * voxels, "reconstruct": 3 * voxels + 16 * voxels, "denoise": 20 * voxels}
        moved |= {"encode": 4 * voxels, "archive": 5 * voxels}
        return cls(f"{size}", seconds, moved, max(1, size // 64))

    def cost(self, stage: str, share: float = 1.0) -> Cost:
        """Give what a share of a stage takes."""
        return Cost(share * self.seconds.get(stage, 0.0), share * self.moved.get(stage, 0.0))

    def estimate(self) -> Estimate:
        """Give what a dry run would tell: a stage takes the time of its bytes and of its computing."""
        stages = {stage: seconds + self.moved.get(stage, 0.0) / LINK for stage, seconds in self.seconds.items()}
        return Estimate(0, 0, 0, stages)


@dataclass(frozen=True)
class Request:
    """A scan on its way."""

    sample: Sample
    output: Path
    trains: bool


class Asked(NamedTuple):
    """Pieces that a scan wants."""

    stage: str
    task: Callable[[slice], tuple[Cost, dict[str, Any]]]
    chunks: list[slice]


STEPS = ((None, ("identify",)), ("reconstruct", ("train",)), ("denoise", ()), ("encode", ("archive", "report")))
"""What a scan does by itself after the pieces of a stage."""


def go_forward(request: Request, after: str | None) -> tuple[Cost, Any]:
    """Do in no time what a scan does between the stages that are cut into pieces."""
    own = dict(STEPS)[after]
    costs = [request.sample.cost(stage) for stage in own if stage != "train" or request.trains]
    cost = Cost(sum(cost.seconds for cost in costs), sum(cost.moved for cost in costs))
    place = [stage for stage, _ in STEPS].index(after) + 1
    if place == len(STEPS):
        return cost, None
    stage, count = str(STEPS[place][0]), request.sample.num_chunks
    piece = request.sample.cost(stage, 1 / count)
    return cost, Asked(stage, lambda chunk: (piece, {}), [slice(number, number + 1) for number in range(count)])


class Heard:
    """Hears and takes everything: a sink, a policy and a disk without limits."""

    def __init__(self, reuse: str) -> None:
        self.reuse, self.num_done = reuse, 0

    def settings_for(self, index: int, name: str) -> Any:
        """Let all but the first wait for it where it trains for all."""
        if self.reuse != "first" or index == 0:
            return {"trains": True}
        return {"trains": False} if self.num_done else None

    def take(self, found: FoundScan, settings: Any) -> bool:
        """There is room."""
        return True

    def done(self, name: str) -> None:
        """Count."""

    def finished(self, name: str, output: Path) -> None:
        """Count."""
        self.num_done += 1

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


def simulate_series(samples: Sequence[Sample], num_workers: int, bandwidth: float, reuse: str) -> float:
    """Let the conductor take scans through a pool that keeps a clock; give the seconds on it."""
    pool, heard = ClockedPool(num_workers, bandwidth), Heard(reuse)
    by_name = {f"{index:04d}": sample for index, sample in enumerate(samples)}
    found = [FoundScan(name=name, path=Path(name), source=name) for name in by_name]
    work = ScanWork(
        request=lambda scan, settings: Request(by_name[scan.name], Path(scan.name), settings["trains"]),
        advance=go_forward,
        locked=lambda request: nullcontext(),
        note=lambda *args: None,
    )
    Conductor(pool, work, sink=heard, policy=heard, space=heard).run(list(enumerate(found)))
    if heard.num_done != len(samples):
        raise RuntimeError(f"{heard.num_done} scans of {len(samples)} were done")
    return pool.clock


def whole_scans(samples: Sequence[Sample], num_workers: int) -> float:
    """One worker for each scan from its begin to its end, whoever is free next; no limit of the disk."""
    free = [0.0] * num_workers
    for sample in samples:
        heappush(free, heappop(free) + sample.estimate().seconds)
    return max(free)


def simulated(tiny: bool) -> list[Row]:
    """Hold the formula against the clock."""
    num_scans, num_workers = (60, 8) if tiny else (1000, 64)
    sizes = [Sample.of_size(size) for size in (1024, 1024, 1024, 1536, 2048)]
    samples = [sizes[number * 7 % len(sizes)] for number in range(num_scans)]
    estimates = [sample.estimate() for sample in samples]
    case, rows = f"{num_scans} scans on {num_workers} workers, simulated", []
    for disk, bandwidth in DISKS.items():
        for reuse in ("per-scan", "first"):
            clock = simulate_series(samples, num_workers, bandwidth, reuse)
            told = series_estimate(estimates, num_workers, reuse, moved=_moved(samples), bandwidth=bandwidth)
            method = f"quietbeam ({reuse}, {disk})"
            rows += _rows(case, method, clock, told.work / (num_workers * clock))
            rows.append(Row(case, method, "formula / clock", told.seconds / clock, ""))
    work = sum(told.seconds for told in estimates)
    clock = whole_scans(samples, num_workers)
    return rows + _rows(case, "a worker for each scan", clock, work / (num_workers * clock))


def _moved(samples: Sequence[Sample]) -> float:
    return sum(sum(sample.moved.values()) for sample in samples)


def _rows(case: str, method: str, seconds: float, efficiency: float) -> list[Row]:
    return [Row(case, method, "time", seconds / 3600, "h"), Row(case, method, "efficiency", efficiency, "")]


# -- measured --------------------------------------------------------------------------------------------------------


def command(*arguments: object) -> float:
    """Run the `quietbeam` command on one thread; give the seconds it took."""
    environment = os.environ | {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    began = time.monotonic()
    line = [sys.executable, "-c", START, *map(str, arguments)]
    subprocess.run(line, stdout=subprocess.DEVNULL, env=environment, check=True)  # noqa: S603
    return time.monotonic() - began


def measured(tiny: bool) -> list[Row]:
    """Reprocess small scans."""
    num_scans, num_rows, size = (1, 8, 48) if tiny else (8, 64, 160)
    sets = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    case = f"{num_scans} scans of {num_rows} slices of {size} pixels, measured"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans = [folder / f"scan{number}.h5" for number in range(num_scans)]
        for seed, scan in enumerate(scans):
            shape = {"num_rows": num_rows, "num_columns": size, "num_angles": size, "seed": seed}
            simulate_scan(scan, SimulateSettings.model_validate(shape))
        seconds = {
            f"quietbeam ({count} worker{'s'[: count - 1]})": command(
                "reprocess", *scans, "-o", folder / f"out{count}", "--workers", count, "--threads", 1, *sets
            )
            for count in (1, 2)
        }
        one_thread = ("--set", "compute.threads=1")
        seconds["reduce in a loop"] = math.fsum(
            command("reduce", scan, "-o", folder / f"loop{number}", *sets, *one_thread)
            for number, scan in enumerate(scans)
        )
    one, two = seconds["quietbeam (1 worker)"], seconds["quietbeam (2 workers)"]
    rows = [Row(case, method, "time", value, "s") for method, value in seconds.items()]
    return [*rows, Row(case, "quietbeam (2 workers)", "efficiency", one / (2 * two), "")]


def main() -> None:
    """Print the tables."""
    options = arguments(__doc__)
    report(measured(options.tiny) + simulated(options.tiny), options.json)


if __name__ == "__main__":
    main()
