from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.sinograms import SinogramSettings, clean_sinograms
from quietbeam.reconstruction.reconstructors import ReconstructionSettings, circle, reconstruct

SCANS = Path(os.environ.get("QUIETBEAM_TEST_DATA", "/nowhere")) / "scans"
SLOPE = 5e-3
"""Difference of the amplitudes of two methods on the same data."""
SMOOTHING = 2.0
"""Pixels: the two backprojections differ in the finest detail, which here is noise."""

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not SCANS.exists(), reason="QUIETBEAM_TEST_DATA does not name the folder of real scans"),
]


def test_gridrec_and_astra_agree_on_the_tooth() -> None:
    scan = open_scan(SCANS / "tooth.h5")
    sinograms, _ = clean_sinograms(scan, slice(0, 1), SinogramSettings())
    inside = circle(scan.num_columns) > 0
    ours, theirs = (
        reconstruct(sinograms, scan.theta, 295.6, ReconstructionSettings(method=method))[0]
        for method in ("gridrec", "fbp")
    )
    smooth = [ndimage.gaussian_filter(image.astype(np.float64), SMOOTHING)[inside] for image in (theirs, ours)]
    assert np.polyfit(*smooth, 1)[0] == pytest.approx(1, abs=SLOPE)
    assert np.corrcoef(theirs[inside], ours[inside])[0, 1] > 0.99
