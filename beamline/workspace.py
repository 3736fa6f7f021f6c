"""The output folder of a run: its final files, its scratch folder, its lock."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from quietbeam.reconstruction.errors import LockedError, ReductionError

from .journal import Journal, StageRecord
from .volume_file import VolumeFile

__all__ = ["ARCHIVE", "MANIFEST", "NETWORK", "REPORT", "Workspace"]

ARCHIVE, NETWORK, REPORT, MANIFEST = "denoised.h5", "network.safetensors", "report.html", "manifest.json"


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
            lock.release()

    def manifest(self) -> dict[str, Any] | None:
        """Read the manifest of a finished run, or None."""
        path = self.output / MANIFEST
        try:
            return dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ReductionError(f"{path}: cannot be read as a manifest ({error}); choose another -o") from error

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
        """Add the time of the block to that of the stage."""
        began = time.monotonic()
        yield
        with (self.scratch / "times.jsonl").open("a") as file:
            file.write(json.dumps([stage, time.monotonic() - began]) + "\n")

    def times(self) -> dict[str, float]:
        """Seconds of each stage, over all runs of the command."""
        seconds: dict[str, float] = {}
        for line in (self.scratch / "times.jsonl").read_text().splitlines():
            stage, spent = json.loads(line)
            seconds[stage] = seconds.get(stage, 0) + spent
        return seconds

    def clean(self) -> None:
        """Remove the scratch folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)
