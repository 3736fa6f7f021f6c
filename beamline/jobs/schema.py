"""The tables of the queue, and their version."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from quietbeam.reconstruction.errors import QueueError

from .queue_errors import is_busy

__all__ = ["SCHEMA_VERSION", "prepare", "transaction"]

SCHEMA_VERSION = 1
"""Kept in PRAGMA user_version."""

_APPLICATION = 0x71_62_6A_71
"""PRAGMA application_id: a database of something else is not touched."""

_SCHEMA = """
CREATE TABLE runs(
  uid TEXT PRIMARY KEY, reference TEXT NOT NULL, stopped INTEGER NOT NULL, size INTEGER NOT NULL,
  started REAL NOT NULL, updated REAL NOT NULL);
CREATE TABLE jobs(
  id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, run_uid TEXT, scan TEXT,
  state TEXT NOT NULL DEFAULT 'queued', priority INTEGER NOT NULL, profile TEXT NOT NULL, source TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, max_attempts INTEGER NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
  started REAL, finished REAL, not_before REAL NOT NULL DEFAULT 0, lease_until REAL,
  worker TEXT NOT NULL DEFAULT '', device TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',
  progress TEXT NOT NULL DEFAULT '', result TEXT, submission TEXT NOT NULL, reference TEXT,
  token INTEGER NOT NULL DEFAULT 0, losses INTEGER NOT NULL DEFAULT 0);
CREATE INDEX jobs_by_state ON jobs(state, priority DESC, id);
CREATE INDEX jobs_by_run ON jobs(run_uid);
CREATE INDEX jobs_by_scan ON jobs(scan);
CREATE VIEW job_rows AS SELECT
  jobs.id, jobs.key, jobs.name, jobs.run_uid, jobs.state, jobs.priority, jobs.profile, jobs.source, jobs.attempts,
  jobs.max_attempts, jobs.created, jobs.updated, jobs.started, jobs.finished, jobs.not_before, jobs.lease_until,
  jobs.worker, jobs.device, jobs.reason, jobs.progress, jobs.result, jobs.submission, jobs.token, jobs.losses,
  CASE WHEN jobs.state = 'queued' OR jobs.reference IS NULL THEN runs.reference ELSE jobs.reference END AS reference
  FROM jobs LEFT JOIN runs ON runs.uid = jobs.run_uid;
"""


def prepare(connection: sqlite3.Connection, path: Path, timeout: float) -> None:
    """Make the tables in an empty file, and refuse a file that is something else.

    Parameters
    ----------
    connection : sqlite3.Connection
        Just opened.
    path : Path
        For the message.
    timeout : float
        Seconds to wait for others who do the same.

    Raises
    ------
    QueueError
        If the file is a database of something else, or of a newer version.
    """
    deadline = time.monotonic() + timeout
    while (version := _version(connection, path)) is None:
        try:
            _create(connection)
        except sqlite3.OperationalError as error:
            # Two processes that change a new file to WAL do not wait for one another: SQLite refuses one at once.
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
    if version != SCHEMA_VERSION:
        raise QueueError(
            f"{path}: made by {'a newer' if version > SCHEMA_VERSION else 'another'} quietbeam (version {version} of "
            f"the queue, this one knows {SCHEMA_VERSION}); update quietbeam here, or give another queue"
        )


def _version(connection: sqlite3.Connection, path: Path) -> int | None:
    with transaction(connection, "BEGIN"):  # one look at a file that another process may be making
        version, application, num_tables = (
            int(connection.execute(query).fetchone()[0])
            for query in ("PRAGMA user_version", "PRAGMA application_id", "SELECT count(*) FROM sqlite_master")
        )
    if application != _APPLICATION and num_tables:
        raise QueueError(f"{path}: a database of something else, not a queue; give the path of another file")
    return version if num_tables else None


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    with transaction(connection):
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Do what is in the block, all of it or nothing; by default the lock for writing is held from the beginning."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk rolls back by itself
            connection.execute("ROLLBACK")
        raise
