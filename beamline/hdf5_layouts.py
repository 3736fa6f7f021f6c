"""HDF5 scans with groups of fixed names: DXchange, and the old files of ALS 8.3.2.

References
----------
.. [1] F. De Carlo et al., Scientific data exchange, J. Synchrotron Rad. 21, 1224-1230, 2014,
   doi:10.1107/S160057751401604X.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ScanError

from .hdf5_contents import Hdf5Contents
from .hdf5_frames import Hdf5FrameSeries
from .hdf5_links import is_hdf5
from .recording import Angles, Recording, ScanSettings, reads

__all__ = ["read_als832", "read_dxchange"]

_DX_PIXEL = (
    "/measurement/instrument/detection_system/objective/resolution",
    "/measurement/instrument/detector/x_actual_pixel_size",
    "/measurement/instrument/detector/actual_pixel_size_x",
)
_DX_FLATS = "/process/acquisition/flat_fields"
_DX_DISTANCE = (
    "/measurement/instrument/detector/distance",
    "/measurement/instrument/detector_motor_stack/setup/camera_distance",
)


def _is_dxchange(path: Path, settings: ScanSettings) -> bool:
    return is_hdf5(path) and Hdf5Contents.of(path, settings).has("/exchange/data")


@reads("DXchange", _is_dxchange)
def read_dxchange(path: Path, settings: ScanSettings) -> Recording:
    """Read ``exchange/data``, ``data_white``, ``data_dark`` and ``theta`` [1]_."""
    file = Hdf5Contents.of(path, settings)
    projections, flats = file.frames("/exchange/data"), file.optional_frames("/exchange/data_white")
    positions, flat_positions = _dx_positions(file, projections.shape[0], flats.shape[0] if flats else 0)
    return Recording(
        layout="DXchange",
        projections=projections,
        flats=flats,
        darks=file.optional_frames("/exchange/data_dark"),
        angles=file.angles("/exchange/theta"),
        name=file.text("/measurement/sample/name"),
        instrument=file.text("/measurement/instrument/name"),
        pixel_size=file.quantity(_DX_PIXEL, "m"),
        energy=file.quantity(("/measurement/instrument/monochromator/energy",), "keV"),
        distance=file.quantity(_DX_DISTANCE, "m"),
        positions=positions,
        flat_positions=flat_positions,
    )


def _dx_positions(
    file: Hdf5Contents, num_projections: int, num_flats: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | tuple[None, None]:
    """Place the flats where the file says that one half was taken before and the other after the projections."""
    mode, each = file.text(f"{_DX_FLATS}/flat_field_mode") or "", _dx_flats_each(file)
    if mode.lower() != "both" or each < 1 or 2 * each != num_flats:
        return None, None
    flat_positions = np.concatenate([np.arange(-each, 0), num_projections + np.arange(each)])
    return np.arange(num_projections, dtype=np.float64), flat_positions.astype(np.float64)


def _dx_flats_each(file: Hdf5Contents) -> int:
    """Count the flats taken each time; 0 if it is not told."""
    try:
        numbers = file.numbers(f"{_DX_FLATS}/num_flat_fields")
    except ScanError:
        return 0
    return int(numbers[0]) if numbers.size == 1 and np.isfinite(numbers[0]) else 0


def _als_group(file: Hdf5Contents) -> str | None:
    """Find the group that holds datasets of its own name with a number and ``.tif`` behind it."""
    matches = (re.fullmatch(r"(/([^/]+))/\2_\d+(_\d+)?\.tif", name) for name in file.names)
    return next((match[1] for match in matches if match), None)


def _is_als832(path: Path, settings: ScanSettings) -> bool:
    return is_hdf5(path) and _als_group(Hdf5Contents.of(path, settings)) is not None


@reads("ALS 8.3.2", _is_als832)
def read_als832(path: Path, settings: ScanSettings) -> Recording:
    """Read the old layout of ALS 8.3.2: one dataset per frame, ``NAME_0000_0012.tif``, ``NAMEbak...``, ``NAMEdrk...``.

    The angles are equal steps over the attribute ``arange`` (degrees), both ends included, as that beamline's own
    scripts take them.
    """
    file = Hdf5Contents.of(path, settings)
    group = _als_group(file) or "/"
    series = _als_series(file, group)
    number = len(series[""])
    stated = file.number_attribute(group, "nangles")
    if stated is not None and stated != number:
        raise ScanError(f"{path} (ALS 8.3.2) has {number} projections, but its attribute nangles says {stated:g}")
    turn = file.number_attribute(group, "arange")
    angles = (
        None
        if turn is None
        else Angles(np.linspace(0, turn, number), "degree", f"attribute arange of {group} (both ends included)")
    )
    energy_ev, pixel_mm = file.number_attribute(group, "senergy"), file.number_attribute(group, "pxsize")
    return Recording(
        layout="ALS 8.3.2",
        projections=_als_frames(file, series[""]),
        flats=_als_frames(file, series["bak"]) if series["bak"] else None,
        darks=_als_frames(file, series["drk"]) if series["drk"] else None,
        angles=angles,
        name=group[1:],
        pixel_size=None if pixel_mm is None else pixel_mm / 1000,
        energy=None if energy_ev is None else energy_ev / 1000,
    )


def _als_series(file: Hdf5Contents, group: str) -> dict[str, list[str]]:
    """List the datasets of projections, flats (bak) and darks (drk), each in the order of their numbers."""
    stem = f"{group}/{group[1:]}"
    series: dict[str, list[str]] = {"": [], "bak": [], "drk": []}
    for name in sorted(file.names):
        match = re.fullmatch(rf"{re.escape(stem)}(bak|drk)?_(\d+)(?:_\d+)?\.tif", name)
        if match:
            series[match[1] or ""].append(name)
    tiles = {name[len(stem) :].split("_")[1] for name in series[""]}
    if len(tiles) > 1:
        raise ScanError(f"{file.path} (ALS 8.3.2) is a scan of {len(tiles)} tiles, expected one; stitch or split it")
    return series


def _als_frames(file: Hdf5Contents, names: list[str]) -> Hdf5FrameSeries:
    first = file.frames(names[0])
    return Hdf5FrameSeries(first.place.path, tuple(names), (len(names), *first.shape[1:]), first.dtype)
