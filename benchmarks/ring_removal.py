"""Ring removal with windows scaled to the detector against the windows of algotom, and against none.

The scan is a simulated foam (quietbeam.beamline.simulate with fewer rows), of a detector whose gain has changed from
column to column since the flats by 0, 1 or 5 %, which makes stripes: what ring removal does to a scan that needs none
matters as much. PSNR of the gridrec slices against the truth inside the circle; "smoothed" is after a Gaussian of 2
pixels on both slices and truth, which takes off the noise and leaves rings and shading.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from algotom.prep.removal import remove_all_stripe
from numpy.typing import NDArray
from rows import Row, arguments, cpu_seconds, report
from scipy.ndimage import gaussian_filter

from quietbeam.beamline.scan import Scan, open_scan
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan, truth_path
from quietbeam.beamline.sinograms import SinogramSettings, clean_sinograms
from quietbeam.reconstruction.counts import NoiseSettings
from quietbeam.reconstruction.quality import psnr
from quietbeam.reconstruction.reconstructors import circle, reconstruct
from quietbeam.reconstruction.stripes import StripeSettings, remove_stripes

Array = NDArray[np.float32]

SIGMA = 2
SPREADS = (0.0, 0.01, 0.05)


def main() -> None:
    """Measure each method on scans of some widths with and without stripes."""
    options = arguments(__doc__)
    sizes = ((2, 96, 96),) if options.tiny else ((16, 160, 256), (8, 512, 512))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for num_rows, num_columns, num_angles in sizes:
            for spread in SPREADS:
                noise = NoiseSettings(num_photons=2000, ring_spread=spread, dead_fraction=1e-4)
                settings = SimulateSettings(
                    num_rows=num_rows, num_columns=num_columns, num_angles=num_angles, noise=noise
                )
                path = simulate_scan(Path(folder) / "scan.h5", settings, overwrite=True)
                case = f"{num_columns} columns, {num_angles} angles, stripes of {spread:.0%}"
                rows += _compare(case, open_scan(path), settings.rotation_axis, np.load(truth_path(path)))
    report(rows, options.json)


def _compare(case: str, scan: Scan, axis: float, truth: Array) -> list[Row]:
    untouched = SinogramSettings(stripes=StripeSettings(method="none"))
    raw, _ = clean_sinograms(scan, slice(0, scan.num_rows), untouched)
    methods = {
        "quietbeam": lambda: remove_stripes(raw)[0],
        "algotom remove_all_stripe (51, 21)": lambda: np.stack([remove_all_stripe(row.copy()) for row in raw]),
        "no ring removal": lambda: raw,
    }
    rows = []
    for name, method in methods.items():
        sinograms = np.asarray(method(), np.float32)
        slices = reconstruct(sinograms, scan.theta, axis, pixel_size=scan.pixel_size)
        rows += _measure(case, name, slices, truth)
        if name != "no ring removal":
            seconds = cpu_seconds(method, repeats=1) / scan.num_rows
            rows.append(Row(case, name, "CPU time of a row", 1e3 * seconds, "ms"))
    return rows


def _measure(case: str, name: str, slices: Array, truth: Array) -> list[Row]:
    inside = circle(truth.shape[-1]) > 0
    smooth, smooth_truth = (gaussian_filter(volume, (0, SIGMA, SIGMA)) for volume in (slices, truth))
    span = float(truth.max() - truth.min())
    return [
        Row(case, name, "PSNR", psnr(truth[:, inside], slices[:, inside], data_range=span), "dB"),
        Row(case, name, "PSNR smoothed", psnr(smooth_truth[:, inside], smooth[:, inside], data_range=span), "dB"),
    ]


if __name__ == "__main__":
    main()
