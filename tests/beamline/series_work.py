"""Small scans for a conductor: their pieces are numbers in files, and some of them go wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from quietbeam.beamline.atomic import write_atomically
from quietbeam.beamline.series.conductor import ScanWork
from quietbeam.reconstruction.errors import ScanError

NUM_SLICES, CHUNK = 12, 3
STAGES = {None: "square", "square": "cube"}


@dataclass(frozen=True)
class Request:
    """`do` is what goes wrong, at the second piece of the first stage."""

    output: Path
    do: str = ""


@dataclass(frozen=True)
class Wanted:
    stage: str
    task: object
    chunks: tuple[slice, ...]


@dataclass(frozen=True)
class Powers:
    request: Request
    stage: str

    def __call__(self, chunk: slice) -> dict:
        folder = self.request.output
        tell(folder, {"stage": self.stage, "start": chunk.start, "pid": os.getpid()})
        if self.stage == "square" and chunk.start == CHUNK:
            go_wrong(self.request)
        power = {"square": 2, "cube": 3}[self.stage]
        numbers = [index**power for index in range(chunk.start, chunk.stop)]
        write_atomically(folder / f"{self.stage}-{chunk.start}.json", json.dumps(numbers).encode())
        return {"sum": sum(numbers)}


def go_wrong(request):
    first = not (request.output / "went-wrong").exists()
    (request.output / "went-wrong").touch()
    match request.do:
        case "refuse":
            raise ScanError("these are no projections")
        case "crash":
            raise RuntimeError("nobody foresaw this")
        case "interrupt" if first:
            raise KeyboardInterrupt
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die once" if first:
            os.kill(os.getpid(), signal.SIGKILL)


def advance(request, after):
    """Take up what is noted, and want the rest."""
    for stage in STAGES.values():
        noted = {note["start"] for note in notes(request.output, "noted") if note["stage"] == stage}
        missing = [start for start in range(0, NUM_SLICES, CHUNK) if start not in noted]
        if missing:
            chunks = tuple(slice(start, start + CHUNK) for start in missing)
            return Wanted(stage, Powers(request, stage), chunks)
    files = sorted(request.output.glob("*-*.json"))
    write_atomically(
        request.output / "result.json", json.dumps([json.loads(file.read_text()) for file in files]).encode()
    )
    return None


@contextmanager
def locked(request):
    request.output.mkdir(parents=True, exist_ok=True)
    with FileLock(request.output / ".lock", timeout=0):
        yield


def note(request, stage, chunk, record):
    tell(request.output, {"stage": stage, "start": chunk.start} | record, "noted")


def tell(folder, entry, name="begun"):
    with (folder / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def notes(folder, name="begun"):
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def work(output, troubles=None):
    """The work on scans whose results go below a folder; `troubles` gives what goes wrong, by name."""
    return ScanWork(
        lambda found, settings: Request(output / found.name, (troubles or {}).get(found.name, "")),
        advance,
        locked,
        note,
    )


def stay(folder):
    """Keep the interpreter from running anything else, for longer than any test."""
    tell(folder, {"pid": os.getpid()})
    re.match(r"(a+)+$", "a" * 60 + "b")


def sleep(seconds):
    time.sleep(seconds)
    return os.getpid()


def variables():
    return {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}


def shout():
    os.write(1, b"stray words\n")
    os.write(2, b"more stray words\n")
