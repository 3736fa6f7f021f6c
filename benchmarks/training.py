"""Batch sizes at equal CPU time of training.

The scan is the simulated foam of `quietbeam simulate`; four sections are reconstructed as a reduction does. For each
batch size of 128 x 128 crops the network is trained from the same weights on one thread, and stopped at the same CPU
times; each time every eighth slice is denoised and its PSNR taken against the truth inside the circle. The final
weights are used, where a reduction keeps those of the best epoch. The peer is the reconstruction as it is, and the
best Gaussian blur (3D) of it, at the same slices.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rows import Row, arguments, report
from scipy.ndimage import gaussian_filter

from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan, truth_path
from quietbeam.beamline.sinograms import SinogramSettings, clean_sinograms
from quietbeam.noise2inverse.inference import denoise_slice
from quietbeam.noise2inverse.msd import NetworkSettings
from quietbeam.noise2inverse.pairs import Pairs, PairSettings, context_indices
from quietbeam.noise2inverse.training import NoiseTrainer, TrainingSettings
from quietbeam.reconstruction.quality import psnr
from quietbeam.reconstruction.reconstructors import circle, reconstruct
from quietbeam.reconstruction.sections import section_shares, split_angles

Array = NDArray[np.float32]

SIGMAS = np.arange(0.5, 3.01, 0.25)
EVERY = 8
"""Of the slices one in this many is denoised and measured."""
STEPS = 5
"""Steps between two looks at the clock."""


def main() -> None:
    """Train with each batch size."""
    options = arguments(__doc__)
    scan, batches, seconds = SimulateSettings(), (1, 2, 4), (30, 60, 120)
    network, crop = NetworkSettings(), 128
    if options.tiny:
        scan = SimulateSettings(num_rows=8, num_columns=64, num_angles=128)
        batches, seconds, network, crop = (1, 4), (1, 2), NetworkSettings(depth=10), 48
    sections, shares, truth = _prepare(scan)
    case = f"{scan.num_columns} columns, {scan.num_angles} angles, depth {network.depth}"
    rows = _plain(case, np.einsum("k,skyx->syx", shares, sections), truth, seconds)
    for batch in batches:
        pairs = Pairs(sections, shares, PairSettings(batch_size=batch, crop_size=crop))
        rows += _train(case, f"quietbeam (batch size {batch})", pairs, network, truth, seconds)
    report(rows, options.json)


def _prepare(settings: SimulateSettings) -> tuple[Array, Array, Array]:
    """Section reconstructions (slice, section, y, x), their shares, and the truth."""
    with tempfile.TemporaryDirectory() as folder:
        path = simulate_scan(Path(folder) / "scan.h5", settings)
        scan, truth = open_scan(path), np.load(truth_path(path))
        sinograms, _ = clean_sinograms(scan, slice(0, scan.num_rows), SinogramSettings())
    sections = split_angles(scan.theta, 4)
    slices = [
        reconstruct(sinograms[:, part], scan.theta[part], settings.rotation_axis, pixel_size=scan.pixel_size)
        for part in sections
    ]
    return np.stack(slices, axis=1), section_shares(sections), truth


def _plain(case: str, full: Array, truth: Array, seconds: tuple[float, ...]) -> list[Row]:
    blurred = [_psnr(gaussian_filter(full, sigma), truth) for sigma in SIGMAS]
    values = {"gridrec": _psnr(full, truth), "gridrec, best Gaussian blur": max(blurred)}
    return [Row(case, name, f"PSNR after {s} s", value, "dB") for name, value in values.items() for s in seconds]


def _train(
    case: str, method: str, pairs: Pairs, network: NetworkSettings, truth: Array, seconds: tuple[float, ...]
) -> list[Row]:
    settings = TrainingSettings(steps_per_epoch=STEPS, held_out_batches=1)
    trainer = NoiseTrainer(pairs, settings, network)
    rows, spent, epoch = [], 0.0, 0
    for limit in seconds:
        while spent < limit:
            start = time.process_time()
            trainer.train_epoch(epoch)
            spent, epoch = spent + time.process_time() - start, epoch + 1
        rows.append(Row(case, method, f"PSNR after {limit} s", _denoised_psnr(trainer, truth), "dB"))
    return [*rows, Row(case, method, "steps", epoch * STEPS, "")]


def _denoised_psnr(trainer: NoiseTrainer, truth: Array) -> float:
    sections, shares, context = trainer.pairs.sections, trainer.pairs.shares, trainer.pairs.settings.context_slices
    full = [
        np.einsum("k,skyx->syx", shares, np.asarray(sections)[context_indices(i, context, len(truth))])
        for i in range(EVERY // 2, len(truth), EVERY)
    ]
    denoised = np.zeros_like(truth)
    denoised[EVERY // 2 :: EVERY] = [denoise_slice(trainer.model, image.astype(np.float32)) for image in full]
    return _psnr(denoised, truth)


def _psnr(volume: Array, truth: Array) -> float:
    inside = circle(truth.shape[-1]) > 0
    some = slice(EVERY // 2, None, EVERY)
    return psnr(truth[some, inside], volume[some, inside], data_range=float(truth.max() - truth.min()))


if __name__ == "__main__":
    main()
