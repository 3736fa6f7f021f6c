"""Encoded chunks one after the other in a file, with their places in a journal."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from quietbeam.reconstruction.errors import ReductionError

from .journal import Journal

__all__ = ["PayloadFile", "StoredChunk"]


class StoredChunk(NamedTuple):
    """A chunk as it was stored.

    Attributes
    ----------
    payload : bytes
        From `encode_chunk`.
    crc32 : int or None
        Likewise, of the decoded voxels.
    largest_error : float
        Likewise, in the volume's units.
    """

    payload: bytes
    crc32: int | None
    largest_error: float


class PayloadFile:
    """Payloads on a scratch disk; iterating reads them back one by one, with the checksum of their voxels.

    Parameters
    ----------
    path : Path
        The file; what lies behind the journal's last payload is written over.
    journal : Journal
        Its records hold what `append` gave, and the chunk's `crc32` and `largest_error`.
    """

    def __init__(self, path: Path, journal: Journal) -> None:
        self.path, self.journal = path, journal
        self.path.touch()

    def append(self, payload: bytes) -> dict[str, Any]:
        """Write a payload behind the last one and wait until it is on the disk; give its place."""
        last = self.journal.records[-1] if self.journal.records else {"offset": 0, "length": 0}
        offset = last["offset"] + last["length"]
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        return {"offset": offset, "length": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}

    def __iter__(self) -> Iterator[StoredChunk]:
        with self.path.open("rb") as file:
            for record in self.journal.records:
                file.seek(record["offset"])
                payload = file.read(record["length"])
                if hashlib.sha256(payload).hexdigest() != record["sha256"]:
                    raise ReductionError(f"{self.path}: damaged on the disk: remove {self.path.parent} to begin anew")
                yield StoredChunk(payload, record["crc32"], record["largest_error"])
