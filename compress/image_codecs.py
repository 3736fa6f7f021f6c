"""Lossy image codecs, slice by slice: JPEG, JPEG 2000, JPEG XL.

The values of the volume, from the smallest to the largest, become the integers 0 to 255 (JPEG) or 0 to 65535.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from .classical import ClassicalCodec, join_planes, optional_library, split_planes
from .codec import register

__all__ = [
    "Jpeg2000Codec",
    "JpegCodec",
    "JpegXlCodec",
    "JpegXlSettings",
    "PsnrSettings",
    "QualitySettings",
    "decode_jpeg2000",
    "encode_jpeg2000",
]


class QualitySettings(BaseModel, frozen=True, extra="forbid"):
    """How JPEG quantises."""

    quality: int = Field(90, ge=1, le=100, description="quality of the quantisation tables; higher is better")


class PsnrSettings(BaseModel, frozen=True, extra="forbid"):
    """How good JPEG 2000 is to be."""

    psnr: float = Field(
        44.0, gt=0, le=90, allow_inf_nan=False, description="signal-to-noise ratio over the volume's range, dB"
    )


class JpegXlSettings(BaseModel, frozen=True, extra="forbid"):
    """How JPEG XL quantises."""

    distance: float = Field(
        0.5, ge=0.01, le=25, allow_inf_nan=False, description="Butteraugli distance; lower is better, 1 looks the same"
    )
    effort: int = Field(7, ge=1, le=9, description="time spent on a smaller file")


@register("jpeg")
class JpegCodec(ClassicalCodec):
    """The codec ``jpeg``: baseline JPEG of 8-bit slices."""

    settings_type: ClassVar[type[BaseModel]] = QualitySettings
    library = "imagecodecs"

    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        encode: Any = optional_library("imagecodecs").jpeg8_encode
        integers = self.value_range.to_integers(chunk, self.value_range.step(8), 8).astype(np.uint8)
        return join_planes([encode(plane, level=self.settings.quality) for plane in integers])

    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        decode: Any = optional_library("imagecodecs").jpeg8_decode
        integers = np.stack([decode(plane) for plane in split_planes(body, shape[0])])
        return self.value_range.to_values(integers, self.value_range.step(8))


@register("jpeg2000")
class Jpeg2000Codec(ClassicalCodec):
    """The codec ``jpeg2000``: 9/7 wavelet of 16-bit slices, each with the same mean square error."""

    settings_type: ClassVar[type[BaseModel]] = PsnrSettings
    library = "imagecodecs"

    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        integers = self.value_range.to_integers(chunk, self.value_range.step(16))
        return join_planes([encode_jpeg2000(plane, self.settings.psnr) for plane in integers])

    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        integers = np.stack([decode_jpeg2000(plane) for plane in split_planes(body, shape[0])])
        return self.value_range.to_values(integers, self.value_range.step(16))


@register("jpegxl")
class JpegXlCodec(ClassicalCodec):
    """The codec ``jpegxl``: the lossy mode (VarDCT) of 16-bit slices."""

    settings_type: ClassVar[type[BaseModel]] = JpegXlSettings
    library = "imagecodecs"

    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        encode: Any = optional_library("imagecodecs").jpegxl_encode
        how = {"distance": self.settings.distance, "effort": self.settings.effort, "numthreads": 1}
        integers = self.value_range.to_integers(chunk, self.value_range.step(16))
        return join_planes([encode(plane, photometric="gray", usecontainer=False, **how) for plane in integers])

    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        decode: Any = optional_library("imagecodecs").jpegxl_decode
        integers = np.stack([decode(plane, numthreads=1) for plane in split_planes(body, shape[0])])
        return self.value_range.to_values(integers, self.value_range.step(16))


def encode_jpeg2000(plane: NDArray[np.uint16], psnr: float) -> bytes:
    """Code a plane, shape (y, x), by the 9/7 wavelet so that its error is `psnr` dB below 65535: a bare codestream."""
    encode: Any = optional_library("imagecodecs").jpeg2k_encode
    return bytes(encode(plane, level=psnr, reversible=False, codecformat="j2k", numthreads=1))


def decode_jpeg2000(codestream: bytes) -> NDArray[np.uint16]:
    """Undo `encode_jpeg2000`."""
    decode: Any = optional_library("imagecodecs").jpeg2k_decode
    return np.asarray(decode(codestream, numthreads=1), np.uint16)
