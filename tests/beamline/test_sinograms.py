import h5py
import numpy as np
import pytest

from quietbeam.beamline.scan import ScanSettings, open_scan
from quietbeam.beamline.sinograms import SinogramSettings, clean_sinograms, count_caveats
from quietbeam.reconstruction.normalize import transmission

from .jobs import small_scan

UNLIT = [0, 1, 14, 15]


@pytest.fixture
def slit_scan(tmp_path):
    """16 rows; a slit keeps the beam from four of them. One pixel of another is dead."""
    path = small_scan(tmp_path / "slit.h5")
    rng = np.random.default_rng(0)
    with h5py.File(path, "r+") as file:
        for name in ("data", "data_white"):
            frames = file["exchange"][name]
            counts = frames[:]
            dark = rng.normal(100, 2, (len(counts), len(UNLIT), counts.shape[2]))
            counts[:, UNLIT] = np.rint(dark).astype(counts.dtype)
            counts[:, 5, 20] = 0
            frames[:] = counts
    return open_scan(path)


def test_rows_without_beam_are_empty_and_told(slit_scan):
    sinograms, counts = clean_sinograms(slit_scan, slice(0, 16), SinogramSettings())
    assert (sinograms[UNLIT] == 0).all()
    assert counts["unlit rows"] == 4
    assert counts["dead"] == slit_scan.num_projections
    assert counts["not finite"] == 0
    caveats = count_caveats(counts)
    assert [caveat.code for caveat in caveats] == ["unlit-rows"]
    assert caveats[0].message == "4 of the detector rows saw no beam; their slices are empty"


@pytest.mark.parametrize("size", [1, 3, 8])
def test_rows_read_together_do_not_matter(slit_scan, size):
    whole, counts = clean_sinograms(slit_scan, slice(0, 16), SinogramSettings())
    parts = [clean_sinograms(slit_scan, slice(i, min(i + size, 16)), SinogramSettings()) for i in range(0, 16, size)]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), whole)
    assert sum((part for _, part in parts), start=type(counts)()) == +counts


@pytest.mark.parametrize("normalised", ["transmission", "attenuation"])
def test_a_row_without_a_finite_value_is_an_empty_beam_path(slit_scan, normalised):
    projections = transmission(
        *(read(slice(0, 16)) for read in (slit_scan.projections, slit_scan.flats, slit_scan.darks))
    )
    path = slit_scan.path
    with h5py.File(path, "r+") as file:
        del file["exchange/data"], file["exchange/data_white"], file["exchange/data_dark"]
        values = projections.values if normalised == "transmission" else -np.log(np.maximum(projections.values, 1e-3))
        file["exchange/data"] = values
    scan = open_scan(path, ScanSettings(normalised=normalised))
    sinograms, counts = clean_sinograms(scan, slice(0, 16), SinogramSettings())
    assert (sinograms[UNLIT] == 0).all()
    assert np.isfinite(sinograms).all()
    assert counts["not finite"] == scan.num_projections * (4 * scan.num_columns + 1)
