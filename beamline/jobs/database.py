"""The file behind the queue: SQLite connections, transactions, errors that say what to do."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quietbeam.reconstruction.errors import QueueError

from .places import state_folder
from .queue_errors import explanation
from .schema import prepare, transaction

__all__ = ["Database"]


class Database:
    """One SQLite file in WAL mode; a connection per thread and process, opened anew when the file was replaced.

    ``synchronous=FULL``: what was put is on the disk before the caller, or a spool, forgets it. NORMAL would save a
    fifth of a millisecond, and lose the last jobs in a power cut.

    Parameters
    ----------
    path : Path
        Made with its tables if it is not there; the folder above its own must be there.
    timeout : float
        Seconds to wait for the lock of another process.

    Raises
    ------
    QueueError
        If it cannot be opened, is damaged, of a newer version, or a database of something else.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self.path, self.timeout = path, timeout
        self._inherited: list[object] = []
        self._begin()
        self._connection()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Do several statements, all of them or none; the lock for writing is held from the beginning."""
        with self._explained():
            connection = self._connection()
            with transaction(connection):
                yield connection

    def read(self, sql: str, parameters: tuple[object, ...] | dict[str, object] = ()) -> list[sqlite3.Row]:
        """Give the rows of a query. Reading never waits for a writer."""
        with self._explained():
            return self._connection().execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Close the connections of all threads. Used again, it opens new ones."""
        _close_all(self._connections, self._pid)

    def _begin(self) -> None:
        self._connections: dict[threading.Thread, _Connection] = {}
        self._pid = os.getpid()
        # Not at the end of the process, where another thread may be in the midst of a transaction.
        weakref.finalize(self, _close_all, self._connections, self._pid).atexit = False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.Error as error:
            raise QueueError(explanation(self.path, error, self.timeout)) from error
        except OSError as error:
            raise QueueError(
                f"{self.path}: the queue cannot be opened ({error}); make its folder or free it"
            ) from error

    def _connection(self) -> sqlite3.Connection:
        if os.getpid() != self._pid:  # SQLite's connections must not be used, nor closed, behind a fork
            self._inherited.append(self._connections)
            self._begin()
        thread = threading.current_thread()
        connection, identity = self._connections.get(thread, (None, None))
        if connection is not None and identity == _identity(self.path):
            return connection
        self._drop(thread)
        with self._explained():
            connection, identity = _open(self.path, self.timeout)
        self._connections[thread] = connection, identity
        return connection

    def _drop(self, thread: threading.Thread) -> None:
        for other in list(self._connections):
            if other is thread or not other.is_alive():
                connection, _ = self._connections.pop(other, (None, None))
                if connection is not None:  # another thread may have been faster
                    connection.close()


_Connection = tuple[sqlite3.Connection, tuple[int, int] | None]


def _close_all(connections: dict[threading.Thread, _Connection], pid: int) -> None:
    while connections and os.getpid() == pid:
        _, (connection, _) = connections.popitem()
        connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    # An open connection goes on writing into a file that was deleted or moved away: whatever it takes is lost.
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open(path: Path, timeout: float) -> _Connection:
    # A folder of the user's own is made as a whole; elsewhere more than one that is missing is a disk not mounted.
    path.parent.mkdir(exist_ok=True, parents=path.parent == state_folder())
    if not path.exists():
        # SQLite itself makes files that only the owner may write; here the umask decides, so that a group can share.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o666))
    identity = _identity(path)
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        prepare(connection, path, timeout)
        connection.execute("PRAGMA synchronous=FULL")
    except BaseException:
        connection.close()
        raise
    return connection, identity
