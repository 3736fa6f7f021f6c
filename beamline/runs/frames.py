"""The frames of a run as stacks that are read when asked for, whatever files they lie in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from quietbeam.beamline.hdf5_frames import Axes, Hdf5Frames, find_frames
from quietbeam.beamline.hdf5_links import Place, locate, open_hdf5
from quietbeam.beamline.recording import FrameStack
from quietbeam.beamline.tiff_series import TiffFrames, find_tiff_frames
from quietbeam.reconstruction.errors import ScanError

from .frame_table import FrameTable
from .ready_files import Need, ReadyFiles

__all__ = ["JoinedFrames", "dataset_of", "find_run_frames"]

_MAX_TIFFS = 1_000_000
_PYTHON_NUMBER = re.compile(r"\{:?0?(\d*)d?\}")
_C_NUMBER = re.compile(r"%0?(\d*)(?:\.(\d+))?d")


@dataclass(frozen=True, eq=False)
class JoinedFrames:
    """Frames of several stacks in any order.

    Attributes
    ----------
    parts : tuple of FrameStack
        Where they lie.
    part, stored : int, shape (frame,)
        Number of the stack, and in it, of each frame.
    """

    parts: tuple[FrameStack, ...]
    part: NDArray[np.intp] = field(repr=False)
    stored: NDArray[np.intp] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frame, row, column."""
        return (len(self.part), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """That holds the values of all parts."""
        return np.result_type(*(part.dtype for part in self.parts))

    @property
    def sources(self) -> tuple[Path, ...]:
        """Files that hold the pixels."""
        return tuple(dict.fromkeys(source for part in self.parts for source in part.sources))

    def read(self, frames: NDArray[np.intp], rows: slice) -> NDArray[np.float32]:
        """Read some rows of some frames: float32, shape (frame, row, column)."""
        start, stop, _ = rows.indices(self.shape[1])
        pixels = np.empty((len(frames), max(stop - start, 0), self.shape[2]), np.float32)
        for number in np.unique(self.part[frames]):
            chosen = np.flatnonzero(self.part[frames] == number)
            pixels[chosen] = self.parts[number].read(self.stored[frames[chosen]], rows)
        return pixels


def dataset_of(resource: Mapping[str, Any]) -> str | None:
    """Name the dataset of a resource in HDF5; None if it is no HDF5.

    Raises
    ------
    ScanError
        If it is of a kind that cannot be read.
    """
    mimetype, parameters = resource["mimetype"].lower(), resource["parameters"]
    if mimetype.startswith("application/x-hdf"):
        named = (parameters.get(name) for name in ("dataset", "path", "key"))
        return "/" + next((name for name in named if isinstance(name, str)), "entry/data/data").strip("/")
    if "image/tif" in mimetype:
        return None
    raise ScanError(
        f"{resource['uri']}: frames of the kind {resource['mimetype']} cannot be read; expected HDF5 "
        "(application/x-hdf5) or TIFF files (multipart/related;type=image/tiff)"
    )


def find_run_frames(table: FrameTable, files: ReadyFiles) -> FrameStack:
    """Wait for the frames of a table, and find them.

    Parameters
    ----------
    table : FrameTable
        At least one frame.
    files : ReadyFiles
        Where the files are.

    Returns
    -------
    FrameStack
        The frames in the order of the table.

    Raises
    ------
    NotReadyError
        If a file does not come, cannot be opened, or holds too few frames when the time is over.
    ScanError
        If a TIFF file is missing, the frames are of different sizes, or their kind cannot be read.
    """
    used = [int(number) for number in np.unique(table.resource)]
    files.wait(_needs(table, used))
    parts: list[FrameStack] = []
    part, stored = np.empty_like(table.resource), table.stored.copy()
    for number in used:
        chosen = np.flatnonzero(table.resource == number)
        found, which, where = _find_parts(table.resources[number], files, table.stored[chosen])
        part[chosen], stored[chosen] = which + len(parts), where
        parts += found
    _check_sizes(parts)
    only = parts[0]
    return (
        only.select(stored)
        if len(parts) == 1 and isinstance(only, Hdf5Frames)
        else JoinedFrames(tuple(parts), part, stored)
    )


def _needs(table: FrameTable, used: list[int]) -> list[Need]:
    needs = []
    for number in used:
        resource = table.resources[number]
        needs.append(Need(resource["uri"], dataset_of(resource), table.stop(number), table.per_index[number]))
    return needs


def _find_parts(
    resource: Mapping[str, Any], files: ReadyFiles, stored: NDArray[np.intp]
) -> tuple[list[FrameStack], NDArray[np.intp], NDArray[np.intp]]:
    """Find the stacks of one resource, and for each wanted frame number of the stack and in it."""
    path, dataset = files.local(resource["uri"]), dataset_of(resource)
    if dataset is None:
        return [_tiffs(path, resource, stored)], np.zeros_like(stored), np.arange(len(stored))
    place = locate(Place(path, dataset), files.roots)
    if place is None:
        raise ScanError(f"{path} has no dataset {dataset}; is it the file with the frames?")
    axes, which, where = _split(place, stored)
    return [find_frames(place, files.roots, entry) for entry in axes], which, where


def _split(place: Place, stored: NDArray[np.intp]) -> tuple[list[Axes], NDArray[np.intp], NDArray[np.intp]]:
    """Take a dataset of frames apart whose leading dimensions are (event, frame of the event), or one of them."""
    with open_hdf5(place.path) as file:
        found = file[place.inner]
        shape = found.shape if isinstance(found, h5py.Dataset) else ()
    row, column = len(shape) - 2, len(shape) - 1
    leading = [(size, axis) for axis, size in enumerate(shape[:-2]) if size > 1]
    if len(shape) < 2 or len(leading) > 2:
        raise ScanError(f"{place} has shape {shape}, expected (event, frame, row, column), or less")
    if len(leading) < 2:
        frame = leading[0][1] if leading else 0 if len(shape) > 2 else None
        return [Axes(frame, row, column)], np.zeros_like(stored), stored
    (num_events, event), (num_frames, frame) = leading
    numbers = np.divmod(stored, num_frames)
    if num_events <= num_frames:
        return [Axes(frame, row, column, ((event, k),)) for k in range(num_events)], *numbers
    return [Axes(event, row, column, ((frame, k),)) for k in range(num_frames)], *numbers[::-1]


def _tiffs(folder: Path, resource: Mapping[str, Any], stored: NDArray[np.intp]) -> TiffFrames:
    """Find TIFF files of one frame each, whose names are numbered from 0."""
    template, name = resource["parameters"].get("template"), resource["parameters"].get("filename", "")
    if not isinstance(template, str) or len(stored) > _MAX_TIFFS:
        raise ScanError(f"{resource['uri']}: expected a template for the names of the TIFF files, got {template!r}")
    paths = tuple(folder / _numbered(template, str(name), int(number)) for number in stored)
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise ScanError(f"{missing} is not there; {resource['uri']} should hold {len(paths)} TIFF files: bring it")
    first = find_tiff_frames(paths[0])
    pages = np.column_stack([np.arange(len(paths)), np.zeros(len(paths), np.intp)])
    return TiffFrames(paths, pages, first.image_shape, first.dtype)


def _numbered(template: str, name: str, number: int) -> str:
    """Fill a number into a name such as ``scan_{:06d}.tiff`` or, as areaDetector writes it, ``%s%s_%6.6d.tiff``."""
    text = _PYTHON_NUMBER.sub(lambda match: f"{number:0{int(match[1] or 1)}d}", template)
    text = _C_NUMBER.sub(lambda match: f"{number:0{int(match[2] or match[1] or 1)}d}", text)
    return Path(text.replace("%s%s", name).replace("%s", name)).name


def _check_sizes(parts: list[FrameStack]) -> None:
    for part in parts:
        if part.shape[1:] != parts[0].shape[1:]:
            raise ScanError(
                f"{part.sources[0]} has frames of (row, column) {part.shape[1:]}, but {parts[0].sources[0]} of "
                f"{parts[0].shape[1:]}; were the camera settings changed during the run?"
            )
