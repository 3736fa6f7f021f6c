"""What denoising saves before compressing: one scan as raw projections, noisy volume and denoised volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from codec_rates import method, settings_with_error
from numpy.typing import NDArray
from rows import Row

from quietbeam.compress.codec import codec
from quietbeam.compress.rate_distortion import measure
from quietbeam.reconstruction.porosity import otsu_threshold, porosity
from quietbeam.reconstruction.quality import msle, psnr
from quietbeam.reconstruction.reconstructors import circle
from quietbeam.reconstruction.resolution import fourier_ring_correlation

__all__ = ["compare_chain"]

Array = NDArray[np.float32]

SHARE_OF_NOISE = 0.1
"""Largest error over the standard deviation of the noise, of counts and of voxels alike."""
CODECS = ("lattice", "sperr", "sz3")
EVERY = 8
"""Of the slices one in this many is held against the truth."""


def compare_chain(name: str, prefix: Path, chunk_slices: int) -> list[Row]:
    """Code each stage with a largest error of a tenth of its noise, and measure what is kept of the last."""
    counts, noisy, denoised, truth = (
        np.load(prefix.with_name(f"{prefix.name}_{part}.npy")) for part in ("projections", "noisy", "denoised", "truth")
    )
    noise = float((noisy - truth)[:, circle(truth.shape[-1]) > 0].std())
    # Bits of all stages are counted per voxel of the volume, so that they can be compared.
    stages = {
        "raw projections": (counts.astype(np.float32), max(SHARE_OF_NOISE * float(np.sqrt(counts.mean())), 1.0)),
        "noisy volume": (noisy, SHARE_OF_NOISE * noise),
        "denoised volume": (denoised, SHARE_OF_NOISE * noise),
    }
    case = f"{name}, denoised and then compressed: largest error {SHARE_OF_NOISE:g} of the noise"
    rows = []
    for stage, (array, max_error) in stages.items():
        for codec_name in CODECS:
            fitted = codec(codec_name).fit(array, settings_with_error(codec_name, max_error))
            point = measure(fitted, array, chunk_slices=chunk_slices, similarities=False)
            bits = point.bits_per_voxel * array.size / truth.size
            rows.append(Row(case, method(codec_name), stage, bits, "bits/voxel"))
            print(f"  {stage}, {codec_name}: {bits:.3f} bits/voxel", flush=True)
    return rows + _kept(name, denoised, truth, stages["denoised volume"][1], chunk_slices)


def _kept(name: str, denoised: Array, truth: Array, max_error: float, chunk_slices: int) -> list[Row]:
    """Rows of the denoised volume before and after coding, against the truth."""
    case = f"{name}: what is kept of the denoised volume"
    fitted = codec("lattice").fit(denoised, settings_with_error("lattice", max_error))
    decoded = np.concatenate(
        [
            fitted.decode(fitted.encode(chunk), chunk.shape)
            for chunk in np.split(denoised, range(chunk_slices, len(denoised), chunk_slices))
        ]
    )
    some, threshold, span = slice(EVERY // 2, None, EVERY), otsu_threshold(truth), float(np.ptp(truth))
    rows = []
    for label, volume in (("before", denoised), ("quietbeam (lattice), decoded", decoded)):
        ring = fourier_ring_correlation(truth[some], volume[some])
        rows += [
            Row(case, label, "PSNR", psnr(truth[some], volume[some], data_range=span), "dB"),
            Row(case, label, "MSLE", msle(truth[some], volume[some]) / span**2, "range²/pixel⁴"),
            Row(case, label, "pores", 100 * porosity(volume, threshold), "%"),
            Row(case, label, "FRC with the truth falls to 1/2 at", 1 / ring.resolution(0.5), "pixels"),
        ]
    return rows
