"""Volumes to compress: a foam and a sandstone, scanned with noise, denoised by our network, and what they came of.

`python benchmarks/denoised_volumes.py FOLDER [--minutes 2]` makes them once: ``foam.npy`` and ``sandstone.npy``,
denoised and scaled to the whole range of uint16, and of each ``*_denoised.npy``, ``*_noisy.npy`` (reconstructed from
all projections) and ``*_truth.npy``, float32 in 1/pixel, and ``*_projections.npy``, counts as uint16.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from noisy_scans import FoamSize, half_absorbing
from numpy.typing import NDArray
from trained_networks import Plan, denoise, train_for

from quietbeam.noise2inverse.msd import NetworkSettings
from quietbeam.noise2inverse.pairs import Pairs
from quietbeam.reconstruction.phantom import project_foam, rasterise_foam
from quietbeam.reconstruction.projectors import make_projector
from quietbeam.reconstruction.reconstructors import reconstruct_sections
from quietbeam.reconstruction.sandstone import sandstone_phantom
from quietbeam.reconstruction.scan_patterns import static_scan
from quietbeam.reconstruction.sections import section_shares, split_angles

__all__ = ["VOLUMES", "ScannedVolume", "denoised_volume", "save", "scan_foam", "scan_sandstone", "to_words"]

Array = NDArray[np.float32]
Words = NDArray[np.uint16]

NUM_SECTIONS = 4
VOIDS_PER_RADIUS, SMALLEST_VOID = 400.0, 0.04
LEVELS = 65535
FOAM_PHOTONS, SANDSTONE_PHOTONS = 1000.0, 2500.0
"""Per pixel of the open beam; half of them are absorbed."""


class ScannedVolume(NamedTuple):
    """One scan and what was made of it.

    Attributes
    ----------
    counts : uint16, shape (slice, angle, column)
        Photons.
    noisy, denoised, truth : float32, shape (slice, y, x)
        In 1/pixel.
    """

    counts: Words
    noisy: Array
    denoised: Array
    truth: Array


def scan_foam(num_slices: int = 256, size: int = 256, num_angles: int = 512, *, seed: int = 0) -> tuple[Array, Array]:
    """Give line integrals, shape (slice, angle, column), and the truth, shape (slice, y, x), of a foam."""
    foam = FoamSize(num_slices, size, num_angles, VOIDS_PER_RADIUS, SMALLEST_VOID).foam(seed)
    theta = static_scan(num_angles).theta
    sinograms = np.ascontiguousarray(project_foam(foam, theta, num_slices, size).swapaxes(0, 1))
    factor = half_absorbing(sinograms)
    return sinograms * factor, rasterise_foam(foam, num_slices, size) * factor


def scan_sandstone(
    num_slices: int = 256, size: int = 384, num_angles: int = 600, *, seed: int = 0
) -> tuple[Array, Array]:
    """Give line integrals, shape (slice, angle, column), and the truth, shape (slice, y, x), of a sandstone."""
    rock = sandstone_phantom(num_slices, size, seed=seed)
    projector = make_projector("nufft", static_scan(num_angles).theta, (size - 1) / 2, size)
    sinograms = np.stack([projector.forward(plane) for plane in rock])
    factor = half_absorbing(sinograms)
    return sinograms * factor, rock * factor


def denoised_volume(sinograms: Array, truth: Array, photons: float, plan: Plan, *, seed: int = 0) -> ScannedVolume:
    """Count photons, reconstruct, train, denoise."""
    counts = _count(sinograms, photons, np.random.default_rng(seed))
    num_slices, num_angles, size = sinograms.shape
    theta = static_scan(num_angles).theta
    sections = split_angles(theta, NUM_SECTIONS)
    line_integrals = -np.log(np.maximum(counts, 1) / np.float32(photons))
    shares = section_shares(sections)
    slices = reconstruct_sections(line_integrals, theta, sections, (size - 1) / 2)
    pairs = Pairs(slices, shares)
    trained = train_for(pairs, plan)
    noisy = np.einsum("k,skyx->syx", shares, slices)
    denoised = denoise(trained, pairs, np.arange(num_slices)).slices[:, 0]
    return ScannedVolume(counts, noisy, denoised, truth)


def _count(sinograms: Array, photons: float, rng: np.random.Generator) -> Words:
    counts = np.empty(sinograms.shape, np.uint16)
    for counted, expected in zip(counts, sinograms, strict=True):
        counted[:] = np.minimum(rng.poisson(photons * np.exp(-expected)), LEVELS)
    return counts


def to_words(volume: Array) -> Words:
    """Scale a volume to the whole range of uint16."""
    low, high = float(volume.min()), float(volume.max())
    return np.rint((volume - low) * (LEVELS / (high - low))).astype(np.uint16)


def save(folder: Path, name: str, made: ScannedVolume) -> None:
    """Write the files that the module names."""
    files = {"": to_words(made.denoised), "_denoised": made.denoised, "_noisy": made.noisy, "_truth": made.truth}
    for ending, array in (files | {"_projections": made.counts}).items():
        np.save(folder / f"{name}{ending}.npy", array)


VOLUMES: dict[str, tuple[Callable[[], tuple[Array, Array]], float]] = {
    "foam": (scan_foam, FOAM_PHOTONS),
    "sandstone": (scan_sandstone, SANDSTONE_PHOTONS),
}


def main() -> None:
    """Make and write all volumes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, (scan, photons) in VOLUMES.items():
        made = denoised_volume(*scan(), photons, Plan(given.minutes, NetworkSettings()))
        save(given.folder, name, made)
        print(name, made.denoised.shape, "written", flush=True)


if __name__ == "__main__":
    main()
