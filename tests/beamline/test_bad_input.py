"""What may be wrong with a scan: each time one error or warning with the numbers in it, and no nan in the slices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from rich.console import Console

from quietbeam.beamline.job import Job
from quietbeam.beamline.progress import LineProgress
from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.section_slices import SectionSlices, reconstruct_scan
from quietbeam.beamline.workspace import Workspace
from quietbeam.reconstruction.errors import ScanError

from .jobs import small_scan, small_settings

Spoil = Callable[[h5py.File], None]


def set_data(name: str, key: Any, value: Any) -> Spoil:
    """Put a value into a dataset, as float32, which can hold nan."""

    def spoil(file: h5py.File) -> None:
        data = file[name][()].astype(np.float32)
        data[key] = value
        del file[name]
        file[name] = data

    return spoil


def set_theta(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Change the angles, which are in degrees."""

    def spoil(file: h5py.File) -> None:
        theta = change(file["exchange/theta"][()])
        del file["exchange/theta"]
        file["exchange/theta"] = theta
        file["exchange/theta"].attrs["units"] = "degrees"

    return spoil


def swap_flats_and_darks(file: h5py.File) -> None:
    file.move("exchange/data_dark", "exchange/other")
    file.move("exchange/data_white", "exchange/data_dark")
    file.move("exchange/other", "exchange/data_white")


PIXEL = (slice(None), 3, 20)
BLOCK = (slice(None), slice(3, 6), slice(10, 20))
TOLD: dict[str, tuple[Spoil, str, str]] = {
    "nan in a pixel": (set_data("exchange/data", PIXEL, np.nan), "not-finite", "48 values"),
    "inf in one value": (set_data("exchange/data", (7, 3, 20), np.inf), "not-finite", "1 values"),
    "minus inf in one value": (set_data("exchange/data", (7, 3, 20), -np.inf), "not-finite", "1 values"),
    "nan in a flat": (set_data("exchange/data_white", (0, 3, 20), np.nan), "calibration-not-finite", "1 "),
    "nan in a dark": (set_data("exchange/data_dark", (0, 3, 20), np.nan), "calibration-not-finite", "1 "),
    "zero flats in a row": (set_data("exchange/data_white", (slice(None), 3), 0), "unlit-rows", "1 of"),
    "a flat without beam": (set_data("exchange/data_white", 4, 100), "bad-flats", "1 of 20 flats is left out: frame 4"),
    "darks above flats": (set_data("exchange/data_dark", BLOCK, 6e4), "dark-above-flat", "3.91%"),
    "a projection of nan": (set_data("exchange/data", 11, np.nan), "bad-projections", "1 of 48"),
    "projections without beam": (set_data("exchange/data", slice(20, 24), 100), "bad-projections", "4 of 48"),
    "repeated angles": (set_theta(lambda theta: np.r_[theta[:4], theta[:44]]), "repeated-angles", "4 of 48"),
    "missing angles": (
        set_theta(lambda theta: np.r_[theta[:24] * 0.6, 72 + theta[24:] * 0.6]),
        "missing-angles",
        "180",
    ),
    "a missing wedge": (set_theta(lambda theta: theta * 0.7), "missing-wedge", "126"),
}
REFUSED: dict[str, tuple[Spoil, str]] = {
    "all flats zero": (set_data("exchange/data_white", slice(None), 0), "no brighter than the darks"),
    "flats and darks swapped": (swap_flats_and_darks, "no brighter than the darks"),
    "all projections nan": (set_data("exchange/data", slice(None), np.nan), "48 of 48 projections cannot be used"),
    "theta too short": (set_theta(lambda theta: theta[:-1]), "has 47 angles, but there are 48 projections"),
    "theta too long": (set_theta(lambda theta: np.r_[theta, 180]), "has 49 angles, but there are 48 projections"),
    "theta of nan": (set_theta(lambda theta: np.r_[theta[:-1], np.nan]), "angle 47 is nan"),
    "theta all alike": (set_theta(lambda theta: theta * 0 + 10), "all 48 angles are 10"),
}


def slices_of(path: Path, output: Path, **settings: object) -> tuple[SectionSlices, Job]:
    chosen = small_settings(**settings)
    workspace = Workspace(output)
    with workspace.locked():
        job = Job(open_scan(path, chosen.scan), chosen, workspace, LineProgress(Console(quiet=True)))
        job.doubt(job.scan.caveats)
        return reconstruct_scan(job, num_threads=1), job


def spoilt(path: Path, spoil: Spoil) -> Path:
    small_scan(path)
    with h5py.File(path, "r+") as file:
        spoil(file)
    return path


@pytest.mark.parametrize("what", TOLD)
def test_is_told_with_numbers_and_gives_finite_slices(what: str, tmp_path: Path) -> None:
    spoil, code, numbers = TOLD[what]
    slices, job = slices_of(spoilt(tmp_path / "scan.h5", spoil), tmp_path / "out")
    told = {caveat.code: caveat.message for caveat in job.caveats}
    assert numbers in told[code]
    assert np.isfinite(slices.volume[:]).all()


@pytest.mark.parametrize("what", REFUSED)
def test_is_refused_with_numbers(what: str, tmp_path: Path) -> None:
    spoil, message = REFUSED[what]
    with pytest.raises(ScanError, match=message):
        slices_of(spoilt(tmp_path / "scan.h5", spoil), tmp_path / "out")


@pytest.mark.parametrize("column", [-0.5, 47.5, 999])
def test_axis_outside_is_refused(column: float, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=rf"must lie in \[0, 47\], got {column:g}"):
        slices_of(small_scan(tmp_path / "scan.h5"), tmp_path / "out", rotation_axis__column=column)


def test_a_good_scan_has_no_warnings(tmp_path: Path) -> None:
    scan = small_scan(tmp_path / "scan.h5", num_angles=96, noise={"dead_fraction": 0})
    slices, job = slices_of(scan, tmp_path / "out")
    assert job.caveats == []
    assert np.isfinite(slices.volume[:]).all()
