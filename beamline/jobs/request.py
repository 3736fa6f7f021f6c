"""What is asked of the queue: one scan to reduce, or one run to remember. JSON in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["FORMAT", "Submission", "check_priority", "json_text", "storable"]

FORMAT = "quietbeam-submission-1"
_HIGHEST_PRIORITY = 2**53
"""Every reader of JSON has it exactly."""

_KINDS: dict[str, tuple[type, ...]] = {
    "key": (str,),
    "name": (str,),
    "run": (dict, type(None)),
    "scan": (str, type(None)),
    "profile": (str,),
    "priority": (int,),
    "settings": (Mapping,),
    "source": (str,),
    "is_job": (bool,),
}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One scan to reduce, or one run to remember for other runs.

    Attributes
    ----------
    key : str
        ``"<run uid or resolved path>:<profile>"``, with ``@<time of change>`` behind the path of a file; the same key
        is the same job.
    name : str
        For people: ``"scan 123 (1a2b3c4d)"`` or the file's name.
    run : dict or None
        Run reference; see `quietbeam.beamline.runs.reference`.
    scan : str or None
        Path of a scan on disk. One of `run` and `scan` is given.
    profile : str
        Name of a profile, or path of a TOML file.
    priority : int
        Higher first.
    settings : mapping
        ``STAGE.NAME`` -> value, over the profile.
    source : str
        Who submitted: hook, console, watch, catch-up, end-of-run.
    is_job : bool
        False: only remember the run (darks and flats for others, or a run that is still open).

    Raises
    ------
    ValueError
        If a field is of the wrong type, `priority` is out of bounds, or not exactly one of `run` and `scan` is given.
    """

    key: str
    name: str
    run: dict[str, Any] | None = None
    scan: str | None = None
    profile: str = "default"
    priority: int = 0
    settings: Mapping[str, object] = field(default_factory=dict)
    source: str = "console"
    is_job: bool = True

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            _check_kind(name, getattr(self, name), kinds)
        check_priority(self.priority)
        if not self.key:
            raise ValueError("key of a submission must not be empty: give '<run uid or path>:<profile>'")
        if (self.run is None) == (self.scan is None):
            given = "neither" if self.run is None else "both"
            raise ValueError(f"submission {self.key}: expected one of run and scan, got {given}")
        if self.run is not None and not self.run_uid:
            raise ValueError(
                f"submission {self.key}: run must hold the uid of its start document in run['start']['uid']"
            )

    @property
    def run_uid(self) -> str | None:
        """The uid of the run's start document; None for a scan on disk."""
        start = (self.run or {}).get("start")
        uid = start.get("uid") if isinstance(start, Mapping) else None
        return uid if isinstance(uid, str) else None

    def to_dict(self) -> dict[str, Any]:
        """Give all fields, with the name of the format."""
        return {"format": FORMAT} | {name: getattr(self, name) for name in _KINDS}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make it of what `to_dict` gave.

        Raises
        ------
        ValueError
            If the format is another one, a field is missing, unknown or of the wrong type.
        """
        if fields.get("format") != FORMAT:
            raise ValueError(f"format of a submission: expected {FORMAT!r}, got {fields.get('format')!r}")
        if unknown := sorted(set(fields) - set(_KINDS) - {"format"}):
            raise ValueError(f"submission: unknown field {unknown[0]!r}; known are {', '.join(_KINDS)}")
        if missing := {"key", "name"} - set(fields):
            raise ValueError(f"submission: the field {min(missing)!r} is missing")
        return cls(**{name: value for name, value in fields.items() if name != "format"})

    def to_json(self) -> str:
        """Give it as one line of JSON; see `json_text` for what JSON cannot hold."""
        return json_text(self.to_dict())

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            What is wrong: no JSON, no JSON object, or what `from_dict` says.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"submission: no JSON ({error})") from error
        if not isinstance(fields, dict):
            raise ValueError(f"submission: expected a JSON object, got {type(fields).__name__}")
        return cls.from_dict(fields)


def check_priority(priority: int) -> None:
    """Raise ValueError if a priority is out of bounds."""
    if abs(priority) > _HIGHEST_PRIORITY:
        bits = priority.bit_length()
        raise ValueError(f"priority of a submission: expected at most {_HIGHEST_PRIORITY}, got a number of {bits} bits")


def json_text(content: object) -> str:
    """Write JSON on one line of ASCII, whatever the content.

    NumPy's scalars and arrays become numbers and lists; anything else that JSON has no form for becomes its `str`, as
    do keys. NaN and infinities are written as ``NaN`` and ``Infinity``: documents may hold them, and Python reads them
    back; strict readers of JSON do not.

    Raises
    ------
    ValueError
        If the content holds itself.
    """
    try:
        return json.dumps(content, default=_plain)
    except TypeError:  # a key that is no string, number, bool or None
        return json.dumps(_with_plain_keys(content), default=_plain)


def storable(text: str) -> str:
    """Give a text that any file can hold: names of files that are no UTF-8 have their odd bytes written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return _with_plain_keys(value)
    to_list = getattr(value, "tolist", None)
    return to_list() if callable(to_list) else str(value)


def _with_plain_keys(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _with_plain_keys(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_plain_keys(inner) for inner in value]
    return value


def _check_kind(name: str, value: object, kinds: tuple[type, ...]) -> None:
    # True is an int, but nobody means it as a priority.
    fits = isinstance(value, kinds) and (kinds != (int,) or not isinstance(value, bool))
    if not fits:
        expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ValueError(f"{name} of a submission: expected {expected}, got {value!r:.80}")
