"""Checking for a limited time, which begins with the first unit; that one is checked however short the time is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from .units import UnitCheck

__all__ = ["Limit", "TimeLimit"]


class Limit(NamedTuple):
    """Until when units of a group are checked; monotonic clocks agree between the processes of a machine.

    Attributes
    ----------
    deadline : float or None
        By the monotonic clock, seconds; None if there is none.
    is_first : bool
        Whether the group has the first unit of all.
    """

    deadline: float | None = None
    is_first: bool = False

    @property
    def is_over(self) -> bool:
        """Whether the time has run out."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def of(self, checks: Iterator[UnitCheck]) -> Iterator[UnitCheck]:
        """Give units until the time is over."""
        must = self.is_first
        while must or not self.is_over:
            check = next(checks, None)
            if check is None:
                return
            yield check
            must = False


class TimeLimit:
    """The time that a run has.

    Parameters
    ----------
    seconds : float or None
        From the first unit on; None: no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self._limit = seconds, Limit()

    @property
    def is_waiting(self) -> bool:
        """Whether there is a limit and its time has not begun."""
        return self._seconds is not None and self._limit.deadline is None

    @property
    def is_over(self) -> bool:
        """Whether the time has run out."""
        return self._limit.is_over

    def begin(self) -> Limit:
        """Begin the time, unless it has begun; give what holds for the group that comes next."""
        if self._seconds is None or not self.is_waiting:
            return self._limit
        self._limit = Limit(time.monotonic() + self._seconds)
        return self._limit._replace(is_first=True)
