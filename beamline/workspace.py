"""The output folder of a run: its final files, its scratch folder, its lock."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from quietbeam.reconstruction.errors import LockedError, ReductionError

from .atomic import remove, remove_shared, sync, temporaries_of
from .journal import Journal, StageRecord, whole_lines
from .piece_folder import take_up_pieces

__all__ = [
    "ARCHIVE",
    "DISAGREEMENT",
    "LEARNED_CODEC",
    "MANIFEST",
    "METRICS",
    "NETWORK",
    "PREVIEW",
    "REPORT",
    "SCRATCH_FILES",
    "SIDE_STAGES",
    "STAGES",
    "START",
    "Workspace",
]

ARCHIVE, NETWORK, REPORT, MANIFEST = "denoised.h5", "network.safetensors", "report.html", "manifest.json"
DISAGREEMENT, LEARNED_CODEC = "disagreement.npy", "codec.safetensors"
METRICS, PREVIEW = "training.jsonl", "training.png"
"""Written while the network learns, to be looked at meanwhile: no part of the result."""
RESULT_FILES = (ARCHIVE, NETWORK, REPORT, MANIFEST, DISAGREEMENT, LEARNED_CODEC, METRICS, PREVIEW)
START = "start.safetensors"
"""Copy of the network that training begins with, in the scratch folder."""
CODEC, TRAINED = "codec.packed", "trained.safetensors"
"""Codec and network as processes that do pieces take them from the scratch folder."""
RECORDS = ("identity", "screen", "axis", "start", "threads", "plan", "own-plan", "fit", "codec-plan", "codec")
PIECE_STAGES = ("reconstruct", "denoise", "encode")
PIECES = dict.fromkeys(("sections", "denoised", "disagreement", "held-out"), ".npy") | {"payloads": ".bin"}
"""Folders in the scratch folder, and the suffix of the files in them."""
SCRATCH_FILES = (
    *(f"{name}.json" for name in RECORDS),
    *(f"{name}.jsonl" for name in (*PIECE_STAGES, "compare", "times")),
    *(START, TRAINED, CODEC, "training.safetensors", "own.safetensors", "codec.safetensors"),
)
"""With the folders, all that is ever put into the scratch folder, and so all that is ever removed from it."""
STAGES = (
    *("identify", "screen", "rotation axis", "reconstruct", "train", "compare", "train to compare", "denoise"),
    *("fit codec", "encode", "archive", "report"),
)
"""Those that take time, in their order."""
SIDE_STAGES = ("compare", "train to compare")
"""Those of them whose time is told with the rest, where there is a column for each stage."""


class Workspace:
    """Names in the output folder, and the time that each stage took.

    Parameters
    ----------
    output : Path
        Folder of the run; made if it is not there.
    scratch : Path, optional
        Folder for the scratch folders of many runs, told apart by where their results go; None takes ``work`` in the
        output folder.
    """

    def __init__(self, output: Path, scratch: Path | None = None) -> None:
        self.output = output
        self.scratch = scratch / _scratch_name(output) if scratch else output / "work"

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
            self.make_scratch()
            yield
        finally:
            with contextlib.suppress(OSError):  # a refused job leaves nothing in it
                self.scratch.rmdir()
            lock.release()

    def make_scratch(self) -> None:
        """Make the scratch folder if it is not there."""
        try:
            self.scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ReductionError(
                f"{self.scratch}: cannot be made ({error.strerror}): set compute.scratch to one that can be written"
            ) from error

    def forget_result(self) -> None:
        """Take away the manifest of an earlier result, before the first of its files is replaced."""
        (self.output / MANIFEST).unlink(missing_ok=True)
        sync(self.output)

    def record(self, stage: str, key: str) -> StageRecord:
        """Give the record of a stage that is done as a whole."""
        return StageRecord(self.scratch / f"{stage}.json", key)

    def journal(self, stage: str, key: str) -> Journal:
        """Give the journal of a stage that is done part by part."""
        return Journal(self.journal_path(stage), key)

    def journal_path(self, stage: str) -> Path:
        """Name the journal of a stage."""
        return self.scratch / f"{stage}.jsonl"

    def pieces(self, name: str, journal: Journal) -> Path:
        """Give the folder of the pieces that a journal speaks of; where the two do not agree, both forget a piece."""
        return take_up_pieces(self.scratch / name, journal, PIECES[name])

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the block to that of the stage, also when it is stopped by an error."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.journal("times", "times").append({"stage": stage, "seconds": time.monotonic() - began})

    def times(self) -> dict[str, float]:
        """Seconds of each stage, over all runs of the command and, where chunks were done elsewhere, all processes."""
        noted = self.journal("times", "times").records
        for stage in PIECE_STAGES:
            lines = whole_lines(self.journal_path(stage))
            noted += [{"stage": stage, "seconds": line["seconds"]} for line in lines if "seconds" in line]
        names = [stage for stage in STAGES if any(record["stage"] == stage for record in noted)]
        times = dict.fromkeys(names, 0.0)
        for record in noted:
            times[record["stage"]] = times.get(record["stage"], 0) + record["seconds"]
        return times

    def clean(self) -> None:
        """Remove what the stages left in the scratch folder, and the folder if nothing else lies in it.

        What killed processes left of the files of the result is removed too.
        """
        for name in SCRATCH_FILES:
            (self.scratch / name).unlink(missing_ok=True)
        for name in PIECES:
            remove_shared(self.scratch / name)  # a worker that was given up may come late with a piece
        ours = [self.scratch / name for name in (*SCRATCH_FILES, *PIECES)]
        for path in (*ours, *(self.output / name for name in RESULT_FILES)):
            for left in temporaries_of(path):
                with contextlib.suppress(OSError):  # a network disk keeps open files
                    remove(left)
        with contextlib.suppress(OSError):  # something of somebody else is in it
            self.scratch.rmdir()


def _scratch_name(output: Path) -> str:
    place = str(output.resolve())
    return f"{output.resolve().name}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"
