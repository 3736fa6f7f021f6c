"""Reading, checking and decoding an archive, all of it or part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quietbeam.reconstruction.errors import ArchiveError

from .archive_file import chunk_name
from .archive_reader import Archive, describe_part, open_archive
from .codec import SliceSource, codec

__all__ = ["PartCheck", "Verification", "check_part", "verify_archive"]


class PartCheck(NamedTuple):
    """What was found of one part of an archive.

    Attributes
    ----------
    name : str
        Of the data set: a chunk's, ``codec`` or ``preview``.
    unit : str
        The same for people: a chunk with its slices.
    num_bytes : int
        As stored.
    fault : str or None
        What is wrong with it.
    """

    name: str
    unit: str
    num_bytes: int
    fault: str | None


class Verification(NamedTuple):
    """What a full check of an archive found.

    Attributes
    ----------
    num_chunks : int
        Chunks that were decoded without fault.
    num_bytes : int
        Size of the file.
    damaged : tuple of str
        Each damaged unit and what is wrong with it, the smallest unit that can be named; empty if all is well.
    largest_error : float or None
        Largest difference to the volume compared against, in its units; None if there was none.
    """

    num_chunks: int
    num_bytes: int
    damaged: tuple[str, ...]
    largest_error: float | None

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged


def verify_archive(path: Path, against: SliceSource | None = None, *, decoders: Sequence[Path] = ()) -> Verification:
    """Read, check and decode all of an archive.

    Parameters
    ----------
    path : Path
        The file.
    against : SliceSource or None
        The volume that was put in: each voxel is compared to `max_error`.
    decoders : sequence of Path
        Folders to look for the decoder in that the archive refers to, before those of `find_decoder`.

    Returns
    -------
    Verification
        What is damaged, if anything.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If `against` has another shape.
    """
    num_bytes = Path(path).stat().st_size
    try:
        with open_archive(path, cache_bytes=0, decoders=decoders) as archive:
            if against is not None and tuple(against.shape) != archive.shape:
                raise ValueError(f"{path} has the shape {archive.shape}, the volume to compare with {against.shape}")
            return _verify_parts(archive, against)
    except ArchiveError as error:
        return Verification(0, num_bytes, (str(error),), None)


def check_part(archive: Archive, name: str) -> PartCheck:
    """Read one part of an archive, hold it against its checksums and decode it.

    Parameters
    ----------
    archive : Archive
        Open.
    name : str
        A chunk's name (`chunk_name`), ``codec`` or ``preview``.

    Returns
    -------
    PartCheck
        Of an archive without a preview, no bytes and no fault.

    Raises
    ------
    PermissionError
        If what the archive refers to may not be read.
    """
    fault = None
    try:
        _read_part(archive, name)
    except PermissionError:
        raise
    except (ArchiveError, OSError, ValueError) as error:
        fault = str(error)
    return PartCheck(name, describe_part(archive.header, name), archive.part_bytes(name), fault)


def _read_part(archive: Archive, name: str) -> None:
    if name == "preview":
        if archive.preview_factor is not None:
            archive.preview()
    elif name == "codec":
        state = archive.read_part(name)
        if state and archive.header.codec is not None:
            codec(archive.header.codec).from_bytes(state)
    else:
        archive.decode_chunk(int(name.removeprefix("chunk")))


def _verify_parts(archive: Archive, against: SliceSource | None) -> Verification:
    damaged = list(_faults(archive, "codec"))
    decodable = not (damaged and archive.shares_decoder)
    damaged += _faults(archive, "preview")
    num_good, largest = 0, 0.0
    for chunk in range(archive.header.num_chunks):
        faults = list(_faults(archive, chunk_name(chunk)))
        if faults and not decodable:  # the decoder is a part of its own
            faults = list(_faults_as_stored(archive, chunk_name(chunk)))
        if not faults and decodable and against is not None:
            error = _largest_error(archive, chunk, against)
            largest = max(largest, error)
            if not error <= archive.header.max_error:
                unit = describe_part(archive.header, chunk_name(chunk))
                faults.append(f"{unit}: off by up to {error:.6g}, allowed {archive.header.max_error:.6g}")
        num_good += decodable and not faults
        damaged += faults
    return Verification(num_good, archive.num_bytes, tuple(damaged), None if against is None else largest)


def _faults(archive: Archive, name: str) -> Iterator[str]:
    """Give what is wrong with one part, if anything."""
    check = check_part(archive, name)
    if check.fault is not None:
        yield f"{check.unit}: {check.fault}"


def _faults_as_stored(archive: Archive, name: str) -> Iterator[str]:
    """Give what is wrong with the stored bytes of one part, if anything."""
    try:
        archive.read_part(name)
    except ArchiveError as error:
        yield f"{describe_part(archive.header, name)}: {error}"


def _largest_error(archive: Archive, chunk: int, against: SliceSource) -> float:
    numbers = archive.header.slices_of(chunk)
    given = np.asarray(against[numbers.start : numbers.stop], np.float64)
    return float(np.abs(archive.decode_chunk(chunk) - given).max())
