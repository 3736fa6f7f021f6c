"""Which job is meant: by its number, its run, its path or its key."""

from __future__ import annotations

from pathlib import Path

from quietbeam.reconstruction.errors import UnknownJobError

from .database import Database
from .job_rows import JobRow, job_row
from .known_runs import FEWEST_CHARACTERS
from .request import storable

__all__ = ["find_job"]

_NAMED = 5
_MOST_DIGITS = 18
"""Of a number that SQLite can hold."""


def find_job(database: Database, which: int | str) -> JobRow:
    """Find the job that a person means.

    Parameters
    ----------
    database : Database
        Of the queue.
    which : int or str
        A job's number; -1 for the latest, -2 for the one before; a key, a run's uid or at least its first 6 characters,
        or the path of a scan. Of several jobs of one run or scan the latest is given.

    Raises
    ------
    UnknownJobError
        Naming the jobs that there are, or those that might be meant.
    """
    text = storable(str(which)).strip()
    digits = text.removeprefix("-")
    number = int(text) if digits.isdecimal() and len(digits) <= _MOST_DIGITS else None
    row = (_by_number(database, number) if number is not None else None) or _by_name(database, text)
    if row is None:
        raise UnknownJobError(f"{database.path}: no job {which!r}; {_known(database)}")
    return row


def _by_number(database: Database, number: int) -> JobRow | None:
    if number < 0:
        return _first(database, "1 ORDER BY id DESC LIMIT 1 OFFSET ?", -number - 1)
    return _first(database, "id = ?", number)


def _by_name(database: Database, text: str) -> JobRow | None:
    latest = " ORDER BY id DESC LIMIT 1"
    return (
        _first(database, "key = ?", text)
        or _first(database, "run_uid = ?" + latest, text)
        or _by_path(database, text)
        or (_by_first_characters(database, text) if len(text) >= FEWEST_CHARACTERS else None)
    )


def _by_path(database: Database, text: str) -> JobRow | None:
    try:
        path = storable(str(Path(text).resolve()))
    except (ValueError, OSError, RuntimeError):  # no path: a zero byte in it, too long, or a ring of links
        return None
    return _first(database, "id = (SELECT max(id) FROM jobs WHERE scan = ?)", path)


def _by_first_characters(database: Database, text: str) -> JobRow | None:
    runs = database.read("SELECT DISTINCT run_uid FROM jobs WHERE substr(run_uid, 1, ?) = ?", (len(text), text))
    if len(runs) > 1:
        uids = ", ".join(sorted(row["run_uid"] for row in runs)[:_NAMED])
        raise UnknownJobError(f"{database.path}: {text!r} may mean {len(runs)} runs ({uids}); give more characters")
    return _by_name(database, runs[0]["run_uid"]) if runs else None


def _first(database: Database, condition: str, value: object) -> JobRow | None:
    rows = database.read(f"SELECT * FROM job_rows WHERE {condition}", (value,))  # noqa: S608
    return job_row(rows[0]) if rows else None


def _known(database: Database) -> str:
    rows = database.read("SELECT id FROM jobs ORDER BY id DESC LIMIT ?", (_NAMED,))
    if not rows:
        return "the queue is empty"
    return f"the latest are {', '.join(str(row['id']) for row in rows)}"
