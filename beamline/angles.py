"""Angles of projections: read from text, completed from a range, checked, and turned into radians."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import ScanError

from .recording import Angles, ScanSettings

__all__ = ["check_wedge", "given_angles", "parse_unit", "to_radians"]

Unit = Literal["degree", "radian"]

_MAX_TEXT_BYTES = 64 * 2**20
# Angles that span more than a turn and a little cannot be radians of one turn.
_MOST_RADIANS = 2 * math.pi + 0.1
_NEAR = 0.05
_MIN_RANGE = math.radians(170)
_RANGE = re.compile(r"\s*([-+0-9.eE]+)\s*:\s*([-+0-9.eE]+)\s*")


def given_angles(settings: ScanSettings, num_projections: int) -> Angles | None:
    """Read the angles that the user gave instead of those of the scan.

    Parameters
    ----------
    settings : ScanSettings
        `angles` and `angle_lines` are used.
    num_projections : int
        How many there must be.

    Returns
    -------
    Angles or None
        None if none were given.

    Raises
    ------
    ScanError
        If the text is no list of numbers, or their number is wrong.
    """
    if settings.angles is None:
        if settings.angle_lines is not None:
            raise ScanError("--angle-lines was given without a file of angles; give the file with --angles")
        return None
    equal_steps = _RANGE.fullmatch(settings.angles)
    if equal_steps and settings.angle_lines is None:
        start, stop = (_number(text, settings.angles) for text in equal_steps.groups())
        step = (stop - start) / num_projections
        return Angles(
            start + step * np.arange(num_projections, dtype=np.float64), "degree", f"--angles {settings.angles}"
        )
    return _text_angles(Path(settings.angles), settings.angle_lines, num_projections)


def _text_angles(path: Path, lines: str | None, num_projections: int) -> Angles:
    values = _read_text(path)
    if lines is not None:
        first, stop = _parse_lines(lines, len(values), path)
        values = values[first:stop]
    if len(values) != num_projections:
        raise ScanError(_wrong_number(path, len(values), num_projections, lines))
    return Angles(values, None, path.name, path)


def _wrong_number(path: Path, num_lines: int, num_projections: int, lines: str | None) -> str:
    if lines is not None:
        return f"--angle-lines {lines} takes {num_lines} lines of {path}, but there are {num_projections} projections"
    excess = num_lines - num_projections
    message = f"{path} has {num_lines} lines, but there are {num_projections} projections; "
    if excess < 0:
        return message + f"{-excess} are missing: give a file with one angle for each projection"
    first = excess // 2
    ends = f"leaves out {first} at either end" if excess % 2 == 0 else "leaves out about as many at either end"
    return message + (
        f"{excess} too many: tell which lines belong to the projections with --angle-lines FIRST:STOP "
        f"(for example --angle-lines {first}:{first + num_projections} {ends})"
    )


def _read_text(path: Path) -> NDArray[np.float64]:
    """Read one number a line; empty lines and lines that start with # do not count."""
    if not path.is_file():
        raise ScanError(f"--angles expects a text file or START:STOP in degrees, got {path}, which is no file")
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise ScanError(f"{path} has {path.stat().st_size} bytes, too many for a list of angles; give a text file")
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ScanError(f"{path} is not text; --angles expects a text file with one angle a line") from None
    return np.array([_number(line, f"{path}, a line") for line in lines if line and not line.startswith("#")], float)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ScanError(f"{where}: expected one angle, got {text[:40]!r}; give one number a line") from None


def _parse_lines(lines: str, num_lines: int, path: Path) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", lines)
    if match is None:
        raise ScanError(f"--angle-lines expects FIRST:STOP, for example 10:101, got {lines!r}")
    first, stop = int(match[1]), int(match[2])
    if not first < stop <= num_lines:
        raise ScanError(f"--angle-lines {lines} does not fit: {path} has {num_lines} lines; expected FIRST < STOP")
    return first, stop


def parse_unit(text: str | None) -> Unit | None:
    """Read a unit as files spell it; None if it is none of an angle."""
    word = (text or "").strip().lower()
    if word in ("°", "deg", "degs", "degree", "degrees"):
        return "degree"
    return "radian" if word in ("rad", "rads", "radian", "radians") else None


def to_radians(angles: Angles, chosen: Literal["auto", "degree", "radian"]) -> tuple[NDArray[np.float64], Decision]:
    """Check the angles and turn them into radians.

    Parameters
    ----------
    angles : Angles
        One per projection.
    chosen : {'auto', 'degree', 'radian'}
        The user's word; 'auto' takes the file's unit, or the plausible one.

    Returns
    -------
    theta : float64, shape (angle,)
        Radians, in the same order.
    decision : Decision
        Which unit was taken, and why.

    Raises
    ------
    ScanError
        If an angle is not finite, if all are equal, or if the unit cannot be told.
    """
    values = np.asarray(angles.values, np.float64)
    if not np.isfinite(values).all():
        first = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ScanError(f"{angles.origin}: angle {first} is {values[first]}, expected a finite number; mend the angles")
    if values.max() == values.min():
        raise ScanError(
            f"{angles.origin}: all {len(values)} angles are {values[0]:g}; give the right ones with --angles"
        )
    unit, reason = _choose_unit(values, angles, chosen)
    theta = np.deg2rad(values) if unit == "degree" else values.copy()
    return theta, Decision("angles", f"{unit}, {values.min():g} to {values.max():g}", reason)


def _choose_unit(
    values: NDArray[np.float64], angles: Angles, chosen: Literal["auto", "degree", "radian"]
) -> tuple[Unit, str]:
    if chosen != "auto":
        return chosen, f"{angles.origin}; the unit was given"
    if angles.unit is not None:
        return angles.unit, f"{angles.origin}, which names the unit"
    span = float(np.ptp(values))
    if span > _MOST_RADIANS:
        return "degree", f"{angles.origin} names no unit; {span:g} is too much for radians"
    covered = span * len(values) / (len(values) - 1)
    if any(abs(width / turn - 1) < _NEAR for width in (span, covered) for turn in (math.pi, 2 * math.pi)):
        return "radian", f"{angles.origin} names no unit; {span:g} is half a turn or a turn in radians"
    raise ScanError(
        f"{angles.origin} names no unit, and angles from {values.min():g} to {values.max():g} may be degrees or "
        "radians; say which with --set scan.angle_unit=degree or --set scan.angle_unit=radian"
    )


def check_wedge(theta: NDArray[np.float64]) -> tuple[Caveat, ...]:
    """Warn if the angles (radians, ascending) cover less than 170 degrees."""
    covered = float(theta[-1] - theta[0]) * len(theta) / (len(theta) - 1)
    if covered >= _MIN_RANGE:
        return ()
    message = f"the angles cover {math.degrees(covered):.1f} of 180 degrees: expect streaks along the missing ones"
    return (Caveat("missing-wedge", message),)
