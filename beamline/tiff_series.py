"""Scans that are a folder of TIFF files, one frame each, or one TIFF file of many pages."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import ScanError

from .recording import Recording, ScanSettings, reads

__all__ = ["TiffFrames", "find_tiff_frames", "is_calibration_name", "is_tiff", "read_tiff_series"]

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_CALIBRATION = re.compile(r"(^|[\W_])(flat|dark|white|bright|ref|bg)s?([\W_\d]|$)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class TiffFrames:
    """Frames of TIFF files; `pages` gives file number and page of each frame.

    Attributes
    ----------
    sources : tuple of Path
        The files in their order.
    pages : int, shape (frame, 2)
        File number, page number.
    image_shape : tuple of int
        (row, column).
    dtype : numpy.dtype
        As stored.
    """

    sources: tuple[Path, ...] = field(repr=False)
    pages: NDArray[np.intp] = field(repr=False)
    image_shape: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frame, row, column."""
        return len(self.pages), *self.image_shape

    def read(self, frames: NDArray[np.intp], rows: slice) -> NDArray[np.float32]:
        """Read some rows of some frames: float32, shape (frame, row, column); one frame is in memory at a time."""
        start, stop, _ = rows.indices(self.shape[1])
        pixels = np.empty((len(frames), max(stop - start, 0), self.shape[2]), np.float32)
        for image, (number, page) in zip(pixels, self.pages[frames], strict=True):
            image[:] = self._read_page(self.sources[number], int(page))[start : max(start, stop)]
        return pixels

    def _read_page(self, path: Path, page: int) -> NDArray[Any]:
        """Map a plain page into memory, so that only the rows taken are read; decode a compressed one."""
        with _open_tiff(path) as tiff:
            series = tiff.pages[page]
            shape, dtype = series.shape, series.dtype
            if shape != self.image_shape or dtype != self.dtype:
                raise ScanError(
                    f"{path} has shape {shape} and type {dtype}, expected {self.image_shape} and {self.dtype} as in "
                    f"{self.sources[0].name}; take it out of the series"
                )
            if not series.is_memmappable:
                return np.asarray(series.asarray())
            return np.asarray(tifffile.memmap(path, page=page, mode="r"))


@contextmanager
def _open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    except FileNotFoundError:
        raise ScanError(f"{path} does not exist") from None
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError, TypeError, RuntimeError) as error:
        raise ScanError(f"{path} cannot be read as a TIFF image ({error}); copy it again from where it came") from error
    except (struct.error, zlib.error, AttributeError, ZeroDivisionError) as error:
        raise ScanError(f"{path} is a damaged TIFF file ({error}); copy it again from where it came") from error


def find_tiff_frames(path: Path, aside: Collection[Path] = ()) -> TiffFrames:
    """Find the frames in a TIFF file (its pages) or in a folder (its files, in natural order, but those `aside`).

    Raises
    ------
    ScanError
        If there is no TIFF file, or the first one is no grey-scale image.
    """
    files = [file for file in _list_tiffs(path) if file not in aside] if path.is_dir() else [path]
    if not files:
        raise ScanError(f"{path} holds no TIFF file; give a TIFF file or a folder of them")
    with _open_tiff(files[0]) as tiff:
        num_pages = len(tiff.pages)
        shape, dtype = tiff.pages[0].shape, tiff.pages[0].dtype
    if len(shape) != 2 or dtype is None or dtype.kind not in "uif" or 0 in shape:
        raise ScanError(f"{files[0]} is no grey-scale image: shape {shape}, type {dtype}; convert it first")
    num_frames = num_pages if len(files) == 1 else len(files)
    numbers = np.arange(num_frames)
    pages = np.column_stack([0 * numbers, numbers] if len(files) == 1 else [numbers, 0 * numbers])
    return TiffFrames(tuple(files), pages, (shape[0], shape[1]), dtype)


def is_tiff(path: Path) -> bool:
    """Tell whether a file begins as TIFF files do."""
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


def is_calibration_name(name: str) -> bool:
    """Tell whether a file or folder is named like flats or darks."""
    return _CALIBRATION.search(name) is not None


def _recognises(path: Path, settings: ScanSettings) -> bool:
    return path.is_dir() or is_tiff(path)


@reads("TIFF series", _recognises)
def read_tiff_series(path: Path, settings: ScanSettings) -> Recording:
    """Read a folder of TIFF files, a folder with one sub-folder of them, or a TIFF file of many pages.

    Angles, flats and darks come from the settings: such a series does not hold them.
    """
    folder, aside = (path, []) if path.is_file() else _find_series(path)
    frames = find_tiff_frames(folder, aside)
    hint = f"; {path} holds {', '.join(file.name for file in aside[:6])}" if aside else ""
    count = f"{len(frames.sources)} files" if len(frames.sources) > 1 else f"{frames.shape[0]} pages"
    return Recording(
        layout="TIFF series",
        projections=frames,
        name=path.stem if path.is_file() else path.name,
        hint=hint,
        decisions=(Decision("projections", f"{count} in {folder.name}", "in the natural order of their names"),),
        caveats=_check_numbering(frames.sources),
    )


def _find_series(path: Path) -> tuple[Path, list[Path]]:
    """Find the folder with the projections, and the files beside them that are named like flats or darks."""
    own = _list_tiffs(path)
    aside = [file for file in own if is_calibration_name(file.name)]
    if len(own) > len(aside):
        return path, aside
    folders = sorted(child for child in path.iterdir() if child.is_dir() and _list_tiffs(child))
    series = [folder for folder in folders if not is_calibration_name(folder.name)]
    aside += [folder for folder in folders if folder not in series]
    if len(series) == 1:
        return series[0], aside
    if series:
        names = ", ".join(folder.name for folder in series[:6])
        raise ScanError(f"{path} has {len(series)} folders of TIFF files ({names}); give the one with the projections")
    found = f"only {', '.join(file.name for file in aside[:6])}" if aside else "no TIFF file, itself or one folder down"
    raise ScanError(f"{path} is a folder with {found}; give an HDF5 file or a folder with one TIFF file per projection")


def _list_tiffs(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in (".tif", ".tiff") and file.is_file()]
    return sorted((file for file in files if not file.name.startswith(".")), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _check_numbering(files: tuple[Path, ...]) -> tuple[Caveat, ...]:
    numbers = [int(found[-1]) for file in files if (found := re.findall(r"\d+", file.stem))]
    gaps = [a for a, b in pairwise(numbers) if b != a + 1]
    if len(numbers) < len(files) or not gaps:
        return ()
    message = f"the numbering of the TIFF files has {len(gaps)} gaps, the first after {gaps[0]}: are frames missing?"
    return (Caveat("missing-frames", message),)
