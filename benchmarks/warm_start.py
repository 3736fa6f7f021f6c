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

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rows import Row, arguments, report
from scipy.ndimage import gaussian_filter

from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan, truth_path
from quietbeam.beamline.sinograms import SinogramSettings, clean_sinograms
from quietbeam.noise2inverse.inference import denoise_slice
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.noise2inverse.pairs import Pairs, PairSettings, context_indices
from quietbeam.noise2inverse.training import NoiseTrainer, TrainingSettings
from quietbeam.reconstruction.quality import psnr
from quietbeam.reconstruction.reconstructors import circle, reconstruct
from quietbeam.reconstruction.sections import section_shares, split_angles

Array = NDArray[np.float32]

SIGMAS = np.arange(0.5, 3.01, 0.25)
EVERY = 8
"""Of the slices one in this many is denoised and measured."""
STEP_SIZES = (1e-3, 3e-4, 1e-4)
"""Of training from the start; the first is that from random weights too."""
TINY = {"num_rows": 8, "num_columns": 64, "num_angles": 64}
FULL = {"num_rows": 64, "num_columns": 128, "num_angles": 256}


class Measurement(NamedTuple):
    """One scan, reconstructed: float32, shapes (slice, section, y, x), (section,), (slice, y, x)."""

    sections: Array
    shares: Array
    truth: Array


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
    earlier, scan = (_prepare(SimulateSettings(**size, seed=seed)) for seed in (0, 1))
    start = _trainer(plan, earlier)
    _train(start, lambda spent: spent >= plan.first)
    report(_plain(plan, scan) + _compare(plan, scan, start.model), options.json)


def _compare(plan: Plan, scan: Measurement, start: MSD) -> list[Row]:
    rows = _rows(plan, scan, "random weights", _trainer(plan, scan))
    rows += _rows(plan, scan, "random weights, seed 1", _trainer(plan, scan, seed=1))
    for step_size in STEP_SIZES:
        name = f"earlier scan, step size {step_size:g}"
        rows += _rows(plan, scan, name, _trainer(plan, scan, step_size=step_size, start=start))
    return rows


def _rows(plan: Plan, scan: Measurement, name: str, trainer: NoiseTrainer) -> list[Row]:
    """PSNR before training and after each time."""
    found = {0.0: _quality(trainer, scan)}

    def look(spent: float) -> bool:
        for seconds in plan.seconds:
            if spent >= seconds and seconds not in found:
                found[seconds] = _quality(trainer, scan)
        return len(found) > len(plan.seconds)

    _train(trainer, look)
    return [Row(plan.case, f"quietbeam ({name})", _after(s), value, "dB") for s, value in found.items()]


def _train(trainer: NoiseTrainer, stop: Callable[[float], bool]) -> None:
    """Train until `stop`, called with the CPU seconds spent so far, says that it is enough."""
    spent, epoch = 0.0, 0
    while not stop(spent):
        began = time.process_time()
        trainer.train_epoch(epoch)
        spent, epoch = spent + time.process_time() - began, epoch + 1


def _trainer(
    plan: Plan, scan: Measurement, *, seed: int = 0, step_size: float = STEP_SIZES[0], start: MSD | None = None
) -> NoiseTrainer:
    pairs = Pairs(scan.sections, scan.shares, PairSettings(crop_size=plan.crop_size))
    settings = TrainingSettings(steps_per_epoch=5, held_out_batches=1, seed=seed, learning_rate=step_size)
    return NoiseTrainer(pairs, settings, plan.network, start=start)


def _prepare(settings: SimulateSettings) -> Measurement:
    with tempfile.TemporaryDirectory() as folder:
        path = simulate_scan(Path(folder) / "scan.h5", settings)
        scan, truth = open_scan(path), np.load(truth_path(path))
        sinograms, _ = clean_sinograms(scan, slice(0, scan.num_rows), SinogramSettings())
    sections = split_angles(scan.theta, 4)
    slices = [
        reconstruct(sinograms[:, part], scan.theta[part], settings.rotation_axis, pixel_size=scan.pixel_size)
        for part in sections
    ]
    return Measurement(np.stack(slices, axis=1), section_shares(sections), truth)


def _plain(plan: Plan, scan: Measurement) -> list[Row]:
    full = np.einsum("k,skyx->syx", scan.shares, scan.sections)
    blurred = [_psnr(gaussian_filter(full, sigma), scan.truth) for sigma in SIGMAS]
    values = {"gridrec": _psnr(full, scan.truth), "gridrec, best Gaussian blur": max(blurred)}
    times = (0.0, *plan.seconds)
    return [Row(plan.case, name, _after(s), value, "dB") for name, value in values.items() for s in times]


def _after(seconds: float) -> str:
    return f"PSNR after {seconds:g} s"


def _quality(trainer: NoiseTrainer, scan: Measurement) -> float:
    denoised, context = np.zeros_like(scan.truth), trainer.pairs.settings.context_slices
    for i in range(EVERY // 2, len(scan.truth), EVERY):
        seen = scan.sections[context_indices(i, context, len(scan.truth))]
        image = np.einsum("k,skyx->syx", scan.shares, seen).astype(np.float32)
        denoised[i] = denoise_slice(trainer.model, image)
    return _psnr(denoised, scan.truth)


def _psnr(volume: Array, truth: Array) -> float:
    inside = circle(truth.shape[-1]) > 0
    some = slice(EVERY // 2, None, EVERY)
    return psnr(truth[some, inside], volume[some, inside], data_range=float(truth.max() - truth.min()))


if __name__ == "__main__":
    main()
