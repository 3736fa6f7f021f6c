"""Codecs of scientific floating-point volumes, on the values themselves: ZFP, SZ3, SPERR.

They are used as HDF5 filters; what counts is the chunk, without the HDF5 file around it. Slices with sides under 8 are
enlarged by repeating their edge, because some of these codecs refuse such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import hdf5plugin
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator

from .classical import ClassicalCodec
from .codec import register
from .filtered_chunk import filter_chunk, unfilter_chunk

__all__ = ["MaxErrorSettings", "SperrCodec", "SperrSettings", "Sz3Codec", "ZfpCodec"]

_SMALLEST_SIDE = 8
_DEFAULT_SHARE = 1e-3
_DEFAULT_PSNR = 44.0
_SMALLEST_PSNR = 1.0
_SMALLEST_SHARE = 1e-10


class MaxErrorSettings(BaseModel, frozen=True, extra="forbid"):
    """How far off a voxel may be."""

    max_error: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="largest error of a voxel, in the volume's units; not given: 1/1000 of its range",
    )


class SperrSettings(BaseModel, frozen=True, extra="forbid"):
    """How good SPERR is to be: on average, or at each voxel."""

    psnr: float | None = Field(
        None,
        gt=0,
        le=200,
        allow_inf_nan=False,
        description="signal-to-noise ratio over the volume's range, dB; neither this nor max_error given: 44",
    )
    max_error: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="largest error of a voxel, in the volume's units"
    )

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if self.psnr is not None and self.max_error is not None:
            raise ValueError("sperr takes psnr or max_error, got both: leave one out")
        return self


@register("zfp")
class ZfpCodec(ClassicalCodec):
    """The codec ``zfp``: blocks of 4 x 4 x 4 voxels, of fixed accuracy."""

    settings_type: ClassVar[type[BaseModel]] = MaxErrorSettings

    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        return filter_chunk(_enlarge(chunk), self._filter)

    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return _expand_floats(body, shape, self._filter)

    @property
    def _filter(self) -> Mapping[str, Any]:
        return hdf5plugin.Zfp(accuracy=_max_error(self))


@register("sz3")
class Sz3Codec(ClassicalCodec):
    """The codec ``sz3``: interpolation in three dimensions, of bounded absolute error."""

    settings_type: ClassVar[type[BaseModel]] = MaxErrorSettings

    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        return filter_chunk(_enlarge(chunk), self._filter)

    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return _expand_floats(body, shape, self._filter)

    @property
    def _filter(self) -> Mapping[str, Any]:
        return hdf5plugin.SZ3(absolute=_max_error(self))


@register("sperr")
class SperrCodec(ClassicalCodec):
    """The codec ``sperr``: a 9/7 wavelet in three dimensions, with outliers corrected where `max_error` is given."""

    settings_type: ClassVar[type[BaseModel]] = SperrSettings

    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        return filter_chunk(_enlarge(chunk), self._filter(float(chunk.max()) - float(chunk.min())))

    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return _expand_floats(body, shape, self._filter(self.value_range.span))

    def _filter(self, span: float) -> Mapping[str, Any]:
        """Give the filter for a chunk of the range `span`; its decoder does not need it.

        SPERR takes its ratio over the range of the chunk. Without `swap` the filter takes x for the slowest axis.
        """
        if self.settings.max_error is not None:
            return hdf5plugin.Sperr(absolute=self.settings.max_error, swap=True)
        psnr = self.settings.psnr if self.settings.psnr is not None else _DEFAULT_PSNR
        share = max(span / self.value_range.span, _SMALLEST_SHARE)
        psnr_of_chunk = max(psnr + 20 * math.log10(share), _SMALLEST_PSNR)
        return hdf5plugin.Sperr(peak_signal_to_noise_ratio=psnr_of_chunk, swap=True)


def _max_error(codec: ClassicalCodec) -> float:
    return float(codec.settings.max_error or _DEFAULT_SHARE * codec.value_range.span)


def _enlarge(chunk: NDArray[np.float32]) -> NDArray[np.float32]:
    missing = [(0, new - old) for old, new in zip(chunk.shape, _enlarged(chunk.shape), strict=True)]
    return np.pad(chunk, missing, mode="edge")


def _expand_floats(body: bytes, shape: tuple[int, ...], filters: Mapping[str, Any]) -> NDArray[np.float32]:
    return unfilter_chunk(body, _enlarged(shape), np.float32, filters)[:, : shape[1], : shape[2]].astype(np.float32)


def _enlarged(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *(max(side, _SMALLEST_SIDE) for side in shape[1:]))
