"""Who works on which job: giving out, keeping, handing in. Each change is fenced by the job's token.

A worker that lost its job (cancelled, or given to another after its lease ran out) holds an old token: whatever it
wants changed is refused, so no job is finished twice.
"""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import time
from collections.abc import Iterable, Mapping
from typing import Any

from .database import Database
from .job_rows import JobRow, JobState, job_row
from .request import json_text, storable

__all__ = ["LateLeases", "beat", "claim", "fail", "finish", "postpone", "release_dead", "this_worker"]

_FREED = -1
"""`lease_until` of a job whose worker is given up."""
_CLOCK_STEP = 60.0
"""A job changed this much later than now, in seconds, tells that the clock was set back: it waits no longer."""
_READY = f"""(state = 'queued' AND (not_before <= :now OR updated > :now + {_CLOCK_STEP})
OR state = 'running' AND lease_until < 0)"""
_OURS = "id = ? AND token = ? AND state = 'running'"


def this_worker() -> str:
    """Name this process as `release_dead` understands it: ``host:pid``."""
    return f"{socket.gethostname()}:{os.getpid()}"


class LateLeases:
    """Leases that have run out, and since when they are seen so, on a clock that nobody sets.

    A step of the wall clock makes all leases of a machine run out at once. Workers that live then beat soon.
    """

    def __init__(self) -> None:
        self._since: dict[tuple[int, int, float], float] = {}

    def lost(self, late: Iterable[sqlite3.Row], grace: float) -> list[tuple[int, int, float]]:
        """Choose the jobs that may be given to others: id, token and `lease_until`.

        Parameters
        ----------
        late : iterable of row
            id, token, `lease_until` and worker of running jobs whose lease has run out.
        grace : float
            Seconds for which a worker whose process lives here is waited for.
        """
        now, workers = time.monotonic(), {(row["id"], row["token"], row["lease_until"]): row["worker"] for row in late}
        since = self._since = {lease: self._since.get(lease, now) for lease in workers}
        return [lease for lease, worker in workers.items() if not _lives(worker) or now - since[lease] >= grace]


def claim(database: Database, late: LateLeases, worker: str, *, lease: float, device: str, now: float) -> JobRow | None:
    """Give out the next job: highest priority first, then in order; also one whose worker is lost."""
    columns = "SELECT id, token, lease_until, worker FROM jobs"
    lost = late.lost(database.read(f"{columns} WHERE state='running' AND lease_until BETWEEN 0 AND ?", (now,)), lease)
    ready = f"SELECT id, state FROM jobs WHERE {_READY} ORDER BY priority DESC, id LIMIT 1"  # noqa: S608
    if not lost and not database.read(ready, {"now": now}):
        return None  # an idle worker takes no lock
    with database.transaction() as connection:
        connection.executemany(f"UPDATE jobs SET lease_until={_FREED} WHERE {_OURS} AND lease_until=?", lost)  # noqa: S608
        _fail_lost(connection, now)
        row = connection.execute(ready, {"now": now}).fetchone()
        if row is None:
            return None
        connection.execute(
            """UPDATE jobs SET state='running', token=token+1, attempts=attempts+1, losses=losses+?, worker=?, device=?,
            lease_until=?, started=?, updated=?, finished=NULL, progress='', reason='',
            reference=coalesce((SELECT reference FROM runs WHERE uid=run_uid), reference) WHERE id=?""",
            (row["state"] == "running", worker, device, now + lease, now, now, row["id"]),
        )
        return _job(connection, row["id"])


def beat(database: Database, job: JobRow, *, lease: float, progress: str, now: float) -> bool:
    """Keep a job for another while; False: it is no longer the caller's."""
    with database.transaction() as connection:
        changed = connection.execute(
            f"UPDATE jobs SET lease_until=?, progress=coalesce(nullif(?, ''), progress), updated=? WHERE {_OURS}",  # noqa: S608
            (now + lease, storable(progress), now, job.id, job.token),
        )
        return changed.rowcount == 1


def finish(database: Database, job: JobRow, result: Mapping[str, object], state: str, now: float) -> bool:
    """Hand in a result; False: the job is no longer the caller's, nothing is changed."""
    with database.transaction() as connection:
        changed = connection.execute(
            f"UPDATE jobs SET state=?, result=?, finished=?, updated=?, lease_until=NULL, reason='' WHERE {_OURS}",  # noqa: S608
            (state, json_text(dict(result)), now, now, job.id, job.token),
        )
        return changed.rowcount == 1


def fail(database: Database, job: JobRow, reason: str, retry_after: float | None, now: float) -> JobState:
    """Say that an attempt failed; give the job's state after that, whoever made it so."""
    with database.transaction() as connection:
        again = retry_after is not None and job.attempts < job.max_attempts
        connection.execute(
            f"UPDATE jobs SET state=?, reason=?, not_before=?, finished=?, updated=?, lease_until=NULL WHERE {_OURS}",  # noqa: S608
            (
                "queued" if again else "failed",
                storable(reason),
                now + (retry_after or 0.0),
                None if again else now,
                now,
                job.id,
                job.token,
            ),
        )
        return _job(connection, job.id).state


def postpone(database: Database, job: JobRow, reason: str, *, seconds: float, now: float) -> None:
    """Put a job back for later; the attempt does not count."""
    with database.transaction() as connection:
        connection.execute(
            f"""UPDATE jobs SET state='queued', attempts=attempts-1, reason=?, not_before=?, updated=?, lease_until=NULL
            WHERE {_OURS}""",  # noqa: S608
            (storable(reason), now + seconds, now, job.id, job.token),
        )


def release_dead(database: Database, host: str, now: float) -> int:
    """Put back the jobs of workers on this host whose process is gone; one with no attempt left fails."""
    rows = database.read("SELECT id, token, worker FROM jobs WHERE state='running'")
    dead = [row for row in rows if _is_dead(row["worker"], host)]
    released = 0
    for row in dead:
        with database.transaction() as connection:
            freed = connection.execute(
                f"UPDATE jobs SET lease_until={_FREED} WHERE {_OURS}",  # noqa: S608
                (row["id"], row["token"]),
            ).rowcount
            _fail_lost(connection, now)
            connection.execute(
                f"""UPDATE jobs SET state='queued', losses=losses+1, reason='the worker ' || worker || ' was lost',
                updated=?, lease_until=NULL WHERE {_OURS}""",  # noqa: S608
                (now, row["id"], row["token"]),
            )
            released += freed
    return released


def _fail_lost(connection: sqlite3.Connection, now: float) -> None:
    connection.execute(
        """UPDATE jobs SET state='failed', losses=losses+1, finished=?, updated=?, lease_until=NULL,
        reason='the worker was lost ' || (losses + 1) || CASE losses WHEN 0 THEN ' time' ELSE ' times' END
        || ', last ' || worker || ' in attempt ' || attempts || ' of ' || max_attempts
        || CASE progress WHEN '' THEN '' ELSE ' at "' || progress || '"' END
        WHERE state='running' AND lease_until < 0 AND attempts >= max_attempts""",
        (now, now),
    )


def _lives(worker: str) -> bool:
    host = socket.gethostname()
    return worker.startswith(f"{host}:") and not _is_dead(worker, host)


def _is_dead(worker: str, host: str) -> bool:
    found = re.fullmatch(r"(.*):(\d+)", worker)
    if found is None or found[1] != host:
        return False
    try:
        os.kill(int(found[2]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it lives, under another user
    return False


def _job(connection: sqlite3.Connection, job_id: int) -> JobRow:
    row: Any = connection.execute("SELECT * FROM job_rows WHERE id = ?", (job_id,)).fetchone()
    return job_row(row)
