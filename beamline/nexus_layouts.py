"""NeXus scans: NXtomo, and the files of the Core Imaging Library (CIL).

References
----------
.. [1] NXtomo, https://manual.nexusformat.org/classes/applications/NXtomo.html
.. [2] J. S. Jorgensen et al., Core Imaging Library, Phil. Trans. R. Soc. A 379, 20200192, 2021,
   doi:10.1098/rsta.2020.0192.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import ScanError

from .angles import parse_unit
from .hdf5_contents import Hdf5Contents
from .hdf5_frames import Axes, Hdf5Frames
from .hdf5_links import is_hdf5
from .recording import Angles, Recording, ScanSettings, reads

__all__ = ["read_cil", "read_nxtomo"]


def _image_keys(file: Hdf5Contents) -> dict[str, list[str]]:
    """List for each entry the datasets ``image_key`` that have ``data`` beside them, the likeliest first."""
    names = set(file.names)
    keys = [name for name in file.names if name.endswith("/image_key") and f"{name[: -len('image_key')]}data" in names]
    marked = [name[: -len("/definition")] for name in file.names if name.endswith("/definition")]
    tomo = [entry for entry in marked if (file.text(f"{entry}/definition") or "").lower() == "nxtomo"]
    entries = tomo or list(dict.fromkeys("/" + key.split("/")[1] for key in keys))
    found = {entry: _keys_of_entry(file, entry, keys) for entry in entries}
    return {entry: candidates for entry, candidates in found.items() if candidates}


def _keys_of_entry(file: Hdf5Contents, entry: str, keys: list[str]) -> list[str]:
    own = [key for key in keys if key.startswith(f"{entry}/")]
    usual = f"{entry}/instrument/detector/image_key"
    if usual not in own and file.has(usual):
        own.append(usual)
    return sorted(own, key=lambda key: (key != usual, "/instrument/" not in key, key))


def _is_nxtomo(path: Path, settings: ScanSettings) -> bool:
    return is_hdf5(path) and bool(_image_keys(Hdf5Contents.of(path, settings)))


@reads("NXtomo", _is_nxtomo)
def read_nxtomo(path: Path, settings: ScanSettings) -> Recording:
    """Read ``data``, ``image_key`` (0 projection, 1 flat, 2 dark, 3 invalid) and ``rotation_angle`` [1]_."""
    file = Hdf5Contents.of(path, settings)
    entries = _image_keys(file)
    entry = _choose_entry(path, list(entries), settings.entry)
    detector, frames = _detector(file, entries[entry])
    keys = _read_keys(file, detector, frames)
    projections, flats, darks = (np.flatnonzero(keys == kind) for kind in (0, 1, 2))
    if not projections.size:
        raise ScanError(f"{path}:{detector}/image_key has no 0 among {keys.size} frames: there are no projections")
    counts = f"{projections.size} projections, {flats.size} flats, {darks.size} darks of {keys.size} frames"
    return Recording(
        layout="NXtomo",
        projections=frames.select(projections),
        flats=frames.select(flats) if flats.size else None,
        darks=frames.select(darks) if darks.size else None,
        angles=_nxtomo_angles(file, entry, detector, frames, projections),
        name=file.text(f"{entry}/sample/name") or file.text(f"{entry}/title"),
        instrument=file.text(f"{entry}/instrument/name"),
        pixel_size=file.quantity((f"{entry}/sample/x_pixel_size", f"{detector}/x_pixel_size"), "m"),
        energy=file.quantity(_nxtomo_energy(entry), "keV"),
        distance=file.quantity((f"{detector}/distance",), "m"),
        positions=projections.astype(np.float64),
        flat_positions=flats.astype(np.float64),
        decisions=(Decision("frames", counts, f"{detector}/image_key"),),
        caveats=_several_entries(list(entries), entry, settings),
    )


def _nxtomo_energy(entry: str) -> tuple[str, ...]:
    parts = ("instrument/beam/incident_energy", "beam/incident_energy", "instrument/monochromator/energy")
    return tuple(f"{entry}/{part}" for part in parts)


def _choose_entry(path: Path, entries: list[str], wanted: str | None) -> str:
    if wanted is None:
        return entries[0]
    name = "/" + wanted.strip("/")
    if name not in entries:
        raise ScanError(f"{path} has no NXtomo entry {wanted!r}; it has {', '.join(entries)}: set scan.entry to one")
    return name


def _several_entries(entries: list[str], taken: str, settings: ScanSettings) -> tuple[Caveat, ...]:
    if len(entries) == 1 or settings.entry is not None:
        return ()
    message = f"the file has {len(entries)} entries ({', '.join(entries)}); {taken} was read: see --set scan.entry=NAME"
    return (Caveat("several-entries", message),)


def _detector(file: Hdf5Contents, keys: list[str]) -> tuple[str, Hdf5Frames]:
    """Take the first detector whose frames can be reached; the first one's error if none can."""
    first: ScanError | None = None
    for key in keys:
        detector = key.rsplit("/", 1)[0]
        try:
            return detector, file.frames(f"{detector}/data")
        except ScanError as error:
            first = first or error
    raise first or ScanError(f"{file.path} has no image_key with frames beside it")


def _read_keys(file: Hdf5Contents, detector: str, frames: Hdf5Frames) -> NDArray[np.float64]:
    """Read the kind of each frame; alignment frames (image_key_control -1) count as invalid."""
    keys = file.numbers(f"{detector}/image_key")
    if len(keys) != frames.shape[0]:
        raise ScanError(
            f"{file.path}:{detector}/image_key has {len(keys)} numbers, but {frames.place} has {frames.shape[0]} "
            "frames; was the scan stopped, or copied in part?"
        )
    if file.shape(f"{detector}/image_key_control") == (len(keys),):
        keys = np.where(file.numbers(f"{detector}/image_key_control") < 0, 3, keys)
    return keys


def _nxtomo_angles(
    file: Hdf5Contents, entry: str, detector: str, frames: Hdf5Frames, projections: NDArray[np.intp]
) -> Angles | None:
    """Read the angles of the projections out of the angles of all frames."""
    inner = _find_angles(file, entry, detector, frames)
    angles = None if inner is None else file.angles(inner)
    if angles is None or len(angles.values) == len(projections):
        return angles
    if len(angles.values) != frames.shape[0]:
        raise ScanError(
            f"{angles.origin} has {len(angles.values)} angles, expected {frames.shape[0]} (one per frame) or "
            f"{len(projections)} (one per projection); give the angles with --angles FILE"
        )
    return angles._replace(values=angles.values[projections])


def _find_angles(file: Hdf5Contents, entry: str, detector: str, frames: Hdf5Frames) -> str | None:
    """Find ``rotation_angle``, or else the rotation that is listed beside the same frames in an NXdata group."""
    usual = [f"{entry}/sample/rotation_angle", f"{entry}/data/rotation_angle", f"{detector}/rotation_angle"]
    anywhere = [name for name in file.names if name.startswith(f"{entry}/") and name.endswith("/rotation_angle")]
    found = next((name for name in [*usual, *anywhere] if file.shape(name) is not None), None)
    return found or next(_rotations_beside(file, entry, frames), None)


def _rotations_beside(file: Hdf5Contents, entry: str, frames: Hdf5Frames) -> Iterator[str]:
    groups = [name[: -len("/data")] for name in file.names if name.startswith(f"{entry}/") and name.endswith("/data")]
    for group in groups:
        rotations = [
            name for name in file.names if re.fullmatch(rf"{re.escape(group)}/[^/]*(theta|rot|angle)[^/]*", name)
        ]
        for name in rotations:
            same_length = file.shape(name) == (frames.dataset_shape[0],)
            if same_length and not name.endswith("_set") and file.same_object(f"{group}/data", frames.place):
                yield name


def _cil_data(file: Hdf5Contents) -> str | None:
    """Find the dataset whose attributes name its axes (``dim0`` and so on)."""
    candidates = (name for name in file.names if name.endswith("/data") and file.shape(name) is not None)
    return next((name for name in candidates if file.text_attribute(name, "dim0")), None)


def _is_cil(path: Path, settings: ScanSettings) -> bool:
    return is_hdf5(path) and _cil_data(Hdf5Contents.of(path, settings)) is not None


@reads("NeXus (CIL)", _is_cil)
def read_cil(path: Path, settings: ScanSettings) -> Recording:
    """Read a dataset whose attributes name its axes, with ``rotation_angle`` beside it [2]_."""
    file = Hdf5Contents.of(path, settings)
    inner = _cil_data(file)
    if inner is None:
        raise ScanError(f"{path} has no dataset whose attributes name its axes")
    shape = file.shape(inner) or ()
    labels = [file.text_attribute(inner, f"dim{k}") or "" for k in range(len(shape))]
    axes = _cil_axes(f"{path}:{inner}", labels, shape, settings.channel)
    angles = file.angles(inner.rsplit("/", 1)[0] + "/rotation_angle")
    unit = parse_unit(file.text_attribute(inner, "angle_unit"))
    return Recording(
        layout="NeXus (CIL)",
        projections=file.frames(inner, axes),
        angles=angles._replace(unit=angles.unit or unit) if angles else None,
        decisions=(Decision("axes", ", ".join(labels), f"attributes dim0, dim1, ... of {inner}"),),
        caveats=_check_cone(file.text_attribute(inner, "geom_type") or file.text_attribute(inner, "geometry")),
    )


def _cil_axes(place: str, labels: list[str], shape: tuple[int, ...], channel: int | None) -> Axes:
    where = {label: k for k, label in enumerate(labels)}
    if not {"angle", "horizontal"} <= where.keys() <= {"angle", "horizontal", "vertical", "channel"}:
        raise ScanError(
            f"{place} names its axes {labels}, expected angle, horizontal, and perhaps vertical and channel"
        )
    fixed = where.get("channel")
    if fixed is None:
        return Axes(where["angle"], where.get("vertical"), where["horizontal"])
    if channel is None and shape[fixed] > 1:
        raise ScanError(f"{place} has {shape[fixed]} energy channels; choose one with --set scan.channel=0 (or higher)")
    if (channel or 0) >= shape[fixed]:
        raise ScanError(f"{place} has {shape[fixed]} energy channels, counted from 0, got channel {channel}")
    return Axes(where["angle"], where.get("vertical"), where["horizontal"], ((fixed, channel or 0),))


def _check_cone(geometry: str | None) -> tuple[Caveat, ...]:
    if geometry is None or "cone" not in geometry.lower():
        return ()
    message = "the file says cone beam; it is treated as a parallel beam, which is wrong away from the middle row"
    return (Caveat("cone-beam", message),)
