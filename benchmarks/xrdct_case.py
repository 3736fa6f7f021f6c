"""The case of XRD-CT: a fifth of the exposure, denoised with all channels at once, against the full exposure."""

from __future__ import annotations

import numpy as np
from classical_denoisers import Answer, Truth, best_gaussian, best_stretched_gaussian, climb, timed
from noisy_scans import Array, XrdctScan, XrdctSize, xrdct_scan
from rows import Row
from trained_networks import Plan, denoise, train_for

from quietbeam.noise2inverse.inference import Mode
from quietbeam.noise2inverse.pairs import Pairs, PairSettings

__all__ = ["compare_on_xrdct"]

CHANNEL_RATIOS = (0.0, 0.25, 0.5, 1.0)
"""Of the Gaussian along the channels, in channels for each pixel along y and x."""


def compare_on_xrdct(plan: Plan, *, tiny: bool) -> list[Row]:
    """Denoise the low exposure by each method. Slices are scanned one by one, so that none is context of another."""
    size = XrdctSize(2, 48, 48, 16) if tiny else XrdctSize()
    scan = xrdct_scan(size)
    truth = Truth(scan.truth)
    case = (
        f"xrdct: {size.num_channels} channels, {size.num_angles} angles of {size.num_rows} x {size.num_columns} pixels"
    )
    print(f"\n{case} ...", flush=True)
    part = f"{100 * size.share:g} % exposure"
    rows = []
    plain = {"gridrec, full exposure": Answer(scan.full_dose, 0.0)}
    for name, answer in (plain | _classical(scan, truth, part)).items():
        rows += truth.rows(case, name, answer)
    # Few slices: none of them can be spared, so the last pair is held out.
    pairs = Pairs(scan.sections, scan.shares, PairSettings(context_slices=0))
    trained = train_for(pairs, plan)
    modes: dict[str, Mode] = {part: "full", f"{part}, average of the pairs": "average"}
    for name, mode in modes.items():
        answer = denoise(trained, pairs, np.arange(len(scan.truth)), mode=mode)
        rows += truth.rows(case, f"quietbeam ({name})", answer, **trained.columns)
    return rows


def _classical(scan: XrdctScan, truth: Truth, part: str) -> dict[str, Answer]:
    gaussian, channels = best_stretched_gaussian(scan.low_dose, truth, axes=(0, 0, 1, 1), axis=1, ratios=CHANNEL_RATIOS)
    components = timed(lambda: _components(scan.low_dose, truth))
    ranks = list(range(1, min(13, scan.truth.shape[1])))
    reduced = climb(ranks, lambda rank: _project(scan.low_dose, components.slices[:, : int(rank)]), truth.psnr)
    both = best_gaussian(reduced.slices, truth, axes=(0, 0, 1, 1))
    return {
        f"gridrec, {part}": Answer(scan.low_dose, 0.0),
        f"best Gaussian, {part}, sigma {gaussian.strength:.3g} pixels, {channels:.3g} channels": gaussian,
        f"best PCA, {part}, {reduced.strength:g} components": reduced,
        f"best PCA, then Gaussian, {part}, sigma {both.strength:.3g}": both,
    }


def _components(volume: Array, truth: Truth) -> Array:
    """Principal components of the diffractograms inside the circle: shape (channel, component), largest first."""
    spectra = np.moveaxis(volume[..., truth.inside], 1, 0).reshape(volume.shape[1], -1)
    return np.asarray(np.linalg.svd(spectra @ spectra.T)[0])


def _project(volume: Array, components: Array) -> Array:
    return np.asarray(np.einsum("cr,dr,sdyx->scyx", components, components, volume, optimize=True))
