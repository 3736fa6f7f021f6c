"""What the classical codecs share: the range of the volume, its integers, and a checksum around foreign bytes.

The state is JSON: the codec's settings, and the volume's smallest and largest value. A bitstream is a CRC-32 (four
bytes), then what the codec's library gave; the CRC is of slices, rows, columns (four bytes each, all little-endian) and
of that. The decoders of these libraries trust what they read: some crash, or never end, on damaged bytes or a wrong
shape, so such must not reach them. A checksum does not stop bytes that were made to harm.
"""

from __future__ import annotations

import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, JsonValue, ValidationError

from quietbeam.reconstruction.errors import ArchiveError, ReductionError

from .bitstream import ByteReader, varint
from .codec import SliceSource

__all__ = ["ClassicalCodec", "ValueRange", "join_planes", "optional_library", "split_planes"]

_CRC = struct.Struct("<I")
_SHAPE = struct.Struct("<3I")
_READ_SLICES = 16
_MOST_INTEGERS = 2**16
_ADVICE = "it is damaged or cut short, restore it from a copy"


class ValueRange(BaseModel, frozen=True, extra="forbid"):
    """The values of a volume, and how integers stand for them."""

    low: float = Field(allow_inf_nan=False, description="smallest value")
    high: float = Field(allow_inf_nan=False, description="largest value")
    whole: bool = Field(description="whether all values are whole numbers, of at most 2^16 in a row")

    @classmethod
    def of(cls, volume: SliceSource) -> Self:
        """Look through a volume, 16 slices at a time; `ValueError` if a value is not finite or there is none."""
        if min(volume.shape) < 1:
            raise ValueError(f"the volume must have voxels to be encoded, got shape {tuple(volume.shape)}")
        low, high, whole = np.inf, -np.inf, True
        for first in range(0, volume.shape[0], _READ_SLICES):
            values = np.asarray(volume[first : first + _READ_SLICES], np.float32)
            if not np.isfinite(values).all():
                raise ValueError(f"the volume must be finite to be encoded, got nan or inf in slices from {first} on")
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            whole = whole and bool((values == np.rint(values)).all())
        return cls(low=low, high=high, whole=whole and high - low < _MOST_INTEGERS)

    @property
    def span(self) -> float:
        """Largest minus smallest value; 1 for a constant volume."""
        return self.high - self.low or 1.0

    def step(self, num_bits: int) -> float:
        """Difference of the values of neighbouring integers, where 0 and 2^num_bits - 1 are the ends of the range."""
        return self.span / ((1 << num_bits) - 1)

    def to_integers(self, values: NDArray[np.float32], step: float, num_bits: int = 16) -> NDArray[np.uint16]:
        """Give the nearest multiples of a step above the smallest value, within 0 and 2^num_bits - 1."""
        scaled = np.rint((values.astype(np.float64) - self.low) / step)
        return np.clip(scaled, 0, 2**num_bits - 1).astype(np.uint16)

    def to_values(self, integers: NDArray[Any], step: float) -> NDArray[np.float32]:
        """Undo `to_integers`."""
        return (integers * step + self.low).astype(np.float32)


class ClassicalCodec(ABC):
    """A codec that learns nothing but the range of the volume.

    Parameters
    ----------
    value_range : ValueRange
        Of the volume.
    settings : BaseModel or None
        Of `settings_type`; None for the defaults.

    Raises
    ------
    ReductionError
        If the codec's library is not installed.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[BaseModel]]
    library: ClassVar[str | None] = None
    """Module of an optional dependency that the codec is in."""

    def __init__(self, value_range: ValueRange, settings: Any = None) -> None:
        self.value_range = value_range
        self.settings: Any = self.settings_type() if settings is None else settings
        if self.library:
            optional_library(self.library)

    @classmethod
    def fit(cls, volume: SliceSource, settings: Any = None, *, seed: int = 0) -> Self:
        """Keep the range of a volume; the seed is not needed."""
        return cls(ValueRange.of(volume), settings)

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        """Build the codec that gave a state; `ArchiveError` if it is damaged."""
        try:
            stored = _State.model_validate_json(state)
            return cls(stored.value_range, cls.settings_type.model_validate(stored.settings))
        except ValidationError as error:
            raise ArchiveError(f"the state of codec {cls.name} is damaged ({error}): restore it from a copy") from error

    def to_bytes(self) -> bytes:
        """Give range and settings as JSON; the defaults too, which may be others one day."""
        settings = self.settings.model_dump(mode="json")
        return _State(value_range=self.value_range, settings=settings).model_dump_json().encode()

    def encode(self, chunk: NDArray[np.float32]) -> bytes:
        """Give the bitstream of a chunk, finite, float32, shape (slice, y, x)."""
        body = self._compress(chunk)
        return _checksum(body, chunk.shape) + body

    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Give what a bitstream stands for, float32, shape (slice, y, x); `ArchiveError` if it is damaged."""
        body = bitstream[_CRC.size :]
        if bitstream[: _CRC.size] != _checksum(body, shape):
            raise ArchiveError(f"a chunk of codec {self.name}, shape {shape}, does not match its checksum: {_ADVICE}")
        try:
            values = self._expand(body, shape)
        except (RuntimeError, ValueError, OSError, MemoryError, OverflowError) as error:
            raise ArchiveError(f"a chunk of codec {self.name} cannot be decoded ({error}): {_ADVICE}") from error
        if values.shape != tuple(shape) or not np.isfinite(values).all():
            raise ArchiveError(f"a chunk of codec {self.name} is not finite or not of shape {shape}: {_ADVICE}")
        return values

    @abstractmethod
    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        """Give the bytes of a chunk."""

    @abstractmethod
    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Give a chunk back; the errors of the library may pass."""


class _State(BaseModel, frozen=True, extra="forbid"):
    value_range: ValueRange
    settings: dict[str, JsonValue]


def _checksum(body: bytes, shape: tuple[int, ...]) -> bytes:
    return _CRC.pack(zlib.crc32(body, zlib.crc32(_SHAPE.pack(*shape))))


def optional_library(module: str) -> ModuleType:
    """Import a library of the optional dependencies; `ReductionError` with the command that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ReductionError(f"this codec needs the library {module}: pip install 'quietbeam[codecs]'") from error


def join_planes(planes: Sequence[bytes]) -> bytes:
    """Put the bytes of planes one after the other, each with its length as a `varint` before it."""
    return b"".join(varint(len(plane)) + plane for plane in planes)


def split_planes(data: bytes, num_planes: int) -> Iterator[bytes]:
    """Undo `join_planes`; `ArchiveError` if the data ends before."""
    reader = ByteReader(data, "a chunk of planes")
    for _ in range(num_planes):
        yield reader.take(reader.varint())
