from __future__ import annotations

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from quietbeam.beamline.console import app
from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan, truth_path
from quietbeam.reconstruction.angles import angular_weights
from quietbeam.reconstruction.counts import NoiseSettings
from quietbeam.reconstruction.gridrec import GridrecPlan
from quietbeam.reconstruction.half_acquisition import extend
from quietbeam.reconstruction.quality import psnr

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


def test_nxtomo_holds_the_same_scan(tmp_path):
    settings = SMALL.model_copy(update={"noise": NoiseSettings(num_flats_after=2, beam_drift=-0.5)})
    first = open_scan(simulate_scan(tmp_path / "dx" / "scan.h5", settings))
    path = simulate_scan(tmp_path / "nx" / "scan.h5", settings.model_copy(update={"layout": "NXtomo"}))
    second = open_scan(path)
    assert (second.layout, second.name, second.pixel_size) == ("NXtomo", "simulated foam", 1e-6)
    for frames in ("projections", "flats", "darks"):
        np.testing.assert_array_equal(getattr(first, frames)(slice(None)), getattr(second, frames)(slice(None)))
    np.testing.assert_allclose(first.theta, second.theta, atol=1e-12)
    np.testing.assert_array_equal(np.load(truth_path(path)), np.load(tmp_path / "dx" / "scan_truth.npy"))
    before, after = np.split(second.flats(slice(None)).mean((1, 2)) - 100, [20])
    np.testing.assert_allclose(after / before.mean(), 0.5, rtol=0.02)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["entry/data/image_key"], np.repeat([2, 1, 0, 1], [10, 20, 24, 2]))


class TestHalfAcquisition:
    settings = SimulateSettings(
        num_rows=1,
        num_columns=64,
        num_angles=300,
        angle_range=360,
        axis_offset=22.3,
        half_acquisition=True,
        min_void=0.1,
        voids_per_radius=40,
        noise=NoiseSettings(num_photons=20_000, num_flats=100),
    )

    def test_sample_reaches_the_far_edge_and_the_slice_holds_it(self):
        assert 0.9 * 54.3 < self.settings.radius < 54.3
        assert self.settings.slice_size == 64 + 44
        assert SMALL.model_copy(update={"axis_offset": 10.0}).radius < 14
        assert SMALL.slice_size == 48

    @pytest.mark.parametrize("axis_offset", [22.3, -22.3])
    def test_weighted_projections_reconstruct_to_the_truth(self, tmp_path, axis_offset):
        settings = self.settings.model_copy(update={"axis_offset": axis_offset})
        path = simulate_scan(tmp_path / "scan.h5", settings)
        scan, truth = open_scan(path), np.load(truth_path(path))
        dark, flat = scan.darks(slice(None)).mean(0), scan.flats(slice(None)).mean(0)
        line_integrals = -np.log((scan.projections(slice(None)) - dark) / (flat - dark)).astype(np.float32)
        wide, axis = extend(np.ascontiguousarray(line_integrals.swapaxes(0, 1)), settings.rotation_axis)
        plan = GridrecPlan(scan.theta, wide.shape[-1], axis, weights=angular_weights(scan.theta, turn=2 * np.pi))
        slices = plan.reconstruct(wide) / settings.pixel_size
        assert slices.shape == truth.shape
        # Noise and edges; a slice that is mirrored, or twice or half as bright, has less than 9 dB.
        assert psnr(truth, slices) > 20

    def test_half_a_turn_is_an_error(self, tmp_path):
        with pytest.raises(ValueError, match=r"half_acquisition needs angle_range of 360 degrees or more, got 180"):
            simulate_scan(tmp_path / "scan.h5", self.settings.model_copy(update={"angle_range": 180.0}))


def test_number_of_threads_changes_nothing(tmp_path):
    first, second = (simulate_scan(tmp_path / str(n) / "scan.h5", SMALL, num_threads=n) for n in (1, 3))
    assert first.read_bytes() == second.read_bytes()
    assert truth_path(first).read_bytes() == truth_path(second).read_bytes()


def test_table_of_noise_changes_only_what_it_names():
    settings = SimulateSettings.model_validate({"noise": {"num_flats_after": 4}})
    assert settings.noise == SimulateSettings().noise.model_copy(update={"num_flats_after": 4})


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(app, ["simulate", *map(str, arguments)])

    def test_options_reach_the_file(self, tmp_path):
        size = ("--rows", 4, "--columns", 64, "--angles", 30, "--axis-offset", 20, "--photons", 500)
        more = ("--layout", "NXtomo", "--half-acquisition", "--flats-after", 3, "--drift", -0.2, "--seed", 5)
        done = self.run(tmp_path / "scan.nx", *size, *more)
        assert done.exit_code == 0, done.output
        noise = SimulateSettings().noise.model_copy(
            update={"num_photons": 500, "num_flats_after": 3, "beam_drift": -0.2}
        )
        settings = SimulateSettings(
            num_rows=4,
            num_columns=64,
            num_angles=30,
            angle_range=360,
            axis_offset=20,
            half_acquisition=True,
            layout="NXtomo",
            seed=5,
            noise=noise,
        )
        expected = simulate_scan(tmp_path / "expected.nx", settings)
        assert (tmp_path / "scan.nx").read_bytes() == expected.read_bytes()

    def test_plain_command_writes_the_default_scan(self, tmp_path):
        assert self.run(tmp_path / "scan.h5", "--rows", 4).exit_code == 0
        expected = simulate_scan(tmp_path / "expected.h5", SimulateSettings(num_rows=4))
        assert (tmp_path / "scan.h5").read_bytes() == expected.read_bytes()

    def test_wrong_options_are_named(self, tmp_path):
        done = self.run(tmp_path / "scan.h5", "--layout", "TIFF")
        assert done.exit_code == 2
        assert "layout: Input should be 'DXchange' or 'NXtomo'" in done.output
        assert list(tmp_path.iterdir()) == []
