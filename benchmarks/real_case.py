"""The case of real scans, whose truth nobody knows: against a section on which the network was not trained.

Where slices are held out, the network never saw them in training, neither as input nor as target; a scan of two slices
holds out the last pair. There the average of all sections but the last is denoised and correlated with the last, ring
by ring, before and after. The noise of the last section limits both. A Gaussian weighs all of a ring alike and leaves
the correlation as it is; its strength is the one that comes nearest to the last section.

One scan has so many projections that it is nearly free of noise: every eighth of them is a scan of its own, and the
reconstruction of all others, whose noise is independent, is as good as its truth.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from classical_denoisers import SIGMAS, Answer, Truth, best_gaussian, climb
from noisy_scans import NUM_SECTIONS, Array
from PIL import Image
from rows import Row
from scipy.ndimage import gaussian_filter
from trained_networks import Plan, Trained, denoise, train_for

from quietbeam.beamline.scan import ScanSettings, open_scan
from quietbeam.beamline.sinograms import SinogramSettings, clean_sinograms
from quietbeam.noise2inverse.inference import denoise_passes
from quietbeam.noise2inverse.pairs import Pairs
from quietbeam.reconstruction.reconstructors import circle, reconstruct, reconstruct_sections
from quietbeam.reconstruction.resolution import FRC, fourier_ring_correlation, half_bit_threshold
from quietbeam.reconstruction.sections import section_shares, split_angles

__all__ = ["compare_on_real_scans"]


class RealScan(NamedTuple):
    """A scan: the column of its axis, how to read it, one projection of how many to take."""

    name: str
    rotation_axis: float
    options: Mapping[str, Any]
    every: int = 1


_TXM = RealScan("txm_tomo77", 39.0, {"normalised": "attenuation", "angles": "0:180"})
SCANS = (_TXM._replace(every=8), _TXM, RealScan("tooth.h5", 296.0, {}))
DATA = "QUIETBEAM_TEST_DATA"
RANGE = (0.5, 99.5)
"""Percentiles of the denoised slice that are black and white."""
GAP = 8
"""White pixels between two pictures."""


def compare_on_real_scans(plan: Plan, *, tiny: bool, pictures: Path | None = None) -> list[Row]:
    """Denoise two real scans, and draw the slice in the middle before and after."""
    folder = Path(os.environ.get(DATA, "")) / "scans"
    scans = [scan for scan in SCANS[: 1 if tiny else None] if (folder / scan.name).exists()]
    if not scans:
        print(f"\nreal: left out, {DATA} names no folder that holds scans/{SCANS[0].name}")
    return [row for scan in scans for row in _compare(folder, scan, plan, pictures)]


def _compare(folder: Path, scan: RealScan, plan: Plan, pictures: Path | None) -> list[Row]:
    sections, shares, others = _reconstruct(folder, scan)
    name = Path(scan.name).stem + (f", one projection of {scan.every}" if scan.every > 1 else "")
    case = f"real: {name}, {len(sections)} slices of {sections.shape[-1]} x {sections.shape[-1]} pixels"
    print(f"\n{case} ...", flush=True)
    pairs = Pairs(sections, shares)
    trained = train_for(pairs, plan)
    if pictures:
        _draw(pictures / f"{Path(scan.name).stem}-{scan.every}.png", trained, pairs)
    return _rows(case, trained, pairs) + ([] if others is None else _against(case, trained, pairs, others))


def _reconstruct(folder: Path, given: RealScan) -> tuple[Array, Array, Array | None]:
    """Reconstruct sections, shape (slice, section, y, x), give their shares, and reconstruct all other projections."""
    scan = open_scan(folder / given.name, ScanSettings.model_validate(given.options))
    sinograms, _ = clean_sinograms(scan, slice(0, scan.num_rows), SinogramSettings())
    theta, taken = scan.theta, np.arange(0, len(scan.theta), given.every)
    rest = np.setdiff1d(np.arange(len(theta)), taken)
    parts = split_angles(theta[taken], NUM_SECTIONS)
    sections = reconstruct_sections(sinograms[:, taken], theta[taken], parts, given.rotation_axis)
    others = reconstruct(sinograms[:, rest], theta[rest], given.rotation_axis) if rest.size else None
    return sections, section_shares(parts), others


def _against(case: str, trained: Trained, pairs: Pairs, others: Array) -> list[Row]:
    """Compare the reconstruction of all sections with that of many other projections."""
    truth, every = Truth(others), np.arange(len(others))
    noisy = np.concatenate([pairs.inputs.target(range(NUM_SECTIONS), int(i), slice(None), slice(None)) for i in every])
    gaussian = best_gaussian(noisy, truth, axes=(1, 1, 1))
    methods = {
        "gridrec": noisy,
        f"best Gaussian (3D), sigma {gaussian.strength:.3g}": gaussian.slices,
        "quietbeam": denoise(trained, pairs, every).slices[:, 0],
    }
    found = {name: truth.psnr(slices) for name, slices in methods.items()}
    return [Row(case, name, "PSNR against the other projections", value, "dB") for name, value in found.items()]


def _rows(case: str, trained: Trained, pairs: Pairs) -> list[Row]:
    """Compare with the last section on the slices held out, or on all where the last pair is held out."""
    slices = list(pairs.held_out_slices or range(pairs.inputs.shape[0]))
    last, everything = pairs.inputs.shape[1] - 1, slice(None)
    others, inside = tuple(range(last)), circle(pairs.inputs.shape[-1])
    target = np.concatenate([pairs.inputs.target((last,), i, everything, everything) for i in slices])
    noisy = np.concatenate([pairs.inputs.target(others, i, everything, everything) for i in slices])
    found = [denoise_passes(trained.model, pairs.inputs, [others], i).mean for i in slices]
    denoised = np.concatenate(found) * inside
    gaussian = _nearest_gaussian(noisy, target)
    methods = {
        "gridrec": noisy,
        f"Gaussian nearest to the held-out section (2D), sigma {gaussian.strength:.3g}": gaussian.slices,
        "quietbeam": denoised,
    }
    before = _distance(noisy, target)
    rows = []
    for name, images in methods.items():
        rows += _resolution(case, name, fourier_ring_correlation(images, target))
        rows.append(Row(case, name, "squared distance to the held-out section", _distance(images, target) / before, ""))
    return rows + [Row(case, "quietbeam", name, *value) for name, value in trained.columns.items()]


def _nearest_gaussian(noisy: Array, target: Array) -> Answer:
    def attempt(sigma: float) -> Array:
        return gaussian_filter(noisy, (0, sigma, sigma))

    return climb(SIGMAS, attempt, lambda images: -_distance(images, target))


def _distance(images: Array, target: Array) -> float:
    inside = circle(images.shape[-1]) > 0
    return float(np.square(images[:, inside] - target[:, inside], dtype=np.float64).mean())


def _resolution(case: str, name: str, correlation: FRC) -> list[Row]:
    """Half of the period at which the correlation falls below a threshold: the size of the finest detail in common."""
    found = {
        "1/7": correlation.resolution(),
        "half bit": correlation.resolution(half_bit_threshold(correlation.num_independent)),
    }
    return [Row(case, name, f"resolution ({kind})", 0.5 / value, "pixels") for kind, value in found.items()]


def _draw(path: Path, trained: Trained, pairs: Pairs) -> None:
    """Write the slice in the middle, from all projections: before and after, one grey scale."""
    middle, everything = pairs.inputs.shape[0] // 2, slice(None)
    before = pairs.inputs.target(range(pairs.inputs.shape[1]), middle, everything, everything)[0]
    inside = circle(before.shape[-1])
    after = denoise(trained, pairs, np.array([middle])).slices[0, 0] * inside
    black, white = np.percentile(after[inside > 0], RANGE)
    both = np.full((before.shape[0], 2 * before.shape[1] + GAP), white, np.float32)
    both[:, : before.shape[1]], both[:, -before.shape[1] :] = before, after
    grey = np.clip((both - black) / (white - black), 0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(255 * grey).astype(np.uint8)).save(path, optimize=True)
