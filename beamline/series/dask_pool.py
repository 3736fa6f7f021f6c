"""A pool of Dask's workers, each of which makes one call at a time.

Dask starts workers, brings calls there and answers back, and sees when a worker has gone. Which worker makes which call
is decided here: a call is sent only to a worker that has none, so that nothing waits on a worker that may die of
another call, and the one that was under way there is to blame.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import queue
import time
import uuid
from asyncio import CancelledError
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from quietbeam.reconstruction.errors import ClusterError

from .cluster_settings import ClusterSettings
from .pool import Failure, Ticket, guarded
from .worker_check import AT_WORK, CALL_PREFIX

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from distributed import Client, Future

    Complaints = Callable[[Collection[str]], dict[str, str]]

__all__ = ["DaskPool"]

Answer = TypeVar("Answer")

LOOK_SECONDS = 0.25
"""Time between two looks at the workers: when one has gone or come, it is known after that."""

FETCH_SECONDS = 5.0
"""Time that a worker has to send its answer, a small record, when it has it."""

AGAIN_SECONDS = 30.0
"""Time between two looks at a worker that is still at work for another command."""


@dataclass(frozen=True)
class _Call:
    """What is sent: a callable without arguments, in which Dask looks for nothing of its own."""

    function: Callable[..., Any]
    args: tuple[Any, ...]

    def __call__(self) -> Any:
        return guarded(self.function, self.args)


@dataclass(order=True)
class _Task:
    ticket: Ticket
    call: _Call = field(compare=False)
    losses: int = field(default=0, compare=False)


@dataclass(frozen=True)
class _Sent:
    task: _Task
    worker: str
    future: Future[Any]


class DaskPool:
    """Calls made by the workers of a Dask scheduler.

    Parameters
    ----------
    client : distributed.Client
        Connected; closed by the caller.
    settings : ClusterSettings
        How often a call may lose its worker and be made again, how long the scheduler may be out of reach.
    complaints : callable
        Tells of new workers, by their addresses, which of them cannot be used and why; such a worker gets nothing.
    log : Path
        Where to look when a worker died, for messages.
    threads : int, optional
        Of each worker.

    Attributes
    ----------
    memory : int or None
        The smallest limit of a worker, bytes.
    unfit : dict of str to str
        Workers that get nothing, and why.
    """

    def __init__(
        self, client: Client, settings: ClusterSettings, complaints: Complaints, log: Path, threads: int | None
    ) -> None:
        self.threads = threads
        self.memory: int | None = None
        self._client, self._complaints, self._log = client, complaints, log
        self._allowed, self._lost_seconds = settings.allowed_failures, settings.lost_seconds
        self._numbers, self._name = itertools.count(), uuid.uuid4().hex
        self._waiting: list[_Task] = []
        self._sent: dict[str, _Sent] = {}
        self._answered: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ready: list[tuple[Ticket, Any]] = []
        self._looked = self._seen = self._checked = time.monotonic()
        self._workers: set[str] = set()
        self.unfit: dict[str, str] = {}
        self._look()

    @property
    def has_workers(self) -> bool:
        """Whether there is a worker that gets calls."""
        return bool(self._workers)

    @property
    def num_workers(self) -> int:
        """See `Pool`; 1 while there is none."""
        return max(1, len(self._workers))

    def submit(self, function: Callable[..., Any], *args: Any, priority: int = 0) -> Ticket:
        """See `Pool`."""
        ticket = Ticket(priority, next(self._numbers))
        heapq.heappush(self._waiting, _Task(ticket, _Call(function, args)))
        return ticket

    def cancel(self, tickets: Collection[Ticket]) -> set[Ticket]:
        """See `Pool`."""
        gone = {task.ticket for task in self._waiting} & set(tickets)
        self._waiting = [task for task in self._waiting if task.ticket not in gone]
        heapq.heapify(self._waiting)
        return gone

    def next_done(self) -> tuple[Ticket, Any]:
        """See `Pool`."""
        while not self._ready:
            if not self._waiting and not self._sent:
                raise IndexError("nothing was asked for")
            if time.monotonic() - self._looked > LOOK_SECONDS:  # also while answers come steadily
                self._look()
                self._take_lost()
            self._send()
            with contextlib.suppress(queue.Empty):
                self._take(self._answered.get(timeout=LOOK_SECONDS))
        return self._ready.pop(0)

    def _send(self) -> None:
        """Give each worker that has nothing to do the next call."""
        if self._client.status != "running":
            return
        idle = self._workers - {sent.worker for sent in self._sent.values()}
        for worker in sorted(idle)[: len(self._waiting)]:
            task = heapq.heappop(self._waiting)
            key = f"{CALL_PREFIX}{self._name}-{task.ticket.number}-{task.losses}"
            future = self._client.submit(task.call, key=key, workers=[worker], pure=False)
            self._sent[key] = _Sent(task, worker, future)
            future.add_done_callback(lambda done: self._answered.put(done.key))

    def _take(self, key: str) -> None:
        """Take an answer; one that was given up before may still come."""
        sent = self._sent.get(key)
        if sent is None:
            return
        try:
            if sent.future.status != "finished":
                self._take_error(sent)
            elif not self._holders(key):
                self._lose(sent)  # the answer went with its worker; Dask would wait for ever for it
            else:
                self._ready.append((sent.task.ticket, sent.future.result(timeout=FETCH_SECONDS)))
        except (OSError, CancelledError):  # out of reach for now, perhaps for ever: `_look` tells
            time.sleep(LOOK_SECONDS)
            self._answered.put(key)
            return
        del self._sent[key]
        sent.future.release()

    def _holders(self, key: str) -> Collection[str]:
        """Ask which workers have an answer."""
        found: dict[str, Collection[str]] = self._asked(lambda scheduler: scheduler.who_has(keys=[key]))
        return found.get(key, ())

    def _asked(self, question: Callable[[Any], Awaitable[Answer]]) -> Answer:
        """Wait for the scheduler's answer, no longer than it may be out of reach; an `OSError` if there is none."""

        async def ask() -> Answer:
            if self._client.scheduler is None:
                raise ConnectionError("not connected")
            return await question(self._client.scheduler)

        answer: Answer = self._client.sync(ask, callback_timeout=self._lost_seconds)
        return answer

    def _take_error(self, sent: _Sent) -> None:
        """Tell what went wrong outside of the call: its worker died, or it could not be sent or answered."""
        from distributed import KilledWorker

        error = sent.future.exception() if sent.future.status == "error" else None
        if error is None or isinstance(error, KilledWorker):
            self._lose(sent)
        else:
            self._ready.append((sent.task.ticket, Failure.of(error)))

    def _take_lost(self) -> None:
        """Take back the calls of workers that have gone."""
        for key, sent in list(self._sent.items()):
            if sent.worker not in self._workers and not sent.future.done():
                del self._sent[key]
                sent.future.cancel()
                self._lose(sent)

    def _lose(self, sent: _Sent) -> None:
        task = sent.task
        task.losses += 1
        if task.losses <= self._allowed:
            heapq.heappush(self._waiting, task)
            return
        times = "once" if task.losses == 1 else f"{task.losses} times"
        reason = f"the worker died {times} at the same piece of work (out of memory?); see {self._log}"
        self._ready.append((task.ticket, Failure(reason, kind="lost")))

    def _look(self) -> None:
        """See which workers there are."""
        self._looked = time.monotonic()
        if self._client.status == "running":
            with contextlib.suppress(OSError):
                self._take_stock()
                self._seen = self._looked = time.monotonic()
                return
        if time.monotonic() - self._seen > self._lost_seconds or self._client.status == "closed":
            raise ClusterError(
                f"the Dask scheduler cannot be reached any more; see {self._log}. "
                "What was done is kept: give the same command again"
            )

    def _take_stock(self) -> None:
        info = self._asked(lambda scheduler: scheduler.identity(n_workers=-1))["workers"]
        unfit = {worker: complaint for worker, complaint in self.unfit.items() if worker in info}
        new = set(info) - self._workers - set(unfit)
        if time.monotonic() - self._checked > AGAIN_SECONDS:
            new |= {worker for worker, complaint in unfit.items() if complaint == AT_WORK}
            self._checked = time.monotonic()
        kept = {worker: complaint for worker, complaint in unfit.items() if worker not in new}
        self.unfit = kept | self._complaints(new)
        self._workers = set(info) - set(self.unfit)
        self.memory = min((info[worker]["memory_limit"] for worker in self._workers), default=0) or self.memory
