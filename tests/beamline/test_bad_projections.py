import h5py
import numpy as np
import pytest

from quietbeam.beamline.bad_projections import find_bad_projections
from quietbeam.beamline.scan import ScanSettings, open_scan
from quietbeam.beamline.sinograms import SinogramSettings, clean_sinograms

from .jobs import small_scan

BLANK = [7, 8, 9, 10]


def spoil(path, change):
    with h5py.File(path, "r+") as file:
        counts = file["exchange/data"][:].astype(np.float32)
        change(counts, file["exchange/data_dark"][:])
        del file["exchange/data"]
        file["exchange/data"] = counts
    return path


def dump(counts, darks):
    counts[BLANK] = darks[: len(BLANK)]


@pytest.fixture
def scan_file(tmp_path):
    return small_scan(tmp_path / "scan.h5")


def test_a_good_scan_is_left_alone(scan_file):
    bad, caveats = find_bad_projections(open_scan(scan_file))
    assert not bad.any()
    assert caveats == ()


def test_a_beam_dump_is_left_out_with_its_angles(scan_file):
    good = open_scan(scan_file)
    theta, sinograms = good.theta, clean_sinograms(good, slice(0, 4), SinogramSettings())[0]
    scan = open_scan(spoil(scan_file, dump))
    bad, caveats = find_bad_projections(scan)
    assert np.flatnonzero(bad).tolist() == BLANK
    assert caveats[0].code == "bad-projections"
    less = scan.without(bad, caveats)
    np.testing.assert_array_equal(less.theta, np.delete(theta, BLANK))
    cleaned, counts = clean_sinograms(less, slice(0, 4), SinogramSettings())
    assert counts["starved"] == 0
    # Ring removal sorts all angles together, so those left differ by less than the noise.
    assert np.abs(cleaned - np.delete(sinograms, BLANK, axis=1)).std() < 0.01


def test_blank_frames_beside_each_other_in_time_not_in_angle(scan_file):
    """Stored in the order of the golden angle: the dump is one run of frames but many single angles."""
    with h5py.File(scan_file, "r+") as file:
        theta = file["exchange/theta"][:]
        order = np.argsort(np.arange(len(theta)) * (np.sqrt(5) - 1) / 2 % 1)
        stored = np.argsort(order)
        file["exchange/theta"][:] = theta[stored]
        file["exchange/data"][:] = file["exchange/data"][:][stored]
    scan = open_scan(spoil(scan_file, dump))
    bad, caveats = find_bad_projections(scan)
    assert sorted(scan.order[bad]) == BLANK
    assert "frames 7 (" in caveats[0].message


def test_frames_that_are_not_finite(scan_file):
    def change(counts, darks):
        counts[3], counts[20, :, :40] = np.nan, np.inf

    bad, _ = find_bad_projections(open_scan(spoil(scan_file, change)))
    assert np.flatnonzero(bad).tolist() == [3, 20]


@pytest.mark.parametrize("normalised", ["transmission", "attenuation"])
def test_of_normalised_data(scan_file, normalised):
    def change(counts, darks):
        counts[:] = np.clip((counts - 100) / 2000, 1e-3, None)
        if normalised == "attenuation":
            counts[:] = -np.log(counts)
        counts[BLANK] = 0  # never written: HDF5 gives zeros

    bad, _ = find_bad_projections(open_scan(spoil(scan_file, change), ScanSettings(normalised=normalised)))
    assert np.flatnonzero(bad).tolist() == BLANK


def test_rows_in_the_middle_may_be_unlit(scan_file):
    """The beam comes in two strips: above and below a beam stop."""
    rng = np.random.default_rng(0)
    with h5py.File(scan_file, "r+") as file:
        for name in ("data", "data_white"):
            counts = file["exchange"][name][:]
            counts[:, 3:14] = np.rint(rng.normal(100, 2, counts[:, 3:14].shape))
            file["exchange"][name][:] = counts
    bad, _ = find_bad_projections(open_scan(spoil(scan_file, dump)))
    assert np.flatnonzero(bad).tolist() == BLANK
