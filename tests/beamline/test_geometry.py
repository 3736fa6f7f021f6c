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
from quietbeam.reconstruction.rotation_axis import find_rotation_axis
from quietbeam.reconstruction.stripes import StripeSettings

from .jobs import small_scan, small_settings

ROUNDING = 1e-6
"""float32 sums of slices that are worked on beside others, over the largest value."""
AMPLITUDE = 0.03
"""Slope from the truth to slices whose smallest voids are as small as their pixels."""

SOLID = 0.005
"""Of the attenuation of a disc, inside and in the rim that only one side of the detector sees."""

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
    geometry = choose_geometry(scan, 26.8, small_settings(), sees_beyond=False)
    whole = slices_of(scan, geometry, scan.num_rows)
    np.testing.assert_allclose(
        slices_of(scan, geometry, size), whole, rtol=0, atol=ROUNDING * float(np.abs(whole).max())
    )


def test_an_ordinary_scan_has_slices_as_wide_as_the_detector(tmp_path: Path) -> None:
    scan = open_scan(small_scan(tmp_path / "scan.h5"))
    geometry = choose_geometry(scan, 26.8, small_settings(), sees_beyond=False)
    assert geometry.slice_size == scan.num_columns
    assert [decision.name for decision in geometry.decisions] == ["split"]
    assert geometry.caveats == ()


def test_half_acquisition_sees_the_whole_sample(half_scan: Path) -> None:
    scan = open_scan(half_scan)
    axis = (scan.num_columns - 1) / 2 - 16
    geometry = choose_geometry(scan, axis, small_settings(sections__num_sections=2), sees_beyond=False)
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
    narrow = choose_geometry(scan, 8, small_settings(reconstruction__half_acquisition=False), sees_beyond=False)
    assert narrow.slice_size == scan.num_columns
    assert "offset-axis" in [caveat.code for caveat in narrow.caveats]
    assert "values beyond 8 pixels from it are wrong" in narrow.caveats[-1].message
    asked = choose_geometry(scan, 20, small_settings(reconstruction__half_acquisition=True), sees_beyond=False)
    assert asked.slice_size > scan.num_columns


def disc(theta: NDArray[np.float64], axis: float, radius: float, *, num_sub: int = 8) -> NDArray[np.float32]:
    """Two rows of the chords of a disc of 0.01 per pixel, their mean over each of 256 columns."""
    s = (np.arange(256 * num_sub) + 0.5) / num_sub - 0.5 - axis
    chords = 0.02 * np.sqrt(np.clip(radius**2 - s**2, 0, None)).reshape(256, num_sub).mean(axis=1)
    return np.tile(chords, (2, theta.size, 1)).astype(np.float32)


@pytest.fixture(scope="module", params=[180, 360])
def wide_scan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scan:
    path = tmp_path_factory.mktemp("wide") / "scan.h5"
    turn = request.param
    return open_scan(small_scan(path, num_rows=2, num_columns=256, num_angles=2 * turn, angle_range=turn))


@pytest.mark.parametrize("share", [0.4, 0.45, 0.55])
def test_what_only_the_far_side_sees_is_right_or_told(wide_scan: Scan, share: float) -> None:
    axis, radius = share * 255, 123
    sinograms, settings = disc(wide_scan.theta, axis, radius), small_settings(rotation_axis__column=axis)
    found = find_rotation_axis(sinograms, wide_scan.theta, settings.rotation_axis)
    geometry = choose_geometry(wide_scan, found.column, settings, sees_beyond=found.sees_beyond)
    parts = geometry.reconstruct(sinograms, settings.reconstruction, pixel_size=None, num_threads=1)
    image = np.einsum("k,kyx->yx", geometry.shares, parts[0])
    x = np.arange(len(image)) - (len(image) - 1) / 2
    r, reach = np.hypot(x, x[:, None]), min(axis, 255 - axis)
    inside, rim = image[r < reach - 2].mean(), image[(r > reach + 1) & (r < radius - 2)].mean()
    if np.ptp(wide_scan.theta) > 4:
        assert [inside, rim] == pytest.approx([0.01, 0.01], rel=SOLID)
    else:
        assert rim < 0.006
        assert "offset-axis" in [caveat.code for caveat in found.caveats]


def test_a_small_sample_beside_the_middle_is_an_ordinary_scan(wide_scan: Scan) -> None:
    settings = small_settings(rotation_axis__column=102)
    found = find_rotation_axis(disc(wide_scan.theta, 102, 60), wide_scan.theta, settings.rotation_axis)
    geometry = choose_geometry(wide_scan, found.column, settings, sees_beyond=found.sees_beyond)
    assert geometry.slice_size == 256
    assert "offset-axis" not in [caveat.code for caveat in found.caveats]


def test_sections_of_a_half_acquisition_go_all_around(half_scan: Path) -> None:
    scan = open_scan(half_scan)
    geometry = choose_geometry(scan, 8, small_settings(), sees_beyond=False)
    for section in geometry.sections:
        gaps = np.diff(np.sort(scan.theta[section]))
        assert gaps.max() < 2 * gaps.min()


def test_too_few_projections_are_refused(tmp_path: Path) -> None:
    scan = open_scan(small_scan(tmp_path / "scan.h5", num_angles=12))
    with pytest.raises(ReductionError, match=r"scan\.h5: 4 sections need at least 16 projections, got 12"):
        choose_geometry(scan, 26.8, small_settings(), sees_beyond=False)


def test_a_gap_left_by_bad_projections_is_told(tmp_path: Path) -> None:
    path = small_scan(tmp_path / "scan.h5", num_angles=100)
    with h5py.File(path, "r+") as file:
        file["exchange/data"][40:50] = file["exchange/data_dark"][0]
    scan = open_scan(path)
    bad, caveats = find_bad_projections(scan)
    assert np.flatnonzero(bad).tolist() == list(range(40, 50))
    geometry = choose_geometry(scan.without(bad, caveats), 26.8, small_settings(), sees_beyond=False)
    assert [caveat.code for caveat in geometry.caveats] == ["missing-angles"]
