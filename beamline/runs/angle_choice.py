"""Choosing among the angles that a run has, with what was decided and what is doubtful."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.beamline.angles import parse_unit
from quietbeam.beamline.recording import Angles
from quietbeam.reconstruction.caveats import Caveat, Decision

from .angle_sources import PLANNED, Candidate, RunAngles
from .reference import tomo_metadata

__all__ = ["ChosenAngles", "choose_angles"]


class ChosenAngles(NamedTuple):
    """Angles of the frames that have one.

    Attributes
    ----------
    angles : Angles or None
        One for each frame kept; None if the run has none.
    kept : bool, shape (frame,)
        Which frames have an angle.
    decisions, caveats : tuple
        What to tell the user.
    """

    angles: Angles | None
    kept: NDArray[np.bool_]
    decisions: tuple[Decision, ...] = ()
    caveats: tuple[Caveat, ...] = ()


def choose_angles(sources: RunAngles) -> ChosenAngles:
    """Take the surest angles that are there and change.

    Parameters
    ----------
    sources : RunAngles
        Where they may come from.

    Returns
    -------
    ChosenAngles
        Frames without an angle are left out, as when an encoder's file has fewer numbers than there are frames.
    """
    passed_over = _check_told_key(sources)
    for candidate in sources.candidates():
        known = np.isfinite(candidate.values)
        if known.sum() > 1 and np.ptp(candidate.values[known]) > 0:
            return _take(candidate, known, tomo_metadata(sources.reference).get("angle_unit"), passed_over)
        passed_over.append(_doubt_constant(candidate, known))
    return ChosenAngles(None, np.ones(len(sources.table), bool), (), tuple(passed_over))


def _take(candidate: Candidate, known: NDArray[np.bool_], told_unit: object, passed_over: list[Caveat]) -> ChosenAngles:
    told, own = parse_unit(told_unit if isinstance(told_unit, str) else None), parse_unit(candidate.unit)
    # What the device says of its own numbers is surer than what a plan says; of planned ones, the plan knows.
    unit = told or own if candidate.origin == PLANNED else own or told
    angles = Angles(candidate.values[known], unit, candidate.origin, candidate.source)
    caveats = [*passed_over]
    if candidate.origin != PLANNED and own and told and own != told:
        caveats.append(_doubt_unit(candidate.origin, own, told))
    reason = "measured with the run"
    if candidate.origin == PLANNED:
        reason = "the run recorded none"
        message = "the run recorded no angles: equal steps as planned are assumed, which a turning stage rarely keeps"
        caveats.append(Caveat("angles-from-metadata", message))
    if not known.all():
        message = (
            f"there are {len(known)} frames, but {candidate.origin} gives angles for {known.sum()}: the others are cut"
        )
        caveats.append(Caveat("angles-cut", message))
    return ChosenAngles(angles, known, (Decision("angles of the run", candidate.origin, reason),), tuple(caveats))


def _check_told_key(sources: RunAngles) -> list[Caveat]:
    """Doubt a plan's word on the angles that names nothing."""
    told = tomo_metadata(sources.reference).get("angle_key")
    if told is None or any(told in stream["data_keys"] for stream in sources.streams):
        return []
    message = f"the plan says that {told} holds the angles, but no stream of projections has it; others are taken"
    return [Caveat("angles-passed-over", message)]


def _doubt_unit(origin: str, own: str, told: str) -> Caveat:
    message = (
        f"{origin} is in {own}s by its own description, but the plan says {told}s: {own}s are taken; if the plan is "
        f"right, --set scan.angle_unit={told}"
    )
    return Caveat("angle-unit-contradicted", message)


def _doubt_constant(candidate: Candidate, known: NDArray[np.bool_]) -> Caveat:
    what = f"is {candidate.values[known][0]:g} throughout" if known.any() else "has no number"
    return Caveat("angles-passed-over", f"{candidate.origin} {what}; was it connected? It is not used for the angles")
