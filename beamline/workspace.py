"""The output folder of a run: its final files, its scratch folder, its lock."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from quietbeam.reconstruction.errors import LockedError, ReductionError

from .atomic import sync
from .journal import Journal, StageRecord
from .volume_file import VolumeFile

__all__ = [
    "ARCHIVE",
    "DISAGREEMENT",
    "MANIFEST",
    "METRICS",
    "NETWORK",
    "PREVIEW",
    "REPORT",
    "SCRATCH_FILES",
    "START",
    "Workspace",
]

ARCHIVE, NETWORK, REPORT, MANIFEST = "denoised.h5", "network.safetensors", "report.html", "manifest.json"
DISAGREEMENT = "disagreement.npy"
METRICS, PREVIEW = "training.jsonl", "training.png"
"""Written while the network learns, to be looked at meanwhile: no part of the result."""
START = "start.safetensors"
"""Copy of the network that training begins with, in the scratch folder."""
RECORDS = ("identity", "screen", "axis", "start", "threads", "plan", "codec-plan")
JOURNALS = ("sections", "denoised", "payloads", "times")
VOLUMES = ("sections", "denoised", "disagreement")
SCRATCH_FILES = (
    *(f"{name}.json" for name in RECORDS),
    *(f"{name}.jsonl" for name in JOURNALS),
    *(f"{name}.npy" for name in VOLUMES),
    *("payloads.bin", START, "training.safetensors", "codec.safetensors", ARCHIVE),
)
"""All that is ever put into the scratch folder, and so all that is ever removed from it."""


class Workspace:
    """Names in the output folder, and the time that each stage took.

    Parameters
    ----------
    output : Path
        Folder of the run; made if it is not there.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.scratch = output / "work"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder while the block runs; the lock ends with the process."""
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ReductionError(
                f"{self.output}: a file is in the way of the output folder; choose another -o"
            ) from None
        lock = FileLock(self.output / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(
                f"{self.output}: another process is at work here; wait for it, or choose another -o"
            ) from None
        try:
            self.scratch.mkdir(exist_ok=True)
            yield
        finally:
            with contextlib.suppress(OSError):  # a refused job leaves nothing in it
                self.scratch.rmdir()
            lock.release()

    def forget_result(self) -> None:
        """Take away the manifest of an earlier result, before the first of its files is replaced."""
        (self.output / MANIFEST).unlink(missing_ok=True)
        sync(self.output)

    def record(self, stage: str, key: str) -> StageRecord:
        """Give the record of a stage that is done as a whole."""
        return StageRecord(self.scratch / f"{stage}.json", key)

    def journal(self, stage: str, key: str) -> Journal:
        """Give the journal of a stage that is done part by part."""
        return Journal(self.scratch / f"{stage}.jsonl", key)

    def volume(self, name: str, shape: tuple[int, ...], journal: Journal) -> VolumeFile:
        """Open the volume that a journal speaks of, or make it if the journal is empty."""
        path = self.scratch / f"{name}.npy"
        if not journal.records or not path.exists():
            if journal.records:
                raise ReductionError(f"{path} has gone since the job was stopped: remove {self.scratch} to begin anew")
            return VolumeFile.create(path, shape)
        return VolumeFile(path)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the block to that of the stage, also when it is stopped by an error."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.journal("times", "times").append({"stage": stage, "seconds": time.monotonic() - began})

    def times(self) -> dict[str, float]:
        """Seconds of each stage, over all runs of the command."""
        seconds: dict[str, float] = {}
        for record in self.journal("times", "times").records:
            seconds[record["stage"]] = seconds.get(record["stage"], 0) + record["seconds"]
        return seconds

    def clean(self) -> None:
        """Remove what the stages left in the scratch folder, and the folder if nothing else lies in it."""
        for name in SCRATCH_FILES:
            (self.scratch / name).unlink(missing_ok=True)
            (self.scratch / f".{name}.partial").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something of somebody else is in it
            self.scratch.rmdir()
