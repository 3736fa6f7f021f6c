"""The progress of a job as JSON lines, for the worker that waits for it, and as plain lines for its log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from quietbeam.beamline.progress import LineProgress, Step
from quietbeam.reconstruction.caveats import Caveat, Decision

__all__ = ["JsonProgress", "send"]

SECONDS_BETWEEN_LINES = 0.5


def send(stream: TextIO, message: dict[str, Any]) -> None:
    """Write one line of JSON and let it go at once."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()


class JsonProgress:
    """Tells each stage twice: to the worker, and to the log.

    Parameters
    ----------
    stream : TextIO
        To the worker: lines ``{"stage", "done", "total", "note"}``.
    log : LineProgress
        For people, with the decisions and caveats.
    """

    def __init__(self, stream: TextIO, log: LineProgress) -> None:
        self.stream, self.log = stream, log

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Step]:
        """Begin a stage of `total` units of which `done` were done before."""
        with self.log.stage(name, total, done) as line:
            step = _JsonStep(self.stream, line, {"stage": name, "done": done, "total": total, "note": ""})
            step.tell()
            yield step
            step.tell()

    def decision(self, decision: Decision) -> None:
        """Tell a choice that was made."""
        self.log.decision(decision)

    def caveat(self, caveat: Caveat) -> None:
        """Tell a doubt."""
        self.log.caveat(caveat)

    def say(self, text: str) -> None:
        """Tell anything else."""
        self.log.say(text)


class _JsonStep:
    def __init__(self, stream: TextIO, line: Step, state: dict[str, Any]) -> None:
        self.stream, self.line, self.state = stream, line, state
        self.told = 0.0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.line.advance(count, note)
        self.state["done"] += count
        self.state["note"] = note or self.state["note"]
        if time.monotonic() - self.told > SECONDS_BETWEEN_LINES:
            self.tell()

    def tell(self) -> None:
        self.told = time.monotonic()
        send(self.stream, self.state)
