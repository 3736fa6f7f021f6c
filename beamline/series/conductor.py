"""Several scans on their way at once: what each of them needs next is asked for, and done by whoever is free.

A scan goes forward by `advance`, which does what one process has to do and then either has finished, or wants pieces:
chunks of slices, in any order, by any process. When the pieces are done and noted, it goes forward again. Earlier scans
are served first. Where there are several workers, there is one scan more on its way than workers, so that the pieces of
one fill the time in which another one trains.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .pool import Failure, Pool, Ticket, guarded

if TYPE_CHECKING:
    from quietbeam.beamline.settings import ReductionSettings

    from .find_scans import FoundScan

__all__ = ["Conductor", "Policy", "ScanSink", "ScanWork", "SpaceOnDisk"]


class Wanted(Protocol):
    """Pieces that a scan needs before it can go on: `quietbeam.beamline.reduce.Wanted`."""

    @property
    def stage(self) -> str:
        """Of the pieces."""

    @property
    def task(self) -> Callable[[slice], dict[str, Any]]:
        """Does one."""

    @property
    def chunks(self) -> Sequence[slice]:
        """Those to be done."""


class ScanSink(Protocol):
    """Who is told how it goes with each scan."""

    def begin(self, found: FoundScan, settings: ReductionSettings) -> None:
        """Hear that a scan is being worked on from now on, with these settings."""

    def progress(self, name: str, stage: str, done: int, total: int) -> None:
        """Hear how many slices of a stage are done."""

    def done(self, name: str) -> None:
        """Hear that the result is whole."""

    def failed(self, name: str, failure: Failure) -> None:
        """Hear that the scan was given up."""


class Policy(Protocol):
    """Which settings each scan gets: `quietbeam.beamline.series.policy.SeriesPolicy`."""

    def settings_for(self, index: int, name: str) -> ReductionSettings | None:
        """Give the settings of a scan, or None while it has to wait for another one."""

    def finished(self, name: str, output: Any) -> None:
        """Take note of a result."""

    def failed(self, name: str) -> None:
        """Take note that there will be no result."""


class SpaceOnDisk(Protocol):
    """Keeps scans from filling the disk together: `quietbeam.beamline.series.disk_room.DiskRoom`."""

    def take(self, found: FoundScan, settings: ReductionSettings) -> bool:
        """Reserve what a scan needs; False if it has to wait for others to end.

        Raises
        ------
        QuietbeamError
            If the scan cannot be opened, or does not fit even alone.
        """

    def give_back(self, name: str) -> None:
        """Take note that the scan has ended."""


@dataclass(frozen=True)
class ScanWork:
    """What is done with a scan.

    Attributes
    ----------
    request : callable
        Makes of a found scan and its settings what `advance` gets; plain values.
    advance : callable
        Goes forward, elsewhere: called with the request and the stage whose pieces were done last, None at first. Gives
        `Wanted` with pieces, or anything without chunks when the scan has finished.
    locked : callable
        Keeps other commands away from the request's folder, here, while the scan is on its way.
    note : callable
        Notes here, for the next `advance`, what a piece found: called with request, stage, chunk and record.
    """

    request: Callable[[FoundScan, ReductionSettings], Any]
    advance: Callable[[Any, str | None], Any]
    locked: Callable[[Any], AbstractContextManager[None]]
    note: Callable[[Any, str, slice, dict[str, Any]], None]


@dataclass(eq=False)
class _Flight:
    """A scan on its way."""

    index: int
    found: FoundScan
    request: Any
    lock: ExitStack
    wanted: Wanted | None = None
    open: set[Ticket] = field(default_factory=set)
    num_done: int = 0
    failure: Failure | None = None


class Conductor:
    """Takes scans through their stages on a pool.

    Parameters
    ----------
    pool : Pool
        Makes the calls.
    work : ScanWork
        What is called.
    sink : ScanSink
        Who is told.
    policy : Policy
        Settings of each scan.
    space : SpaceOnDisk
        How many scans the disk carries.
    """

    def __init__(self, pool: Pool, work: ScanWork, *, sink: ScanSink, policy: Policy, space: SpaceOnDisk) -> None:
        self.pool, self.work, self.sink, self.policy, self.space = pool, work, sink, policy, space
        self._waiting: deque[tuple[int, FoundScan]] = deque()
        self._flights: list[_Flight] = []
        self._asked: dict[Ticket, tuple[_Flight, slice | None]] = {}

    def run(self, scans: Sequence[tuple[int, FoundScan]]) -> None:
        """Take all scans to their end; one that fails ends none but itself.

        Parameters
        ----------
        scans : sequence of (int, FoundScan)
            With each its place in the series.

        Raises
        ------
        ClusterError
            If the workers are lost; all that was done is kept.
        """
        self._waiting.extend(scans)
        try:
            while self._waiting or self._flights:
                self._admit()
                if self._flights:
                    self._take(*self.pool.next_done())
        finally:
            for flight in self._flights:
                flight.lock.close()

    # -- from waiting to on its way ----------------------------------------------------------------------------------

    def _admit(self) -> None:
        most = self.pool.num_workers + (self.pool.num_workers > 1)
        while self._waiting and len(self._flights) < most:
            ready = self._next_ready()
            if ready is None:
                return
            entry, settings = ready
            took = guarded(self.space.take, (entry[1], settings))
            if took is False and self._flights:
                return
            self._waiting.remove(entry)
            if isinstance(took, Failure):
                self._tell_failed(entry[1], took)
            else:
                self._begin(*entry, settings)

    def _next_ready(self) -> tuple[tuple[int, FoundScan], ReductionSettings] | None:
        """Give the first scan that need not wait for the result of another one."""
        for index, found in self._waiting:
            settings = self.policy.settings_for(index, found.name)
            if settings is not None:
                return (index, found), settings
        if not self._flights:
            raise RuntimeError(f"{len(self._waiting)} scans wait for one that will not come")
        return None

    def _begin(self, index: int, found: FoundScan, settings: ReductionSettings) -> None:
        lock = ExitStack()
        request = guarded(self._take_hold, (found, settings, lock))
        if isinstance(request, Failure):
            guarded(lock.close, ())
            self.space.give_back(found.name)
            self._tell_failed(found, request)
            return
        flight = _Flight(index, found, request, lock)
        self._flights.append(flight)
        self._ask(flight, None, self.work.advance, request, None)

    def _take_hold(self, found: FoundScan, settings: ReductionSettings, lock: ExitStack) -> Any:
        request = self.work.request(found, settings)
        lock.enter_context(self.work.locked(request))
        self.sink.begin(found, settings)
        return request

    # -- on its way --------------------------------------------------------------------------------------------------

    def _ask(self, flight: _Flight, chunk: slice | None, function: Callable[..., Any], *args: Any) -> None:
        ticket = self.pool.submit(function, *args, priority=flight.index)
        self._asked[ticket] = flight, chunk
        flight.open.add(ticket)

    def _take(self, ticket: Ticket, answer: Any) -> None:
        """Take an answer; a scan that was given up ends when the last piece that had begun is done."""
        flight, chunk = self._asked.pop(ticket)
        flight.open.remove(ticket)
        if isinstance(answer, Failure):
            self._give_up(flight, answer)
        elif flight.failure is None and chunk is not None:
            self._take_piece(flight, chunk, answer)
        elif flight.failure is None:
            self._take_step(flight, answer)
        if not flight.open:
            self._end(flight)

    def _take_step(self, flight: _Flight, answer: Any) -> None:
        chunks = getattr(answer, "chunks", ())
        if not chunks:
            return
        last = flight.wanted
        if last is not None and (last.stage, list(last.chunks)) == (answer.stage, list(chunks)):
            reason = f"{answer.stage}: pieces that were done are not seen; do all machines see the same output folder?"
            self._give_up(flight, Failure(reason))
            return
        flight.wanted, flight.num_done = answer, 0
        for chunk in chunks:
            self._ask(flight, chunk, answer.task, chunk)

    def _take_piece(self, flight: _Flight, chunk: slice, record: dict[str, Any]) -> None:
        wanted = flight.wanted
        if wanted is None:
            return
        noted = guarded(self.work.note, (flight.request, wanted.stage, chunk, record))
        if isinstance(noted, Failure):
            self._give_up(flight, noted)
            return
        flight.num_done += chunk.stop - chunk.start
        total = sum(part.stop - part.start for part in wanted.chunks)
        guarded(self.sink.progress, (flight.found.name, wanted.stage, flight.num_done, total))
        if not flight.open:
            self._ask(flight, None, self.work.advance, flight.request, wanted.stage)

    def _give_up(self, flight: _Flight, failure: Failure) -> None:
        """Take back the pieces that have not begun; the first failure is the one that is told."""
        flight.failure = flight.failure or failure
        for ticket in self.pool.cancel(flight.open):
            flight.open.remove(ticket)
            del self._asked[ticket]

    def _end(self, flight: _Flight) -> None:
        """Tell how it went; where that goes wrong, as on a full disk, the scan has failed, and no other one."""
        self._flights.remove(flight)
        unlocked = guarded(flight.lock.close, ())
        self.space.give_back(flight.found.name)
        name = flight.found.name
        failed = flight.failure or unlocked or guarded(self.policy.finished, (name, flight.request.output))
        if isinstance(failed, Failure):
            self._tell_failed(flight.found, failed)
            return
        failed = guarded(self.sink.done, (name,))
        if isinstance(failed, Failure):
            guarded(self.sink.failed, (name, failed))

    def _tell_failed(self, found: FoundScan, failure: Failure) -> None:
        guarded(self.policy.failed, (found.name,))
        guarded(self.sink.failed, (found.name, failure))
