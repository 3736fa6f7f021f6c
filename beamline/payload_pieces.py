"""Encoded chunks, each in a file, with their hashes in a journal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from quietbeam.reconstruction.errors import ReductionError

from .journal import Record
from .piece_folder import new_piece, piece_path

__all__ = ["PayloadPieces", "StoredChunk", "write_payload"]

SUFFIX = ".bin"


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


def write_payload(folder: Path, chunk: slice, payload: bytes) -> str:
    """Write the payload of some slices, wait until it is on the disk, and give its SHA-256."""
    with new_piece(piece_path(folder, chunk.start, chunk.stop, SUFFIX)) as file:
        file.write(payload)
    return hashlib.sha256(payload).hexdigest()


class PayloadPieces:
    """Payloads on a scratch disk; iterating reads them one by one, with the checksum of their voxels.

    Parameters
    ----------
    folder : Path
        Where they are.
    records : sequence of dict
        Of the chunks in order: ``start``, ``stop``, ``sha256`` from `write_payload`, and the chunk's ``crc32`` and
        ``largest_error``.
    """

    def __init__(self, folder: Path, records: Sequence[Record]) -> None:
        self.folder, self.records = folder, records

    def __iter__(self) -> Iterator[StoredChunk]:
        for record in self.records:
            path = piece_path(self.folder, record["start"], record["stop"], SUFFIX)
            payload = path.read_bytes()
            if hashlib.sha256(payload).hexdigest() != record["sha256"]:
                raise ReductionError(f"{path}: damaged on the disk: remove {self.folder} and run the command again")
            yield StoredChunk(payload, record["crc32"], record["largest_error"])
