"""A warm start against random weights: the network of one foam is the start for another, at equal CPU time.

Two scans of `quietbeam simulate` with other seeds are other foams under the same instrument. A network learns the
first. Then networks learn the second, on one thread: from random weights, and from the weights of the first with the
usual step size and with smaller ones. Each is stopped at the same CPU times; then every eighth slice is denoised and
its PSNR taken against the truth inside the circle. The final weights are used, where a reduction keeps those of the
best epoch. After 0 s the start is as the first scan left it, with means and deviations of the second. The row of
another seed tells which differences are chance.

The peer is the reconstruction as it is, and the best Gaussian blur (3D) of it, at the same slices.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from rows import Row, arguments, report
from simulated_scan import SimulatedScan, after, reconstruct_simulated

from quietbeam.beamline.simulate import SimulateSettings
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.noise2inverse.pairs import Pairs, PairSettings
from quietbeam.noise2inverse.training import NoiseTrainer, TrainingSettings

STEP_SIZES = (3e-3, 1e-3, 3e-4)
"""Of training from the start; the first is that from random weights too."""
TINY = {"num_rows": 8, "num_columns": 64, "num_angles": 64}
FULL = {"num_rows": 64, "num_columns": 128, "num_angles": 256}


class Plan(NamedTuple):
    """How large the networks are and how long they learn: pixels, seconds for the first scan and for the second."""

    case: str
    network: NetworkSettings
    crop_size: int
    first: float
    seconds: tuple[float, ...]


def main() -> None:
    """Train on one scan, then on another with and without its weights."""
    options = arguments(__doc__)
    size, depth, crop = (TINY, 10, 48) if options.tiny else (FULL, 100, 128)
    first, seconds = (2.0, (0.25, 1.0)) if options.tiny else (60.0, (10.0, 30.0, 60.0))
    case = f"{size['num_columns']} columns, {size['num_angles']} angles, depth {depth}, {first:g} s on another scan"
    plan = Plan(case, NetworkSettings(depth=depth), crop, first, seconds)
    earlier, scan = (reconstruct_simulated(SimulateSettings(**size, seed=seed)) for seed in (0, 1))
    start = _trainer(plan, earlier)
    _train(start, lambda spent: spent >= plan.first)
    report(scan.plain_rows(plan.case, (0.0, *plan.seconds)) + _compare(plan, scan, start.measured), options.json)


def _compare(plan: Plan, scan: SimulatedScan, start: MSD) -> list[Row]:
    rows = _rows(plan, scan, "random weights", _trainer(plan, scan))
    rows += _rows(plan, scan, "random weights, seed 1", _trainer(plan, scan, seed=1))
    for step_size in STEP_SIZES:
        name = f"earlier scan, step size {step_size:g}"
        rows += _rows(plan, scan, name, _trainer(plan, scan, step_size=step_size, start=start))
    return rows


def _rows(plan: Plan, scan: SimulatedScan, name: str, trainer: NoiseTrainer) -> list[Row]:
    """PSNR before training and after each time."""
    found = {0.0: _quality(trainer, scan)}

    def look(spent: float) -> bool:
        for seconds in plan.seconds:
            if spent >= seconds and seconds not in found:
                found[seconds] = _quality(trainer, scan)
        return len(found) > len(plan.seconds)

    _train(trainer, look)
    return [Row(plan.case, f"quietbeam ({name})", after(s), value, "dB") for s, value in found.items()]


def _train(trainer: NoiseTrainer, stop: Callable[[float], bool]) -> None:
    """Train until `stop`, called with the CPU seconds spent so far, says that it is enough."""
    spent, epoch = 0.0, 0
    while not stop(spent):
        began = time.process_time()
        trainer.train_epoch(epoch)
        spent, epoch = spent + time.process_time() - began, epoch + 1


def _quality(trainer: NoiseTrainer, scan: SimulatedScan) -> float:
    return scan.denoised_psnr(trainer.measured, trainer.pairs.settings.context_slices)


def _trainer(
    plan: Plan, scan: SimulatedScan, *, seed: int = 0, step_size: float = STEP_SIZES[0], start: MSD | None = None
) -> NoiseTrainer:
    pairs = Pairs(scan.sections, scan.shares, PairSettings(crop_size=plan.crop_size))
    settings = TrainingSettings(steps_per_epoch=5, held_out_batches=1, seed=seed, learning_rate=step_size)
    return NoiseTrainer(pairs, settings, plan.network, start=start)


if __name__ == "__main__":
    main()
