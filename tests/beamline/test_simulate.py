from __future__ import annotations

import numpy as np
import pytest

from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan, truth_path, write_dxchange
from quietbeam.reconstruction.counts import NoiseSettings

SMALL = SimulateSettings(num_rows=6, num_columns=48, num_angles=24)


def test_scan_can_be_opened_with_its_truth_beside_it(tmp_path):
    path = simulate_scan(tmp_path / "new" / "scan.h5", SMALL)
    scan, truth = open_scan(path), np.load(truth_path(path))
    assert (scan.num_projections, scan.num_rows, scan.num_columns) == (24, 6, 48)
    assert (scan.layout, scan.name, scan.pixel_size) == ("DXchange", "simulated foam", 1e-6)
    assert (scan.num_flats, scan.num_darks, scan.dtype) == (20, 10, np.uint16)
    assert scan.caveats == ()
    np.testing.assert_allclose(scan.theta, np.pi * np.arange(24) / 24)
    assert truth.shape == (6, 48, 48)
    assert truth.dtype == np.float32
    assert sorted(file.name for file in path.parent.iterdir()) == ["scan.h5", "scan_truth.npy"]


def test_counts_and_truth_have_the_same_mass(tmp_path):
    exact = NoiseSettings(num_photons=20_000, num_flats=50, num_darks=50)
    path = simulate_scan(tmp_path / "scan.h5", SMALL.model_copy(update={"noise": exact}))
    scan, truth = open_scan(path), np.load(truth_path(path))
    dark, flat = scan.darks(slice(None)).mean(0), scan.flats(slice(None)).mean(0)
    line_integrals = -np.log((scan.projections(slice(None)) - dark) / (flat - dark))
    # Attenuation in 1/m times a pixel in m, summed over a slice, is the sum of one projection's row.
    np.testing.assert_allclose(line_integrals.sum(2).mean(0), truth.sum((1, 2)) * 1e-6, rtol=0.01)


def test_axis_is_off_centre_where_the_settings_say(tmp_path):
    settings = SMALL.model_copy(
        update={"voids_per_radius": 0.0, "noise": NoiseSettings(num_photons=20_000, num_flats=50), "axis_offset": -4.25}
    )
    scan = open_scan(simulate_scan(tmp_path / "scan.h5", settings))
    dark, flat = scan.darks(slice(None)).mean(0), scan.flats(slice(None)).mean(0)
    chords = -np.log((scan.projections(slice(None)) - dark) / (flat - dark)).mean((0, 1))
    assert (chords * np.arange(48)).sum() / chords.sum() == pytest.approx(settings.rotation_axis, abs=0.1)


def test_same_seed_same_bytes(tmp_path):
    first, again = (simulate_scan(tmp_path / name / "scan.h5", SMALL) for name in "ab")
    other = simulate_scan(tmp_path / "c" / "scan.h5", SMALL.model_copy(update={"seed": 1}))
    np.testing.assert_array_equal(np.load(truth_path(first)), np.load(truth_path(again)))
    assert first.read_bytes() == again.read_bytes()
    assert not np.array_equal(np.load(truth_path(first)), np.load(truth_path(other)))


@pytest.mark.parametrize(("num_rows", "num_columns"), [(1, 33), (8, 64), (1024, 16)])
def test_thin_and_tall_scans(tmp_path, num_rows, num_columns):
    settings = SimulateSettings(num_rows=num_rows, num_columns=num_columns, num_angles=8, axis_offset=0.5)
    path = simulate_scan(tmp_path / "scan.h5", settings)
    truth = np.load(truth_path(path))
    assert open_scan(path).num_rows == num_rows
    # The first and last slice are cut through the foam like all others.
    assert (truth.sum((1, 2)) > 0.2 * truth.sum((1, 2)).max()).all()
    assert (truth == 0).sum() > (1 - np.pi / 4) * truth.size


def test_axis_outside_of_the_detector_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="axis_offset=40"):
        simulate_scan(tmp_path / "scan.h5", SMALL.model_copy(update={"axis_offset": 40.0}))
    assert list(tmp_path.iterdir()) == []


def test_shapes_are_checked(tmp_path):
    frames = np.ones((3, 4, 5), np.uint16)
    with pytest.raises(ValueError, match="one angle each"):
        write_dxchange(tmp_path / "scan.h5", frames, frames, frames, np.zeros(2))
    with pytest.raises(ValueError, match="same rows"):
        write_dxchange(tmp_path / "scan.h5", frames, frames[:, 1:], frames, np.zeros(3))


def test_failed_write_leaves_the_old_file(tmp_path):
    path = simulate_scan(tmp_path / "scan.h5", SMALL)
    before = path.read_bytes()
    strings = np.full((3, 4, 5), "a")
    with pytest.raises(TypeError):
        write_dxchange(path, strings, strings, strings, np.arange(3.0))
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["scan.h5", "scan_truth.npy"]


def test_rewriting_replaces(tmp_path):
    path = simulate_scan(tmp_path / "scan.h5", SMALL)
    frames = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    write_dxchange(path, frames, frames + 100, frames, np.array([0.0, 1.0, 2.0]), name="second")
    scan = open_scan(path)
    assert (scan.name, scan.pixel_size) == ("second", None)
    np.testing.assert_array_equal(scan.projections(slice(None)), frames)


@pytest.mark.parametrize("name", ["scan.h5", "scan_truth.npy"])
def test_nothing_is_replaced_unasked(tmp_path, name):
    (tmp_path / name).write_bytes(b"raw data")
    with pytest.raises(FileExistsError, match=rf"{name} is there already: choose another name, or remove it"):
        simulate_scan(tmp_path / "scan.h5", SMALL)
    assert (tmp_path / name).read_bytes() == b"raw data"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_overwriting_when_asked(tmp_path):
    path = simulate_scan(tmp_path / "scan.h5", SMALL)
    first = path.read_bytes(), truth_path(path).read_bytes()
    simulate_scan(path, SMALL.model_copy(update={"seed": 1}), overwrite=True)
    assert path.read_bytes() != first[0]
    assert truth_path(path).read_bytes() != first[1]
