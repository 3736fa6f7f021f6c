"""Real scans out of public repositories, in the folder named by QUIETBEAM_TEST_DATA; skipped without it."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from quietbeam.beamline.bad_projections import find_bad_projections
from quietbeam.beamline.scan import ScanSettings, open_scan, scan_identity
from quietbeam.reconstruction.errors import ScanError

DATA = Path(os.environ.get("QUIETBEAM_TEST_DATA", ""))
SCANS, AWKWARD = DATA / "scans", DATA / "awkward"
I13 = SCANS / "i13_24737"
I13_SETTINGS = ScanSettings(
    angles=str(I13 / "angles.txt"),
    angle_lines="10:101",
    flats=I13 / "flat_00001.tiff",
    darks=I13 / "dark_00001.tiff",
)
ATTENUATION = ScanSettings(normalised="attenuation")
TXM = ScanSettings(angles="0:180", normalised="attenuation")
CHANNEL = ScanSettings(normalised="attenuation", channel=3)

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("QUIETBEAM_TEST_DATA" not in os.environ, reason="QUIETBEAM_TEST_DATA is not set"),
]

# file, settings, layout, (angle, row, column), flats, darks, first and last angle in degrees, caveats
CASES = [
    ("tooth.h5", None, "DXchange", (181, 2, 640), 10, 10, (0, 179.006), set()),
    ("i13_24737", I13_SETTINGS, "TIFF series", (91, 135, 160), 1, 1, (-88.2, 91.8), set()),
    ("txm_tomo77", TXM, "TIFF series", (451, 79, 83), 0, 0, (0, 180 * 450 / 451), set()),
    ("rock3d.nxs", ATTENUATION, "NeXus (CIL)", (120, 5, 400), 0, 0, (-45, 312), {"cone-beam"}),
    ("rock2d_5channels.nxs", CHANNEL, "NeXus (CIL)", (120, 1, 400), 0, 0, (-45, 312), {"cone-beam"}),
    ("k11_diad/k11-18014.nxs", None, "NXtomo", (3001, 22, 26), 100, 100, (89.995, 269.995), set()),
]


@pytest.mark.parametrize(("name", "settings", "layout", "shape", "num_flats", "num_darks", "ends", "caveats"), CASES)
def test_every_scan_is_read(name, settings, layout, shape, num_flats, num_darks, ends, caveats):
    scan = open_scan(SCANS / name, settings)
    assert scan.layout == layout
    assert (scan.num_projections, scan.num_rows, scan.num_columns) == shape
    assert (scan.num_flats, scan.num_darks) == (num_flats, num_darks)
    assert (np.diff(scan.theta) >= 0).all()
    np.testing.assert_allclose(np.rad2deg(scan.theta[[0, -1]]), ends, atol=2e-3)
    assert {caveat.code for caveat in scan.caveats} == caveats
    pixels = scan.projections(slice(0, 2), slice(1, 6))
    assert pixels.shape == (5, min(2, shape[1]), shape[2])
    np.testing.assert_array_equal(scan.projections(slice(None))[1:6, :2], pixels)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_no_good_projection_is_doubted(case):
    bad, caveats = find_bad_projections(open_scan(SCANS / case[0], case[1]))
    assert not bad.any()
    assert caveats == ()


def test_blank_frames_in_a_real_scan_are_found(tmp_path):
    with h5py.File(SCANS / "tooth.h5", "r") as source, h5py.File(tmp_path / "dump.h5", "w") as file:
        for name in ("data_white", "data_dark", "theta"):
            file[f"exchange/{name}"] = source[f"exchange/{name}"][()]
        projections = source["exchange/data"][()]
        projections[60:65] = source["exchange/data_dark"][:5]
        file["exchange/data"] = projections
    bad, caveats = find_bad_projections(open_scan(tmp_path / "dump.h5"))
    assert np.flatnonzero(bad).tolist() == [60, 61, 62, 63, 64]
    assert caveats[0].message.startswith("5 of 181 projections are left out")


def test_k11_flats_are_placed_in_time():
    """The beam steps in the scan: flats before and after it differ by more than those of one time."""
    scan = open_scan(SCANS / "k11_diad/k11-18014.nxs")
    assert scan.flat_positions.tolist() == [*range(50), *range(3101, 3151)]
    assert scan.positions.min() == 100
    assert {found.name: found.value for found in scan.decisions}["flats"] == "100 frames taken at 2 times"


def test_tooth_equals_a_direct_read():
    scan = open_scan(SCANS / "tooth.h5")
    with h5py.File(SCANS / "tooth.h5", "r") as file:
        np.testing.assert_array_equal(scan.projections(slice(None)), file["exchange/data"])
        np.testing.assert_array_equal(scan.flats(slice(1, 2)), file["exchange/data_white"][:, 1:2])
        np.testing.assert_array_equal(scan.darks(slice(None)), file["exchange/data_dark"])
        np.testing.assert_allclose(scan.theta, np.deg2rad(file["exchange/theta"]))
    assert scan.name == "Tooth"


def test_i13_equals_a_direct_read():
    scan = open_scan(I13, I13_SETTINGS)
    for frame in (0, 9, 10, 90):
        expected = tifffile.imread(I13 / "tiffs" / f"raw_{frame:05d}.tiff")
        np.testing.assert_array_equal(scan.projections(slice(30, 40), slice(frame, frame + 1))[0], expected[30:40])
    np.testing.assert_array_equal(scan.flats(slice(None))[0], tifffile.imread(I13 / "flat_00001.tiff"))
    assert len(scan_identity(scan)["files"]) == 91 + 2 + 1


def test_i13_angles_are_not_paired_silently():
    expected = (
        r"angles.txt has 111 lines, but there are 91 projections; 20 too many: .* --angle-lines FIRST:STOP "
        r"\(for example --angle-lines 10:101 leaves out 10 at either end\)"
    )
    with pytest.raises(ScanError, match=expected):
        open_scan(I13, I13_SETTINGS.model_copy(update={"angle_lines": None}))


def test_i13_names_the_flats_it_found():
    with pytest.raises(ScanError, match=r"no flats and no darks; .* holds dark_00001.tiff, flat_00001.tiff"):
        open_scan(I13)


def test_rock_equals_a_direct_read():
    with h5py.File(SCANS / "rock3d.nxs", "r") as file:
        stored = file["entry1/tomo_entry/data/data"][()]
    np.testing.assert_array_equal(
        open_scan(SCANS / "rock3d.nxs", ATTENUATION).projections(slice(1, 4)).swapaxes(0, 1), stored[1:4]
    )
    with h5py.File(SCANS / "rock2d_5channels.nxs", "r") as file:
        stored = file["entry1/tomo_entry/data/data"][()]
    pixels = open_scan(SCANS / "rock2d_5channels.nxs", CHANNEL).projections(slice(None))
    np.testing.assert_array_equal(pixels[:, 0], stored[3])


def test_k11_equals_a_direct_read():
    scan = open_scan(SCANS / "k11_diad/k11-18014.nxs")
    folder = SCANS / "k11_diad/k11-18014"
    with h5py.File(SCANS / "k11_diad/k11-18014.nxs", "r") as file:
        keys = file["entry/instrument/imaging/image_key"][()]
    with h5py.File(folder / "k11-18014-imaging.h5", "r") as file:
        stored = file["entry/detector/detector"][()]
    with h5py.File(folder / "k11-18014-pcompPanda.h5", "r") as file:
        angles = file["entry/gts_theta.value/gts_theta.value"][()]
    np.testing.assert_allclose(scan.theta, np.deg2rad(angles[keys == 0]))
    np.testing.assert_array_equal(scan.projections(slice(None)), stored[keys == 0])
    np.testing.assert_array_equal(scan.flats(slice(3, 5)), stored[keys == 1][:, 3:5])
    np.testing.assert_array_equal(scan.darks(slice(3, 5)), stored[keys == 2][:, 3:5])
    assert {source.name for source in scan.sources} == {
        "k11-18014.nxs",
        "k11-18014-imaging.h5",
        "k11-18014-pcompPanda.h5",
    }


AWKWARD_CASES = [
    ("i13_24888_broken_extlink.nxs", r"links to the file /dls/\S+/pco1-24888.hdf, which is not there"),
    ("savu_stxm_not_hdf5.nxs", "is no HDF5 file: it is XML text that begins '<!DOCTYPE NXClientSettings>'"),
    ("i12_flat_field_saturated.h5", r"no angles beside them; .* --flats \S+:/1-NoProcessPlugin-tomo/data"),
    ("i12_dark_field.h5", r"no angles beside them; .* --darks \S+:/1-NoProcessPlugin-tomo/data"),
    ("i12_dark_field_different_path.h5", r"no angles beside them; .* --darks \S+:/tomo/data"),
    ("aps_meta_mock.h5", r"\(DXchange, 11 projections\) holds no angles; give them with --angles FILE"),
]


@pytest.mark.parametrize(("name", "message"), AWKWARD_CASES)
def test_awkward_file_is_refused_with_its_reason(name, message):
    with pytest.raises(ScanError, match=message):
        open_scan(AWKWARD / name)


def test_als832_is_read():
    scan = open_scan(AWKWARD / "als832_heartbeat.h5")
    assert (scan.layout, scan.num_projections, scan.num_rows, scan.num_columns) == ("ALS 8.3.2", 64, 59, 50)
    assert (scan.num_flats, scan.num_darks) == (6, 4)
    assert scan.theta[-1] == pytest.approx(np.pi)
    assert (scan.energy, scan.pixel_size) == pytest.approx((19.99963, 0.645e-6))
    # Six of the twelve flats were taken with the beam off; the others are at the full scale of eight bits.
    assert {caveat.code for caveat in scan.caveats} == {"bad-flats", "constant-flats"}
    assert "6 of 12 flats are left out" in scan.caveats[0].message
    with h5py.File(AWKWARD / "als832_heartbeat.h5", "r") as file:
        name = next(iter(file))
        expected = file[f"{name}/{name}_0000_0017.tif"][0, 10:13]
        dark = file[f"{name}/{name}drk_0001_0063.tif"][0]
    np.testing.assert_array_equal(scan.projections(slice(10, 13), slice(17, 18))[0], expected)
    np.testing.assert_array_equal(scan.darks(slice(None))[1], dark)


def test_dummy_data_are_doubted():
    scan = open_scan(AWKWARD / "aps_meta_mock.h5", ScanSettings(angles="0:180"))
    assert {caveat.code for caveat in scan.caveats} == {"constant-flats"}
    assert scan.pixel_size == pytest.approx(1.1806e-6, rel=1e-4)


def test_saturated_flats_of_another_file(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"] = np.full((6, 10, 192), 500, np.uint16)
        file["exchange/theta"] = np.arange(0, 180, 30.0)
    flats = Path(f"{AWKWARD}/i12_flat_field_saturated.h5:/1-NoProcessPlugin-tomo/data")
    darks = Path(f"{AWKWARD}/i12_dark_field_different_path.h5:/tomo/data")
    scan = open_scan(tmp_path / "scan.h5", ScanSettings(flats=flats, darks=darks))
    assert "saturated-flats" in {caveat.code for caveat in scan.caveats}
    assert (scan.num_flats, scan.num_darks) == (20, 20)
    assert scan.flats(slice(0, 3)).max() == 65535


@pytest.mark.parametrize("fraction", [0.001, 0.3, 0.9, 0.999])
def test_real_file_cut_short(tmp_path, fraction):
    content = (SCANS / "tooth.h5").read_bytes()
    path = tmp_path / "tooth.h5"
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(ScanError, match=r"tooth.h5"):
        open_scan(path)
