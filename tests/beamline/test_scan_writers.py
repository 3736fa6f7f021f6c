from __future__ import annotations

import h5py
import numpy as np
import pytest

from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.scan_writers import write_dxchange, write_nxtomo

PROJECTIONS = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
FLATS = 1000 + np.arange(80, dtype=np.uint16).reshape(4, 4, 5)
DARKS = 500 + np.arange(40, dtype=np.uint16).reshape(2, 4, 5)
THETA = np.array([0.1, 0.7, 1.9])
WRITERS = {"DXchange": write_dxchange, "NXtomo": write_nxtomo}

of_each_layout = pytest.mark.parametrize(("layout", "write"), WRITERS.items(), ids=WRITERS)


@of_each_layout
class TestEveryLayout:
    def test_what_is_written_is_read(self, tmp_path, layout, write):
        path = write(tmp_path / "new" / "scan.h5", PROJECTIONS, FLATS, DARKS, THETA, pixel_size=2e-6, name="stone")
        scan = open_scan(path)
        assert (scan.layout, scan.name, scan.pixel_size, scan.dtype) == (layout, "stone", 2e-6, np.uint16)
        np.testing.assert_allclose(scan.theta, THETA)
        np.testing.assert_array_equal(scan.projections(slice(None)), PROJECTIONS)
        np.testing.assert_array_equal(scan.flats(slice(None)), FLATS)
        np.testing.assert_array_equal(scan.darks(slice(None)), DARKS)

    def test_name_and_pixel_size_may_be_unknown(self, tmp_path, layout, write):
        scan = open_scan(write(tmp_path / "scan.h5", PROJECTIONS, FLATS, DARKS, THETA))
        assert (scan.layout, scan.name, scan.pixel_size) == (layout, "scan", None)  # the file's name

    def test_shapes_are_checked(self, tmp_path, layout, write):
        with pytest.raises(ValueError, match=f"{write.__name__} expects .* one angle each, got .* 2 angles"):
            write(tmp_path / "scan.h5", PROJECTIONS, FLATS, DARKS, THETA[:2])
        with pytest.raises(ValueError, match="same rows"):
            write(tmp_path / "scan.h5", PROJECTIONS, FLATS[:, 1:], DARKS, THETA)
        assert list(tmp_path.iterdir()) == []

    def test_positions_are_checked(self, tmp_path, layout, write):
        with pytest.raises(ValueError, match=f"{write.__name__} expects a position of each of 4 flats, got 2"):
            write(tmp_path / "scan.h5", PROJECTIONS, FLATS, DARKS, THETA, flat_positions=np.zeros(2))

    def test_flats_before_and_after_are_told_apart(self, tmp_path, layout, write):
        positions = np.array([0.0, 0.0, 3.0, 3.0])
        scan = open_scan(write(tmp_path / "scan.h5", PROJECTIONS, FLATS, DARKS, THETA, flat_positions=positions))
        np.testing.assert_array_equal(np.searchsorted(scan.positions, scan.flat_positions), positions)
        np.testing.assert_array_equal(scan.flats(slice(None)), FLATS)

    def test_failed_write_leaves_the_old_file(self, tmp_path, layout, write):
        path = write(tmp_path / "scan.h5", PROJECTIONS, FLATS, DARKS, THETA)
        before, strings = path.read_bytes(), np.full((3, 4, 5), "a")
        with pytest.raises(TypeError):
            write(path, strings, strings, strings, THETA)
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["scan.h5"]

    def test_rewriting_replaces(self, tmp_path, layout, write):
        path = write(tmp_path / "scan.h5", PROJECTIONS, FLATS, DARKS, THETA, name="first", pixel_size=1e-6)
        frames = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
        write(path, frames, frames + 100, frames, THETA, name="second")
        scan = open_scan(path)
        assert (scan.name, scan.pixel_size) == ("second", None)
        np.testing.assert_array_equal(scan.projections(slice(None)), frames)

    def test_same_scan_same_bytes(self, tmp_path, layout, write):
        first, second = (write(tmp_path / name, PROJECTIONS, FLATS, DARKS, THETA) for name in ("a.h5", "b.h5"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("positions", [None, np.zeros(4), np.array([0, 0, 0, 3.0]), np.array([0, 0, 2, 2.0])])
def test_dxchange_tells_no_times_that_it_cannot(tmp_path, positions):
    path = write_dxchange(tmp_path / "scan.h5", PROJECTIONS, FLATS, DARKS, THETA, flat_positions=positions)
    assert open_scan(path).flat_positions is None


class TestNxtomo:
    def write(self, path):
        positions = np.array([0.0, 0.0, 2.0, 3.0])
        return write_nxtomo(
            path, PROJECTIONS, FLATS, DARKS, THETA, flat_positions=positions, pixel_size=2e-6, name="stone"
        )

    def test_frames_are_in_the_order_of_time(self, tmp_path):
        with h5py.File(self.write(tmp_path / "scan.nx")) as file:
            detector = file["entry/instrument/detector"]
            np.testing.assert_array_equal(detector["image_key"], [2, 2, 1, 1, 0, 0, 1, 0, 1])
            np.testing.assert_array_equal(detector["data"][[0, 4, 6, 8]], [DARKS[0], PROJECTIONS[0], *FLATS[2:]])
            angles = file["entry/sample/rotation_angle"]
            expected = np.rad2deg(THETA[[0, 0, 0, 0, 0, 1, 2, 2, 2]])
            np.testing.assert_allclose(angles, expected)
            assert angles.attrs["units"] == "degree"

    def test_viewers_are_led_to_the_frames(self, tmp_path):
        with h5py.File(self.write(tmp_path / "scan.nx")) as file:
            data = file[file.attrs["default"]][file["entry"].attrs["default"]]
            assert data.attrs["NX_class"] == "NXdata"
            np.testing.assert_array_equal(data[data.attrs["signal"]][4], PROJECTIONS[0])
            assert set(data) == {"data", "image_key", "rotation_angle"}
            assert file["entry/definition"][()] == b"NXtomo"

    def test_the_reference_library_reads_it(self, tmp_path):
        nxtomo = pytest.importorskip("nxtomo")
        path = self.write(tmp_path / "scan.nx")
        assert nxtomo.NXtomo.get_valid_entries(str(path)) == ("/entry",)
        scan = nxtomo.NXtomo().load(str(path), "entry", detector_data_as="as_numpy_array")
        nxtomo.NXtomo.check_consistency(scan, raises_error=True)
        detector = scan.instrument.detector
        assert [key.value for key in detector.image_key_control] == [2, 2, 1, 1, 0, 0, 1, 0, 1]
        np.testing.assert_array_equal(detector.data[[4, 5, 7]], PROJECTIONS)
        np.testing.assert_allclose(scan.sample.rotation_angle.to("radian").magnitude[[4, 5, 7]], THETA)
        assert detector.x_pixel_size.to("meter").magnitude == 2e-6
        assert scan.sample.name == "stone"
