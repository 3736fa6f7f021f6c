"""The last known reference of each run, also of runs that are no jobs: darks and flats, and runs still open."""

from __future__ import annotations

import json
import math
import sqlite3
from typing import Any

from .database import Database
from .request import json_text, storable

__all__ = ["FEWEST_CHARACTERS", "find_run", "open_runs", "remember_run", "run_reference"]

FEWEST_CHARACTERS = 6
"""Of a run's uid, to mean it."""

_REMEMBER = """
INSERT INTO runs(uid, reference, stopped, size, started, updated) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT(uid) DO UPDATE SET reference=excluded.reference, stopped=excluded.stopped, size=excluded.size,
  started=excluded.started, updated=excluded.updated
WHERE (excluded.stopped, excluded.size) > (stopped, size)
"""

_OPEN = """
SELECT reference FROM runs WHERE NOT stopped AND started >= ?
AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.run_uid = runs.uid) ORDER BY started, uid
"""


_MOST_INTERLEAVED = 20
"""Runs among which the one that ended last is looked for: those that began last."""

_ENDED = "SELECT reference FROM runs WHERE stopped ORDER BY started DESC, uid LIMIT ?"


def remember_run(connection: sqlite3.Connection, reference: dict[str, Any], now: float) -> None:
    """Keep a run's reference, unless one is kept that is as complete.

    One with a stop document is more complete than one without; of two alike, the one with more frames and events.
    """
    start = reference["start"]
    stopped, size = _completeness(reference)
    started = start.get("time")
    at = float(started) if isinstance(started, int | float) and math.isfinite(started) else now
    connection.execute(_REMEMBER, (storable(start["uid"]), json_text(reference), stopped, size, at, now))


def run_reference(database: Database, uid: str) -> dict[str, Any] | None:
    """Give the last known reference of a run, or None."""
    return _only(database.read("SELECT reference FROM runs WHERE uid = ?", (storable(uid),)))


def find_run(database: Database, which: str) -> dict[str, Any] | None:
    """Give the run that a person means: by its uid, 6 or more first characters of it, or -1, the one that ended last.

    None if there is none, or more than one.
    """
    if which == "-1":
        ended = [dict(json.loads(row["reference"])) for row in database.read(_ENDED, (_MOST_INTERLEAVED,))]
        return max(ended, key=_end, default=None)
    text = storable(which)
    exact = run_reference(database, text)
    if exact or len(text) < FEWEST_CHARACTERS:
        return exact
    return _only(database.read("SELECT reference FROM runs WHERE substr(uid, 1, ?) = ? LIMIT 2", (len(text), text)))


def open_runs(database: Database, since: float | None) -> list[dict[str, Any]]:
    """Give the references without a stop document of runs that have no job, oldest first."""
    return [dict(json.loads(row["reference"])) for row in database.read(_OPEN, (since or 0.0,))]


def _only(rows: list[sqlite3.Row]) -> dict[str, Any] | None:
    return dict(json.loads(rows[0]["reference"])) if len(rows) == 1 else None


def _end(reference: dict[str, Any]) -> float:
    """Give when a run ended; one that does not tell goes behind those that do."""
    time = reference["stop"].get("time")
    return float(time) if isinstance(time, int | float) and math.isfinite(time) else -math.inf


def _completeness(reference: dict[str, Any]) -> tuple[bool, int]:
    size = 0
    for stream in reference.get("streams") or ():
        size += len(stream.get("seq_nums") or ())
        for resource in stream.get("resources") or ():
            size += sum(int(stop) - int(first) for first, stop, *_ in resource.get("ranges") or ())
    return reference.get("stop") is not None, size
