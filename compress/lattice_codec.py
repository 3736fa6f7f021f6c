"""The codec ``lattice``: volumes as integers on lattices from coarse to fine, of a given quality.

A bitstream holds all that its decoder needs: the offset and the unit of the integers, and what `encode_lattice` gave.
The state is JSON, for encoding more of the same volume. The decoder's arithmetic is on integers up to the last line,
which is one multiplication and one addition of float64, rounded to float32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from itertools import starmap
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, model_validator

from quietbeam.reconstruction.errors import ArchiveError

from .bitstream import ByteReader
from .codec import SliceSource, register
from .lattice_stream import DISTORTION_WEIGHT, LARGEST, decode_lattice, encode_lattice

__all__ = ["LatticeCodec", "LatticeSettings"]

_HEAD = struct.Struct("<dd")
_DEFAULT_PSNR = 48.0
_MOST = 1e100
_STEP = 256
"""Integers between the values of a step in rate-distortion mode."""
_BOUNDED_STEP = 65
_MARGIN = 2.0**-10
_READ_SLICES = 16
_WINDOW = (16, 128, 128)
_THIN = 8
_LARGEST_PLANE = 512 * 512
_FIRST_STEP = 3.6
_NUM_TRIALS = 3
_NEAR_ENOUGH = 0.1
_PSNR_PER_OCTAVE = 6.02
_LARGEST_VALUE = float(np.finfo(np.float32).max)
_WHAT = "a chunk of codec lattice"

Volume = NDArray[np.float32]


class LatticeSettings(BaseModel, frozen=True, extra="forbid"):
    """How good the codec is to be: on average, at each voxel, or by its step; at most one of the three."""

    psnr: float | None = Field(
        None,
        gt=0,
        le=120,
        allow_inf_nan=False,
        description="signal-to-noise ratio over the volume's range, dB; if no quality is given: 48",
    )
    max_error: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="largest error of a voxel, in the volume's units"
    )
    step: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="distance between the values of the finest level, in the volume's units, in rate-distortion mode",
    )

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        given = [name for name in ("psnr", "max_error", "step") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"lattice takes one of psnr, max_error and step, got {' and '.join(given)}: leave one")
        return self


class _State(BaseModel, frozen=True, extra="forbid"):
    bounded: bool
    offset: float = Field(allow_inf_nan=False)
    step: float = Field(gt=0, allow_inf_nan=False)


@register("lattice")
class LatticeCodec:
    """The codec ``lattice``.

    Parameters
    ----------
    offset : float
        Value of the integer 0.
    step : float
        Distance between the values of the finest level, in the volume's units.
    bounded : bool
        Whether every voxel is to be off by at most half a step; rounding to float32 comes on top.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[BaseModel]] = LatticeSettings

    def __init__(self, offset: float, step: float, *, bounded: bool) -> None:
        self.offset, self.step, self.bounded = offset, step, bounded

    @classmethod
    def fit(cls, volume: SliceSource, settings: LatticeSettings | None = None, *, seed: int = 0) -> Self:
        """Find offset and step for a volume; the seed is not needed.

        For a signal-to-noise ratio up to three steps are tried on parts of the volume, at most 2^23 voxels.

        Raises
        ------
        ValueError
            If the volume has no voxels or values that are not finite.
        """
        settings = LatticeSettings() if settings is None else settings
        low, high = _value_range(volume)
        middle = low + (high - low) / 2
        if settings.max_error is not None:
            return cls(middle, 2 * settings.max_error * (1 - _MARGIN), bounded=True)
        if settings.step is not None:
            return cls(middle, settings.step, bounded=False)
        target = _DEFAULT_PSNR if settings.psnr is None else settings.psnr
        span = high - low or 1.0
        return cls(middle, _find_step(volume, middle, span, target), bounded=False)

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        """Build the codec that gave a state; `ArchiveError` if it is damaged."""
        try:
            stored = _State.model_validate_json(state)
        except ValidationError as error:
            raise ArchiveError(f"the state of codec lattice is damaged ({error}): restore it from a copy") from error
        return cls(stored.offset, stored.step, bounded=stored.bounded)

    def to_bytes(self) -> bytes:
        """Give mode, offset and step as JSON; decoding needs none of them."""
        return _State(bounded=self.bounded, offset=self.offset, step=self.step).model_dump_json().encode()

    def encode(self, chunk: Volume) -> bytes:
        """Give the bitstream of a chunk, finite, float32, shape (slice, y, x)."""
        return self._encode(chunk)[0]

    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> Volume:
        """Give what a bitstream stands for, float32, shape (slice, y, x); `ArchiveError` where damage shows."""
        reader = ByteReader(bitstream, _WHAT)
        offset, unit = _HEAD.unpack(reader.take(_HEAD.size))
        if not (abs(offset) < _MOST and abs(unit) < _MOST):
            raise ArchiveError(f"{_WHAT} has the offset {offset} and the unit {unit}: it is damaged")
        return _to_values(decode_lattice(reader.rest(), shape), offset, unit)

    def _encode(self, chunk: Volume) -> tuple[bytes, Volume]:
        """Give the bitstream, and what it decodes to."""
        if not np.isfinite(chunk).all():
            raise ValueError(f"a chunk to encode must be finite, got {np.sum(~np.isfinite(chunk))} voxels that are not")
        step, weight = (_BOUNDED_STEP, 0.0) if self.bounded else (_STEP, DISTORTION_WEIGHT)
        unit = self.step / step
        scaled = np.rint((chunk.astype(np.float64) - self.offset) / unit)
        if (farthest := float(np.abs(scaled).max(initial=0))) >= LARGEST:
            raise ValueError(
                f"a chunk reaches {farthest * unit:.6g} from the offset {self.offset:.6g}; with steps of "
                f"{self.step:.6g} it may at most {LARGEST * unit:.6g}: give a larger max_error or step, or a lower psnr"
            )
        integers = scaled.astype(np.int32)
        bitstream, decoded = encode_lattice(integers, step, distortion_weight=weight)
        return _HEAD.pack(self.offset, unit) + bitstream, _to_values(decoded, self.offset, unit)


def _to_values(integers: NDArray[np.int32], offset: float, unit: float) -> Volume:
    with np.errstate(over="ignore"):
        values: Volume = np.clip(integers * unit + offset, -_LARGEST_VALUE, _LARGEST_VALUE).astype(np.float32)
        return values


def _value_range(volume: SliceSource) -> tuple[float, float]:
    if min(volume.shape) < 1:
        raise ValueError(f"the volume must have voxels to be encoded, got shape {tuple(volume.shape)}")
    low, high = np.inf, -np.inf
    for first in range(0, volume.shape[0], _READ_SLICES):
        values = np.asarray(volume[first : first + _READ_SLICES])
        if not np.isfinite(values).all():
            raise ValueError(f"the volume must be finite to be encoded, got nan or inf in slices from {first} on")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high


def _find_step(volume: SliceSource, offset: float, span: float, psnr: float) -> float:
    """Try steps until a sample has the ratio; the logarithm of the step goes with the decibels."""
    sample = list(_windows(volume))
    step = _FIRST_STEP * span * 10 ** (-psnr / 20)
    for _ in range(_NUM_TRIALS):
        codec = LatticeCodec(offset, step, bounded=False)
        error = np.concatenate([_squared_errors(codec, window) for window in sample])
        if not (mean := float(error.mean())):
            return step
        missed = 20 * math.log10(span) - 10 * math.log10(mean) - psnr
        step *= 2 ** (missed / _PSNR_PER_OCTAVE)
        if abs(missed) < _NEAR_ENOUGH:
            return step
    return step


def _squared_errors(codec: LatticeCodec, window: Volume) -> NDArray[np.float64]:
    difference = codec._encode(window)[1].astype(np.float64) - window
    return np.square(difference).ravel()


def _windows(volume: SliceSource) -> Iterator[Volume]:
    """Give parts of a volume: four of whole slices where those are small, else sixteen spread over all axes.

    Corners of a slice are often empty: parts from the middle alone would make it look worse than it is.
    """
    whole = math.prod(volume.shape[1:]) <= _LARGEST_PLANE
    sizes = (_THIN, *volume.shape[1:]) if whole else _WINDOW
    num_parts = 4 if whole else 16
    for number in range(num_parts):
        place = ((number + 0.5) / num_parts, _radical_inverse(number, 2), _radical_inverse(number, 3))
        z_part, y_part, x_part = starmap(_part, zip(volume.shape, sizes, place, strict=True))
        yield np.ascontiguousarray(np.asarray(volume[z_part], np.float32)[:, y_part, x_part])


def _part(side: int, size: int, place: float) -> slice:
    first = round(place * max(side - size, 0))
    return slice(first, first + min(size, side))


def _radical_inverse(number: int, base: int) -> float:
    """Mirror the digits of a number at the point: the sequence of van der Corput, which fills [0, 1) evenly."""
    inverse, digit = 0.0, 1.0
    while number:
        digit /= base
        number, rest = divmod(number, base)
        inverse += rest * digit
    return inverse
