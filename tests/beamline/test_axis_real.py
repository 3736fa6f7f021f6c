"""The rotation axes of real scans out of public repositories; skipped without QUIETBEAM_TEST_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quietbeam.beamline.axis_search import find_axis, search_axis
from quietbeam.beamline.axis_sheet import write_axis_sheet
from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.settings import read_settings

SCANS = Path(os.environ.get("QUIETBEAM_TEST_DATA", "absent")) / "scans"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not SCANS.is_dir(), reason="QUIETBEAM_TEST_DATA names no folder of scans"),
]

AXIS_TOLERANCE = 0.5
"""Pixels."""

I13 = {
    "scan.flats": SCANS / "i13_24737/flat_00001.tiff",
    "scan.darks": SCANS / "i13_24737/dark_00001.tiff",
    "scan.angles": str(SCANS / "i13_24737/angles.txt"),
    "scan.angle_lines": "10:101",
}

# That of rock3d is where its two half turns give the same slices, see test_reduce_real.py.
AXES = {
    "tooth.h5": ({}, 296.0),
    "i13_24737": (I13, 86.0),
    "txm_tomo77": ({"scan.normalised": "attenuation", "scan.angles": "0:180"}, 39.0),
    "rock3d.nxs": ({"scan.normalised": "attenuation"}, 199.8),
}


@pytest.mark.parametrize("name", AXES)
def test_the_axis_is_found(name):
    options, axis = AXES[name]
    settings = read_settings(options=options)
    found = find_axis(open_scan(SCANS / name, settings.scan), settings)
    assert found.column == pytest.approx(axis, abs=AXIS_TOLERANCE)
    assert len(found.support) >= 2
    assert not found.caveats


@pytest.mark.parametrize("name", ["tooth.h5", "i13_24737"])
def test_the_sharpest_slice_is_about_the_axis(name, tmp_path):
    options, axis = AXES[name]
    search = search_axis(SCANS / name, read_settings(options=options))
    assert search.sweep.best == pytest.approx(axis, abs=AXIS_TOLERANCE)
    write_axis_sheet(tmp_path / "sheet.png", search)
    assert (tmp_path / "sheet.png").stat().st_size > 100_000


def test_a_strip_of_the_beam_without_an_axis_is_doubted():
    settings = read_settings()
    found = find_axis(open_scan(SCANS / "k11_diad/k11-18014.nxs"), settings)
    assert [caveat.code for caveat in found.caveats] == ["weak-rotation-axis"]
    assert found.column == 12.5
