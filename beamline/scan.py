"""A scan on disk as a lazy view: opened by looking at the file, read by detector rows, never changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import ScanError

# The readers enter the table when they are imported; this is the order in which they are tried.
from . import hdf5_layouts, nexus_layouts, tiff_series  # noqa: F401
from .angles import check_wedge, given_angles, to_radians
from .atomic import file_sha256
from .calibration import check_calibration, given_frames
from .hdf5_contents import Hdf5Contents
from .hdf5_links import is_hdf5
from .recording import READERS, Angles, FrameStack, Recording, ScanSettings
from .runs import reader as _  # noqa: F401 - enters its layout into the table
from .runs.loading import is_run_file

__all__ = ["Scan", "ScanSettings", "file_signature", "open_scan", "scan_identity"]

_MAGIC = {
    b"\x0e\x03\x13\x01": "HDF4",
    b"CDF": "netCDF 3",
    b"PK": "a zip archive",
    b"\x1f\x8b": "gzip",
    b"%PDF": "PDF",
    b"\x89PNG": "a PNG image",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Scan:
    """One acquisition; no pixel of a projection is read until asked for, and no file is kept open.

    Attributes
    ----------
    path : Path
        What was opened.
    layout : str
        Name of the layout, for example ``DXchange``.
    name : str
        Name of the sample, or else of the file.
    instrument : str or None
        Name of the instrument.
    num_projections, num_rows, num_columns : int
        Size of the projections.
    dtype : numpy.dtype
        Of the projections, as stored.
    theta : float64, shape (angle,)
        Radians, ascending.
    order : int, shape (angle,)
        Position in the order of acquisition of each projection; 0, 1, 2, ... if they were stored in ascending order.
    positions, flat_positions : float64, shapes (angle,), (frame,), or None
        When each projection and each flat was taken, in frames of the acquisition; None where the layout does not tell.
    pixel_size, distance : float or None
        Metres.
    energy : float or None
        keV.
    normalised : {'transmission', 'attenuation'} or None
        What the user said the projections are; None is raw counts.
    num_flats, num_darks : int
        Number of frames; 0 for normalised data.
    decisions : tuple of Decision
        What was chosen for the user.
    caveats : tuple of Caveat
        What may be wrong with the data.
    sources : tuple of Path
        All files that hold the data.
    """

    path: Path
    layout: str
    name: str
    instrument: str | None = None
    num_projections: int
    num_rows: int
    num_columns: int
    dtype: np.dtype[Any]
    theta: NDArray[np.float64] = field(repr=False)
    order: NDArray[np.intp] = field(repr=False)
    positions: NDArray[np.float64] | None = field(repr=False, default=None)
    flat_positions: NDArray[np.float64] | None = field(repr=False, default=None)
    pixel_size: float | None
    energy: float | None
    distance: float | None
    normalised: Literal["transmission", "attenuation"] | None
    num_flats: int
    num_darks: int
    decisions: tuple[Decision, ...]
    caveats: tuple[Caveat, ...]
    sources: tuple[Path, ...] = field(repr=False)
    projection_frames: FrameStack = field(repr=False)
    flat_frames: FrameStack | None = field(repr=False)
    dark_frames: FrameStack | None = field(repr=False)

    def projections(self, rows: slice, frames: slice = slice(None)) -> NDArray[np.float32]:
        """Read some detector rows of some projections, in the order of `theta`.

        Parameters
        ----------
        rows : slice
            Detector rows, without a step.
        frames : slice
            Projections, counted in the order of `theta`.

        Returns
        -------
        float32, shape (angle, row, column)
            As stored, in counts or, for normalised data, in what they were normalised to.

        Raises
        ------
        ScanError
            If a file is damaged, or has gone.
        """
        return self.projection_frames.read(self.order[frames], _plain(rows))

    def without(self, bad: NDArray[np.bool_], caveats: tuple[Caveat, ...] = ()) -> Scan:
        """Leave projections out, with their angles.

        Parameters
        ----------
        bad : bool, shape (angle,)
            True at those to leave out, in the order of `theta`.
        caveats : tuple of Caveat
            What the user must know about them; one is added if a wedge is missing now.

        Returns
        -------
        Scan
            The others; the files are the same, and so is what identifies the scan.

        Raises
        ------
        ScanError
            If fewer than two are left.
        """
        kept = np.flatnonzero(~bad)
        if kept.size < 2:
            raise ScanError(
                f"{self.path}: {self.num_projections - kept.size} of {self.num_projections} projections cannot be used "
                f"({'; '.join(caveat.message for caveat in caveats)}); was the beam off, or the shutter closed?"
            )
        theta = self.theta[kept]
        told = {caveat.code for caveat in self.caveats}
        wedge = tuple(caveat for caveat in check_wedge(theta) if caveat.code not in told)
        return replace(
            self,
            num_projections=kept.size,
            theta=theta,
            order=self.order[kept],
            positions=None if self.positions is None else self.positions[kept],
            caveats=(*self.caveats, *caveats, *wedge),
        )

    def flats(self, rows: slice) -> NDArray[np.float32]:
        """Read some rows of the open-beam frames: float32, shape (frame, row, column)."""
        return self._calibration(self.flat_frames, "flats", rows)

    def darks(self, rows: slice) -> NDArray[np.float32]:
        """Read some rows of the frames without beam: float32, shape (frame, row, column)."""
        return self._calibration(self.dark_frames, "darks", rows)

    def _calibration(self, frames: FrameStack | None, kind: str, rows: slice) -> NDArray[np.float32]:
        if self.normalised is not None:
            raise ValueError(f"{self.path} is opened as normalised ({self.normalised}): it has no {kind}")
        if frames is None:
            return np.zeros((1, len(range(*_plain(rows).indices(self.num_rows))), self.num_columns), np.float32)
        return frames.read(np.arange(frames.shape[0]), _plain(rows))


def _plain(rows: slice) -> slice:
    if rows.step not in (None, 1):
        raise ValueError(f"rows must be a slice without a step, got {rows}")
    return rows


def open_scan(path: Path | str, settings: ScanSettings | None = None) -> Scan:
    """Look at a scan, choose the reader for its layout, and check what it holds.

    Of the pixels, only three rows of the flats and darks are read here.

    Parameters
    ----------
    path : Path
        HDF5 file, TIFF file of many pages, folder of TIFF files, or a bluesky run: its reference (``.json``) or its
        documents (``.jsonl``).
    settings : ScanSettings, optional
        What the user knows and the file does not tell.

    Returns
    -------
    Scan
        Ready to be read.

    Raises
    ------
    ScanError
        If the scan cannot be read, or not be meant as it stands; the message says what to do.
    """
    path, settings = Path(path), settings or ScanSettings()
    recording = _with_calibration(path, _read_layout(path, settings), settings)
    angles = _choose_angles(path, recording, settings)
    theta, decision = to_radians(angles, settings.angle_unit)
    order = np.argsort(theta, kind="stable")
    meant = recording.angle_order is not None
    caveats = (*recording.caveats, *(() if meant else _check_order(order)), *check_wedge(theta[order]))
    decisions = (*recording.decisions, decision, *_meant_order(recording), *_optics(recording))
    recording = replace(recording, caveats=caveats, decisions=decisions)
    return _assemble(path, recording, settings, theta[order], order, angles)


def _assemble(
    path: Path,
    recording: Recording,
    settings: ScanSettings,
    theta: NDArray[np.float64],
    order: NDArray[np.intp],
    angles: Angles,
) -> Scan:
    num_projections, num_rows, num_columns = recording.projections.shape
    stacks = [stack for stack in (recording.projections, recording.flats, recording.darks) if stack is not None]
    files = [*([path] if path.is_file() else []), *recording.sources]
    files += [source for stack in stacks for source in stack.sources]
    files += [angles.source] if angles.source else []
    zero_dark = int(settings.no_darks and recording.darks is None and settings.normalised is None)
    return Scan(
        path=path,
        layout=recording.layout,
        name=recording.name or path.stem,
        instrument=settings.instrument or recording.instrument,
        num_projections=num_projections,
        num_rows=num_rows,
        num_columns=num_columns,
        dtype=recording.projections.dtype,
        theta=theta,
        order=order,
        positions=None if recording.positions is None else recording.positions[order],
        flat_positions=recording.flat_positions,
        pixel_size=recording.pixel_size,
        energy=recording.energy,
        distance=recording.distance,
        normalised=settings.normalised,
        num_flats=recording.flats.shape[0] if recording.flats else 0,
        num_darks=recording.darks.shape[0] if recording.darks else zero_dark,
        decisions=(Decision("layout", recording.layout, "found by looking at the file"), *recording.decisions),
        caveats=recording.caveats,
        sources=tuple(dict.fromkeys(files)),
        projection_frames=recording.projections,
        flat_frames=recording.flats,
        dark_frames=recording.darks,
    )


def _read_layout(path: Path, settings: ScanSettings) -> Recording:
    """Find the first reader that knows the file, and let it read."""
    if not path.exists():
        raise ScanError(f"{path} does not exist; give an HDF5 file or a folder of TIFF files")
    if path.is_file() and not tiff_series.is_tiff(path) and not is_hdf5(path) and not is_run_file(path):
        raise ScanError(
            f"{path} is no HDF5 file: {_describe(path)}; give the file with the frames, or a bluesky run as .json or "
            ".jsonl"
        )
    for reader in READERS.values():
        if reader.recognises(path, settings):
            recording = reader.read(path, settings)
            _check_projections(path, recording)
            return recording
    raise ScanError(_unknown_layout(path, settings))


def _describe(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "it is empty"
    for magic, name in _MAGIC.items():
        if start.startswith(magic):
            return f"it is {name}"
    try:
        text = start.decode("utf-8-sig", errors="strict" if len(start) < 512 else "ignore").strip()
    except UnicodeDecodeError:
        text = "\0"
    if not text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return f"it begins with the bytes {start[:8].hex(' ')}"
    first = text.splitlines()[0][:60] if text else ""
    return f"it is {'XML text' if text.startswith('<') else 'text'} that begins {first!r}"


def _unknown_layout(path: Path, settings: ScanSettings) -> str:
    """Say what the file holds, and what it may be good for."""
    file = Hdf5Contents.of(path, settings)
    shapes = {name: shape for name in file.names if (shape := file.shape(name)) is not None and len(shape) == 3}
    known = ", ".join(layout for layout in READERS if layout not in ("TIFF series", "bluesky run"))
    if not shapes:
        return f"{path} holds no frames (no dataset of three dimensions) in a known layout ({known})"
    found = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:4])
    first = next(iter(shapes))
    return (
        f"{path} has none of the known layouts ({known}): it holds frames ({found}) but no angles beside them; if they "
        f"are flats or darks, give the scan itself and add --flats {path}:{first} or --darks {path}:{first}"
    )


def _check_projections(path: Path, recording: Recording) -> None:
    shape = recording.projections.shape
    if shape[0] < 2 or 0 in shape:
        raise ScanError(f"{path} holds projections of shape {shape}, expected at least 2 (frame, row, column)")


def _choose_angles(path: Path, recording: Recording, settings: ScanSettings) -> Angles:
    number = recording.projections.shape[0]
    angles = given_angles(settings, number) or recording.angles
    if angles is None:
        raise ScanError(
            f"{path} ({recording.layout}, {number} projections) holds no angles; give them with --angles FILE, or with "
            f"--angles START:STOP for equal steps in degrees, for example --angles 0:180{recording.hint}"
        )
    if len(angles.values) != number:
        raise ScanError(
            f"{angles.origin} has {len(angles.values)} angles, but there are {number} projections; give the right ones "
            "with --angles FILE"
        )
    return angles


def _with_calibration(path: Path, recording: Recording, settings: ScanSettings) -> Recording:
    """Put the flats and darks in that the user gave, and check them against the projections."""
    if settings.normalised is not None:
        if settings.flats or settings.darks:
            raise ScanError(f"{path}: --normalised says that the data need no --flats and --darks; leave one out")
        normalised = Decision("normalised", settings.normalised, "as told; flats and darks are not used")
        return replace(
            recording,
            flats=None,
            darks=None,
            positions=None,
            flat_positions=None,
            decisions=(*recording.decisions, normalised),
        )
    given = given_frames(settings.flats, "flats")
    recording = replace(recording, darks=given_frames(settings.darks, "darks") or recording.darks)
    if given is not None:
        recording = replace(recording, flats=given, positions=None, flat_positions=None)
    return check_calibration(path, recording, settings)


def _optics(recording: Recording) -> tuple[Decision, ...]:
    found = {
        "pixel size": (recording.pixel_size, "m"),
        "energy": (recording.energy, "keV"),
        "distance": (recording.distance, "m"),
    }
    return tuple(
        Decision(name, f"{value:g} {unit}", "of the scan itself")
        for name, (value, unit) in found.items()
        if value is not None
    )


def _meant_order(recording: Recording) -> tuple[Decision, ...]:
    if recording.angle_order is None:
        return ()
    return (Decision("order of the angles", recording.angle_order, "as planned; the projections are read sorted"),)


def _check_order(order: NDArray[np.intp]) -> tuple[Caveat, ...]:
    moved = int((order != np.arange(len(order))).sum())
    if not moved:
        return ()
    how = "in descending order" if (np.diff(order) == -1).all() else "out of order"
    message = f"the projections are stored {how} of their angles ({moved} of {len(order)}); they are read sorted"
    return (Caveat("stored-out-of-order", message),)


def scan_identity(scan: Scan) -> dict[str, Any]:
    """Hash the files of a scan, so that its results can be traced to exactly these data.

    Parameters
    ----------
    scan : Scan
        Its `sources` are read in blocks of 8 MB.

    Returns
    -------
    dict
        ``files``: name, bytes and sha256 of each source; ``sha256``: of that list as JSON.
    """
    files = [_file_identity(path) for path in scan.sources]
    return {"files": files, "sha256": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()}


def _file_identity(path: Path) -> dict[str, Any]:
    try:
        return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
    except OSError as error:
        raise ScanError(f"{path} cannot be read ({error.strerror}); bring it back and try again") from error


def file_signature(scan: Scan) -> list[list[str | int]]:
    """Give name, size and time of change of the scan's files: if these are as before, so is the content."""
    stats = [(path, path.stat()) for path in scan.sources]
    return [[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
