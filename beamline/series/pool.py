"""Calls that are made somewhere, and answered in the order in which they end: what a series of scans runs on."""

from __future__ import annotations

import errno
import heapq
import itertools
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from quietbeam.reconstruction.errors import NotReadyError, QuietbeamError, SpaceError

__all__ = ["Failure", "InProcess", "Pool", "Ticket", "guarded"]

TRACE_LINES = 12
"""How much of a traceback goes along with the reason of a crash."""


class Ticket(NamedTuple):
    """What a call that was asked for is known by.

    Attributes
    ----------
    priority : int
        Lower ones are made first.
    number : int
        Counts the calls of a pool.
    """

    priority: int
    number: int


@dataclass(frozen=True)
class Failure:
    """Why a call gave nothing.

    Attributes
    ----------
    reason : str
        For people, one sentence.
    exit_code : int
        As in `quietbeam.reconstruction.errors`.
    kind : str
        refused: a `QuietbeamError`; crashed: anything else; lost: the worker died, as often as was allowed.
    may_pass : bool
        It may be gone by itself later, as where a detector still writes or where a disk was full.
    trace : str
        The last lines of a crash's traceback.
    """

    reason: str
    exit_code: int = 1
    kind: Literal["refused", "crashed", "lost"] = "crashed"
    may_pass: bool = False
    trace: str = ""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Tell what an exception means."""
        if isinstance(error, QuietbeamError):
            may_pass = isinstance(error, NotReadyError | SpaceError)
            return cls(str(error), error.exit_code, "refused", may_pass)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return cls(f"{error.filename or 'the disk'}: {error.strerror}", SpaceError.exit_code, "refused", True)
        lines = traceback.format_exception(error)
        trace = "".join(lines).strip().splitlines()[-TRACE_LINES:]
        return cls(f"{type(error).__name__}: {error}".strip(": "), 1, "crashed", False, "\n".join(trace))


class Pool(Protocol):
    """Makes calls, some at a time."""

    @property
    def threads(self) -> int | None:
        """Threads of each worker; None: not known."""

    @property
    def memory(self) -> int | None:
        """Bytes that each worker may take; None: not limited."""

    @property
    def num_workers(self) -> int:
        """How many calls are made at a time."""

    def submit(self, function: Callable[..., Any], *args: Any, priority: int = 0) -> Ticket:
        """Ask for a call; of those that wait, lower priorities and then earlier ones are made first.

        Parameters
        ----------
        function : callable
            Of a module, so that another process can find it, or a frozen dataclass that can be called.
        *args
            Plain values; they are sent as they are.
        priority : int
            See above.

        Returns
        -------
        Ticket
            Comes back with the answer.
        """

    def next_done(self) -> tuple[Ticket, Any]:
        """Wait for the next answer: what was returned, or a `Failure`.

        Raises
        ------
        ClusterError
            If the workers cannot be reached any more.
        IndexError
            If nothing was asked for.
        """

    def cancel(self, tickets: Collection[Ticket]) -> set[Ticket]:
        """Take back calls that have not begun, and tell which those are; the others will be answered."""


def guarded(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a function and give what it returns, or the `Failure` that it met.

    Parameters
    ----------
    function : callable
        Anything.
    args : tuple
        Its arguments.

    Returns
    -------
    object or Failure
        Never an exception, which may not be known, or not be the same, in another process.
    """
    try:
        return function(*args)
    except Exception as error:
        return Failure.of(error)


class InProcess:
    """One call after the other, here: a pool without other processes.

    Parameters
    ----------
    threads, memory : int, optional
        What a call may take, threads and bytes.
    """

    num_workers = 1

    def __init__(self, threads: int | None = None, memory: int | None = None) -> None:
        self.threads, self.memory = threads, memory
        self._waiting: list[tuple[Ticket, Callable[..., Any], tuple[Any, ...]]] = []
        self._numbers = itertools.count()

    def submit(self, function: Callable[..., Any], *args: Any, priority: int = 0) -> Ticket:
        """See `Pool`."""
        ticket = Ticket(priority, next(self._numbers))
        heapq.heappush(self._waiting, (ticket, function, args))
        return ticket

    def next_done(self) -> tuple[Ticket, Any]:
        """See `Pool`; the call is made now."""
        ticket, function, args = heapq.heappop(self._waiting)
        return ticket, guarded(function, args)

    def cancel(self, tickets: Collection[Ticket]) -> set[Ticket]:
        """See `Pool`."""
        gone = {entry[0] for entry in self._waiting} & set(tickets)
        self._waiting = [entry for entry in self._waiting if entry[0] not in gone]
        heapq.heapify(self._waiting)
        return gone
