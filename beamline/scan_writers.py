"""Scans in the layouts of the field, written as instruments write them: DXchange and NXtomo.

References
----------
.. [1] F. De Carlo et al., Scientific data exchange, J. Synchrotron Rad. 21, 1224-1230, 2014,
   doi:10.1107/S160057751401604X.
.. [2] NXtomo, https://manual.nexusformat.org/classes/applications/NXtomo.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .atomic import atomic_path

__all__ = ["write_dxchange", "write_nxtomo"]

PROJECTION, FLAT, DARK = 0, 1, 2
"""Values of NXtomo's ``image_key``."""


def write_dxchange(
    path: Path,
    projections: NDArray[Any],
    flats: NDArray[Any],
    darks: NDArray[Any],
    theta: NDArray[np.floating[Any]],
    *,
    flat_positions: NDArray[np.floating[Any]] | None = None,
    pixel_size: float | None = None,
    name: str | None = None,
) -> Path:
    """Write a scan in the DXchange layout [1]_; under its final name it is whole or not there.

    Parameters
    ----------
    path : Path
        The file to write; one of this name is replaced.
    projections : any number type, shape (angle, row, column)
        Counts.
    flats, darks : any number type, shape (frame, row, column)
        Open beam, and no beam.
    theta : float, shape (angle,)
        Radians; written in degrees, as the layout has it.
    flat_positions : float, shape (frame,), optional
        Number of projections taken before each flat. The layout can only tell that as many were taken after the
        projections as before them; otherwise it is not told.
    pixel_size : float, optional
        Metres.
    name : str, optional
        Name of the sample.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """
    positions = _check_shapes("write_dxchange", projections, flats, darks, theta, flat_positions)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["implements"] = "exchange:measurement"
        for key, frames in {"data": projections, "data_white": flats, "data_dark": darks}.items():
            file.create_dataset(f"exchange/{key}", data=frames).attrs["units"] = "counts"
        file["exchange/theta"] = np.rad2deg(theta)
        file["exchange/theta"].attrs["units"] = "degrees"
        half = len(flats) // 2
        if half and np.array_equal(positions, np.repeat([0, len(theta)], half)):
            file["process/acquisition/flat_fields/flat_field_mode"] = "Both"
            file["process/acquisition/flat_fields/num_flat_fields"] = half
        if name is not None:
            file["measurement/sample/name"] = name
        if pixel_size is not None:
            file["measurement/instrument/detector/x_actual_pixel_size"] = pixel_size
            file["measurement/instrument/detector/x_actual_pixel_size"].attrs["units"] = "m"
    return path


def write_nxtomo(
    path: Path,
    projections: NDArray[Any],
    flats: NDArray[Any],
    darks: NDArray[Any],
    theta: NDArray[np.floating[Any]],
    *,
    flat_positions: NDArray[np.floating[Any]] | None = None,
    pixel_size: float | None = None,
    name: str | None = None,
) -> Path:
    """Write a scan in the NXtomo layout [2]_, all frames in the order of time; whole or not there.

    Parameters
    ----------
    path : Path
        The file to write; one of this name is replaced.
    projections : any number type, shape (angle, row, column)
        Counts.
    flats, darks : any number type, shape (frame, row, column)
        Open beam, and no beam; darks were taken first.
    theta : float, shape (angle,)
        Radians; written in degrees. A flat has the angle of the projection after it, or else of the last.
    flat_positions : float, shape (frame,), optional
        Number of projections taken before each flat; 0 if not given.
    pixel_size : float, optional
        Metres.
    name : str, optional
        Name of the sample.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """
    positions = _check_shapes("write_nxtomo", projections, flats, darks, theta, flat_positions)
    taken = np.concatenate([np.full(len(darks), -1.0), positions, np.arange(len(theta))])
    order = np.argsort(taken, kind="stable")
    keys = np.repeat([DARK, FLAT, PROJECTION], [len(darks), len(flats), len(projections)])[order]
    angles = np.rad2deg(theta)[np.clip(taken[order], 0, len(theta) - 1).astype(int)]
    frames = [*darks, *flats, *projections]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        entry = _start_nxtomo(file, pixel_size, name)
        dtype = np.result_type(projections, flats, darks)
        data = entry.create_dataset("instrument/detector/data", (len(frames), *frames[0].shape), dtype)
        for i, source in enumerate(order):
            data[i] = frames[source]
        entry["instrument/detector/image_key"] = keys
        entry["instrument/detector/image_key_control"] = keys
        _write_quantity(entry, "sample/rotation_angle", angles, "degree")
    return path


def _start_nxtomo(file: h5py.File, pixel_size: float | None, name: str | None) -> h5py.Group:
    """Make the entry with all but the frames and what goes with each; ``data`` is what viewers show first."""
    file.attrs.update({"NX_class": "NXroot", "default": "entry"})
    classes = {"": "NXentry", "instrument": "NXinstrument", "instrument/detector": "NXdetector"}
    classes |= {"sample": "NXsample", "data": "NXdata"}
    entry = file.create_group("entry")
    for group, nexus_class in classes.items():
        (entry.create_group(group) if group else entry).attrs["NX_class"] = nexus_class
    entry["definition"] = "NXtomo"
    entry.attrs["default"] = "data"
    entry["data"].attrs["signal"] = "data"
    for group, field in (
        ("instrument/detector", "data"),
        ("instrument/detector", "image_key"),
        ("sample", "rotation_angle"),
    ):
        entry[f"data/{field}"] = h5py.SoftLink(f"/entry/{group}/{field}")
    if name is not None:
        entry["sample/name"] = entry["title"] = name
    if pixel_size is not None:
        _write_quantity(entry, "instrument/detector/x_pixel_size", pixel_size, "m")
        _write_quantity(entry, "instrument/detector/y_pixel_size", pixel_size, "m")
    return entry


def _write_quantity(group: h5py.Group, name: str, value: object, unit: str) -> None:
    group[name] = value
    group[name].attrs["units"] = unit


def _check_shapes(
    writer: str,
    projections: NDArray[Any],
    flats: NDArray[Any],
    darks: NDArray[Any],
    theta: NDArray[np.floating[Any]],
    flat_positions: NDArray[np.floating[Any]] | None,
) -> NDArray[np.floating[Any]]:
    """Give the position of each flat, 0 if not known."""
    shape = projections.shape
    if len(shape) != 3 or len(theta) != shape[0] or flats.shape[1:] != shape[1:] or darks.shape[1:] != shape[1:]:
        raise ValueError(
            f"{writer} expects (angle, row, column) projections, flats and darks of the same rows and "
            f"columns, and one angle each, got {shape}, {flats.shape}, {darks.shape}, {len(theta)} angles"
        )
    positions = np.zeros(len(flats)) if flat_positions is None else flat_positions
    if len(positions) != len(flats):
        raise ValueError(f"{writer} expects a position of each of {len(flats)} flats, got {len(positions)}")
    return positions
