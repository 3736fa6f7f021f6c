from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from quietbeam.beamline.bad_projections import find_bad_projections
from quietbeam.beamline.geometry import SliceGeometry, choose_geometry
from quietbeam.beamline.scan import Scan, open_scan
from quietbeam.beamline.simulate import truth_path
from quietbeam.beamline.sinograms import SinogramSettings, clean_sinograms
from quietbeam.reconstruction.errors import ReductionError
from quietbeam.reconstruction.quality import psnr
from quietbeam.reconstruction.reconstructors import circle
from quietbeam.reconstruction.stripes import StripeSettings

from .jobs import small_scan, small_settings

ROUNDING = 1e-6
"""float32 sums of slices that are worked on beside others, over the largest value."""
AMPLITUDE = 0.03
"""Slope from the truth to slices whose smallest voids are as small as their pixels."""

HALF = {"half_acquisition": True, "angle_range": 360, "axis_offset": -16, "num_angles": 180}


@pytest.fixture(scope="module")
def half_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_scan(tmp_path_factory.mktemp("half") / "scan.h5", noise={"num_photons": 4e4, "ring_spread": 0}, **HALF)


def slices_of(scan: Scan, geometry: SliceGeometry, size: int) -> NDArray[np.float32]:
    options = small_settings().reconstruction
    parts = []
    for start in range(0, scan.num_rows, size):
        rows = slice(start, min(start + size, scan.num_rows))
        sinograms, _ = clean_sinograms(scan, rows, SinogramSettings(stripes=StripeSettings(method="none")))
        parts.append(geometry.reconstruct(sinograms, options, pixel_size=scan.pixel_size, num_threads=1))
    return np.concatenate(parts)


@pytest.mark.parametrize("size", [1, 5])
def test_slices_do_not_depend_on_the_chunk(size: int, tmp_path: Path) -> None:
    scan = open_scan(small_scan(tmp_path / "scan.h5"))
    geometry = choose_geometry(scan, 26.8, small_settings())
    whole = slices_of(scan, geometry, scan.num_rows)
    np.testing.assert_allclose(
        slices_of(scan, geometry, size), whole, rtol=0, atol=ROUNDING * float(np.abs(whole).max())
    )


def test_an_ordinary_scan_has_slices_as_wide_as_the_detector(tmp_path: Path) -> None:
    scan = open_scan(small_scan(tmp_path / "scan.h5"))
    geometry = choose_geometry(scan, 26.8, small_settings())
    assert geometry.slice_size == scan.num_columns
    assert [decision.name for decision in geometry.decisions] == ["split"]
    assert geometry.caveats == ()


def test_half_acquisition_sees_the_whole_sample(half_scan: Path) -> None:
    scan = open_scan(half_scan)
    axis = (scan.num_columns - 1) / 2 - 16
    geometry = choose_geometry(scan, axis, small_settings(sections__num_sections=2))
    truth = np.load(truth_path(half_scan))
    assert geometry.slice_size == truth.shape[-1] == scan.num_columns + 32
    assert [decision.name for decision in geometry.decisions] == ["split", "field of view"]
    inside = circle(geometry.slice_size) > 0
    full = np.einsum("k,skyx->syx", geometry.shares, slices_of(scan, geometry, 16))
    right, found = truth[:, inside].astype(np.float64).ravel(), full[:, inside].ravel()
    assert psnr(right, found) > 20
    assert np.polyfit(right, found, 1)[0] == pytest.approx(1, abs=AMPLITUDE)


def test_half_acquisition_can_be_refused_and_asked_for(half_scan: Path) -> None:
    scan = open_scan(half_scan)
    narrow = choose_geometry(scan, 8, small_settings(reconstruction__half_acquisition=False))
    assert narrow.slice_size == scan.num_columns
    asked = choose_geometry(scan, 20, small_settings(reconstruction__half_acquisition=True))
    assert asked.slice_size > scan.num_columns


def test_sections_of_a_half_acquisition_go_all_around(half_scan: Path) -> None:
    scan = open_scan(half_scan)
    geometry = choose_geometry(scan, 8, small_settings())
    for section in geometry.sections:
        gaps = np.diff(np.sort(scan.theta[section]))
        assert gaps.max() < 2 * gaps.min()


def test_too_few_projections_are_refused(tmp_path: Path) -> None:
    scan = open_scan(small_scan(tmp_path / "scan.h5", num_angles=12))
    with pytest.raises(ReductionError, match=r"scan\.h5: 4 sections need at least 16 projections, got 12"):
        choose_geometry(scan, 26.8, small_settings())


def test_a_gap_left_by_bad_projections_is_told(tmp_path: Path) -> None:
    path = small_scan(tmp_path / "scan.h5", num_angles=100)
    with h5py.File(path, "r+") as file:
        file["exchange/data"][40:50] = file["exchange/data_dark"][0]
    scan = open_scan(path)
    bad, caveats = find_bad_projections(scan)
    assert np.flatnonzero(bad).tolist() == list(range(40, 50))
    geometry = choose_geometry(scan.without(bad, caveats), 26.8, small_settings())
    assert [caveat.code for caveat in geometry.caveats] == ["missing-angles"]
