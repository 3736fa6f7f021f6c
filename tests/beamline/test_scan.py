from __future__ import annotations

import copy
import hashlib
import pickle  # noqa: TID251 - a scan must survive the way to a worker process
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from pydantic import ValidationError

from quietbeam.beamline.scan import ScanSettings, open_scan, scan_identity
from quietbeam.beamline.simulate import write_dxchange
from quietbeam.reconstruction.caveats import Caveat
from quietbeam.reconstruction.errors import ScanError

NUM, ROWS, COLUMNS = 12, 5, 7
THETA = np.linspace(0, np.pi, NUM, endpoint=False)
ALL = slice(None)


def frames(num, low, high, seed=0):
    return np.random.default_rng(seed).integers(low, high, (num, ROWS, COLUMNS)).astype(np.uint16)


PROJECTIONS, FLATS, DARKS = frames(NUM, 200, 900), frames(3, 900, 1000, 1), frames(2, 90, 110, 2)


def codes(scan):
    return {caveat.code for caveat in scan.caveats}


def decision(scan, name):
    return next(found for found in scan.decisions if found.name == name)


@pytest.fixture
def dxchange(tmp_path):
    return write_dxchange(tmp_path / "scan.h5", PROJECTIONS, FLATS, DARKS, THETA, pixel_size=2e-6, name="stone")


def edit(path, **parts):
    """Replace datasets of exchange/; None removes one."""
    with h5py.File(path, "r+") as file:
        for key, values in parts.items():
            del file[f"exchange/{key}"]
            if values is not None:
                file[f"exchange/{key}"] = values
    return path


def write_nxtomo(path, *, entry="entry", keys=None, angles=None, data=None, units="deg", definition="NXtomo"):
    """Write darks, flats, projections, one invalid frame and flats again, as an instrument takes them."""
    stored = np.concatenate([DARKS, FLATS[:1], PROJECTIONS, FLATS[:1] * 0, FLATS[1:]])
    keys = np.array([2, 2, 1, *[0] * NUM, 3, 1, 1]) if keys is None else keys
    angles = np.concatenate([[0, 0, 0], np.rad2deg(THETA), [180, 180, 180]]) if angles is None else angles
    with h5py.File(path, "a") as file:
        detector = file.create_group(f"{entry}/instrument/detector")
        if data is None:
            detector["data"] = stored
        else:
            detector["data"] = data
        detector["image_key"] = keys
        file[f"{entry}/sample/rotation_angle"] = angles
        if units:
            file[f"{entry}/sample/rotation_angle"].attrs["units"] = units
        file[f"{entry}/sample/name"] = "bone"
        for name, value, unit in (("x_pixel_size", 3.0, "um"), ("distance", 50.0, "mm")):
            detector[name] = value
            detector[name].attrs["units"] = unit
        file[f"{entry}/instrument/beam/incident_energy"] = 25_000.0
        file[f"{entry}/instrument/beam/incident_energy"].attrs["units"] = "eV"
        if definition:
            file[f"{entry}/definition"] = definition
    return path


def write_cil(path, *, order=("vertical", "angle", "horizontal"), channels=0, **attributes):
    full = ("channel",) * bool(channels) + ("angle", "vertical", "horizontal")
    stack = np.stack([PROJECTIONS + 1000 * c for c in range(channels)]) if channels else PROJECTIONS
    with h5py.File(path, "w") as file:
        group = file.create_group("entry1/tomo_entry/data")
        group["data"] = stack.transpose([full.index(label) for label in order]).astype(np.float32)
        for k, label in enumerate(order):
            group["data"].attrs[f"dim{k}"] = label
        group["data"].attrs.update(attributes)
        group["rotation_angle"] = np.linspace(-1, -1 + 2 * np.pi, NUM, endpoint=False)
    return path


def write_tiffs(folder, stack, name="raw_{}.tif", **options):
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(stack):
        tifffile.imwrite(folder / name.format(k), image, **options)
    return folder


@pytest.fixture
def tiffs(tmp_path):
    """A folder of projections, and the settings that say the rest."""
    folder = write_tiffs(tmp_path / "tiffs", PROJECTIONS)
    tifffile.imwrite(tmp_path / "flats.tif", FLATS, photometric="minisblack")
    write_tiffs(tmp_path / "darks", DARKS, compression="zlib")
    settings = ScanSettings(flats=tmp_path / "flats.tif", darks=tmp_path / "darks", angles="0:180")
    return folder, settings


def check_pixels(scan, projections=PROJECTIONS, flats=FLATS, darks=DARKS):
    for rows in (ALL, slice(1, 3), slice(ROWS - 1, ROWS), slice(2, 2)):
        for read, expected in ((scan.projections, projections), (scan.flats, flats), (scan.darks, darks)):
            pixels = read(rows)
            assert pixels.dtype == np.float32
            np.testing.assert_array_equal(pixels, expected[:, rows])
    for part in (slice(3, 8), slice(None, None, 3), slice(None, None, -1), slice(0, 0)):
        np.testing.assert_array_equal(scan.projections(slice(1, 4), part), projections[part, 1:4])


class TestDxchange:
    def test_reads_everything(self, dxchange):
        scan = open_scan(dxchange)
        assert (scan.layout, scan.name, scan.pixel_size) == ("DXchange", "stone", 2e-6)
        assert (scan.num_projections, scan.num_rows, scan.num_columns) == (NUM, ROWS, COLUMNS)
        assert (scan.num_flats, scan.num_darks, scan.dtype) == (3, 2, np.uint16)
        assert (scan.energy, scan.distance, scan.normalised) == (None, None, None)
        assert scan.sources == (dxchange,)
        assert scan.caveats == ()
        np.testing.assert_allclose(scan.theta, THETA)
        check_pixels(scan)

    def test_path_may_be_text(self, dxchange):
        assert open_scan(str(dxchange)).path == dxchange

    @pytest.mark.parametrize(
        "options", [{"chunks": (5, 2, 3), "compression": "gzip"}, {"chunks": (1, ROWS, COLUMNS), "shuffle": True}]
    )
    def test_chunked_and_compressed(self, dxchange, options):
        with h5py.File(dxchange, "r+") as file:
            del file["exchange/data"]
            file["exchange"].create_dataset("data", data=PROJECTIONS, **options)
        check_pixels(open_scan(dxchange))

    def test_filters_of_hdf5plugin(self, dxchange):
        import hdf5plugin

        with h5py.File(dxchange, "r+") as file:
            del file["exchange/data"]
            file["exchange"].create_dataset("data", data=PROJECTIONS, **hdf5plugin.Bitshuffle())
        check_pixels(open_scan(dxchange))

    def test_blocks_do_not_change_the_result(self, dxchange, monkeypatch):
        # Two frames of two rows at a time.
        monkeypatch.setattr("quietbeam.beamline.hdf5_frames._BLOCK_BYTES", 2 * 2 * COLUMNS * 2)
        check_pixels(open_scan(dxchange))

    def test_out_of_order_angles_are_sorted_with_their_frames(self, dxchange):
        order = np.random.default_rng(5).permutation(NUM)
        edit(dxchange, theta=np.rad2deg(THETA)[order], data=PROJECTIONS[order])
        scan = open_scan(dxchange)
        np.testing.assert_allclose(scan.theta, THETA)
        np.testing.assert_array_equal(order[scan.order], np.arange(NUM))
        check_pixels(scan)
        assert codes(scan) == {"stored-out-of-order"}

    def test_descending_angles(self, dxchange):
        edit(dxchange, theta=np.rad2deg(THETA)[::-1], data=PROJECTIONS[::-1])
        scan = open_scan(dxchange)
        check_pixels(scan)
        assert "descending" in scan.caveats[0].message

    def test_equal_angles_keep_their_order(self, dxchange):
        edit(dxchange, theta=np.repeat(np.arange(0, 180, 30.0), 2))
        scan = open_scan(dxchange)
        np.testing.assert_array_equal(scan.order, np.arange(NUM))

    def test_a_third_of_a_turn_is_a_missing_wedge(self, dxchange):
        scan = open_scan(dxchange, ScanSettings(angles="0:120"))
        assert codes(scan) == {"missing-wedge"}
        assert "120.0 of 180" in scan.caveats[0].message

    def test_averaged_flat_is_one_frame(self, dxchange):
        edit(dxchange, data_white=FLATS[0])
        scan = open_scan(dxchange)
        assert scan.num_flats == 1
        np.testing.assert_array_equal(scan.flats(slice(1, 3)), FLATS[:1, 1:3])

    def test_missing_darks(self, dxchange):
        edit(dxchange, data_dark=None)
        with pytest.raises(ScanError, match=r"holds no darks; give them with --darks, or say --normalised if"):
            open_scan(dxchange)

    def test_missing_flats_and_darks(self, dxchange):
        edit(dxchange, data_dark=None, data_white=None)
        with pytest.raises(ScanError, match=r"no flats and no darks; give them with --flats and --darks"):
            open_scan(dxchange)

    def test_darks_of_a_counting_detector_are_zero(self, dxchange):
        edit(dxchange, data_dark=None)
        scan = open_scan(dxchange, ScanSettings(no_darks=True))
        assert codes(scan) == {"no-darks"}
        assert scan.num_darks == 1
        np.testing.assert_array_equal(scan.darks(slice(1, 3)), np.zeros((1, 2, COLUMNS)))

    @pytest.mark.parametrize("kind", ["transmission", "attenuation"])
    def test_normalised_data_need_no_flats(self, dxchange, kind):
        edit(dxchange, data_dark=None, data_white=None)
        scan = open_scan(dxchange, ScanSettings(normalised=kind))
        assert (scan.normalised, scan.num_flats, scan.num_darks) == (kind, 0, 0)
        assert decision(scan, "normalised").value == kind
        with pytest.raises(ValueError, match=r"it has no flats"):
            scan.flats(ALL)

    def test_normalised_with_flats_is_a_contradiction(self, dxchange):
        with pytest.raises(ScanError, match=r"leave one out"):
            open_scan(dxchange, ScanSettings(normalised="transmission", flats=dxchange))

    def test_flats_of_another_shape(self, dxchange):
        edit(dxchange, data_white=FLATS[:, :, 1:])
        with pytest.raises(ScanError, match=r"the flats \(scan.h5\) have .* \(5, 6\), but the projections \(5, 7\)"):
            open_scan(dxchange)

    def test_saturated_flats(self, dxchange):
        edit(dxchange, data_white=np.full_like(FLATS, 65535))
        scan = open_scan(dxchange)
        assert codes(scan) == {"saturated-flats"}
        assert "65535" in scan.caveats[0].message

    def test_saturated_flats_stored_as_floating_point(self, dxchange):
        edit(dxchange, data_white=np.full(FLATS.shape, 4095, np.float32))
        assert codes(open_scan(dxchange)) == {"saturated-flats"}

    def test_constant_flats(self, dxchange):
        edit(dxchange, data_white=np.full(FLATS.shape, 950, np.float32))
        assert codes(open_scan(dxchange)) == {"constant-flats"}

    def test_flats_with_the_shutter_closed(self, dxchange):
        edit(dxchange, data_white=np.concatenate([FLATS[:2], DARKS, FLATS[2:]]))
        scan = open_scan(dxchange)
        assert codes(scan) == {"bad-flats"}
        assert "2 of 5 flats are left out: frames 2 (0.00), 3 (0.00) of the brightest" in scan.caveats[0].message
        assert decision(scan, "flats").value == "3 frames"
        check_pixels(scan)

    def test_flats_of_a_beam_that_changes(self, dxchange):
        edit(dxchange, data_white=np.concatenate([FLATS, FLATS // 2]))
        scan = open_scan(dxchange)
        assert codes(scan) == {"flat-times-unknown"}
        assert "the first 3 flats have" in scan.caveats[0].message
        assert scan.num_flats == 6
        with h5py.File(dxchange, "r+") as file:
            file["process/acquisition/flat_fields/flat_field_mode"] = "Both"
            file["process/acquisition/flat_fields/num_flat_fields"] = 3
        assert codes(open_scan(dxchange)) == set()  # what is interpolated is no question

    def test_flats_of_which_one_is_brighter(self, dxchange):
        edit(dxchange, data_white=np.concatenate([FLATS, FLATS[:1] * 3, FLATS]))
        scan = open_scan(dxchange)
        assert codes(scan) == {"uneven-flats"}
        assert ", frame 3 (" in scan.caveats[0].message
        assert "try --set normalize.average=median or give other flats" in scan.caveats[0].message

    def test_flats_that_decay_or_flicker_are_of_one_time(self, dxchange):
        rng = np.random.default_rng(0)
        for levels in (np.linspace(1, 0.8, 20), rng.uniform(0.9, 1.1, 20), 1 - 0.015 * (np.arange(20) > 9)):
            edit(dxchange, data_white=(levels[:, None, None] * FLATS[:1]).astype(np.float32))
            assert codes(open_scan(dxchange)) == set()

    def test_darks_that_are_not_finite_are_no_fault_of_the_flats(self, dxchange):
        edit(dxchange, data_dark=np.full(DARKS.shape, np.nan, np.float32))
        with pytest.raises(ScanError, match=r"2 of 2 darks are left out.*give others with --darks$"):
            open_scan(dxchange)

    def test_flats_that_are_not_finite(self, dxchange):
        flats = FLATS.astype(np.float32)
        flats[1] = np.nan
        edit(dxchange, data_white=flats)
        scan = open_scan(dxchange)
        assert codes(scan) == {"bad-flats"}
        assert "frame 1 is not finite" in scan.caveats[0].message
        np.testing.assert_array_equal(scan.flats(ALL), FLATS[[0, 2]])
        edit(dxchange, data_white=np.full(FLATS.shape, np.nan))
        with pytest.raises(
            ScanError, match=r"3 of 3 flats are left out: .* so that none is left; give others with --f"
        ):
            open_scan(dxchange)

    def test_flats_of_zeros(self, dxchange):
        edit(dxchange, data_white=0 * FLATS)
        with pytest.raises(
            ScanError, match=r"the flats \(brightest tenth from 0\) are no brighter than the darks \(\d+"
        ):
            open_scan(dxchange)

    def test_flats_and_darks_swapped(self, dxchange):
        edit(dxchange, data_white=DARKS, data_dark=FLATS)
        with pytest.raises(ScanError, match=r"were they swapped"):
            open_scan(dxchange)

    def test_darks_with_light(self, dxchange):
        edit(dxchange, data_dark=np.concatenate([DARKS, FLATS[:1]]))
        scan = open_scan(dxchange)
        assert codes(scan) == {"bad-darks"}
        assert "1 of 3 darks is left out: frame 2 has 0.99 of the open" in scan.caveats[0].message
        check_pixels(scan)

    def test_a_narrow_beam_beside_the_probed_rows(self, tmp_path):
        """Only two rows of 40 see the beam, none of them the first, middle or last."""
        rng = np.random.default_rng(3)
        light = np.zeros((40, 1))
        light[11:13] = 900
        flats, projections = (light + rng.normal(100, 2, (number, 40, 30)) for number in (6, NUM))
        path = write_dxchange(tmp_path / "slit.h5", projections, flats, rng.normal(100, 2, (4, 40, 30)), THETA)
        assert codes(open_scan(path)) == set()

    @pytest.mark.parametrize("share", [0.45, 0.2])
    def test_a_beam_on_a_part_of_the_columns(self, tmp_path, share):
        rng = np.random.default_rng(4)
        light = np.where(np.arange(100) < 100 * share, 900, 0)
        flats, projections = (light + rng.normal(100, 2, (number, 5, 100)) for number in (6, NUM))
        path = write_dxchange(tmp_path / "part.h5", projections, flats, rng.normal(100, 2, (4, 5, 100)), THETA)
        assert codes(open_scan(path)) == set()

    @pytest.mark.parametrize("seed", [5, 6, 7])
    def test_the_brightest_row_has_a_beam_on_a_part_of_the_columns(self, tmp_path, seed):
        """Two rows of 40 see the beam, in four of 30 columns; noise must not be taken for the brightest."""
        rng = np.random.default_rng(seed)
        light = np.zeros((40, 30))
        light[11:13, 5:9] = 900
        flats, projections = (light + rng.normal(100, 2, (number, 40, 30)) for number in (6, NUM))
        path = write_dxchange(tmp_path / "slit.h5", projections, flats, rng.normal(100, 2, (4, 40, 30)), THETA)
        assert codes(open_scan(path)) == set()

    def test_flats_before_and_after_are_told_by_the_file(self, dxchange):
        edit(dxchange, data_white=np.concatenate([FLATS, FLATS]))
        assert open_scan(dxchange).flat_positions is None
        with h5py.File(dxchange, "r+") as file:
            file["process/acquisition/flat_fields/flat_field_mode"] = [b"Both"]
            file["process/acquisition/flat_fields/num_flat_fields"] = [3]
        scan = open_scan(dxchange)
        assert scan.flat_positions.tolist() == [-3, -2, -1, NUM, NUM + 1, NUM + 2]
        assert scan.positions.tolist() == list(range(NUM))
        assert decision(scan, "flats").value == "6 frames taken at 2 times"

    @pytest.mark.parametrize(("mode", "number"), [(b"Start", 3), (b"Both", 6), (b"Both", np.nan), (b"Both", b"x")])
    def test_what_the_file_tells_of_its_flats_may_not_fit(self, dxchange, mode, number):
        edit(dxchange, data_white=np.concatenate([FLATS, FLATS]))
        with h5py.File(dxchange, "r+") as file:
            file["process/acquisition/flat_fields/flat_field_mode"] = [mode]
            file["process/acquisition/flat_fields/num_flat_fields"] = [number]
        scan = open_scan(dxchange)
        assert scan.positions is scan.flat_positions is None

    def test_flats_equal_to_darks(self, dxchange):
        edit(dxchange, data_white=np.full_like(FLATS, 100), data_dark=np.full_like(DARKS, 100))
        with pytest.raises(
            ScanError, match=r"flats \(brightest tenth from 10\d.*\) are no brighter than the darks \(10\d"
        ):
            open_scan(dxchange)

    @pytest.mark.parametrize("shape", [(NUM, 10), (2, NUM, 5, 5)])
    def test_data_of_other_dimensions(self, dxchange, shape):
        edit(dxchange, data=np.ones(shape))
        with pytest.raises(ScanError, match=r"expected (three dimensions|projections|at least 2)|expected at least 2"):
            open_scan(dxchange)

    def test_empty_data(self, dxchange):
        edit(dxchange, data=np.ones((0, ROWS, COLUMNS)))
        with pytest.raises(ScanError, match=r"is empty: its shape is"):
            open_scan(dxchange)

    def test_data_that_are_no_numbers(self, dxchange):
        edit(dxchange, data=np.full(PROJECTIONS.shape, b"x"))
        with pytest.raises(ScanError, match=r"expected integers or floating-point"):
            open_scan(dxchange)

    def test_group_where_the_data_should_be(self, dxchange):
        edit(dxchange, data=None)
        with h5py.File(dxchange, "r+") as file:
            file.create_group("exchange/data")
        with pytest.raises(ScanError, match=r"is not a dataset"):
            open_scan(dxchange)

    def test_units_of_metadata(self, dxchange):
        with h5py.File(dxchange, "r+") as file:
            for name, value, unit in (
                ("monochromator/energy", 20.5, "keV"),
                ("detector/distance", 12.0, "cm"),
                ("detection_system/objective/resolution", 0.65, b"microns"),
            ):
                file[f"measurement/instrument/{name}"] = np.array([value])
                file[f"measurement/instrument/{name}"].attrs["units"] = unit
        scan = open_scan(dxchange)
        assert (scan.energy, scan.distance, scan.pixel_size) == pytest.approx((20.5, 0.12, 0.65e-6))
        assert decision(scan, "pixel size").value == "6.5e-07 m"

    def test_quantity_without_unit_is_not_guessed(self, dxchange):
        with h5py.File(dxchange, "r+") as file:
            file["measurement/instrument/monochromator/energy"] = 20.0
        assert open_scan(dxchange).energy is None


class TestNXtomo:
    def test_reads_everything(self, tmp_path):
        scan = open_scan(write_nxtomo(tmp_path / "scan.nxs"))
        assert (scan.layout, scan.name) == ("NXtomo", "bone")
        assert (scan.pixel_size, scan.energy, scan.distance) == pytest.approx((3e-6, 25.0, 0.05))
        assert (scan.num_projections, scan.num_flats, scan.num_darks) == (NUM, 3, 2)
        assert scan.caveats == ()
        np.testing.assert_allclose(scan.theta, THETA)
        check_pixels(scan)

    def test_order_of_acquisition(self, tmp_path):
        """Darks at 0 and 1, a flat at 2, projections from 3, a bad frame, flats again."""
        scan = open_scan(write_nxtomo(tmp_path / "scan.nxs"))
        assert scan.flat_positions.tolist() == [2, NUM + 4, NUM + 5]
        assert scan.positions.tolist() == list(range(3, NUM + 3))
        assert decision(scan, "flats").value == "3 frames taken at 2 times"
        backwards = open_scan(
            write_nxtomo(tmp_path / "back.nxs", angles=-np.rad2deg(np.concatenate([[0] * 3, THETA, [0] * 3])))
        )
        assert backwards.positions.tolist() == list(range(NUM + 2, 2, -1))

    def test_flats_of_another_file_have_no_place_in_time(self, tmp_path):
        flats = write_tiffs(tmp_path / "flats", FLATS)
        scan = open_scan(write_nxtomo(tmp_path / "scan.nxs"), ScanSettings(flats=flats))
        assert scan.positions is scan.flat_positions is None

    def test_bad_flats_leave_their_places(self, tmp_path):
        stored = np.concatenate([DARKS, FLATS[:1], PROJECTIONS, FLATS[:1] * 0, DARKS[:1], FLATS[2:]])
        scan = open_scan(write_nxtomo(tmp_path / "scan.nxs", data=stored))
        assert codes(scan) == {"bad-flats"}
        assert scan.flat_positions.tolist() == [2, NUM + 5]
        check_pixels(scan, flats=FLATS[[0, 2]])

    def test_found_without_definition_and_elsewhere(self, tmp_path):
        path = write_nxtomo(tmp_path / "scan.nxs", entry="entry1/tomo", definition=None)
        check_pixels(open_scan(path))

    def test_angles_in_radians(self, tmp_path):
        angles = np.concatenate([[0, 0, 0], THETA, [0, 0, 0]])
        scan = open_scan(write_nxtomo(tmp_path / "scan.nxs", angles=angles, units="rad"))
        np.testing.assert_allclose(scan.theta, THETA)

    def test_angles_of_projections_only(self, tmp_path):
        np.testing.assert_allclose(
            open_scan(write_nxtomo(tmp_path / "scan.nxs", angles=np.rad2deg(THETA))).theta, THETA
        )

    def test_wrong_number_of_angles(self, tmp_path):
        path = write_nxtomo(tmp_path / "scan.nxs", angles=np.arange(15.0))
        with pytest.raises(ScanError, match=r"has 15 angles, expected 18 \(one per frame\) or 12"):
            open_scan(path)

    def test_wrong_number_of_keys(self, tmp_path):
        path = write_nxtomo(tmp_path / "scan.nxs", keys=np.zeros(20, int))
        with pytest.raises(ScanError, match=r"image_key has 20 numbers, but .* has 18 frames"):
            open_scan(path)

    def test_no_projections(self, tmp_path):
        path = write_nxtomo(tmp_path / "scan.nxs", keys=np.full(18, 1))
        with pytest.raises(ScanError, match=r"there are no projections"):
            open_scan(path)

    def test_alignment_frames_are_left_out(self, tmp_path):
        path = write_nxtomo(tmp_path / "scan.nxs")
        with h5py.File(path, "r+") as file:
            detector = file["entry/instrument/detector"]
            control = detector["image_key"][()]
            control[3 + NUM - 1] = -1
            detector["image_key_control"] = control
        scan = open_scan(path)
        np.testing.assert_array_equal(scan.projections(ALL), PROJECTIONS[:-1])

    def test_several_entries(self, tmp_path):
        path = write_nxtomo(tmp_path / "scan.nxs", entry="entry0")
        write_nxtomo(path, entry="entry1", angles=np.concatenate([[0, 0, 0], 5 + np.rad2deg(THETA), [0, 0, 0]]))
        first, second = open_scan(path), open_scan(path, ScanSettings(entry="entry1"))
        assert codes(first) == {"several-entries"}
        assert first.theta[0] == 0
        assert codes(second) == set()
        assert second.theta[0] == pytest.approx(np.deg2rad(5))
        with pytest.raises(ScanError, match=r"no NXtomo entry 'entry9'; it has /entry0, /entry1"):
            open_scan(path, ScanSettings(entry="entry9"))

    def test_rotation_listed_beside_the_same_frames(self, tmp_path):
        path = write_nxtomo(tmp_path / "scan.nxs", definition=None)
        with h5py.File(path, "r+") as file:
            values = file["entry/sample/rotation_angle"][()]
            del file["entry/sample/rotation_angle"]
            file["entry/imaging/data"] = h5py.SoftLink("/entry/instrument/detector/data")
            file["entry/imaging/stage_theta"] = values
            file["entry/imaging/stage_theta_set"] = values + 50
            file["entry/other/data"] = np.zeros(3)
            file["entry/other/rot"] = values + 20
        np.testing.assert_allclose(open_scan(path).theta, THETA)


class TestLinks:
    def test_soft_and_relative_links(self, tmp_path):
        path = write_nxtomo(tmp_path / "scan.nxs")
        with h5py.File(path, "r+") as file:
            file.move("entry/instrument/detector", "entry/instrument/real")
            file["entry/instrument/detector"] = h5py.SoftLink("real")
            file.move("entry/sample/rotation_angle", "angles")
            file["entry/sample/rotation_angle"] = h5py.SoftLink("/angles")
        check_pixels(open_scan(path))

    def outer(self, tmp_path, target, inner="/exchange/data"):
        path = write_dxchange(tmp_path / "outer" / "scan.h5", PROJECTIONS, FLATS, DARKS, THETA)
        return edit(path, data=h5py.ExternalLink(target, inner))

    def test_external_link_below_the_scan(self, tmp_path):
        target = write_dxchange(tmp_path / "outer" / "raw" / "data.h5", PROJECTIONS, FLATS, DARKS, THETA)
        scan = open_scan(self.outer(tmp_path, "raw/data.h5"))
        check_pixels(scan)
        assert scan.sources == (tmp_path / "outer" / "scan.h5", target)

    def test_external_link_with_the_path_of_another_machine(self, tmp_path):
        write_dxchange(tmp_path / "outer" / "data.h5", PROJECTIONS, FLATS, DARKS, THETA)
        check_pixels(open_scan(self.outer(tmp_path, "/nowhere/raw/data.h5")))

    def test_broken_external_link_names_the_missing_file(self, tmp_path):
        with pytest.raises(ScanError, match=r"links to the file raw/gone.h5, which is not there"):
            open_scan(self.outer(tmp_path, "raw/gone.h5"))

    def test_external_link_to_a_missing_dataset(self, tmp_path):
        write_dxchange(tmp_path / "outer" / "data.h5", PROJECTIONS, FLATS, DARKS, THETA)
        with pytest.raises(ScanError, match=r"has none of the known layouts"):
            open_scan(self.outer(tmp_path, "data.h5", "/gone"))

    @pytest.mark.parametrize("name", ["../elsewhere/data.h5", "ABSOLUTE", "linked.h5"])
    def test_external_link_out_of_the_folder_is_refused_unopened(self, tmp_path, name):
        target = tmp_path / "elsewhere" / "data.h5"
        target.parent.mkdir()
        # Were it opened, the message would be that it is damaged.
        target.write_bytes(b"not HDF5")
        path = self.outer(tmp_path, str(target) if name == "ABSOLUTE" else name)
        (path.parent / "linked.h5").symlink_to(target)
        with pytest.raises(ScanError, match=r"outside of the allowed folders .* --set scan.allowed_link_roots"):
            open_scan(path)

    def test_allowed_root(self, tmp_path):
        target = write_dxchange(tmp_path / "elsewhere" / "data.h5", PROJECTIONS, FLATS, DARKS, THETA)
        path = self.outer(tmp_path, str(target))
        check_pixels(open_scan(path, ScanSettings(allowed_link_roots=(target.parent,))))

    def test_link_in_a_linked_file_is_checked_too(self, tmp_path):
        (tmp_path / "secret.h5").write_bytes(b"not HDF5")
        path = self.outer(tmp_path, "data.h5")
        with h5py.File(tmp_path / "outer" / "data.h5", "w") as file:
            file["exchange/data"] = h5py.ExternalLink("../secret.h5", "/exchange/data")
        with pytest.raises(ScanError, match=r"outside of the allowed folders"):
            open_scan(path)

    def test_links_in_a_circle(self, tmp_path):
        path = self.outer(tmp_path, "scan.h5")
        with pytest.raises(ScanError, match=r"perhaps in a circle"):
            open_scan(path)

    def virtual(self, tmp_path, names):
        """Put the projections together from two files."""
        layout = h5py.VirtualLayout(PROJECTIONS.shape, PROJECTIONS.dtype)
        for half, name in enumerate(names):
            part = slice(half * NUM // 2, (half + 1) * NUM // 2)
            target = tmp_path / "outer" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(target, "w") as file:
                file["data"] = PROJECTIONS[part]
            layout[part] = h5py.VirtualSource(name, "data", (NUM // 2, ROWS, COLUMNS))
        path = write_dxchange(tmp_path / "outer" / "scan.h5", PROJECTIONS, FLATS, DARKS, THETA)
        edit(path, data=None)
        with h5py.File(path, "r+") as file:
            file["exchange"].create_virtual_dataset("data", layout)
        return path

    def test_virtual_dataset(self, tmp_path):
        scan = open_scan(self.virtual(tmp_path, ["a.h5", "raw/b.h5"]))
        check_pixels(scan)
        assert {source.name for source in scan.sources} == {"scan.h5", "a.h5", "b.h5"}

    def test_missing_source_of_a_virtual_dataset(self, tmp_path):
        path = self.virtual(tmp_path, ["a.h5", "b.h5"])
        scan = open_scan(path)
        (path.parent / "b.h5").unlink()
        with pytest.raises(ScanError, match=r"links to the file b.h5, which is not there"):
            open_scan(path)
        with pytest.raises(ScanError, match=r"b.h5 has gone since the scan was opened"):
            scan.projections(ALL)

    def test_missing_dataset_in_a_source(self, tmp_path):
        path = self.virtual(tmp_path, ["a.h5", "b.h5"])
        with h5py.File(path.parent / "b.h5", "r+") as file:
            del file["data"]
        with pytest.raises(ScanError, match=r"put together from .*b.h5:data, which is not there"):
            open_scan(path)

    def test_virtual_source_out_of_the_folder_is_refused(self, tmp_path):
        with pytest.raises(ScanError, match=r"outside of the allowed folders"):
            open_scan(self.virtual(tmp_path, ["a.h5", "../b.h5"]))

    def test_raw_external_storage_is_refused(self, tmp_path, dxchange):
        (tmp_path / "raw.bin").write_bytes(PROJECTIONS.tobytes())
        edit(dxchange, data=None)
        with h5py.File(dxchange, "r+") as file:
            external = [(str(tmp_path / "raw.bin"), 0, PROJECTIONS.nbytes)]
            file["exchange"].create_dataset("data", PROJECTIONS.shape, PROJECTIONS.dtype, external=external)
        with pytest.raises(ScanError, match=r"raw file .*raw.bin"):
            open_scan(dxchange)

    def test_group_cycles_end(self, tmp_path):
        path = write_nxtomo(tmp_path / "scan.nxs")
        with h5py.File(path, "r+") as file:
            file["entry/sample/parent"] = file["entry"]
        check_pixels(open_scan(path))


class TestCil:
    @pytest.mark.parametrize("order", [("vertical", "angle", "horizontal"), ("angle", "vertical", "horizontal")])
    def test_axes_are_named_by_attributes(self, tmp_path, order):
        scan = open_scan(write_cil(tmp_path / "scan.nxs", order=order), ScanSettings(normalised="attenuation"))
        assert (scan.layout, scan.num_projections, scan.num_rows) == ("NeXus (CIL)", NUM, ROWS)
        np.testing.assert_array_equal(scan.projections(slice(1, 4)), PROJECTIONS[:, 1:4])
        np.testing.assert_array_equal(scan.projections(ALL, slice(2, 9, 3)), PROJECTIONS[2:9:3])
        assert scan.theta[0] == -1
        assert decision(scan, "angles").value.startswith("radian")

    def test_cone_beam(self, tmp_path):
        path = write_cil(tmp_path / "scan.nxs", geom_type="cone")
        assert codes(open_scan(path, ScanSettings(normalised="attenuation"))) == {"cone-beam"}

    def test_channels(self, tmp_path):
        path = write_cil(tmp_path / "scan.nxs", order=("channel", "vertical", "angle", "horizontal"), channels=3)
        scan = open_scan(path, ScanSettings(normalised="attenuation", channel=2))
        np.testing.assert_array_equal(scan.projections(slice(1, 4)), PROJECTIONS[:, 1:4] + 2000.0)
        with pytest.raises(ScanError, match=r"3 energy channels; choose one with --set scan.channel=0"):
            open_scan(path, ScanSettings(normalised="attenuation"))
        with pytest.raises(ScanError, match=r"3 energy channels, counted from 0, got channel 3"):
            open_scan(path, ScanSettings(normalised="attenuation", channel=3))

    def test_unknown_axis(self, tmp_path):
        path = write_cil(tmp_path / "scan.nxs")
        with h5py.File(path, "r+") as file:
            file["entry1/tomo_entry/data/data"].attrs["dim0"] = "depth"
        with pytest.raises(ScanError, match=r"names its axes \['depth'"):
            open_scan(path, ScanSettings(normalised="attenuation"))


class TestTiff:
    def test_reads_everything(self, tiffs):
        folder, settings = tiffs
        scan = open_scan(folder, settings)
        assert (scan.layout, scan.name, scan.num_flats, scan.num_darks) == ("TIFF series", "tiffs", 3, 2)
        assert len(scan.sources) == NUM + 1 + 2
        np.testing.assert_allclose(scan.theta, THETA)
        # Twelve files: raw_10 comes after raw_9 only in natural order.
        check_pixels(scan)

    def test_compressed(self, tmp_path, tiffs):
        folder = write_tiffs(tmp_path / "zipped", PROJECTIONS, compression="zlib")
        check_pixels(open_scan(folder, tiffs[1]))

    def test_big_endian(self, tmp_path, tiffs):
        folder = write_tiffs(tmp_path / "big", PROJECTIONS, byteorder=">")
        check_pixels(open_scan(folder, tiffs[1]))

    def test_pages_of_one_file(self, tmp_path, tiffs):
        tifffile.imwrite(tmp_path / "stack.tif", PROJECTIONS, photometric="minisblack")
        check_pixels(open_scan(tmp_path / "stack.tif", tiffs[1]))

    def test_single_sub_folder(self, tmp_path, tiffs):
        parent = tmp_path / "parent"
        write_tiffs(parent / "radios", PROJECTIONS)
        tifffile.imwrite(parent / "flat_0001.tif", FLATS[0])
        write_tiffs(parent / "darks", DARKS)
        check_pixels(open_scan(parent, tiffs[1]))

    def test_flats_in_the_same_folder_are_set_aside(self, tiffs):
        folder, settings = tiffs
        tifffile.imwrite(folder / "flat_0001.tif", FLATS[0])
        check_pixels(open_scan(folder, settings))
        with pytest.raises(ScanError, match=r"no flats and no darks; .* holds flat_0001.tif"):
            open_scan(folder, ScanSettings(angles="0:180"))

    def test_two_sub_folders(self, tmp_path):
        for name in "ab":
            write_tiffs(tmp_path / "parent" / name, PROJECTIONS)
        with pytest.raises(ScanError, match=r"2 folders of TIFF files \(a, b\)"):
            open_scan(tmp_path / "parent")

    def test_empty_folder(self, tmp_path):
        with pytest.raises(ScanError, match=r"is a folder with no TIFF file"):
            open_scan(tmp_path)

    def test_no_angles(self, tiffs):
        folder, settings = tiffs
        with pytest.raises(ScanError, match=r"12 projections\) holds no angles; give them with --angles FILE"):
            open_scan(folder, settings.model_copy(update={"angles": None}))

    def test_a_frame_of_another_size(self, tiffs):
        folder, settings = tiffs
        tifffile.imwrite(folder / "raw_3.tif", PROJECTIONS[0, 1:])
        with pytest.raises(ScanError, match=r"raw_3.tif has shape \(4, 7\) .* expected \(5, 7\)"):
            open_scan(folder, settings).projections(ALL)

    def test_colour_images(self, tmp_path, tiffs):
        folder = write_tiffs(tmp_path / "rgb", np.zeros((4, 5, 6, 3), np.uint8), photometric="rgb")
        with pytest.raises(ScanError, match=r"no grey-scale image"):
            open_scan(folder, tiffs[1])

    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_truncated_file(self, tiffs, compression):
        folder, settings = tiffs
        scan, victim = open_scan(folder, settings), folder / "raw_0.tif"
        tifffile.imwrite(victim, PROJECTIONS[0], compression=compression)
        whole = victim.read_bytes()
        for size in (0, 3, 8, 60, len(whole) // 2, len(whole) - 1):
            victim.write_bytes(whole[:size])
            with pytest.raises(ScanError, match=r"raw_0.tif"):
                scan.projections(ALL)

    def test_gap_in_the_numbering(self, tiffs):
        folder, settings = tiffs
        (folder / "raw_4.tif").unlink()
        scan = open_scan(folder, settings)
        assert codes(scan) == {"missing-frames"}
        assert "first after 3" in scan.caveats[0].message


class TestAngles:
    def text(self, tmp_path, values):
        path = tmp_path / "angles.txt"
        path.write_text("# degrees\n" + "".join(f"{value}\n" for value in values) + "\n")
        return str(path)

    def test_from_text(self, tmp_path, dxchange):
        angles = self.text(tmp_path, np.rad2deg(THETA) + 7)
        scan = open_scan(dxchange, ScanSettings(angles=angles))
        np.testing.assert_allclose(scan.theta, THETA + np.deg2rad(7))
        assert scan.sources == (dxchange, Path(angles))

    def test_radians_are_told_by_their_range(self, tmp_path, dxchange):
        scan = open_scan(dxchange, ScanSettings(angles=self.text(tmp_path, THETA)))
        np.testing.assert_allclose(scan.theta, THETA)
        assert decision(scan, "angles").value.startswith("radian")

    def test_ambiguous_range(self, tmp_path, dxchange):
        angles = self.text(tmp_path, THETA / 3)
        with pytest.raises(ScanError, match=r"may be degrees or radians; say which with --set scan.angle_unit=degree"):
            open_scan(dxchange, ScanSettings(angles=angles))
        scan = open_scan(dxchange, ScanSettings(angles=angles, angle_unit="degree"))
        np.testing.assert_allclose(scan.theta, np.deg2rad(THETA / 3))

    def test_unit_of_the_file_is_believed(self, dxchange):
        with h5py.File(dxchange, "r+") as file:
            file["exchange/theta"][...] = THETA / 3
        assert open_scan(dxchange).theta[-1] == pytest.approx(np.deg2rad(THETA[-1] / 3))
        assert open_scan(dxchange, ScanSettings(angle_unit="radian")).theta[-1] == pytest.approx(THETA[-1] / 3)

    def test_too_many_lines(self, tmp_path, dxchange):
        angles = self.text(tmp_path, range(NUM + 20))
        expected = (
            r"angles.txt has 32 lines, but there are 12 projections; 20 too many: tell which lines belong to the "
            r"projections with --angle-lines FIRST:STOP \(for example --angle-lines 10:22 leaves out 10 at either end\)"
        )
        with pytest.raises(ScanError, match=expected):
            open_scan(dxchange, ScanSettings(angles=angles))

    def test_angle_lines(self, tmp_path, dxchange):
        angles = self.text(tmp_path, range(0, 15 * 32, 15))
        scan = open_scan(dxchange, ScanSettings(angles=angles, angle_lines="10:22"))
        np.testing.assert_allclose(scan.theta, np.deg2rad(150 + 15 * np.arange(NUM)))

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            ("10:40", "--angle-lines 10:40 does not fit: .* has 32 lines"),
            ("22:10", "expected FIRST < STOP"),
            ("all", "expects FIRST:STOP, for example 10:101, got 'all'"),
            ("0:10", "--angle-lines 0:10 takes 10 lines of .*, but there are 12 projections"),
        ],
    )
    def test_wrong_angle_lines(self, tmp_path, dxchange, lines, message):
        with pytest.raises(ScanError, match=message):
            open_scan(dxchange, ScanSettings(angles=self.text(tmp_path, range(32)), angle_lines=lines))

    def test_angle_lines_without_file(self, dxchange):
        with pytest.raises(ScanError, match=r"without a file of angles"):
            open_scan(dxchange, ScanSettings(angle_lines="0:12"))

    def test_too_few_lines(self, tmp_path, dxchange):
        with pytest.raises(ScanError, match=r"has 10 lines, but there are 12 projections; 2 are missing"):
            open_scan(dxchange, ScanSettings(angles=self.text(tmp_path, range(10))))

    def test_wrong_number_in_the_scan(self, dxchange):
        edit(dxchange, theta=np.arange(11.0))
        with pytest.raises(ScanError, match=r"theta has 11 angles, but there are 12 projections"):
            open_scan(dxchange)

    def test_no_angles_in_the_scan(self, dxchange):
        edit(dxchange, theta=None)
        with pytest.raises(ScanError, match=r"holds no angles; give them with --angles FILE"):
            open_scan(dxchange)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, dxchange, value):
        theta = np.rad2deg(THETA)
        theta[4] = value
        edit(dxchange, theta=theta)
        with pytest.raises(ScanError, match=f"angle 4 is {value}, expected a finite number"):
            open_scan(dxchange)

    def test_all_equal(self, dxchange):
        edit(dxchange, theta=np.full(NUM, 3.0))
        with pytest.raises(ScanError, match=r"all 12 angles are 3"):
            open_scan(dxchange)

    def test_text_that_is_no_number(self, tmp_path, dxchange):
        with pytest.raises(ScanError, match=r"expected one angle, got 'ten'"):
            open_scan(dxchange, ScanSettings(angles=self.text(tmp_path, ["1", "ten"])))

    def test_binary_file(self, dxchange):
        with pytest.raises(ScanError, match=r"is not text"):
            open_scan(dxchange, ScanSettings(angles=str(dxchange)))

    def test_neither_file_nor_range(self, dxchange):
        with pytest.raises(ScanError, match=r"expects a text file or START:STOP"):
            open_scan(dxchange, ScanSettings(angles="half a turn"))


class TestGivenFlats:
    def test_inner_path_of_hdf5(self, tmp_path, dxchange):
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["a/data"], file["b"] = FLATS + 5, DARKS
        flats, darks = Path(f"{tmp_path}/other.h5:/a/data"), Path(f"{tmp_path}/other.h5:/b")
        scan = open_scan(dxchange, ScanSettings(flats=flats, darks=darks))
        check_pixels(scan, flats=FLATS + 5)
        assert scan.sources == (dxchange, tmp_path / "other.h5")
        assert "other.h5:/a/data" in decision(scan, "flats").reason

    def test_only_stack_of_hdf5(self, tmp_path, dxchange):
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["a/data"] = FLATS + 5
        check_pixels(open_scan(dxchange, ScanSettings(flats=tmp_path / "other.h5")), flats=FLATS + 5)

    def test_several_stacks_need_a_choice(self, dxchange):
        with pytest.raises(ScanError, match=r"say which frames with .*scan.h5:/inner/path; it has /exchange/data"):
            open_scan(dxchange, ScanSettings(flats=dxchange))

    def test_missing_file_and_dataset(self, tmp_path, dxchange):
        with pytest.raises(ScanError, match=r"--darks .*gone.tif: there is no such file"):
            open_scan(dxchange, ScanSettings(darks=tmp_path / "gone.tif"))
        with pytest.raises(ScanError, match=r"has no dataset /gone"):
            open_scan(dxchange, ScanSettings(darks=Path(f"{dxchange}:/gone")))

    def test_folder_without_tiffs(self, tmp_path, dxchange):
        (tmp_path / "empty").mkdir()
        with pytest.raises(ScanError, match=r"holds no TIFF file"):
            open_scan(dxchange, ScanSettings(flats=tmp_path / "empty"))


class TestNotAScan:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "it is empty"),
            (b"<?xml version='1.0'?><a/>", 'it is XML text that begins "<'),
            (b"theta,counts\n1,2\n", "it is text that begins 'theta,counts'"),
            (b"CDF\x01" + bytes(50), "it is netCDF 3"),
            (b"\x1f\x8b" + bytes(50), "it is gzip"),
            (bytes(range(200, 256)), "it begins with the bytes c8 c9"),
        ],
    )
    def test_other_files(self, tmp_path, content, message):
        path = tmp_path / "scan.h5"
        path.write_bytes(content)
        with pytest.raises(ScanError, match=re.escape(message)):
            open_scan(path)

    def test_missing_file(self, tmp_path):
        with pytest.raises(ScanError, match=r"does not exist"):
            open_scan(tmp_path / "gone.h5")

    def test_file_of_flats(self, tmp_path):
        with h5py.File(tmp_path / "flats.h5", "w") as file:
            file["tomo/data"] = FLATS
        with pytest.raises(ScanError, match=r"no angles beside them; .* --flats .*flats.h5:/tomo/data"):
            open_scan(tmp_path / "flats.h5")

    def test_file_without_frames(self, tmp_path):
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["spectrum"] = np.arange(5)
        with pytest.raises(ScanError, match=r"holds no frames"):
            open_scan(tmp_path / "other.h5")

    def test_truncated_hdf5(self, dxchange):
        whole = dxchange.read_bytes()
        for size in [*range(1, 4096, 97), *np.linspace(4096, len(whole) - 1, 20, dtype=int)]:
            dxchange.write_bytes(whole[:size])
            with pytest.raises(ScanError, match=r"scan.h5"):
                open_scan(dxchange)

    def test_damaged_hdf5_gives_pixels_or_one_error(self, dxchange):
        rng, whole, refused = np.random.default_rng(0), dxchange.read_bytes(), 0
        for _ in range(200):
            damaged = bytearray(whole)
            for offset in rng.integers(8, len(whole), 20):
                damaged[offset] = rng.integers(256)
            dxchange.write_bytes(damaged)
            try:
                assert open_scan(dxchange).projections(slice(0, 1)).ndim == 3
            except ScanError as error:
                refused += 1
                assert "scan.h5" in str(error)
        assert refused > 20

    def test_damaged_chunk(self, dxchange):
        with h5py.File(dxchange, "r+") as file:
            del file["exchange/data"]
            data = file["exchange"].create_dataset("data", data=PROJECTIONS, chunks=(4, ROWS, COLUMNS), fletcher32=True)
            offset = data.id.get_chunk_info(1).byte_offset
        content = bytearray(dxchange.read_bytes())
        content[offset + 10] ^= 1
        dxchange.write_bytes(content)
        with pytest.raises(ScanError, match=r"damaged or cut short"):
            open_scan(dxchange).projections(ALL)

    def test_user_block_before_hdf5(self, tmp_path):
        inner = write_dxchange(tmp_path / "inner.h5", PROJECTIONS, FLATS, DARKS, THETA)
        (tmp_path / "scan.h5").write_bytes(bytes(1024) + inner.read_bytes())
        check_pixels(open_scan(tmp_path / "scan.h5"))


class TestScan:
    def test_settings_refuse_unknown_keys(self):
        with pytest.raises(ValidationError, match=r"flat"):
            ScanSettings(flat="a.tif")

    def test_raw_file_is_never_changed(self, dxchange):
        before, state = dxchange.read_bytes(), dxchange.stat()
        dxchange.chmod(0o444)
        scan = open_scan(dxchange)
        check_pixels(scan)
        scan_identity(scan)
        assert dxchange.read_bytes() == before
        assert dxchange.stat().st_mtime_ns == state.st_mtime_ns

    def test_no_file_stays_open(self, dxchange):
        scan = open_scan(dxchange)
        scan.projections(ALL)
        targets = [fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
        assert dxchange not in targets
        with h5py.File(dxchange, "r+") as file:
            file["note"] = 1

    def test_opening_reads_no_projection(self, dxchange):
        """Damage every projection behind a checksum: the scan still opens, and its flats can be read."""
        with h5py.File(dxchange, "r+") as file:
            del file["exchange/data"]
            data = file["exchange"].create_dataset("data", data=PROJECTIONS, chunks=(4, ROWS, COLUMNS), fletcher32=True)
            offsets = [data.id.get_chunk_info(k).byte_offset for k in range(3)]
        content = bytearray(dxchange.read_bytes())
        for offset in offsets:
            content[offset] ^= 1
        dxchange.write_bytes(content)
        scan = open_scan(dxchange)
        np.testing.assert_array_equal(scan.flats(ALL), FLATS)
        with pytest.raises(ScanError, match=r"damaged"):
            scan.projections(slice(0, 1), slice(0, 1))

    def test_copies_and_pickles_read_the_same(self, dxchange, tiffs):
        for scan in (open_scan(dxchange), open_scan(*tiffs)):
            for other in (copy.deepcopy(scan), pickle.loads(pickle.dumps(scan))):
                check_pixels(other)
                np.testing.assert_array_equal(other.theta, scan.theta)

    def test_projections_left_out(self, tmp_path):
        angles = -np.rad2deg(np.concatenate([[0] * 3, THETA, [0] * 3]))  # stored in descending order
        scan = open_scan(write_nxtomo(tmp_path / "scan.nxs", angles=angles))
        bad = np.isin(np.arange(NUM), [0, 4, 5])
        caveat = Caveat("bad-projections", "three")
        less = scan.without(bad, (caveat,))
        assert less.num_projections == NUM - 3
        np.testing.assert_array_equal(less.theta, scan.theta[~bad])
        np.testing.assert_array_equal(less.positions, scan.positions[~bad])
        np.testing.assert_array_equal(less.projections(ALL), scan.projections(ALL)[~bad])
        assert less.caveats[: len(scan.caveats) + 1] == (*scan.caveats, caveat)
        assert scan_identity(less) == scan_identity(scan)
        assert scan.num_projections == NUM

    def test_too_many_left_out(self, dxchange):
        scan = open_scan(dxchange)
        half = scan.without(np.arange(NUM) >= NUM // 2)
        assert codes(half) == {"missing-wedge"}
        with pytest.raises(ScanError, match=r"11 of 12 projections cannot be used \(no beam\)"):
            scan.without(np.arange(NUM) > 0, (Caveat("bad-projections", "no beam"),))

    @pytest.mark.parametrize("locking", [True, False])
    def test_file_open_elsewhere_in_this_process(self, dxchange, locking):
        scan = open_scan(dxchange)
        with h5py.File(dxchange, "r", locking=locking):
            check_pixels(scan)

    def test_rows_have_no_step(self, dxchange):
        with pytest.raises(ValueError, match=r"without a step"):
            open_scan(dxchange).projections(slice(0, 4, 2))

    def test_file_gone_between_opening_and_reading(self, dxchange):
        scan = open_scan(dxchange)
        dxchange.unlink()
        with pytest.raises(ScanError, match=r"has gone since"):
            scan.projections(ALL)
        with pytest.raises(ScanError, match=r"cannot be read"):
            scan_identity(scan)

    def test_identity(self, dxchange, tiffs):
        identity = scan_identity(open_scan(dxchange))
        content = dxchange.read_bytes()
        assert identity["files"] == [
            {"name": "scan.h5", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        ]
        assert identity == scan_identity(open_scan(dxchange))
        dxchange.write_bytes(content + b"\0")
        assert scan_identity(open_scan(dxchange))["sha256"] != identity["sha256"]
        series = scan_identity(open_scan(*tiffs))
        assert [file["name"] for file in series["files"][:2]] == ["raw_0.tif", "raw_1.tif"]
        assert len(series["files"]) == NUM + 3
