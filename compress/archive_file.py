"""The parts of an archive as bytes in an HDF5 file, and the index that lists them.

Nothing outside the file is followed: external links, external storage and virtual data sets are refused. Every number
that sizes an allocation is held against the size of the file first. docs/reference/archive-format.md says what each
byte means.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from quietbeam.reconstruction.errors import ArchiveError

__all__ = [
    "ADVICE",
    "FORMAT",
    "FORMATS",
    "FORMAT_APART",
    "IndexEntry",
    "chunk_name",
    "damage_of",
    "read_bytes",
    "read_format",
    "read_index",
    "readable_json",
    "sync",
    "write_bytes",
    "write_index",
    "write_text",
]

FORMATS = ("quietbeam-archive-1", "quietbeam-archive-2", "quietbeam-archive-3")
"""What is read."""
FORMAT, FORMAT_APART = FORMATS[1:]
"""What is written, with the decoder in the archive and in a file of its own."""
ADVICE = "restore it from a copy or write it again"

_INDEX_DIGEST = "index_sha256"
_TEXTS = ("index", "header")
"""Parts that format 2 stores as text."""


class IndexEntry(BaseModel):
    """What the index says of one part; the key of each field in the file is its alias, and None is left out.

    Attributes
    ----------
    num_bytes : int
        Size as stored.
    sha256 : str
        Of the stored bytes, hexadecimal.
    crc32 : int or None
        Of the decoded voxels of a chunk; None for other parts, and where decoders of machines differ.
    factor : int or None
        Of the preview: voxels along each side of a block.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_by_name=True, validate_by_alias=True)

    num_bytes: int = Field(alias="bytes", ge=0)
    sha256: str
    crc32: int | None = Field(None, ge=0, lt=2**32)
    factor: int | None = Field(None, ge=2)

    @classmethod
    def of(cls, data: bytes, crc32: int | None = None) -> IndexEntry:
        """Describe a part."""
        return cls(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), crc32=crc32)

    def fits(self, data: bytes) -> bool:
        """Tell whether these are the bytes that were described."""
        return len(data) == self.num_bytes and hashlib.sha256(data).hexdigest() == self.sha256


def chunk_name(chunk: int) -> str:
    """Give the name of a chunk's data set."""
    return f"chunk{chunk:06d}"


def readable_json(value: Any) -> bytes:
    """Write JSON for people: sorted keys, one value in a line."""
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False).encode()


def write_bytes(file: h5py.File, name: str, data: bytes) -> None:
    """Store bytes as a data set, contiguous, without filters and times."""
    file.create_dataset(name, data=np.frombuffer(data, np.uint8), track_times=False)


def write_text(file: h5py.File, name: str, data: bytes) -> None:
    """Store UTF-8 as a scalar data set of one text of fixed length, which viewers show as it is."""
    kind = h5py.string_dtype("utf-8", len(data))
    file.create_dataset(name, (), kind, data=np.array(data, kind), track_times=False)


def write_index(file: h5py.File, entries: Mapping[str, IndexEntry], form: str = FORMAT) -> None:
    """Store the index, one part in a line, and the attributes of the root group, the format among them."""
    rows = (
        f"{json.dumps(name)}: {json.dumps(entry.model_dump(by_alias=True, exclude_none=True), sort_keys=True)}"
        for name, entry in sorted(entries.items())
    )
    data = ("{\n" + ",\n".join(rows) + "\n}").encode()
    write_text(file, "index", data)
    texts = {"format": form, _INDEX_DIGEST: hashlib.sha256(data).hexdigest(), "NX_class": "NXroot"}
    for name, text in (texts | {"default": "preview"}).items():
        file.attrs[name] = np.bytes_(text.encode())


def read_format(file: h5py.File) -> str:
    """Read what the file says that it is; empty if it is no archive."""
    return _read_attribute(file, "format")


def read_index(file: h5py.File, form: str, num_bytes: int) -> dict[str, IndexEntry]:
    """Read and check the index.

    Parameters
    ----------
    file : h5py.File
        The archive.
    form : str
        One of `FORMATS`.
    num_bytes : int
        Size of the file.

    Returns
    -------
    dict of str to IndexEntry
        What is known of each part.

    Raises
    ------
    ArchiveError
        If it is not where and what it should be, or does not match its checksum.
    ValueError
        If it holds something else than an index does.
    """
    data = read_bytes(file, "index", form, num_bytes)
    if hashlib.sha256(data).hexdigest() != _read_attribute(file, _INDEX_DIGEST):
        raise ArchiveError(f"{file.filename}: the index does not match its checksum: {ADVICE}")
    index = json.loads(data)
    if not isinstance(index, dict):
        raise ArchiveError(f"{file.filename}: the index is no table: {ADVICE}")
    if form == FORMATS[0]:
        index = {name: {"bytes": size, "sha256": sha256} for name, (size, sha256) in index.items()}
    return {name: IndexEntry.model_validate(entry) for name, entry in index.items()}


def read_bytes(file: h5py.File, name: str, form: str, num_bytes: int) -> bytes:
    """Read a data set that lies in this file as plain bytes, or as a text, and nothing else.

    Parameters
    ----------
    file : h5py.File
        The archive.
    name : str
        The data set.
    form : str
        One of `FORMATS`.
    num_bytes : int
        Size of the file; a data set that declares more is refused.

    Returns
    -------
    bytes
        As stored.

    Raises
    ------
    ArchiveError
        If it is missing, a link, or not stored so.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ArchiveError(f"{file.filename}: {name} is missing or a link, expected a data set: {ADVICE}")
    data = file[name]
    is_text = form != FORMATS[0] and name in _TEXTS
    if not isinstance(data, h5py.Dataset) or not (_is_text(data) if is_text else _is_plain(data)):
        kind = "a text" if is_text else "plain bytes"
        raise ArchiveError(f"{file.filename}: {name} is not stored as {kind} in this file: {ADVICE}")
    if data.nbytes > num_bytes or data.id.get_storage_size() != data.nbytes:
        raise ArchiveError(f"{file.filename}: {name} declares {data.nbytes} bytes in a file of {num_bytes}: {ADVICE}")
    return bytes(data[()])


@contextmanager
def damage_of(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a damaged file makes libraries raise into one kind of error."""
    try:
        yield
    except (ArchiveError, FileNotFoundError, PermissionError):
        raise
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise ArchiveError(f"{path}: the {what} cannot be read ({error}): {ADVICE}") from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_plain(data: h5py.Dataset) -> bool:
    return data.dtype == np.uint8 and data.ndim == 1 and not (data.chunks or data.external or data.is_virtual)


def _is_text(data: h5py.Dataset) -> bool:
    kind = h5py.check_string_dtype(data.dtype)
    fixed = kind is not None and kind.length is not None and kind.encoding == "utf-8"
    return fixed and data.shape == () and not (data.external or data.is_virtual)


def _read_attribute(file: h5py.File, name: str) -> str:
    """Read an attribute of fixed length; a longer or other one gives an empty text."""
    attribute = h5py.h5a.open(file.id, name.encode()) if name in file.attrs else None
    if attribute is None or attribute.dtype.kind != "S" or attribute.shape != () or attribute.dtype.itemsize > 100:
        return ""
    return bytes(file.attrs[name]).decode("ascii")
