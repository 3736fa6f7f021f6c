"""What a run of `quietbeam verify` is asked to do, and what it answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .units import WHOLE, Subset, UnitCheck

__all__ = ["DAMAGED", "INCOMPLETE", "Summary", "VerifyRequest", "parse_duration"]

INCOMPLETE, DAMAGED = 4, 7
"""Exit codes of a run that did not check all, and of one that found damage."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class VerifyRequest:
    """What is to be checked.

    Attributes
    ----------
    targets : tuple of str
        Output folders, archives, folders of results, patterns.
    subset : Subset
        Which part of chunks and large files.
    max_seconds : float or None
        After which no further unit is begun; they count from the first one, which is checked in any case.
    state : Path or None
        File that keeps when each result was checked.
    jobs : int
        Processes.
    raw : bool
        Whether the scans' files are checked too.
    """

    targets: tuple[str, ...]
    subset: Subset = WHOLE
    max_seconds: float | None = None
    state: Path | None = None
    jobs: int = 1
    raw: bool = False


@dataclass
class Summary:
    """What a run found.

    Attributes
    ----------
    results, units : int
        That were checked, also in part.
    damaged, unchecked : int
        Units that are damaged, and that could not be checked.
    bytes : int
        Read; the archive's chunks as stored.
    seconds : float
        That it took.
    complete : bool
        Whether there was time for all.
    oldest : float or None
        With a state, when the result was checked whose check is longest ago; None if one never was.
    """

    results: int = 0
    units: int = 0
    damaged: int = 0
    unchecked: int = 0
    bytes: int = 0
    seconds: float = 0.0
    complete: bool = True
    oldest: float | None = None

    @property
    def exit_code(self) -> int:
        """7 if damage was found, 4 if not all was checked, else 0."""
        return DAMAGED if self.damaged else INCOMPLETE if self.unchecked or not self.complete else 0

    def count(self, check: UnitCheck) -> None:
        """Add a unit."""
        self.units += 1
        self.bytes += check.bytes
        self.damaged += check.ok is False
        self.unchecked += check.ok is None


def parse_duration(text: str) -> float:
    """Read a time such as ``90s``, ``10m``, ``2h`` or ``1d``.

    Parameters
    ----------
    text : str
        A number and a unit.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    ValueError
        If it is no such thing.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    if found is None:
        raise ValueError(f"expected a duration such as 90s, 10m, 2h or 1d, got {text!r}")
    return float(found[1]) * _SECONDS[found[2]]
