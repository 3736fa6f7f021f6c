"""How near a result is to a known truth: for simulated scans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from quietbeam.compress.archive import open_archive
from quietbeam.reconstruction.errors import ReductionError
from quietbeam.reconstruction.reconstructors import RECONSTRUCTORS, ReconstructionSettings, circle, reconstruct

from .scan import open_scan
from .settings import ReductionSettings
from .sinograms import SinogramSettings, clean_sinograms
from .workspace import ARCHIVE, MANIFEST

__all__ = ["compare_with_truth"]

CHUNK = 8


def compare_with_truth(output: Path, truth: Path) -> dict[str, float]:
    """Measure the archive and plain reconstructions of the same scan against a known volume.

    Parameters
    ----------
    output : Path
        Output folder of `quietbeam reduce`.
    truth : Path
        ``.npy`` file, float32, shape (slice, y, x), in the unit of the archive.

    Returns
    -------
    dict
        PSNR in decibel inside the circle, range of the truth as the peak: ``archive`` (the denoised volume as
        archived), and each reconstruction method from all projections.

    Raises
    ------
    ReductionError
        If the shapes differ.
    """
    manifest = json.loads((output / MANIFEST).read_text())
    settings = ReductionSettings.model_validate(manifest["settings"])
    scan = open_scan(Path(manifest["input"]["path"]), settings.scan)
    sinogram_settings = SinogramSettings(
        normalize=settings.normalize, outliers=settings.outliers, stripes=settings.stripes
    )
    volume = np.load(truth, mmap_mode="r")
    inside = circle(volume.shape[-1]) > 0
    errors = dict.fromkeys(("archive", *RECONSTRUCTORS), 0.0)
    with open_archive(output / ARCHIVE) as archive:
        if archive.shape != volume.shape:
            raise ReductionError(f"{truth}: shape {volume.shape}, but the archive has {archive.shape}")
        for start in range(0, scan.num_rows, CHUNK):
            rows = slice(start, min(start + CHUNK, scan.num_rows))
            right = volume[rows][:, inside]
            sinograms, _ = clean_sinograms(scan, rows, sinogram_settings)
            errors["archive"] += _squared(archive[rows][:, inside] - right)
            for name in RECONSTRUCTORS:
                method = ReconstructionSettings(method=name, filter=settings.reconstruction.filter)
                slices = reconstruct(
                    sinograms, scan.theta, manifest["rotation_axis"], method, pixel_size=scan.pixel_size
                )
                errors[name] += _squared(slices[:, inside] - right)
    peak = float(volume.max() - volume.min())
    count = volume.shape[0] * int(inside.sum())
    return {name: float(20 * np.log10(peak) - 10 * np.log10(error / count)) for name, error in errors.items()}


def _squared(difference: np.ndarray) -> float:
    return float(np.square(difference, dtype=np.float64).sum())
