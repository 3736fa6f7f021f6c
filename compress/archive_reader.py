"""A volume in an archive, read like an array."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import JsonValue

from quietbeam.reconstruction.errors import ArchiveError

from .archive_file import (
    ADVICE,
    FORMAT_APART,
    FORMATS,
    IndexEntry,
    chunk_name,
    damage_of,
    read_bytes,
    read_format,
    read_index,
)
from .chunk_cache import ChunkCache
from .chunks import checksum, decode_chunk, is_exact, num_latent_bytes
from .codec import Codec, codec
from .header import ArchiveHeader
from .preview import FACTORS, inflate_preview, read_preview
from .shared_decoder import find_decoder

__all__ = ["CACHE_BYTES", "Archive", "describe_part", "is_archive", "open_archive"]

CACHE_BYTES = 128 * 2**20
"""What an archive keeps of decoded chunks unless told otherwise."""

Voxels = NDArray[Any]


def open_archive(path: Path, *, cache_bytes: int = CACHE_BYTES, decoders: Sequence[Path] = ()) -> Archive:
    """Open an archive; see `Archive`, use it in a ``with`` statement."""
    return Archive(Path(path), cache_bytes=cache_bytes, decoders=decoders)


def is_archive(path: Path) -> bool:
    """Tell whether a file says that it is an archive, of this version or another; a damaged one may not say so."""
    try:
        with h5py.File(path, "r") as file:
            return read_format(file).startswith("quietbeam-archive-")
    except (OSError, ArchiveError, UnicodeDecodeError):
        return False


class Archive:
    """A volume in an archive, decoded chunk by chunk as it is asked for.

    An index gives what it gives on the array: ``archive[5]``, ``archive[2:9:3]``, ``archive[-1, 10:20, ::2]``,
    ``archive[..., 7]``, ``archive[[4, 1]]``. Only the chunks that hold such slices are decoded; some are kept. The
    header's and the index' checksums are checked on opening, those of a chunk, of its stored bytes and of its decoded
    voxels, whenever it is decoded. Any number of threads may read.

    Parameters
    ----------
    path : Path
        The file.
    cache_bytes : int
        What the decoded chunks that are kept may take; the last one is kept in any case.
    decoders : sequence of Path
        Folders to look for the decoder in that an archive refers to, before those of `find_decoder`.

    Raises
    ------
    ArchiveError
        If it is no archive, of another version, or damaged; also from reading slices.
    FileNotFoundError
        If there is no such file.
    """

    def __init__(self, path: Path, *, cache_bytes: int = CACHE_BYTES, decoders: Sequence[Path] = ()) -> None:
        self._path, self._cache_bytes = path, cache_bytes
        self._absolute, self._decoders = path.absolute(), tuple(folder.absolute() for folder in decoders)
        self._cache = ChunkCache(cache_bytes)
        self._codec: Codec | None = None
        self._lock = Lock()
        if path.is_dir():
            raise ArchiveError(f"{path}: a folder; give the archive in it, such as {path / 'denoised.h5'}")
        self._num_bytes = path.stat().st_size
        with damage_of(path, "structure"):
            self._file = h5py.File(path, "r")
        try:
            with damage_of(path, "header and index"):
                self.format = self._read_format()
                self._index = read_index(self._file, self.format, self._num_bytes)
                self.header = ArchiveHeader.model_validate_json(self.read_part("header"))
                self._check_index()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._absolute, self._cache_bytes, self._decoders)

    def __dask_tokenize__(self) -> tuple[str, ...]:
        return (type(self).__name__, *(entry.sha256 for entry in self._index.values()))

    def close(self) -> None:
        """Close the file; what was decoded is forgotten."""
        self._file.close()
        self._cache.clear()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return self.header.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return np.dtype(self.header.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes: 3."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the decoded volume, bytes."""
        return self.header.num_bytes

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Slices, rows, columns that are decoded together, for ``dask.array.from_array(archive, archive.chunks)``."""
        return (min(self.header.chunk_slices, self.shape[0]), *self.shape[1:])

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
        return 8 * self._num_bytes / self.size

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all data sets with a checksum."""
        return tuple(self._index)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Voxels:
        if copy is False:
            raise ValueError("an archive is decoded into a new array: copy=False cannot be")
        return np.asarray(self[:], dtype)

    def __getitem__(self, index: Any) -> Any:
        first, within = _split_index(index, self.ndim)
        if isinstance(first, slice):
            return self._gather(range(len(self))[first], within)
        if hasattr(first, "__index__") and not isinstance(first, bool | np.bool | np.ndarray):
            number = range(len(self))[first]
            chunk, place = divmod(number, self.header.chunk_slices)
            return self.decode_chunk(chunk)[(place, *within)].copy()
        return self._gather(_numbers(first, within, len(self)), within)

    def _gather(self, numbers: Iterable[int], within: tuple[Any, ...]) -> Voxels:
        """Put slices together, each group of one chunk decoded once."""
        numbers = list(numbers)
        inside = np.broadcast_to(np.zeros((), self.dtype), (0, *self.shape[1:]))[(slice(None), *within)].shape[1:]
        gathered = np.empty((len(numbers), *inside), self.dtype)
        done = 0
        for chunk, group in groupby(numbers, lambda number: number // self.header.chunk_slices):
            places = [number % self.header.chunk_slices for number in group]
            window = slice(done, done := done + len(places))
            gathered[window] = self.decode_chunk(chunk)[_as_slice(places)][(slice(None), *within)]
        return gathered

    def decode_chunk(self, chunk: int) -> Voxels:
        """Decode a chunk, unless it is kept from before.

        Parameters
        ----------
        chunk : int
            From 0; its slices are ``header.slices_of(chunk)``.

        Returns
        -------
        dtype, shape (slice, y, x)
            Not to be changed.

        Raises
        ------
        ArchiveError
            If the chunk is damaged, or this machine's decoder gives other voxels than the writer saw.
        """
        return self._cache.get(chunk, self._decode)

    def preview(self) -> NDArray[np.float32]:
        """Give the volume reduced by block means, without decoding a chunk.

        Returns
        -------
        float32, shape (slice / factor, y / factor, x / factor), each rounded up
            Means over `preview_factor` voxels along each axis, in the volume's units.

        Raises
        ------
        ArchiveError
            If it is damaged, or the archive is of format 1, which has none.
        """
        with damage_of(self._path, "preview"):
            factor = self.preview_factor
            if factor is None:
                raise ArchiveError(f"{self._path}: {self.format} has no preview: decode slices in its place")
            stored = read_preview(self._file, self.header, factor, self._num_bytes)
            if (stored.num_bytes, stored.sha256) != (self._index["preview"].num_bytes, self._index["preview"].sha256):
                raise ArchiveError(f"{self._path}: the preview does not match its checksum: {ADVICE}")
            return inflate_preview(stored, self.shape)

    @property
    def preview_factor(self) -> int | None:
        """Voxels along each side of a block of the preview; None in an archive of format 1."""
        return self._index["preview"].factor if "preview" in self._index else None

    def part_bytes(self, name: str) -> int:
        """Tell the size of a part as the index has it, 0 of one that the archive does not have."""
        return self._index[name].num_bytes if name in self._index else 0

    def entry(self, name: str) -> IndexEntry:
        """Give what the index says of a part; `KeyError` if there is none of that name."""
        return self._index[name]

    @property
    def shares_decoder(self) -> bool:
        """Whether the decoder is no part of the file, but in one that several archives share."""
        return self.format == FORMAT_APART

    def read_part(self, name: str) -> bytes:
        """Read a data set of plain bytes and check it against the index; `ArchiveError` if it differs.

        A decoder that is no part of the file is looked for, and `DecoderError` raised if there is none.
        """
        if not self._file:
            raise ValueError(f"{self._path} is closed: open it again to read from it")
        if name == "codec" and self.shares_decoder:
            return find_decoder(self._index[name], self._absolute, self._decoders)
        with damage_of(self._path, name):
            data = read_bytes(self._file, name, self.format, self._num_bytes)
            if not self._index[name].fits(data):
                raise ArchiveError(f"{self._path}: {name} does not match its checksum: {ADVICE}")
            return data

    def _decode(self, chunk: int) -> Voxels:
        name = chunk_name(chunk)
        payload = self.read_part(name)
        with damage_of(self._path, describe_part(self.header, name)):
            needed = self._load_codec() if num_latent_bytes(payload) else None
            decoded = decode_chunk(needed, payload, self.header.chunk_shape(chunk), self.dtype)
        if self.format != FORMATS[0] and is_exact(self.header.codec, payload):
            self._check_voxels(name, decoded)
        decoded.flags.writeable = False
        return decoded

    def _check_voxels(self, name: str, decoded: Voxels) -> None:
        if (got := checksum(decoded)) != (expected := self._index[name].crc32):
            unit = describe_part(self.header, name)
            raise ArchiveError(
                f"{self._path}: {unit} decodes to other voxels than were written (CRC-32 {got}, expected {expected}), "
                "though the stored bytes are whole: decode it with the libraries that wrote it"
            )

    def _load_codec(self) -> Codec:
        with self._lock:
            if self._codec is None:
                if self.header.codec is None:
                    raise ArchiveError(f"{self._path}: a chunk has latents but the header names no codec: {ADVICE}")
                self._codec = codec(self.header.codec).from_bytes(self.read_part("codec"))
            return self._codec

    def _read_format(self) -> str:
        if not (form := read_format(self._file)):
            raise ArchiveError(f"{self._path}: is no quietbeam archive")
        if form not in FORMATS:
            raise ArchiveError(
                f"{self._path}: expected the format {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, got {form}: a newer "
                "version may read it"
            )
        return form

    def _check_index(self) -> None:
        """Hold the names in the index against the header, their number first: a header may lie about its size."""
        others = {"header", "codec"} if self.format == FORMATS[0] else {"header", "codec", "preview"}
        expected, got = self.header.num_chunks, len(self._index) - len(others)
        if expected != got or others | set(map(chunk_name, range(expected))) != set(self._index):
            raise ArchiveError(f"{self._path}: expected {expected} chunks, the index lists {got}: {ADVICE}")
        if "preview" in others and self._index["preview"].factor not in FACTORS:
            raise ArchiveError(f"{self._path}: the index gives no factor of the preview out of {FACTORS}: {ADVICE}")


def describe_part(header: ArchiveHeader, name: str) -> str:
    """Name a part for a message: a chunk with its slices."""
    if not name.startswith("chunk"):
        return {"codec": "the codec's decoder", "preview": "the preview"}.get(name, name)
    numbers = header.slices_of(int(name.removeprefix("chunk")))
    return f"chunk {numbers.start // header.chunk_slices} (slices {numbers.start} to {numbers[-1]})"


def _reopen(path: Path, cache_bytes: int, decoders: tuple[Path, ...]) -> Archive:
    return Archive(path, cache_bytes=cache_bytes, decoders=decoders)


def _split_index(index: Any, ndim: int) -> tuple[Any, tuple[Any, ...]]:
    """Put slices for an ellipsis, and give the index of the first axis and those of the others."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(part is None for part in parts):
        raise TypeError("an archive has the axes (slice, y, x): an index cannot add one")
    places = [place for place, part in enumerate(parts) if part is Ellipsis]
    if len(parts) - len(places) > ndim or len(places) > 1:
        raise IndexError(f"an index of an archive has at most {ndim} axes and one ellipsis, got {index!r}")
    place = places[0] if places else len(parts)
    filled = [*parts[:place], *[slice(None)] * (ndim - len(parts) + len(places)), *parts[place + 1 :]]
    return filled[0], tuple(filled[1:])


def _numbers(index: Any, within: tuple[Any, ...], num_slices: int) -> list[int]:
    """Read a list of slices; negative ones count from the end."""
    numbers = np.asarray(index)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise TypeError(f"the first index of an archive must be an integer, a slice or a list of integers: {index!r}")
    if not all(isinstance(part, slice) for part in within):
        raise TypeError("a list of slices goes with slices along the other axes only: take them one after the other")
    return [range(num_slices)[int(number)] for number in numbers]


def _as_slice(places: list[int]) -> slice | list[int]:
    """Give evenly spaced places, ascending, as a slice, so that nothing is copied twice."""
    step = places[1] - places[0] if len(places) > 1 else 1
    evenly = step > 0 and places == list(range(places[0], places[-1] + 1, step))
    return slice(places[0], places[-1] + 1, step) if evenly else places
