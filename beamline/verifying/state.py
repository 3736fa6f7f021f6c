"""When each result was checked last, kept between runs, so that a run with little time takes the oldest first."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quietbeam.beamline.atomic import write_atomically
from quietbeam.reconstruction.errors import QuietbeamError

from .units import Plan, Subset

__all__ = ["Checked", "VerifyState"]

FORMAT = "quietbeam-verify-state-1"


class Checked(BaseModel):
    """How far a result was checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checked: float | None = Field(None, description="when all units had been checked, seconds of the epoch")
    key: str = Field("", description="of the result that `next` counts units of")
    next: int = Field(0, ge=0, description="unit to go on with; 0: from the start")


class _Content(BaseModel):
    """What the file holds: of each subset, of each result."""

    model_config = ConfigDict(extra="forbid")

    format: str
    subsets: dict[str, dict[str, Checked]]


class VerifyState:
    """When each result was checked last, for one subset of the units; what was found is not kept.

    Parameters
    ----------
    path : Path
        JSON file; made by `save`, if it is not there.
    subset : Subset
        Which part of the units is checked.

    Raises
    ------
    QuietbeamError
        If it is no such file.
    """

    def __init__(self, path: Path, subset: Subset) -> None:
        self._path, self._subset = path, str(subset)
        self._content = _read(path)
        self._results = self._content.subsets.setdefault(self._subset, {})

    def get(self, result: Path) -> Checked:
        """Give what is known of a result."""
        return self._results.get(_name(result)) or Checked()

    def first_unit(self, result: Path, plan: Plan) -> int:
        """Tell which unit to begin with: not the first if a run ended among them and the result is still the same."""
        known = self.get(result)
        return known.next if known.key == plan.key and known.next < len(plan.units) else 0

    def in_order(self, results: list[Path]) -> list[Path]:
        """Sort results: never checked first, then by the time of the last check."""
        return sorted(results, key=lambda result: (self.get(result).checked or 0.0, str(result)))

    def oldest(self, results: list[Path]) -> float | None:
        """Give when the result was checked whose check is longest ago; None if one never was, or there is none."""
        times = [self.get(result).checked for result in results]
        known = [moment for moment in times if moment is not None]
        return min(known) if known and len(known) == len(times) else None

    def note(self, result: Path, plan: Plan, done: int) -> None:
        """Keep that the first `done` units of a result have been checked.

        Parameters
        ----------
        result : Path
            Output folder, or archive.
        plan : Plan
            Its units.
        done : int
            How many of them, from the first.
        """
        if done >= len(plan.units):
            self._results[_name(result)] = Checked(checked=time.time())
        else:
            self._results[_name(result)] = Checked(checked=self.get(result).checked, key=plan.key, next=done)

    def forget_lost(self, known: Iterable[Path]) -> None:
        """Drop results that are not there any more; those that are known to be there are not looked at."""
        for name in self._results.keys() - {_name(result) for result in known}:
            if not Path(name).exists():
                del self._results[name]

    def save(self) -> None:
        """Write the file."""
        text = json.dumps(self._content.model_dump(exclude_defaults=True), indent=0, sort_keys=True)
        write_atomically(self._path, text.encode() + b"\n")


def _name(result: Path) -> str:
    return str(result.absolute())


def _read(path: Path) -> _Content:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        read = _Content.model_validate(content)
    except FileNotFoundError:
        return _Content(format=FORMAT, subsets={})
    except (OSError, ValueError, ValidationError) as error:
        raise QuietbeamError(f"{path}: cannot be read as a state of quietbeam verify ({error}); remove it") from error
    if read.format != FORMAT:
        raise QuietbeamError(f"{path}: expected the format {FORMAT}, got {read.format}; name another file")
    return read
