"""What a start document tells of sample, instrument and geometry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from quietbeam.reconstruction.caveats import Decision

from .reference import run_uid, tomo_metadata

__all__ = ["RunOptics", "read_optics"]

# A bare number for the energy is keV or eV: tomography is done between these, in keV.
_LEAST_KEV, _MOST_KEV = 1.0, 500.0


class RunOptics(NamedTuple):
    """Sample, instrument, pixel size and distance in metres, energy in keV, and what was decided."""

    name: str
    instrument: str | None
    pixel_size: float | None
    energy: float | None
    distance: float | None
    decisions: tuple[Decision, ...]


def read_optics(reference: Mapping[str, Any]) -> RunOptics:
    """Read ``start["tomo"]`` and the keys that beamlines share.

    Parameters
    ----------
    reference : dict
        The run.

    Returns
    -------
    RunOptics
        None for what the document does not tell. A rotation axis that it names is only told, never used: it is found
        in the projections.
    """
    start, tomo = reference["start"], tomo_metadata(reference)
    pixel_um, axis = _positive(tomo.get("pixel_size_um")), _positive(tomo.get("rotation_axis_px"))
    energy = _positive(tomo.get("energy_kev")) or _bare_energy(start.get("energy"))
    distance_mm = _positive(tomo.get("distance_mm"))
    note = Decision("rotation axis of the plan", f"{axis:g}", "only told, not used") if axis else None
    return RunOptics(
        name=_text(start.get("sample_name")) or _scan_name(reference),
        instrument=_text(start.get("instrument")) or _text(start.get("beamline_id")),
        pixel_size=None if pixel_um is None else pixel_um * 1e-6,
        energy=energy,
        distance=None if distance_mm is None else distance_mm * 1e-3,
        decisions=() if note is None else (note,),
    )


def _scan_name(reference: Mapping[str, Any]) -> str:
    number = reference["start"].get("scan_id")
    return f"run {run_uid(reference)[:8]}" if number is None else f"scan {number}"


def _bare_energy(value: object) -> float | None:
    """Read an energy without a unit: what is too much for keV is eV."""
    number = _positive(value)
    if number is None:
        return None
    energy = number if number <= _MOST_KEV else number / 1000
    return energy if _LEAST_KEV <= energy <= _MOST_KEV else None


def _positive(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and value > 0 else None  # type: ignore[arg-type,operator]


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
