"""Checking many results: in their order, for as long as there is time, in one process or several."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, Protocol

from quietbeam.reconstruction.errors import QuietbeamError

from .folder import Found, check_targets, find_results
from .request import Summary, VerifyRequest
from .results import check_units
from .state import VerifyState
from .time_limit import Limit, TimeLimit
from .units import Plan, Unit, UnitCheck, plan_units

__all__ = ["Telling", "verify_results"]

UNITS_TOGETHER = 8
"""Units of a result that a process takes at once."""
SECONDS_BETWEEN_SAVES = 60.0

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Telling(Protocol):
    """Where a run tells what it does."""

    def begin(self, path: Path, num_units: int) -> None:
        """Say that a result of so many units comes next."""

    def checked(self, check: UnitCheck) -> None:
        """Tell what was found of a unit."""

    def end(self, path: Path, complete: bool) -> None:
        """Say that no more comes of this result."""


def verify_results(request: VerifyRequest, tell: Telling) -> Summary:
    """Check results, one after the other.

    Parameters
    ----------
    request : VerifyRequest
        What to check. Without a state, results are taken as they are found and not listed before.
    tell : Telling
        Where each unit is told, in the order of the results.

    Returns
    -------
    Summary
        Counts, and the exit code.

    Raises
    ------
    ValueError
        If a target names nothing.
    QuietbeamError
        If the state cannot be read, or a process was ended from outside.
    """
    check_targets(request.targets)
    run = _Run(request, tell)
    began = time.monotonic()
    try:
        run.check_all()
    finally:
        if run.state is not None:
            run.state.forget_lost(run.listed)
            run.state.save()
    run.summary.seconds = time.monotonic() - began
    return run.summary


class _Group(NamedTuple):
    """Units of one result that are checked together.

    Attributes
    ----------
    path : Path
        The result.
    plan : Plan
        All its units.
    first : int
        Number of the first unit of the group.
    units : tuple of Unit
        Those of the group.
    begins : bool
        Whether this is the first group of the result.
    """

    path: Path
    plan: Plan
    first: int
    units: tuple[Unit, ...]
    begins: bool

    @property
    def stop(self) -> int:
        """Number of the unit after the last one."""
        return self.first + len(self.units)


class _Run:
    """One run over all targets."""

    def __init__(self, request: VerifyRequest, tell: Telling) -> None:
        self.request, self.tell, self.summary = request, tell, Summary()
        self.state = None if request.state is None else VerifyState(request.state, request.subset)
        self.listed: list[Path] = []
        self.open: Path | None = None
        self.limit = TimeLimit(request.max_seconds)
        self.saved = time.monotonic()

    def check_all(self) -> None:
        """Check all results for which there is time."""
        groups = self._groups()
        checked = _here(groups, self.limit) if self.request.jobs == 1 else self._in_processes(groups)
        for group, checks in checked:
            self._tell_group(group, checks)
        self._end(complete=False)
        if self.state is not None:
            self.summary.oldest = self.state.oldest(self.listed)

    def _groups(self) -> Iterator[_Group]:
        size = None if self.request.jobs == 1 else UNITS_TOGETHER
        for path in self._in_order():
            if self.limit.is_over:
                self.summary.complete = False
                return
            plan = plan_units(path, self.request.subset, raw=self.request.raw)
            start = self.state.first_unit(path, plan) if self.state else 0
            for first in range(start, len(plan.units), size or len(plan.units)):
                if self.limit.is_over:
                    self.summary.complete = False
                    return
                units = plan.units[first : first + size] if size else plan.units[first:]
                yield _Group(path, plan, first, units, begins=first == start)

    def _in_order(self) -> Iterable[Path]:
        paths = self._readable(find_results(self.request.targets))
        if self.state is None:
            return paths
        self.listed = list(paths)
        return self.state.in_order(self.listed)

    def _readable(self, found: Iterable[Found]) -> Iterator[Path]:
        for path, problem, is_damage in found:
            if problem is None:
                yield path
            else:
                self._tell_unit(UnitCheck(str(path), "", "path", False if is_damage else None, problem, 0, 0.0))

    def _in_processes(self, groups: Iterable[_Group]) -> Iterator[tuple[_Group, Iterable[UnitCheck]]]:
        """Give each group with what was found, in their order; only a few are under way at any time."""
        context, waiting = get_context("spawn"), deque[tuple[_Group, Future[list[UnitCheck]]]]()
        with _one_thread_each(), ProcessPoolExecutor(self.request.jobs, context, _ignore_interrupts) as pool:
            try:
                for group in groups:
                    if self.limit.is_waiting:
                        _wait_for_start(pool, group)
                    limit = self.limit.begin()
                    waiting.append((group, pool.submit(_check_group, group.path, group.units, limit)))
                    if len(waiting) > 2 * self.request.jobs:
                        yield _answer(*waiting.popleft())
                while waiting:
                    yield _answer(*waiting.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _tell_group(self, group: _Group, checks: Iterable[UnitCheck]) -> None:
        done = group.first
        for check in checks:
            if group.begins and done == group.first:
                self._begin(group)
            done += 1
            self._tell_unit(check)
        self.summary.complete &= done == group.stop
        if self.state is not None and done > group.first:
            self._note(self.state, group, done)
        if done == len(group.plan.units):
            self._end(complete=True)

    def _begin(self, group: _Group) -> None:
        self._end(complete=False)
        self.open = group.path
        self.summary.results += 1
        self.tell.begin(group.path, len(group.plan.units) - group.first)

    def _end(self, *, complete: bool) -> None:
        if self.open is not None:
            self.tell.end(self.open, complete)
            self.open = None

    def _tell_unit(self, check: UnitCheck) -> None:
        self.summary.count(check)
        self.tell.checked(check)

    def _note(self, state: VerifyState, group: _Group, done: int) -> None:
        known = state.get(group.path)
        if group.begins or (known.key, known.next) == (group.plan.key, group.first):  # no gap before it
            state.note(group.path, group.plan, done)
        if time.monotonic() - self.saved > SECONDS_BETWEEN_SAVES:
            state.save()
            self.saved = time.monotonic()


def _here(groups: Iterable[_Group], limit: TimeLimit) -> Iterator[tuple[_Group, Iterable[UnitCheck]]]:
    for group in groups:
        yield group, limit.begin().of(check_units(group.path, group.units))


def _wait_for_start(pool: ProcessPoolExecutor, group: _Group) -> None:
    """Wait until a process has loaded what it needs, which may take longer than the checks have time."""
    _answer(group, pool.submit(_check_group, group.path, (), Limit()))


def _answer(group: _Group, future: Future[list[UnitCheck]]) -> tuple[_Group, list[UnitCheck]]:
    try:
        return group, future.result()
    except BrokenProcessPool as error:
        raise QuietbeamError(
            f"{group.path}: a process that was checking has been ended from outside, perhaps for want of memory: "
            "check with fewer --jobs"
        ) from error


def _check_group(path: Path, units: Sequence[Unit], limit: Limit) -> list[UnitCheck]:
    return list(limit.of(check_units(path, units)))


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which goes to all processes of a terminal, to the one that was started there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that start in the block compute with one thread, unless told otherwise."""
    added = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
