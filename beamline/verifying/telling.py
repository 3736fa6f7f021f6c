"""What `quietbeam verify` says while it checks: one line of JSON for each unit, or lines for people."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from .request import Summary
from .units import Subset, UnitCheck

__all__ = ["JsonTelling", "LineTelling"]


class JsonTelling:
    """One JSON object in a line for each unit, and one at the end for all of them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Leave the ``with`` statement."""

    def begin(self, path: Path, num_units: int) -> None:
        """Say that a result of so many units comes next."""

    def checked(self, check: UnitCheck) -> None:
        """Print what was found of a unit."""
        typer.echo(json.dumps(check._asdict() | {"seconds": round(check.seconds, 6)}))

    def end(self, path: Path, complete: bool) -> None:
        """Say that no more comes of this result."""

    def summary(self, summary: Summary, subset: Subset) -> None:
        """Print the last line."""
        content = {
            "kind": "summary",
            "exit_code": summary.exit_code,
            "complete": summary.complete,
            "subset": str(subset),
            "results": summary.results,
            "units": summary.units,
            "damaged": summary.damaged,
            "unchecked": summary.unchecked,
            "bytes": summary.bytes,
            "seconds": round(summary.seconds, 3),
            "oldest": None if summary.oldest is None else datetime.fromtimestamp(summary.oldest, UTC).isoformat(),
        }
        typer.echo(json.dumps(content))


class LineTelling:
    """Lines for people, and on a terminal a bar with the time that the result takes yet.

    Parameters
    ----------
    in_detail : bool
        Whether units that are well get a line too, chunks one together.
    """

    def __init__(self, *, in_detail: bool) -> None:
        self._in_detail = in_detail
        self._counts: Counter[str] = Counter()
        self._results = self._damaged = 0
        columns = (
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=20),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("left"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
        )
        console = Console(stderr=True)
        self._bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar = self._bars.add_task("", total=None, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bars.stop()

    def begin(self, path: Path, num_units: int) -> None:
        """Begin a result of so many units."""
        self._counts.clear()
        self._bars.reset(self._bar, total=num_units, description=str(path), note=self._note())

    def checked(self, check: UnitCheck) -> None:
        """Print a fault at once, and what is well where details are wanted."""
        state = {True: "ok", False: "damaged", None: "unchecked"}[check.ok]
        self._counts[state] += 1
        if check.kind == "path":
            self._print(f"{'error' if check.ok is False else 'not checked'}: {check.path}: {check.message}", err=True)
        elif check.ok is None:
            self._print(f"UNKNOWN  {check.unit}: {check.message}")
        elif not check.ok:
            self._print(f"DAMAGED  {check.unit}: {check.message}")
        elif check.kind == "foreign":
            self._print(f"note     {check.unit}: {check.message}")
        elif check.kind == "chunk":
            self._counts["chunks"] += 1
        elif self._in_detail:
            self._print(f"ok       {check.unit}" + (f": {check.message}" if check.message else ""))
        self._bars.advance(self._bar)

    def end(self, path: Path, complete: bool) -> None:
        """Print what is to be said of a result as a whole."""
        counts = self._counts
        if self._in_detail and counts["chunks"]:
            self._print(f"ok       {counts['chunks']} chunks decoded")
        self._results += 1
        self._damaged += bool(counts["damaged"])
        rest = "verified" if complete and not counts["unchecked"] else "not all was checked"
        self._print(f"{path}: {'damaged' if counts['damaged'] else rest}")

    def summary(self, summary: Summary, subset: Subset) -> None:
        """Print the last line, if there is more to say than of one whole result."""
        if summary.results == 1 and summary.complete and subset.num_parts == 1:
            return
        part = "" if subset.num_parts == 1 else f", part {subset} of their chunks and large files"
        size, seconds = summary.bytes / 1e6, summary.seconds
        self._print(
            f"{summary.results} results{part}: {summary.units} units, {size:.1f} MB in {seconds:.1f} s; "
            f"{summary.damaged} damaged, {summary.unchecked} could not be checked"
            + ("" if summary.complete else "; the time ran out before all was checked")
        )

    def _note(self) -> str:
        return f"{self._results} results done" + (f", {self._damaged} damaged" if self._damaged else "")

    def _print(self, text: str, *, err: bool = False) -> None:
        """Print a line above the bar; what is no UTF-8 in a name, or moves a terminal's cursor, is escaped."""
        text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
        if self._bars.disable:
            typer.echo(text, err=err)
        else:
            self._bars.print(text, markup=False, highlight=False, soft_wrap=True)
