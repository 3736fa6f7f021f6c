"""The archive: one HDF5 file with the coded volume, all that is needed to decode it, and a checksum of every part.

docs/reference/archive-format.md says what each byte means. A file is written under a temporary name, read back, checked
and renamed; it is never changed afterwards. Every number that sizes an allocation is checked first, and nothing outside
the file is followed: external links, external storage and virtual data sets are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from quietbeam.reconstruction.errors import ArchiveError

from .chunks import EncodedChunk, decode_chunk, encode_chunk, num_latent_bytes
from .codec import Codec, SliceSource, codec
from .header import ArchiveHeader, ArchiveSettings

__all__ = [
    "Archive",
    "ArchiveHeader",
    "ArchiveSettings",
    "EncodedChunk",
    "Verification",
    "encode_chunk",
    "is_archive",
    "open_archive",
    "verify_archive",
    "write_archive",
]

FORMAT = "quietbeam-archive-1"
_INDEX_DIGEST = "index_sha256"
_ADVICE = "restore it from a copy or write it again"


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


def write_archive(
    path: Path, payloads: Iterable[EncodedChunk | bytes], header: ArchiveHeader, codec_state: bytes
) -> None:
    """Write an archive as a whole, or not at all; equal arguments give equal bytes.

    Parameters
    ----------
    path : Path
        The final name; an existing file is replaced. ``.partial`` is appended while the file is written.
    payloads : iterable of EncodedChunk or bytes
        One for each chunk in order, from `encode_chunk`; taken one by one.
    header : ArchiveHeader
        Shape, codec, error, metadata.
    codec_state : bytes
        From `Codec.to_bytes`; not stored if no chunk has latents.

    Raises
    ------
    ValueError
        If the number of payloads is not that of the header.
    ArchiveError
        If what was written reads back differently.
    OSError
        If the disk is full or not writable; what was under `path` is still there.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with h5py.File(partial, "w", libver=("v108", "v108"), track_times=False) as file:
            _write_parts(file, payloads, header, codec_state)
        _sync(partial)
        with Archive(partial) as archive:
            for name in archive.parts:
                archive.read_part(name)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def open_archive(path: Path) -> Archive:
    """Open an archive; see `Archive`, use it in a ``with`` statement."""
    return Archive(Path(path))


def is_archive(path: Path) -> bool:
    """Tell whether a file says that it is an archive, of this version or another; a damaged one may not say so."""
    try:
        with h5py.File(path, "r") as file:
            return "format" in file.attrs and _read_text(file, "format").startswith("quietbeam-archive-")
    except (OSError, ArchiveError):
        return False


class Archive:
    """A volume in an archive, decoded chunk by chunk as it is asked for.

    ``archive[5]``, ``archive[2:9:3]``, ``archive[-1, 10:20, ::2]`` give what the same index gives on the array. Only
    the chunks that hold such slices are decoded; the last one is kept. The header's and the index' checksums are
    checked on opening, that of a chunk whenever it is read.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    ArchiveError
        If it is no archive, of another version, or damaged; also from reading slices.
    FileNotFoundError
        If there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: tuple[int, NDArray[np.float32]] | None = None
        self._codec: Codec | None = None
        self._num_bytes = path.stat().st_size
        with _damage_of(path, "structure"):
            self._file = h5py.File(path, "r")
        try:
            with _damage_of(path, "header and index"):
                self._index = self._read_index()
                self.header = ArchiveHeader.model_validate_json(self.read_part("header"))
                self._check_names()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return self.header.shape

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Type of a voxel: float32."""
        return np.dtype(np.float32)

    @property
    def metadata(self) -> dict[str, JsonValue]:
        """What was stored with the volume."""
        return self.header.metadata

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._num_bytes

    @property
    def bits_per_voxel(self) -> float:
        """Size of the whole file, in bits, divided by the number of voxels."""
        return 8 * self._num_bytes / float(np.prod(self.shape, dtype=np.float64))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all data sets with a checksum."""
        return tuple(self._index)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        first, *rest = index if isinstance(index, tuple) else (index,)
        within = tuple(rest)
        if isinstance(first, slice):
            return self._gather(range(len(self))[first], within)
        if isinstance(first, bool) or not hasattr(first, "__index__"):
            raise TypeError(f"the first index of an archive must be an integer or a slice, got {first!r}")
        number = range(len(self))[first]
        chunk, place = divmod(number, self.header.chunk_slices)
        return self.decode_chunk(chunk)[place][within].copy()

    def _gather(self, numbers: range, within: tuple[Any, ...]) -> NDArray[np.float32]:
        parts = [np.empty((0, *self.shape[1:]), np.float32)[(slice(None), *within)]]
        for chunk, group in groupby(numbers, lambda number: number // self.header.chunk_slices):
            places = [number % self.header.chunk_slices for number in group]
            parts.append(self.decode_chunk(chunk)[places][(slice(None), *within)])
        return np.concatenate(parts)

    def decode_chunk(self, chunk: int) -> NDArray[np.float32]:
        """Decode a chunk, unless it is the last one that was decoded.

        Parameters
        ----------
        chunk : int
            From 0; its slices are ``header.slices_of(chunk)``.

        Returns
        -------
        float32, shape (slice, y, x)
            Not to be changed.
        """
        if self._last is None or self._last[0] != chunk:
            payload = self.read_part(_chunk_name(chunk))
            with _damage_of(self._path, _describe(self.header, _chunk_name(chunk))):
                needed = self._load_codec() if num_latent_bytes(payload) else None
                self._last = chunk, decode_chunk(needed, payload, self.header.chunk_shape(chunk))
                self._last[1].flags.writeable = False
        return self._last[1]

    def read_part(self, name: str) -> bytes:
        """Read a data set and check it against the index; `ArchiveError` if it differs."""
        with _damage_of(self._path, name):
            data = _read_bytes(self._file, name, self._num_bytes)
            if [len(data), hashlib.sha256(data).hexdigest()] != self._index[name]:
                raise ArchiveError(f"{self._path}: {name} does not match its checksum: {_ADVICE}")
            return data

    def _load_codec(self) -> Codec:
        if self._codec is None:
            if self.header.codec is None:
                raise ArchiveError(f"{self._path}: a chunk has latents but the header names no codec: {_ADVICE}")
            self._codec = codec(self.header.codec).from_bytes(self.read_part("codec"))
        return self._codec

    def _read_index(self) -> dict[str, Any]:
        if not (form := _read_text(self._file, "format")):
            raise ArchiveError(f"{self._path}: is no quietbeam archive")
        if form != FORMAT:
            raise ArchiveError(f"{self._path}: expected the format {FORMAT}, got {form}: a newer version may read it")
        data = _read_bytes(self._file, "index", self._num_bytes)
        if hashlib.sha256(data).hexdigest() != _read_text(self._file, _INDEX_DIGEST):
            raise ArchiveError(f"{self._path}: the index does not match its checksum: {_ADVICE}")
        index = json.loads(data)
        if not isinstance(index, dict):
            raise ArchiveError(f"{self._path}: the index is no table: {_ADVICE}")
        return index

    def _check_names(self) -> None:
        expected = {"header", "codec", *map(_chunk_name, range(self.header.num_chunks))}
        if expected != set(self._index):
            expected_chunks, got = self.header.num_chunks, len(self._index) - 2
            raise ArchiveError(f"{self._path}: expected {expected_chunks} chunks, the index lists {got}: {_ADVICE}")


def verify_archive(path: Path, against: SliceSource | None = None) -> Verification:
    """Read, check and decode all of an archive.

    Parameters
    ----------
    path : Path
        The file.
    against : SliceSource or None
        The volume that was put in: each voxel is compared to `max_error`.

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
        with open_archive(path) as archive:
            if against is not None and tuple(against.shape) != archive.shape:
                raise ValueError(f"{path} has the shape {archive.shape}, the volume to compare with {against.shape}")
            return _verify_parts(archive, against)
    except ArchiveError as error:
        return Verification(0, num_bytes, (str(error),), None)


def _verify_parts(archive: Archive, against: SliceSource | None) -> Verification:
    damaged = list(_faults(archive, "codec"))
    num_good, largest = 0, 0.0
    for chunk in range(archive.header.num_chunks):
        faults = list(_faults(archive, _chunk_name(chunk)))
        if not faults and against is not None:
            error = _largest_error(archive, chunk, against)
            largest = max(largest, error)
            if not error <= archive.header.max_error:
                unit = _describe(archive.header, _chunk_name(chunk))
                faults.append(f"{unit}: off by up to {error:.6g}, allowed {archive.header.max_error:.6g}")
        num_good += not faults
        damaged += faults
    return Verification(num_good, archive.num_bytes, tuple(damaged), None if against is None else largest)


def _faults(archive: Archive, name: str) -> Iterator[str]:
    """Give what is wrong with one part, if anything."""
    try:
        if name == "codec":
            state = archive.read_part(name)
            if state and archive.header.codec is not None:
                codec(archive.header.codec).from_bytes(state)
        else:
            archive.decode_chunk(int(name.removeprefix("chunk")))
    except (ArchiveError, ValueError) as error:
        yield f"{_describe(archive.header, name)}: {error}"


def _largest_error(archive: Archive, chunk: int, against: SliceSource) -> float:
    numbers = archive.header.slices_of(chunk)
    given = np.asarray(against[numbers.start : numbers.stop], np.float64)
    return float(np.abs(archive.decode_chunk(chunk) - given).max())


def _write_parts(
    file: h5py.File, payloads: Iterable[EncodedChunk | bytes], header: ArchiveHeader, codec_state: bytes
) -> None:
    index: dict[str, list[int | str]] = {}

    def put(name: str, data: bytes) -> None:
        file.create_dataset(name, data=np.frombuffer(data, np.uint8), track_times=False)
        index[name] = [len(data), hashlib.sha256(data).hexdigest()]

    put("header", _canonical_json(header.model_dump(mode="json")))
    has_latents, number = False, 0
    for number, item in enumerate(payloads, start=1):
        payload = item.payload if isinstance(item, EncodedChunk) else item
        put(_chunk_name(number - 1), payload)
        has_latents = has_latents or num_latent_bytes(payload) > 0
    if number != header.num_chunks:
        raise ValueError(f"an archive of shape {header.shape} needs {header.num_chunks} payloads, got {number}")
    put("codec", codec_state if has_latents else b"")
    data = _canonical_json(index)
    file.create_dataset("index", data=np.frombuffer(data, np.uint8), track_times=False)
    file.attrs["format"] = np.bytes_(FORMAT)
    file.attrs[_INDEX_DIGEST] = np.bytes_(hashlib.sha256(data).hexdigest())


def _canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _read_bytes(file: h5py.File, name: str, num_bytes: int) -> bytes:
    """Read a data set that lies in this file as plain bytes, and nothing else."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ArchiveError(f"{file.filename}: {name} is missing or a link, expected a data set: {_ADVICE}")
    data = file[name]
    plain = isinstance(data, h5py.Dataset) and data.dtype == np.uint8 and data.ndim == 1
    if not plain or data.chunks or data.external or data.is_virtual:
        raise ArchiveError(f"{file.filename}: {name} is not stored as plain bytes in this file: {_ADVICE}")
    if data.size > num_bytes or data.id.get_storage_size() != data.size:
        raise ArchiveError(f"{file.filename}: {name} declares {data.size} bytes in a file of {num_bytes}: {_ADVICE}")
    return bytes(data[()])


def _read_text(file: h5py.File, name: str) -> str:
    """Read an attribute of fixed length; a longer or other one gives an empty text."""
    attribute = h5py.h5a.open(file.id, name.encode()) if name in file.attrs else None
    if attribute is None or attribute.dtype.kind != "S" or attribute.shape != () or attribute.dtype.itemsize > 100:
        return ""
    return bytes(file.attrs[name]).decode("ascii")


def _chunk_name(chunk: int) -> str:
    return f"chunk{chunk:06d}"


def _describe(header: ArchiveHeader, name: str) -> str:
    if name == "codec":
        return "the codec's decoder"
    numbers = header.slices_of(int(name.removeprefix("chunk")))
    return f"chunk {numbers.start // header.chunk_slices} (slices {numbers.start} to {numbers[-1]})"


@contextmanager
def _damage_of(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a damaged file makes libraries raise into one kind of error."""
    try:
        yield
    except (ArchiveError, FileNotFoundError, PermissionError):
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, IndexError, OverflowError, AttributeError) as error:
        raise ArchiveError(f"{path}: the {what} cannot be read ({error}): {_ADVICE}") from error


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
