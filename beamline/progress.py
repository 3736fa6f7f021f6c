"""What the person at the console sees while a job runs: a bar with the time left, or plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from quietbeam.reconstruction.caveats import Caveat, Decision

__all__ = ["BarProgress", "JobProgress", "LineProgress", "Silence", "Step", "console_progress"]

SECONDS_BETWEEN_LINES = 5.0
NARROW = 110
"""Columns of a terminal below which a bar is short, so that the numbers beside it can be read."""


class Step(Protocol):
    """One stage under way."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that `count` more units are done, and a number that matters now."""


class JobProgress(Protocol):
    """Where a job tells what it does."""

    def stage(self, name: str, total: int, done: int = 0) -> AbstractContextManager[Step]:
        """Begin a stage of `total` units of which `done` were done before."""

    def decision(self, decision: Decision) -> None:
        """Tell a choice that was made."""

    def caveat(self, caveat: Caveat) -> None:
        """Tell a doubt."""

    def say(self, text: str) -> None:
        """Tell anything else."""


class _Telling:
    """What bars and lines have in common: sentences."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def decision(self, decision: Decision) -> None:
        """Tell a choice that was made."""
        self._tell(f"{decision.name}: ", decision.value, f"  ({decision.reason})")

    def caveat(self, caveat: Caveat) -> None:
        """Tell a doubt."""
        self.console.print(
            f"warning [{caveat.code}]: {caveat.message}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )

    def say(self, text: str) -> None:
        """Tell anything else."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _tell(self, name: str, value: str, rest: str) -> None:
        self.console.print(f"{name}{value}{rest}", markup=False, highlight=False, soft_wrap=True)


class BarProgress(_Telling):
    """Bars with the time left, for a terminal."""

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Step]:
        """Show one bar until the block ends."""
        narrow = self.console.width < NARROW
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=8 if narrow else 40),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            *(() if narrow else (TimeElapsedColumn(table_column=Column(no_wrap=True)),)),
            TextColumn("left"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
        )
        with Progress(*columns, console=self.console) as bars:
            yield _Bar(bars, bars.add_task(name, total=total, completed=done, note=""))


class _Bar:
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self.bars, self.task = bars, task

    def advance(self, count: int = 1, note: str = "") -> None:
        self.bars.update(self.task, advance=count, note=note)


class LineProgress(_Telling):
    """A line every few seconds, for a log."""

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Step]:
        """Print lines until the block ends."""
        lines = _Lines(self, name, total, done)
        yield lines
        self.say(f"{name}: done in {time.monotonic() - lines.began:.1f} s {lines.note}".rstrip())


class _Lines:
    def __init__(self, telling: _Telling, name: str, total: int, done: int) -> None:
        self.telling, self.name, self.total = telling, name, total
        self.done = self.done_before = done
        self.began = self.last = time.monotonic()
        self.note = ""

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES and self.done_before < self.done < self.total:
            self.last = now
            rate = (now - self.began) / (self.done - self.done_before)
            left = (self.total - self.done) * rate
            self.telling.say(f"{self.name}: {self.done:g} of {self.total:g}, {left:.0f} s left {self.note}".rstrip())


class Silence:
    """Nothing, for a process that works along with another one."""

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Step]:
        """Begin a stage."""
        yield self

    def advance(self, count: int = 1, note: str = "") -> None:
        """Go on."""

    def decision(self, decision: Decision) -> None:
        """Tell a choice that was made."""

    def caveat(self, caveat: Caveat) -> None:
        """Tell a doubt."""

    def say(self, text: str) -> None:
        """Tell anything else."""


def console_progress() -> JobProgress:
    """Choose bars for a terminal and lines for anything else."""
    console = Console()
    return BarProgress(console) if console.is_terminal else LineProgress(console)
