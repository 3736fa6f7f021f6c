"""Flats and darks: those that the user gives, and whether they can be right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import ScanError

from .hdf5_contents import Hdf5Contents
from .recording import FrameStack, Recording, ScanSettings
from .tiff_series import find_tiff_frames, is_tiff

__all__ = ["check_calibration", "given_frames"]

# Largest counts of detectors of 8, 10, 12, 14 and 16 bits; some files store them as floating point.
_FULL_SCALES = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
# Open-beam frames whose medians differ by more than this belong to different exposures or a closed shutter.
_UNEVEN = 1.5


def given_frames(path: Path | None, kind: str) -> FrameStack | None:
    """Find the flats or darks that the user names.

    Parameters
    ----------
    path : Path or None
        TIFF file, folder of TIFF files, or ``file.h5:/inner/path``; without an inner path the file must hold one
        dataset of three dimensions.
    kind : {'flats', 'darks'}
        For messages.

    Returns
    -------
    FrameStack or None
        None if none were given.

    Raises
    ------
    ScanError
        If there are no such frames.
    """
    if path is None:
        return None
    file, colon, inner = str(path).partition(":/")
    found = path if path.exists() else Path(file)
    if not found.exists():
        raise ScanError(f"--{kind} {path}: there is no such file; give a TIFF file, a folder of them, or file.h5:/path")
    if found.is_dir() or is_tiff(found):
        return find_tiff_frames(found)
    contents = Hdf5Contents.of(found, ScanSettings())
    return contents.frames(f"/{inner}" if colon else _only_frames(contents, kind))


def _only_frames(contents: Hdf5Contents, kind: str) -> str:
    names = [name for name in contents.names if len(contents.shape(name) or ()) == 3]
    if len(names) != 1:
        listed = ", ".join(names[:6]) or "none"
        raise ScanError(f"--{kind} {contents.path}: say which frames with {contents.path}:/inner/path; it has {listed}")
    return names[0]


def check_calibration(
    path: Path, recording: Recording, settings: ScanSettings
) -> tuple[tuple[Decision, ...], tuple[Caveat, ...]]:
    """Check that flats and darks are there, fit the projections, and differ.

    The first, middle and last row of each are read.

    Raises
    ------
    ScanError
        If one is missing or has another shape, or if the flats are not brighter than the darks.
    """
    flats, darks, caveats = recording.flats, recording.darks, []
    missing = [name for name, stack in (("flats", flats), ("darks", darks)) if stack is None]
    if settings.no_darks and missing == ["darks"]:
        missing = []
        caveats.append(Caveat("no-darks", f"{path} has no darks; they are taken to be zero, as told"))
    if missing or flats is None:
        raise ScanError(_missing(path, missing, recording.hint))
    _check_shape(path, recording.projections, flats, "flats")
    light = _probe(flats)
    dark = np.zeros_like(light[:1])
    if darks is not None:
        _check_shape(path, recording.projections, darks, "darks")
        dark = _probe(darks)
    if np.median(light) <= np.median(dark):
        raise ScanError(
            f"{path}: the flats (median {np.median(light):g}) are no brighter than the darks ({np.median(dark):g}); "
            "were they swapped, or the shutter closed? Give the right ones with --flats and --darks"
        )
    caveats += _check_flats(light, flats)
    return _decide(recording, settings), tuple(caveats)


def _missing(path: Path, missing: list[str], hint: str) -> str:
    options = " and ".join(f"--{name}" for name in missing)
    return (
        f"{path} holds no {' and no '.join(missing)}; give them with {options}, or say --normalised if these are line "
        f"integrals already, --set scan.normalised=transmission if only the logarithm is missing{hint}"
    )


def _check_shape(path: Path, projections: FrameStack, frames: FrameStack, kind: str) -> None:
    if frames.shape[1:] != projections.shape[1:]:
        raise ScanError(
            f"{path}: the {kind} ({frames.sources[0].name}) have (row, column) {frames.shape[1:]}, but the projections "
            f"{projections.shape[1:]}; give {kind} of the same camera settings with --{kind}"
        )


def _probe(frames: FrameStack) -> NDArray[np.float32]:
    """Read the first, middle and last row of all frames."""
    num_frames, num_rows, _ = frames.shape
    rows = sorted({0, num_rows // 2, num_rows - 1})
    return np.concatenate([frames.read(np.arange(num_frames), slice(row, row + 1)) for row in rows], axis=1)


def _check_flats(light: NDArray[np.float32], flats: FrameStack) -> list[Caveat]:
    full = (float(np.iinfo(flats.dtype).max),) if flats.dtype.kind in "ui" else _FULL_SCALES
    if light.min() == light.max() and float(light.max()) in full:
        message = (
            f"every flat pixel looked at is {light.max():g}, the detector's full scale: corrected data will be wrong"
        )
        return [Caveat("saturated-flats", message)]
    if light.min() == light.max():
        message = f"every flat pixel looked at is {light.max():g}: is this a measurement, or a stand-in for one?"
        return [Caveat("constant-flats", message)]
    medians = np.median(light, axis=(1, 2))
    if medians.max() > _UNEVEN * medians.min():
        message = (
            f"the flats' medians go from {medians.min():g} to {medians.max():g}: was the beam off for some of them?"
        )
        return [Caveat("uneven-flats", message)]
    return []


def _decide(recording: Recording, settings: ScanSettings) -> tuple[Decision, ...]:
    given = {"flats": settings.flats, "darks": settings.darks}
    stacks = {"flats": recording.flats, "darks": recording.darks}
    return tuple(
        Decision(
            kind,
            f"{stack.shape[0]} frames" if stack else "zero",
            f"--{kind} {given[kind]}" if given[kind] else "of the scan itself",
        )
        for kind, stack in stacks.items()
    )
