"""The simulated scan of `quietbeam simulate`, reconstructed as a reduction does, for benchmarks of the training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rows import Row
from scipy.ndimage import gaussian_filter

from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan, truth_path
from quietbeam.beamline.sinograms import SinogramSettings, clean_sinograms
from quietbeam.noise2inverse.inference import denoise_slice
from quietbeam.noise2inverse.msd import MSD
from quietbeam.noise2inverse.pairs import context_indices
from quietbeam.reconstruction.quality import psnr
from quietbeam.reconstruction.reconstructors import circle, reconstruct
from quietbeam.reconstruction.sections import section_shares, split_angles

__all__ = ["SimulatedScan", "after", "reconstruct_simulated"]

Array = NDArray[np.float32]

SIGMAS = np.arange(0.5, 3.01, 0.25)
EVERY = 8
"""Of the slices one in this many is denoised and measured."""


class SimulatedScan(NamedTuple):
    """One scan: float32, shapes (slice, section, y, x), (section,), (slice, y, x)."""

    sections: Array
    shares: Array
    truth: Array

    def psnr(self, volume: Array) -> float:
        """Take the PSNR of the measured slices inside the circle, in decibel."""
        inside = circle(self.truth.shape[-1]) > 0
        some = slice(EVERY // 2, None, EVERY)
        span = float(self.truth.max() - self.truth.min())
        return psnr(self.truth[some, inside], volume[some, inside], data_range=span)

    def denoised_psnr(self, model: MSD, context_slices: int) -> float:
        """Denoise the measured slices, and take their PSNR."""
        denoised = np.zeros_like(self.truth)
        for i in range(EVERY // 2, len(self.truth), EVERY):
            seen = self.sections[context_indices(i, context_slices, len(self.truth))]
            denoised[i] = denoise_slice(model, np.einsum("k,skyx->syx", self.shares, seen).astype(np.float32))
        return self.psnr(denoised)

    def plain_rows(self, case: str, times: Iterable[float]) -> list[Row]:
        """Rows of the peers: the reconstruction as it is, and its best Gaussian blur, the same at all times."""
        full = np.einsum("k,skyx->syx", self.shares, self.sections)
        blurred = max(self.psnr(gaussian_filter(full, sigma)) for sigma in SIGMAS)
        values = {"gridrec": self.psnr(full), "gridrec, best Gaussian blur": blurred}
        return [Row(case, name, after(s), value, "dB") for name, value in values.items() for s in times]


def after(seconds: float) -> str:
    """Name the PSNR after a time."""
    return f"PSNR after {seconds:g} s"


def reconstruct_simulated(settings: SimulateSettings) -> SimulatedScan:
    """Simulate a scan and reconstruct its four sections."""
    with tempfile.TemporaryDirectory() as folder:
        path = simulate_scan(Path(folder) / "scan.h5", settings)
        scan, truth = open_scan(path), np.load(truth_path(path))
        sinograms, _ = clean_sinograms(scan, slice(0, scan.num_rows), SinogramSettings())
    sections = split_angles(scan.theta, 4)
    slices = [
        reconstruct(sinograms[:, part], scan.theta[part], settings.rotation_axis, pixel_size=scan.pixel_size)
        for part in sections
    ]
    return SimulatedScan(np.stack(slices, axis=1), section_shares(sections), truth)
