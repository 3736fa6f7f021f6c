from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel

from quietbeam.compress.codec import codec
from quietbeam.compress.rate_distortion import RatePoint, measure, rate_at, sweep
from quietbeam.reconstruction import quality

from .volumes import foam

VOLUME = foam((7, 170, 165), num_voids=30)
POINT = RatePoint("a", "", 1.0, 40.0, None, None, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0)
SAME_SUMS = 1e-9
"""Relative; the sums over chunks are added up in another order."""


class Plain:
    """Stores float16, and a state of 100 bytes."""

    name: ClassVar[str] = "plain"
    settings_type: ClassVar[type[BaseModel]] = BaseModel

    @classmethod
    def fit(cls, volume: Any, settings: Any = None, *, seed: int = 0) -> Self:
        return cls()

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        assert state == bytes(100)
        return cls()

    def to_bytes(self) -> bytes:
        return bytes(100)

    def encode(self, chunk: NDArray[np.float32]) -> bytes:
        return chunk.astype(np.float16).tobytes()

    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return np.frombuffer(bitstream, np.float16).reshape(shape).astype(np.float32)


class Counting:
    """A volume that is read in slices, and keeps how many were wanted at once."""

    def __init__(self, volume: NDArray[np.float32]) -> None:
        self._volume, self.most = volume, 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self._volume.shape

    def __getitem__(self, index: slice, /) -> NDArray[np.float32]:
        self.most = max(self.most, len(range(len(self._volume))[index]))
        return self._volume[index]


def at(bits: float, psnr: float, name: str = "a") -> RatePoint:
    return POINT._replace(codec=name, bits_per_voxel=bits, psnr=psnr)


@pytest.mark.parametrize("chunk_slices", [1, 3, 16])
def test_chunks_give_the_measures_of_the_whole_volume(chunk_slices: int) -> None:
    decoded = VOLUME.astype(np.float16).astype(np.float32)
    span = float(VOLUME.max()) - float(VOLUME.min())
    point = measure(Plain(), VOLUME, chunk_slices=chunk_slices)
    assert point.psnr == pytest.approx(quality.psnr(VOLUME, decoded, data_range=span), rel=SAME_SUMS)
    assert point.ssim == pytest.approx(quality.ssim(VOLUME, decoded, data_range=span), rel=SAME_SUMS)
    assert point.ms_ssim == pytest.approx(quality.ms_ssim(VOLUME, decoded, data_range=span), rel=SAME_SUMS)
    assert point.msle == pytest.approx(quality.msle(VOLUME, decoded), rel=SAME_SUMS)
    assert point.largest_error == np.abs(decoded.astype(np.float64) - VOLUME).max()


def test_every_byte_counts_the_state_too() -> None:
    assert measure(Plain(), VOLUME, chunk_slices=2).bits_per_voxel == 16 + 8 * 100 / VOLUME.size


def test_name_setting_and_speeds_are_told() -> None:
    point = measure(Plain(), VOLUME, setting="half")
    assert point[:2] == ("plain", "half")
    assert min(point.encode_rate, point.decode_rate) > 1
    assert 0 <= point.encode_seconds < 10
    assert 0 <= point.decode_seconds < 10


def test_no_more_than_a_chunk_is_read_at_once() -> None:
    source = Counting(VOLUME)
    measure(Plain(), source, chunk_slices=3)
    assert source.most == 3


def test_small_slices_have_no_similarities() -> None:
    assert measure(Plain(), VOLUME[:, :160]).ms_ssim is None
    assert measure(Plain(), VOLUME[:, :160]).ssim is not None
    assert measure(Plain(), VOLUME[:, :10]).ssim is None


def test_nothing_lost_is_an_infinite_ratio() -> None:
    assert measure(Plain(), np.rint(100 * VOLUME)).psnr == math.inf


@pytest.mark.parametrize("value", [1.0, np.nan, np.inf])
def test_a_constant_or_infinite_volume_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite and not constant"):
        measure(Plain(), np.full((2, 12, 12), value, np.float32))


def test_chunks_of_no_slices_are_refused() -> None:
    with pytest.raises(ValueError, match="chunk_slices must be 1 or more, got 0"):
        measure(Plain(), VOLUME, chunk_slices=0)


def test_a_sweep_names_each_setting() -> None:
    kind = codec("sz3")
    points = sweep("sz3", [kind.settings_type(), kind.settings_type(max_error=0.01)], VOLUME[:2])
    assert [point.setting for point in points] == ["", "max_error=0.01"]
    assert {point.codec for point in points} == {"sz3"}
    assert points[0].bits_per_voxel > points[1].bits_per_voxel
    assert points[1].largest_error <= 0.01


def test_rates_are_interpolated_in_the_logarithm() -> None:
    points = [at(4.0, 50), at(1.0, 40), at(0.25, 30)]
    assert rate_at(points, 45) == pytest.approx(2)
    assert rate_at(points, 40) == pytest.approx(1)
    assert rate_at(points, 32.5) == pytest.approx(0.25 * 4**0.25)


def test_rates_are_not_extrapolated() -> None:
    points = [at(1.0, 40), at(4.0, 50), at(9.0, math.inf)]
    assert rate_at(points, 39.9) is None
    assert rate_at(points, 50.1) is None
    assert rate_at(points, 50) == pytest.approx(4)
    assert rate_at([], 40) is None


def test_rates_of_several_codecs_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="points of a, b"):
        rate_at([at(1.0, 40), at(2.0, 50, "b")], 45)
