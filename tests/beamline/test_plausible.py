"""What is refused as no scan by a first look."""

import os

import h5py
import numpy as np
import pytest
import tifffile

from quietbeam.beamline.watching.plausible import check_plausible
from quietbeam.reconstruction.errors import ScanError


def test_scans_pass(tmp_path):
    with h5py.File(tmp_path / "scan.dat", "w") as file:
        file["data"] = 1
    with h5py.File(tmp_path / "behind.h5", "w", userblock_size=1024) as file:
        file["data"] = 1
    with (tmp_path / "behind.h5").open("r+b") as file:
        file.write(b"what another program put first")
    tifffile.imwrite(tmp_path / "pages", np.zeros((2, 4, 4), np.uint16))
    (tmp_path / "empty.h5").touch()
    (tmp_path / "not_flushed.nxs").write_bytes(b"\0" * 96)
    (tmp_path / "series" / "tomo").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "series" / "tomo" / "0001.TIF", np.zeros((4, 4), np.uint16))
    for name in ("scan.dat", "behind.h5", "pages", "empty.h5", "not_flushed.nxs", "series", "series/tomo"):
        check_plausible(tmp_path / name)


def test_other_things_do_not(tmp_path):
    (tmp_path / "worker.toml").write_text("output = '/data'")
    (tmp_path / "renamed.h5").write_text("import sys\n" * 1000)
    (tmp_path / "empty").touch()
    (tmp_path / "folder" / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "deeper" / "0001.tif").touch()
    problems = {
        "worker.toml": "begins with b'output =', which can be no scan; expected an HDF5 or TIFF file, a folder",
        "renamed.h5": "begins with b'import s'",
        "empty": "an empty file, which can be no scan",
        "folder": "a folder without TIFF files",
    }
    for name, problem in problems.items():
        with pytest.raises(ScanError) as refused:
            check_plausible(tmp_path / name)
        assert f"{name}: {problem}" in str(refused.value)
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(ScanError, match="neither a file nor a folder"):
        check_plausible(tmp_path / "pipe.h5")
