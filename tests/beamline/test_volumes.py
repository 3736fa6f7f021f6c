"""Volumes by name: each kind of file gives the same voxels, and what is none is refused in one line."""

import h5py
import numpy as np
import pytest
import tifffile

from quietbeam.beamline.volumes import open_volume
from quietbeam.reconstruction.errors import ReductionError

VOLUME = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)


def write(folder):
    np.save(folder / "a.npy", VOLUME)
    tifffile.imwrite(folder / "a.tif", VOLUME, photometric="minisblack")
    with h5py.File(folder / "a.h5", "w") as file:
        file["entry/data"] = VOLUME
        file["entry/angles"] = np.zeros(3)


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.h5", "a.h5:/entry/data"])
def test_the_same_voxels_from_each_kind(tmp_path, name):
    write(tmp_path)
    with open_volume(str(tmp_path / name)) as volume:
        assert volume.shape == VOLUME.shape
        assert volume.dtype == np.uint16
        np.testing.assert_array_equal(volume[1:3], VOLUME[1:3])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.npy", "there is no such file"),
        ("a.h5:/entry/other", r"has no data set /entry/other; it has /entry/data"),
        ("two.h5", r"expected one data set of three axes, found 2 \(/a, /b\)"),
        ("text.txt", "is neither .npy, TIFF, an archive nor HDF5"),
        ("text.npy", "cannot be read as a .npy file"),
        ("text.tif", "cannot be read as a TIFF file"),
        ("flat.npy", r"expected a volume of three axes \(slice, y, x\), got the shape \(3,\)"),
        ("complex.npy", "expected integers or floats, got complex128"),
    ],
)
def test_what_is_no_volume_is_told(tmp_path, name, message):
    write(tmp_path)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"] = file["b"] = VOLUME
        file["b2"] = 1.0
        del file["b"]
        file["b"] = VOLUME
    for text in ("text.txt", "text.npy", "text.tif"):
        (tmp_path / text).write_text("no volume")
    np.save(tmp_path / "flat.npy", np.zeros(3))
    np.save(tmp_path / "complex.npy", np.zeros((1, 2, 3), complex))
    with pytest.raises(ReductionError, match=message), open_volume(str(tmp_path / name)):
        pass
