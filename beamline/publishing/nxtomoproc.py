"""The decoded volume as a NeXus file of the definition NXtomoproc, with filters that every HDF5 has.

References
----------
.. [1] NeXus International Advisory Committee, application definition NXtomoproc,
   https://manual.nexusformat.org/classes/applications/NXtomoproc.html.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from quietbeam.compress.archive import Archive
from quietbeam.compress.preview import pixel_size_of

from .provenance import Provenance
from .settings import PublishSettings

__all__ = ["DATASET", "write_nxtomoproc"]

DATASET = "/entry/data/data"
"""The volume, shape (slice, y, x), one slice in a chunk."""
_LEVEL = 1
"""Of gzip: higher ones take several times as long for a few per cent."""


def write_nxtomoproc(archive: Archive, path: Path, provenance: Provenance, settings: PublishSettings) -> None:
    """Write the volume of an archive, one chunk of it in memory at a time.

    Parameters
    ----------
    archive : Archive
        Open.
    path : Path
        File to make.
    provenance : Provenance
        What the file tells of its origin.
    settings : PublishSettings
        What it tells of the source.

    Raises
    ------
    ArchiveError
        If the archive is damaged.
    """
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry", default="data")
        _describe_entry(entry, provenance)
        _describe_source(_group(_group(entry, "instrument", "NXinstrument"), "source", "NXsource"), settings)
        _group(entry, "sample", "NXsample")["name"] = provenance.sample
        _describe_process(_group(entry, "reconstruction", "NXprocess"), archive, provenance)
        data = _group(entry, "data", "NXdata", signal="data", axes=["z", "y", "x"])
        _write_axes(data, archive)
        _write_volume(data, archive)


def _group(parent: Any, name: str, nx_class: str, **attributes: Any) -> Any:
    group = parent.create_group(name)
    group.attrs.update({"NX_class": nx_class, **attributes})
    return group


def _describe_entry(entry: Any, provenance: Provenance) -> None:
    entry["title"] = f"{provenance.sample}, denoised"
    entry["definition"] = "NXtomoproc"
    entry["entry_identifier_uuid"] = provenance.uid
    for name, key in (("experiment_identifier", "data_session"), ("collection_identifier", "scan_id")):
        if key in provenance.start:
            entry[name] = str(provenance.start[key])


def _describe_source(source: Any, settings: PublishSettings) -> None:
    source["type"], source["name"], source["probe"] = settings.source_type, settings.source_name, settings.probe


def _describe_process(process: Any, archive: Archive, provenance: Provenance) -> None:
    process["program"] = "quietbeam"
    process["version"] = provenance.manifest["versions"]["quietbeam"]
    process["date"] = provenance.date
    parameters = _group(process, "parameters", "NXparameters")
    parameters["raw_file"] = ", ".join(provenance.raw_files)
    if provenance.raw_uid:
        parameters["raw_uid"] = provenance.raw_uid
    parameters["key"], parameters["archive_sha256"] = provenance.manifest["key"], provenance.archive_sha256
    parameters["max_error"] = archive.header.max_error
    parameters["settings"] = json.dumps(provenance.manifest["settings"], sort_keys=True)


def _write_axes(data: Any, archive: Archive) -> None:
    """Write the centres of the voxels along each axis, from that of the first."""
    size = pixel_size_of(archive.header)
    for name, length in zip("zyx", archive.shape, strict=True):
        axis = data.create_dataset(name, data=(size or 1.0) * np.arange(length, dtype=np.float64))
        axis.attrs["units"] = "m" if size else "pixel"


def _write_volume(data: Any, archive: Archive) -> None:
    chunk = (1, *archive.shape[1:])
    volume = data.create_dataset(
        "data",
        archive.shape,
        archive.dtype,
        chunks=chunk,
        shuffle=True,
        compression="gzip",
        compression_opts=_LEVEL,
        fletcher32=True,
    )
    extremes = []
    for number in range(archive.header.num_chunks):
        slices, voxels = archive.header.slices_of(number), archive.decode_chunk(number)
        volume[slices.start : slices.stop] = voxels
        extremes += [voxels.min(), voxels.max()]
    volume.attrs.update({"transform": "identity", "offset": 0.0, "scaling": 1.0})  # demanded by the definition
    volume.attrs["units"] = str(archive.metadata.get("unit") or "")
    volume.attrs["minimum"], volume.attrs["maximum"] = float(np.min(extremes)), float(np.max(extremes))
