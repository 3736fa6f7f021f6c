"""Putting the decoder that several archives share into one of them, which then needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py

from .archive_file import chunk_name, write_bytes, write_index, write_text
from .archive_reader import Archive, open_archive
from .archive_writer import new_archive
from .preview import read_preview, write_preview

__all__ = ["embed_decoder"]


def embed_decoder(source: Path, target: Path, *, decoders: Sequence[Path] = ()) -> None:
    """Write an archive again that holds its decoder; nothing is decoded, every part is checked on the way.

    Parameters
    ----------
    source : Path
        An archive that refers to its decoder.
    target : Path
        The new archive, there whole or not at all; byte for byte what `write_archive` gives without `decoders`.
    decoders : sequence of Path
        Folders to look for the decoder in, before those of `find_decoder`.

    Raises
    ------
    ArchiveError
        If the source is damaged.
    DecoderError
        If the decoder is missing or damaged.
    ValueError
        If the source holds its decoder already, or needs none.
    FileExistsError
        If `target` is there.
    OSError
        If the disk is full or not writable.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already: choose another name")
    with open_archive(source, cache_bytes=0, decoders=decoders) as archive, h5py.File(source, "r") as stored:
        if not archive.shares_decoder:
            why = "holds its decoder already" if archive.entry("codec").num_bytes else "needs no decoder"
            raise ValueError(f"{source}: {why} ({archive.format}): copy it as it is")
        with new_archive(target) as file:
            _copy(archive, stored, file)


def _copy(archive: Archive, stored: h5py.File, file: h5py.File) -> None:
    """Put the parts in the order in which a writer puts them."""
    entries = {name: archive.entry(name) for name in archive.parts}
    write_text(file, "header", archive.read_part("header"))
    for name in map(chunk_name, range(archive.header.num_chunks)):
        write_bytes(file, name, archive.read_part(name))
    write_bytes(file, "codec", archive.read_part("codec"))
    archive.preview()  # its checksum
    factor = archive.preview_factor or 0
    write_preview(file, read_preview(stored, archive.header, factor, archive.num_bytes), archive.header)
    write_index(file, entries)
