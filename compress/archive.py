"""The archive: one HDF5 file with the coded volume, all that is needed to decode it, and a checksum of every part.

docs/reference/archive-format.md says what each byte means; in format 3 the decoder is in a file of its own, which
several archives share (`shared_decoder`). A file is written under a temporary name, read back, checked
and renamed; it is never changed afterwards. What other packages need is here by name; it comes from

=====================  =====================================================================
`archive_reader`       `Archive`, a volume that is read like an array
`archive_writer`       `write_archive`
`self_contained`       `embed_decoder`: an archive that needs no other file
`verification`         `verify_archive`, `check_part`
`chunks`               `encode_chunk`: slices to bytes
`header`               what an archive says about itself, and how one is to be written
=====================  =====================================================================
"""

from __future__ import annotations

from .archive_file import chunk_name
from .archive_reader import Archive, describe_part, is_archive, open_archive
from .archive_writer import write_archive
from .chunks import EncodedChunk, encode_chunk
from .header import ArchiveHeader, ArchiveSettings
from .self_contained import embed_decoder
from .verification import PartCheck, Verification, check_part, verify_archive

__all__ = [
    "Archive",
    "ArchiveHeader",
    "ArchiveSettings",
    "EncodedChunk",
    "PartCheck",
    "Verification",
    "check_part",
    "chunk_name",
    "describe_part",
    "embed_decoder",
    "encode_chunk",
    "is_archive",
    "open_archive",
    "verify_archive",
    "write_archive",
]
