"""Writing an archive: as a whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ArchiveError

from .archive_file import (
    FORMAT,
    FORMAT_APART,
    IndexEntry,
    chunk_name,
    readable_json,
    sync,
    write_bytes,
    write_index,
    write_text,
)
from .archive_reader import Archive, describe_part
from .chunks import CodedChunk, checksum, decode_chunk, is_exact, num_latent_bytes
from .codec import Codec, codec
from .header import ArchiveHeader
from .preview import Preview, PreviewMaker, write_preview
from .shared_decoder import store_decoder

__all__ = ["new_archive", "write_archive"]


def write_archive(
    path: Path,
    chunks: Iterable[CodedChunk],
    header: ArchiveHeader,
    codec_state: bytes,
    *,
    decoders: Path | None = None,
) -> None:
    """Write an archive as a whole, or not at all; equal arguments give equal bytes.

    Each chunk is decoded, for the preview and to see that a decoder made from `codec_state` gives what the encoder saw.

    Parameters
    ----------
    path : Path
        The final name; an existing file is replaced. ``.partial`` is appended while the file is written.
    chunks : iterable of CodedChunk
        One for each chunk in order, from `encode_chunk`; taken one by one.
    header : ArchiveHeader
        Shape, type, codec, error, metadata.
    codec_state : bytes
        From `Codec.to_bytes`; not stored if no chunk has latents.
    decoders : Path, optional
        Folder to store it in, under its hash, for the archive to refer to; by default the archive holds it.

    Raises
    ------
    ValueError
        If the number of chunks is not that of the header, or one is further off than the header promises.
    TypeError
        If a chunk is given as bytes alone, without the checksum of its voxels.
    ArchiveError
        If a chunk decodes to other voxels than were encoded, or what was written reads back differently.
    OSError
        If the disk is full or not writable; what was under `path` is still there.
    """
    with new_archive(Path(path), [decoders] if decoders else []) as file:
        _Parts(file, header, codec_state, decoders).write(chunks)


@contextmanager
def new_archive(path: Path, decoders: Sequence[Path] = ()) -> Iterator[h5py.File]:
    """Give a file to write an archive into; at the end it is read back, checked and renamed, or nothing is left of it.

    Parameters
    ----------
    path : Path
        The final name; an existing file is replaced.
    decoders : sequence of Path
        Where the decoder is that it refers to, if it does.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with h5py.File(partial, "w", libver=("v108", "v108"), track_times=False) as file:
            yield file
        sync(partial)
        with Archive(partial, decoders=decoders) as archive:
            archive.preview()
            for name in set(archive.parts) - {"preview"}:
                archive.read_part(name)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


class _Parts:
    """The parts of an archive on their way into a file."""

    def __init__(self, file: h5py.File, header: ArchiveHeader, codec_state: bytes, decoders: Path | None) -> None:
        self._file, self._header, self._codec_state, self._decoders = file, header, codec_state, decoders
        self._codec: Codec | None = None
        self._index: dict[str, IndexEntry] = {}
        self._preview = PreviewMaker(header)

    def write(self, chunks: Iterable[CodedChunk]) -> None:
        """Write everything, the index last."""
        text = readable_json(self._header.model_dump(mode="json"))
        write_text(self._file, "header", text)
        self._index["header"] = IndexEntry.of(text)
        number = -1
        for number, chunk in enumerate(chunks):
            if number < self._header.num_chunks:
                self._put_chunk(number, chunk)
        self._check_number(number + 1)
        form = self._put_decoder(self._codec_state if self._codec else b"")
        sizes = (entry.num_bytes for name, entry in self._index.items() if name.startswith("chunk"))
        self._put_preview(self._preview.finish(sum(sizes)))
        write_index(self._file, self._index, form)

    def _put_decoder(self, state: bytes) -> str:
        """Store what decoding needs, here or for several archives; give the format that this makes."""
        if not state or self._decoders is None:
            self._put("codec", state)
            return FORMAT
        store_decoder(state, self._decoders)
        self._index["codec"] = IndexEntry.of(state)
        return FORMAT_APART

    def _put(self, name: str, data: bytes, crc32: int | None = None) -> None:
        write_bytes(self._file, name, data)
        self._index[name] = IndexEntry.of(data, crc32)

    def _put_chunk(self, number: int, chunk: CodedChunk) -> None:
        if isinstance(chunk, bytes | bytearray):
            raise TypeError(
                "a chunk must come with the CRC-32 of its voxels, as encode_chunk gives it, got bytes alone"
            )
        if not chunk.largest_error <= self._header.max_error:
            unit = describe_part(self._header, chunk_name(number))
            raise ValueError(
                f"{unit} is off by up to {chunk.largest_error:.6g}, the header promises {self._header.max_error:.6g}: "
                "encode it with that max_error"
            )
        decoded = self._decode(number, chunk.payload)
        exact = is_exact(self._header.codec, chunk.payload)
        if exact and (got := checksum(decoded)) != chunk.crc32:
            unit = describe_part(self._header, chunk_name(number))
            raise ArchiveError(
                f"{unit} decodes to other voxels than were encoded (CRC-32 {got}, expected {chunk.crc32}): the codec's "
                "state does not belong to it, or its decoder is not exact"
            )
        self._put(chunk_name(number), chunk.payload, chunk.crc32 if exact else None)
        self._preview.add(decoded)

    def _decode(self, number: int, payload: bytes) -> NDArray[Any]:
        if num_latent_bytes(payload) and self._codec is None:
            if self._header.codec is None:
                raise ValueError(f"{chunk_name(number)} has latents, but the header names no codec")
            self._codec = codec(self._header.codec).from_bytes(self._codec_state)
        return decode_chunk(self._codec, payload, self._header.chunk_shape(number), np.dtype(self._header.dtype))

    def _put_preview(self, preview: Preview) -> None:
        write_preview(self._file, preview, self._header)
        self._index["preview"] = IndexEntry(
            num_bytes=preview.num_bytes, sha256=preview.sha256, crc32=None, factor=preview.factor
        )

    def _check_number(self, number: int) -> None:
        if number != (needed := self._header.num_chunks):
            raise ValueError(f"an archive of shape {self._header.shape} needs {needed} payloads, got {number}")
