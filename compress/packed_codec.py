"""A codec made for a volume, as one file: all that is needed to encode and to decode with it.

An archive stores what decoding needs, `Codec.to_bytes`. A packed codec holds the encoder too: it goes to other
processes that encode, and from one scan of a series to the next. It is a safetensors file; what is no tensor stands in
its header as JSON, under ``quietbeam``:

============  ======================================================================================
key           meaning
============  ======================================================================================
``format``    ``quietbeam-codec-1``
``codec``     name of the codec
``settings``  the codec's settings, defaults too; an empty object for one whose state is all
``numbers``   how its volume is normalised and whatever else the codec counts
============  ======================================================================================

A codec with nothing but its state has one tensor, ``state``, of bytes. Nothing in the file can run.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from quietbeam.reconstruction.errors import ArchiveError, NetworkFileError

from .codec import Codec, codec, known_codecs
from .codec_parts import CodecParts, HasParts

__all__ = ["FORMAT", "MOST_BYTES", "name_of_packed", "pack_codec", "packed_sha256", "read_packed", "unpack_codec"]

FORMAT = "quietbeam-codec-1"
"""Name of the file format, for ever."""
MOST_BYTES = 2**30
"""A larger file is refused before it is read."""

_HEADER_AT = 8
"""Byte at which safetensors' header begins; its length stands before."""


class _Header(BaseModel):
    """What the file says beside the tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    codec: str
    settings: dict[str, Any]
    numbers: dict[str, Any]


def pack_codec(fitted: Codec) -> bytes:
    """Serialise a codec.

    Parameters
    ----------
    fitted : Codec
        Made for a volume; any of the table.

    Returns
    -------
    bytes
        Content of a ``.safetensors`` file; the same for the same codec.

    Raises
    ------
    ValueError
        If this codec only decodes.
    """
    parts = fitted.to_parts() if isinstance(fitted, HasParts) else _state_alone(fitted)
    settings = parts.settings.model_dump(mode="json") if isinstance(parts.settings, BaseModel) else parts.settings
    header = _Header(format=FORMAT, codec=fitted.name, settings=settings, numbers=parts.numbers)
    text = json.dumps(header.model_dump(), sort_keys=True, allow_nan=False)
    return save(parts.tensors, metadata={"quietbeam": text})


def unpack_codec(name: str, packed: bytes, *, where: str = "a packed codec") -> Codec:
    """Build a codec that encodes and decodes as the one that was packed.

    Parameters
    ----------
    name : str
        Of the codec that is wanted.
    packed : bytes
        From `pack_codec`.
    where : str
        File that it comes from, for messages.

    Returns
    -------
    Codec
        On the CPU; with equal `to_bytes` and, with the same libraries and one thread, equal bitstreams.

    Raises
    ------
    NetworkFileError
        If it is another codec, damaged, or of an unknown format.
    ValueError
        If there is no codec of that name.
    """
    kind = codec(name)
    if (got := name_of_packed(packed, where=where)) != name:
        raise NetworkFileError(f"{where}: expected the codec {name}, got {got}: set archive.codec={got}")
    try:
        header, tensors = _header_of(packed), load(packed)
        if issubclass(kind, HasParts):
            return cast("Codec", kind.from_parts(CodecParts(header.settings, header.numbers, tensors)))
        return kind.from_bytes(_state_of(tensors))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise NetworkFileError(f"{where}: damaged codec file: {place}: {problem['msg']}") from error
    except (SafetensorError, ArchiveError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise NetworkFileError(f"{where}: damaged codec file: {error}") from error


def name_of_packed(packed: bytes, *, where: str = "a packed codec") -> str:
    """Tell which codec was packed; `NetworkFileError` if it is none of this version."""
    try:
        header = _header_of(packed)
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise NetworkFileError(f"{where}: not a codec file ({error})") from error
    if header.format != FORMAT:
        raise NetworkFileError(f"{where}: expected a codec of format {FORMAT}, got {header.format[:40]!r}")
    if header.codec not in known_codecs():
        known = ", ".join(known_codecs())
        raise NetworkFileError(f"{where}: holds the codec {header.codec[:40]!r}, which is none of {known}")
    return header.codec


def read_packed(path: Path) -> bytes:
    """Read the file of a packed codec, and nothing more of what is no such file, however large.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    bytes
        For `unpack_codec`.

    Raises
    ------
    NetworkFileError
        If it cannot be read, or is no safetensors file of at most `MOST_BYTES` bytes.
    """
    try:
        with path.open("rb") as file:
            size, start = os.fstat(file.fileno()).st_size, file.read(_HEADER_AT + 1)
            if size > MOST_BYTES or start[_HEADER_AT:] != b"{":
                raise NetworkFileError(f"{path}: not a codec file; such has at most {MOST_BYTES} bytes, this {size}")
            return start + file.read(MOST_BYTES)
    except OSError as error:
        raise NetworkFileError(f"{path}: not a codec file ({error})") from error


def packed_sha256(path: Path | None) -> str | None:
    """Hash the file of a packed codec, None if there is none; `NetworkFileError` if it cannot be read."""
    return hashlib.sha256(read_packed(path)).hexdigest() if path else None


def _state_alone(fitted: Codec) -> CodecParts:
    """Take the state of a codec that has nothing else: it encodes with what decoding needs."""
    state = torch.frombuffer(bytearray(fitted.to_bytes()), dtype=torch.uint8)
    return CodecParts({}, {}, {"state": state})


def _state_of(tensors: dict[str, Tensor]) -> bytes:
    if set(tensors) != {"state"} or tensors["state"].dtype != torch.uint8 or tensors["state"].ndim != 1:
        raise ValueError(f"expected one tensor of bytes, state, got {', '.join(sorted(tensors)[:3]) or 'none'}")
    return tensors["state"].numpy().tobytes()


def _header_of(packed: bytes) -> _Header:
    """Take what `pack_codec` says of the codec out of the header of safetensors: its length, then JSON."""
    length = int.from_bytes(packed[:_HEADER_AT], "little")
    metadata = json.loads(packed[_HEADER_AT : _HEADER_AT + length]).get("__metadata__") or {}
    return _Header.model_validate(json.loads(metadata.get("quietbeam", "{}"), parse_constant=_refuse))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"a number is {constant}, expected a finite one")
