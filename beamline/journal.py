"""What a stage has done so far, on disk, so that the same command goes on where it was stopped.

Each stage has a key: a hash of all that its result depends on. A record made under another key is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from .atomic import write_atomically

__all__ = ["Journal", "Record", "StageRecord", "note", "stage_key", "whole_lines"]

Record = dict[str, Any]
"""What JSON can hold."""


def stage_key(stage: str, *dependencies: Any) -> str:
    """Hash what a stage depends on.

    Parameters
    ----------
    stage : str
        Its name.
    *dependencies
        What JSON can hold: settings, the keys of earlier stages.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    content = json.dumps([stage, *dependencies], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


class StageRecord:
    """The result of a stage that is done as a whole: a JSON file.

    Parameters
    ----------
    path : Path
        Where it is kept.
    key : str
        From `stage_key`.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def load(self) -> Record | None:
        """Give the result, or None if the stage is not done under this key."""
        try:
            stored = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return None
        return stored["result"] if stored.get("key") == self.key else None

    def store(self, result: Record) -> Record:
        """Keep the result, whole or not at all, and give it back as JSON would."""
        content = json.dumps({"key": self.key, "result": result})
        write_atomically(self.path, content.encode())
        return dict(json.loads(content)["result"])


class Journal:
    """The parts of a stage that are done: a file of JSON lines, each flushed to the disk before the next part begins.

    Parameters
    ----------
    path : Path
        Where it is kept.
    key : str
        From `stage_key`; a journal of another key is begun anew.

    Attributes
    ----------
    records : list of dict
        In the order in which they were noted.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        lines = whole_lines(path)
        self.records: list[Record] = lines[1:] if lines and lines[0] == {"key": key} else []
        # Written anew: a line that was cut off by a crash would swallow the next one.
        self._write()

    def append(self, record: Record) -> None:
        """Note that a part is done."""
        note(self.path, record)
        self.records.append(record)

    def pieces(self) -> list[Record]:
        """Give the records of chunks in the order of their slices, each slice once, whoever noted it how often."""
        taken: set[int] = set()
        counted = []
        for record in self.records:
            chunk = range(record["start"], record["stop"])
            if taken.isdisjoint(chunk):
                taken.update(chunk)
                counted.append(record)
        return sorted(counted, key=lambda record: int(record["start"]))

    def keep(self, records: list[Record]) -> None:
        """Forget all but some records."""
        if records != self.records:
            self.records = list(records)
            self._write()

    def _write(self) -> None:
        content = "".join(json.dumps(line) + "\n" for line in ({"key": self.key}, *self.records))
        write_atomically(self.path, content.encode())


def note(path: Path, record: Record) -> None:
    """Append to a journal that is there, and wait until it is on the disk."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path) -> list[Record]:
    """Read a journal as it is, key and all, up to a line that was cut off."""
    lines: list[Record] = []
    try:
        for line in path.read_text().splitlines():
            lines.append(json.loads(line))
    except (OSError, ValueError):
        pass  # no journal yet, or a last line cut off
    return lines
