"""Codecs that give back every integer: two HDF5 filters, and the lossless modes of two image codecs.

A volume of whole numbers within 2^16 of each other comes back exactly. Another one is brought to 16 bits over its range
first, and comes back within half a step of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import hdf5plugin
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from .classical import ClassicalCodec, join_planes, optional_library, split_planes
from .codec import register
from .filtered_chunk import filter_chunk, unfilter_chunk

__all__ = [
    "BitshuffleSettings",
    "BitshuffleZstdCodec",
    "Blosc2Codec",
    "Blosc2Settings",
    "Htj2kCodec",
    "Htj2kSettings",
    "JpegXlLosslessCodec",
    "JpegXlLosslessSettings",
]


class BitshuffleSettings(BaseModel, frozen=True, extra="forbid"):
    """How much time zstd takes."""

    level: int = Field(3, ge=1, le=22, description="level of zstd")


class Blosc2Settings(BaseModel, frozen=True, extra="forbid"):
    """How much time blosc2 takes."""

    level: int = Field(5, ge=1, le=9, description="level of blosc2 with zstd")


class JpegXlLosslessSettings(BaseModel, frozen=True, extra="forbid"):
    """How much time JPEG XL takes."""

    effort: int = Field(3, ge=1, le=9, description="time spent on a smaller file")


class Htj2kSettings(BaseModel, frozen=True, extra="forbid"):
    """High-throughput JPEG 2000 has nothing to set here."""


@register("bitshuffle-zstd")
class BitshuffleZstdCodec(ClassicalCodec):
    """The codec ``bitshuffle-zstd``: bits of equal weight together, then zstd."""

    settings_type: ClassVar[type[BaseModel]] = BitshuffleSettings

    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        return filter_chunk(_to_integers(self, chunk), self._filter)

    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return _to_values(self, unfilter_chunk(body, shape, np.uint16, self._filter))

    @property
    def _filter(self) -> Mapping[str, Any]:
        return hdf5plugin.Bitshuffle(cname="zstd", clevel=self.settings.level)


@register("blosc2")
class Blosc2Codec(ClassicalCodec):
    """The codec ``blosc2``: blosc2 with bitshuffle and zstd."""

    settings_type: ClassVar[type[BaseModel]] = Blosc2Settings

    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        return filter_chunk(_to_integers(self, chunk), self._filter)

    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return _to_values(self, unfilter_chunk(body, shape, np.uint16, self._filter))

    @property
    def _filter(self) -> Mapping[str, Any]:
        kind = hdf5plugin.Blosc2
        return kind(cname="zstd", clevel=self.settings.level, filters=kind.BITSHUFFLE)


@register("jpegxl-lossless")
class JpegXlLosslessCodec(ClassicalCodec):
    """The codec ``jpegxl-lossless``: the lossless mode (modular) of JPEG XL, slice by slice."""

    settings_type: ClassVar[type[BaseModel]] = JpegXlLosslessSettings
    library = "imagecodecs"

    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        encode: Any = optional_library("imagecodecs").jpegxl_encode
        how = {"lossless": True, "effort": self.settings.effort, "usecontainer": False, "numthreads": 1}
        return join_planes([encode(plane, **how) for plane in _to_integers(self, chunk)])

    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        decode: Any = optional_library("imagecodecs").jpegxl_decode
        return _to_values(self, np.stack([decode(plane, numthreads=1) for plane in split_planes(body, shape[0])]))


@register("htj2k")
class Htj2kCodec(ClassicalCodec):
    """The codec ``htj2k``: reversible 5/3 wavelet, fast block coder of JPEG 2000 part 15, slice by slice."""

    settings_type: ClassVar[type[BaseModel]] = Htj2kSettings
    library = "imagecodecs"

    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        encode: Any = optional_library("imagecodecs").htj2k_encode
        return join_planes([encode(plane, reversible=True) for plane in _to_integers(self, chunk)])

    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        decode: Any = optional_library("imagecodecs").htj2k_decode
        return _to_values(self, np.stack([decode(plane) for plane in split_planes(body, shape[0])]))


def _to_integers(codec: ClassicalCodec, chunk: NDArray[np.float32]) -> NDArray[np.uint16]:
    return codec.value_range.to_integers(chunk, _step(codec))


def _to_values(codec: ClassicalCodec, integers: NDArray[Any]) -> NDArray[np.float32]:
    return codec.value_range.to_values(integers, _step(codec))


def _step(codec: ClassicalCodec) -> float:
    return 1.0 if codec.value_range.whole else codec.value_range.step(16)
