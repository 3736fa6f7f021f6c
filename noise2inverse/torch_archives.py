"""Files of ``torch.save``, read without running anything that they hold.

Two formats are in use. Since PyTorch 1.6 the file is a zip archive: the records ``NAME/data.pkl``, a pickle that names
storages by key, and ``NAME/data/KEY``, their bytes. Before, four pickles came one after the other (a magic number, the
version, sizes of types, the object), then the list of keys, then for each storage its number of elements (int64) and
its bytes, all little-endian. In both, a tensor is a storage, an offset, a shape and strides.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quietbeam.reconstruction.errors import NetworkFileError

from .pickled_values import describe, read_pickle, take

__all__ = ["LEGACY_START", "MALFORMED", "ZIP_START", "StoredTensor", "TorchArchive", "read_torch_archive"]

ZIP_START = b"PK\x03\x04"
"""First bytes of a file since PyTorch 1.6."""
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of a file before: the magic number 0x1950a86a20f9469cfc6c, as a pickle."""
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, EOFError, OSError, struct.error)
"""What reading damaged bytes may raise."""

_LEGACY_VERSION = 1001
_MOST_DIMENSIONS = 8
_LARGEST = 2**40
_LONGEST_KEY = 64
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_DTYPES: dict[str, object] = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    length: int  # of the whole storage, elements
    start: int  # of the part that is meant


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is in an archive.

    Attributes
    ----------
    key : str
        Of its storage.
    offset : int
        First element.
    shape, stride : tuple of int
        Elements along each axis, and from one to the next.
    """

    key: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or not all(type(n) is int and 0 <= n < _LARGEST for n in numbers):
            raise ValueError(f"a tensor needs as many strides as sizes, none of them negative or beyond {_LARGEST}")


@dataclass(frozen=True)
class TorchArchive:
    """Content of a file of ``torch.save``.

    Attributes
    ----------
    content : object
        What was saved: dictionaries, lists, tuples, numbers and texts, with `StoredTensor` for tensors.
    storages : mapping of str to Tensor, shape (element,)
        Every storage by its key.
    num_bytes : int
        Size of the file.
    """

    content: Any
    storages: Mapping[str, Tensor]
    num_bytes: int

    def float_tensors(self, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Take tensors out of the archive.

        Parameters
        ----------
        stored : mapping of str to StoredTensor
            Those that are wanted.

        Returns
        -------
        dict of str to Tensor
            As float32, each with memory of its own.

        Raises
        ------
        ValueError
            If one lies outside its storage, is empty or of another type than floating point, or if all together have
            more elements than the file has bytes.
        """
        num_elements = sum(math.prod(tensor.shape) for tensor in stored.values())
        if num_elements > self.num_bytes:
            raise ValueError(f"tensors of {num_elements} elements do not fit into a file of {self.num_bytes} bytes")
        return {name: self._float_tensor(name, tensor) for name, tensor in stored.items()}

    def _float_tensor(self, name: str, stored: StoredTensor) -> Tensor:
        storage = self.storages[stored.key]
        if math.prod(stored.shape) == 0:
            raise ValueError(f"{name} is empty")
        last = stored.offset + sum((n - 1) * step for n, step in zip(stored.shape, stored.stride, strict=True))
        if last >= len(storage):
            raise ValueError(f"{name} reaches element {last} of a storage of {len(storage)}")
        if storage.dtype not in _FLOATS:
            raise ValueError(f"{name}: expected floating point, got {storage.dtype}")
        return storage.as_strided(stored.shape, stored.stride, stored.offset).to(torch.float32, copy=True).contiguous()


def read_torch_archive(path: Path) -> TorchArchive:
    """Read a file of ``torch.save``, of either format.

    Parameters
    ----------
    path : Path
        The file; its content counts, not its name.

    Returns
    -------
    TorchArchive
        What it holds; at most a fixed multiple of the file's size.

    Raises
    ------
    NetworkFileError
        If it is damaged or of another kind, or asks for anything but tensors in containers.
    OSError
        If it cannot be read.
    """
    content = path.read_bytes()
    try:
        if content.startswith(ZIP_START):
            return _read_zip(content)
        if content.startswith(LEGACY_START):
            return _read_legacy(content)
        raise ValueError(f"it begins with {content[:8]!r}")
    except (*MALFORMED, zipfile.BadZipFile, RuntimeError) as error:
        raise NetworkFileError(f"{path}: not a PyTorch file of tensors, or damaged: {error}") from error


def _read_zip(content: bytes) -> TorchArchive:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        names = archive.namelist()
        _check_records(archive, len(content))
        (name,) = {name.split("/")[0] for name in names if name.count("/") == 1 and name.endswith("/data.pkl")}
        if f"{name}/byteorder" in names and archive.read(f"{name}/byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        found: dict[str, _Storage] = {}
        value = _read_object(BytesIO(archive.read(f"{name}/data.pkl")), found)
        storages = {key: _flat(archive.read(f"{name}/data/{key}"), storage) for key, storage in found.items()}
    return TorchArchive(value, storages, len(content))


def _check_records(archive: zipfile.ZipFile, num_bytes: int) -> None:
    """Refuse what could grow: compressed records, or such that overlap in the file."""
    records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("its records are compressed, torch.save never does so")
    if sum(record.file_size for record in records) > num_bytes:
        raise ValueError("its records are larger than the file")


def _read_legacy(content: bytes) -> TorchArchive:
    source, found = BytesIO(content), dict[str, _Storage]()
    take(source, len(LEGACY_START))
    version, system = _read_object(source, found), _read_object(source, found)
    if type(version) is not int or version != _LEGACY_VERSION:
        raise ValueError(f"expected version {_LEGACY_VERSION}, got {describe(version)}")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("expected that it says little_endian of its numbers")
    value = _read_object(source, found)
    storages = {}
    for key in _read_object(source, found):
        if not isinstance(key, str) or key not in found:
            raise ValueError(f"expected the key of a storage that is in use, got {describe(key)}")
        (length,) = struct.unpack("<q", take(source, 8))
        storages[key] = _flat(take(source, length * found[key].dtype.itemsize), found[key])
    if storages.keys() != found.keys():
        raise ValueError(f"{len(found)} storages are in use, {len(storages)} are there")
    return TorchArchive(value, storages, len(content))


def _flat(content: bytes, storage: _Storage) -> Tensor:
    if len(content) != storage.length * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key}: expected {storage.length} elements, got {len(content)} bytes")
    if not content:
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(bytearray(content), dtype=storage.dtype)  # a bytearray can be written to, as torch wants


def _read_object(source: BytesIO, found: dict[str, _Storage]) -> Any:
    """Read one pickle, and note the storages that it names."""

    def fetch(identifier: Any) -> _Storage:
        storage = _storage(identifier)
        if found.setdefault(storage.key, storage)[:3] != storage[:3]:
            raise ValueError(f"storage {storage.key} is said to be of two types or lengths")
        return storage

    return read_pickle(source, _NAMES, fetch)


def _storage(identifier: Any) -> _Storage:
    """Read ("storage", type, key, device, length) and, in old files, (key of the part, its start, its length)."""
    if not isinstance(identifier, tuple) or not 5 <= len(identifier) <= 6 or identifier[0] != "storage":
        raise ValueError("expected the identifier of a storage")
    dtype, key, _, length = identifier[1:5]
    start = identifier[5][1] if identifier[5:] and identifier[5] is not None else 0
    if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or len(key) > _LONGEST_KEY:
        raise ValueError(f"expected the type of a storage and its key of at most {_LONGEST_KEY} letters")
    if type(length) is not int or type(start) is not int:
        raise ValueError("expected the length of a storage, and where a part of it begins")
    return _Storage(key, dtype, length, start)


def _rebuild_tensor(storage: object, offset: int, shape: object, stride: object, *_: object) -> StoredTensor:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise TypeError("expected a storage, an offset, a shape and strides")
    if max(len(shape), len(stride)) > _MOST_DIMENSIONS:
        raise ValueError(f"expected at most {_MOST_DIMENSIONS} dimensions")
    return StoredTensor(storage.key, storage.start + offset, shape, stride)


def _rebuild_parameter(tensor: object, *_: object) -> object:
    return tensor


def _make_dict() -> dict[str | int, object]:
    return {}


def _make_shape(values: object) -> object:
    if not isinstance(values, tuple):
        raise TypeError("expected the sizes of a shape")
    return values


_NAMES = _DTYPES | {
    "collections.OrderedDict": _make_dict,
    "torch.Size": _make_shape,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}
