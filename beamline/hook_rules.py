"""What becomes of a run that ended: a job, with which profile, or something to remember for other runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .jobs.profiles import is_path
from .jobs.request import Submission, check_priority
from .jobs.submission import submission_of_run
from .jobs.trust import refused_settings
from .runs.reference import (
    counted_frames,
    frame_streams,
    has_projections,
    needed_dark_flat_uid,
    planned_frames,
    run_uid,
)

__all__ = ["Rules", "Wants", "flat_settings", "looks_like_tomography", "may_be_tomography"]

logger = logging.getLogger(__name__)

_KEYS = ("enabled", "profile", "priority", "params")

Wants = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
"""Told the start document and the run reference, tells whether the run is to be reduced."""


def looks_like_tomography(start: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    """Tell tomography by its frames, for plans that say nothing: projections with flats, in this run or a named one.

    A name of another run counts only where ``tomo_scanning_mode`` says that this is a scan: beamlines keep that name in
    their metadata for every later run.
    """
    counts = counted_frames(reference)
    mode = start.get("tomo_scanning_mode")
    elsewhere = isinstance(mode, str) and mode.startswith("tomo") and needed_dark_flat_uid(reference) is not None
    return counts["projections"] > 0 and (counts["flats"] > 0 or elsewhere)


def may_be_tomography(reference: Mapping[str, Any]) -> bool:
    """Tell whether a run that is no job is worth remembering: for other runs, or for who asks for it later.

    It says something of tomography, or has frames of darks, flats, or projections in a stream that is named after them;
    a stream ``primary`` alone may be anything.
    """
    start, counts = reference["start"], counted_frames(reference)
    mode = start.get("tomo_scanning_mode")
    says = "tomo" in start or "tomo_denoise" in start or (isinstance(mode, str) and mode.startswith("tomo"))
    named = any(stream["name"] != "primary" for stream in frame_streams(reference, "projections"))
    return bool(says or counts["flats"] or counts["darks"] or (named and counts["projections"]))


@dataclass(frozen=True)
class Rules:
    """How the hook decides.

    ``start["tomo_denoise"]["enabled"]`` decides if it is there; else a ``start["tomo"]`` is enough; else `wants` is
    asked. Profile, priority and params in ``tomo_denoise`` win over those here.

    Attributes
    ----------
    profile : str
        Profile of the jobs.
    priority : int
        Of the jobs; higher first.
    statuses : tuple of str
        Exit statuses of runs that are reduced.
    wants : callable
        For runs that say nothing themselves; see `Wants`.

    Raises
    ------
    ValueError
        If the priority is out of bounds.
    """

    profile: str = "default"
    priority: int = 0
    statuses: tuple[str, ...] = ("success",)
    wants: Wants = looks_like_tomography

    def __post_init__(self) -> None:
        check_priority(self.priority)

    def submission(self, reference: dict[str, Any], *, say_why: bool = True) -> Submission:
        """Make what goes to the queue of a run as far as it is known.

        Parameters
        ----------
        reference : dict
            Run reference.
        say_why : bool
            Log it if the run is not queued, although it is of tomography, and what its ``tomo_denoise`` asks for in
            vain; False for who decides differently.

        Returns
        -------
        Submission
            A job; or ``is_job`` False for a run that is open, ended otherwise, or is not to be reduced. Its name tells
            if there are fewer projections than planned.
        """
        if reference["stop"] is None:
            return submission_of_run(reference, source="hook", is_job=False)
        asked = _asked(reference["start"])
        if say_why:
            _tell_unknown(run_uid(reference), asked)
        submission = submission_of_run(reference, **self._options(asked), source="hook", is_job=False)
        if not self._is_job(reference, asked, say_why=say_why):
            return submission
        return replace(submission, is_job=True, name=submission.name + _missing(reference))

    def options(self, start: Mapping[str, Any]) -> dict[str, Any]:
        """Give profile, priority and settings of a run's job that a person submits.

        The worker takes all that a person submits, who has not read the metadata: what these may not ask for is left
        out here, and logged.
        """
        options = self._options(_asked(start))
        profile, settings = options["profile"], options["settings"]
        refused = refused_settings(settings)
        if refused:
            logger.warning("tomo_denoise.params: %s might open any file: left out", ", ".join(refused))
        if profile != self.profile and is_path(profile):
            logger.warning("tomo_denoise.profile: %.80r is a path: %r is taken", profile, self.profile)
            options["profile"] = self.profile
        return options | {"settings": {name: value for name, value in settings.items() if name not in refused}}

    def _options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "profile": _of_type(asked, "profile", str, self.profile),
            "priority": self._priority(_of_type(asked, "priority", int, self.priority)),
            "settings": dict(flat_settings(_of_type(asked, "params", Mapping, {}))),
        }

    def _priority(self, asked: int) -> int:
        try:
            check_priority(asked)
        except ValueError as error:
            logger.warning("tomo_denoise.priority: %s; %d is taken", error, self.priority)
            return self.priority
        return asked

    def _is_job(self, reference: dict[str, Any], asked: Mapping[str, Any], *, say_why: bool) -> bool:
        start, status = reference["start"], reference["stop"].get("exit_status")
        enabled = asked.get("enabled")
        if not isinstance(enabled, bool):
            enabled = "tomo" in start or bool(self.wants(start, reference))
        if say_why and enabled and status not in self.statuses:
            logger.warning("run %s ended with %r: remembered, not queued", run_uid(reference), status)
        elif say_why and enabled and not has_projections(reference):
            logger.info("run %s has no projections: remembered for others", run_uid(reference))
        return enabled and status in self.statuses and has_projections(reference)


def _asked(start: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read what the plan asks for; a bare true or false is short for ``enabled``."""
    asked = start.get("tomo_denoise", {})
    if isinstance(asked, bool):
        return {"enabled": asked}
    if not isinstance(asked, Mapping):
        logger.warning("run %s: tomo_denoise must be a mapping or a bool, got %.80r", start["uid"], asked)
        return {}
    return asked


def _tell_unknown(uid: str, asked: Mapping[str, Any]) -> None:
    """Warn of keys that mean nothing, as of a word that is misspelt."""
    unknown = [f"{key!s:.40}" for key in asked if key not in _KEYS]
    if not unknown:
        return
    from difflib import get_close_matches

    likely = {key: get_close_matches(key, _KEYS, n=1) for key in unknown[:8]}
    told = ", ".join(f"{key!r}" + "".join(f" (meant {name!r}?)" for name in names) for key, names in likely.items())
    logger.warning("run %s: tomo_denoise: unknown and passed over: %s; known are %s", uid, told, ", ".join(_KEYS))


def _of_type(asked: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """Give a value of the metadata, if it is of its type; True is no priority."""
    value = asked.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        logger.warning("tomo_denoise.%s: expected %s, got %.80r: %r is taken", name, kind.__name__, value, default)
        return default
    return value


def flat_settings(params: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Name nested settings ``STAGE.NAME``: documents may not have a dot in a key."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from flat_settings(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _missing(reference: dict[str, Any]) -> str:
    planned, counted = planned_frames(reference), counted_frames(reference)["projections"]
    if planned is None or counted >= planned:
        return ""
    logger.warning("run %s: %d of %d projections were taken", run_uid(reference), counted, planned)
    return f", {counted} of {planned} projections"
