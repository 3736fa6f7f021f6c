"""Decoders that several archives share: a file each, named by the hash of its content.

An archive of format 3 does not hold its decoder but says its sha256 and its size. The file is looked for as
``decoders/SHA256.decoder`` beside the archive and in the folders above it, and as ``SHA256.decoder`` in the folders
that the environment variable QUIETBEAM_DECODERS names. Where it lies proves nothing: its hash decides.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from quietbeam.reconstruction.errors import ArchiveError, DecoderError

from .archive_file import IndexEntry, sync

__all__ = ["DECODERS", "ENVIRONMENT", "LEVELS_UP", "MOST_BYTES", "decoder_file", "find_decoder", "store_decoder"]

DECODERS = "decoders"
"""Name of the folder beside archives, or above them."""
ENVIRONMENT = "QUIETBEAM_DECODERS"
"""Environment variable with more folders, separated as those of PATH."""
LEVELS_UP = 3
"""How many folders above that of the archive are looked into."""
MOST_BYTES = 2**29
"""A decoder that is said to be larger is refused before it is read."""

_SHA256 = re.compile("[0-9a-f]{64}")
_ADVICE = f"put a copy there, or name its folder in {ENVIRONMENT}"


def decoder_file(sha256: str) -> str:
    """Give the name of a decoder's file."""
    return f"{sha256}.decoder"


def store_decoder(state: bytes, folder: Path) -> Path:
    """Store a decoder under its hash, unless it is there; any number of processes may do so at once.

    Parameters
    ----------
    state : bytes
        From `Codec.to_bytes`.
    folder : Path
        Made if it is not there.

    Returns
    -------
    Path
        The file; it is there whole or not at all.

    Raises
    ------
    ValueError
        If it has more than `MOST_BYTES` bytes.
    OSError
        If the disk is full or not writable.
    """
    if len(state) > MOST_BYTES:
        raise ValueError(f"a decoder to share has at most {MOST_BYTES} bytes, got {len(state)}: embed it")
    path = folder / decoder_file(hashlib.sha256(state).hexdigest())
    with suppress(DecoderError):
        if _read(path, IndexEntry.of(state)) is not None:
            return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{path.stem[:16]}-{secrets.token_hex(8)}.partial"
    try:
        partial.write_bytes(state)
        sync(partial)
        partial.replace(path)
        sync(folder)
    finally:
        partial.unlink(missing_ok=True)
    return path


def find_decoder(entry: IndexEntry, archive: Path, folders: Sequence[Path] = ()) -> bytes:
    """Read the decoder that an archive refers to.

    Parameters
    ----------
    entry : IndexEntry
        Size and hash, from the archive's index.
    archive : Path
        The archive, absolute.
    folders : sequence of Path
        Folders with decoders that are looked into first.

    Returns
    -------
    bytes
        Of that size and hash.

    Raises
    ------
    DecoderError
        If it is nowhere, or damaged wherever it is; the text names hash and places.
    ArchiveError
        If size or hash cannot be those of a decoder.
    """
    if not _SHA256.fullmatch(entry.sha256) or not 0 < entry.num_bytes <= MOST_BYTES:
        raise ArchiveError(
            f"{archive}: refers to a decoder of {entry.num_bytes} bytes and the hash {entry.sha256[:64]!r}, expected "
            f"sha256 and at most {MOST_BYTES} bytes: restore it from a copy"
        )
    places, faults, denied = list(dict.fromkeys(_places(archive, folders))), [], None
    for place in places:
        try:
            if (state := _read(place / decoder_file(entry.sha256), entry)) is not None:
                return state
        except DecoderError as fault:
            faults.append(str(fault))
        except PermissionError as error:
            denied = error
    if faults:
        raise DecoderError(f"{archive}: the decoder it refers to is damaged: {'; '.join(faults)}: {_ADVICE}")
    if denied:
        raise denied
    looked = ", ".join(map(str, places))
    raise DecoderError(f"{archive}: {decoder_file(entry.sha256)} is missing; looked in {looked}: {_ADVICE}")


def _places(archive: Path, folders: Sequence[Path]) -> Iterator[Path]:
    """Give the folders where a decoder may lie, the nearest first."""
    yield from folders
    for path in (archive, archive.resolve()):
        for parent in list(path.parents)[: LEVELS_UP + 1]:
            yield parent / DECODERS
    yield from (Path(name) for name in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if name)


def _read(path: Path, entry: IndexEntry) -> bytes | None:
    """Read a decoder, None if it is not there; its size is held against the index before memory is taken."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_size != entry.num_bytes:
        raise DecoderError(f"{path} has {found.st_size} bytes, expected a file of {entry.num_bytes}")
    state = path.read_bytes()
    if not entry.fits(state):
        raise DecoderError(f"{path} has another hash than its name")
    return state
