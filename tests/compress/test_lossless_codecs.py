from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietbeam.compress.codec import Codec, codec

from .volumes import foam

NAMES = ["bitshuffle-zstd", "blosc2", "jpegxl-lossless", "htj2k"]
VOLUME = np.rint(3000 * foam((4, 60, 72), num_voids=10)).astype(np.float32)


def fitted(name: str, volume: np.ndarray, **options: int) -> Codec:
    if name in ("jpegxl-lossless", "htj2k"):
        pytest.importorskip("imagecodecs")
    return codec(name).fit(volume, codec(name).settings_type.model_validate(options))


@pytest.mark.parametrize("name", NAMES)
def test_whole_numbers_come_back_exactly_in_fewer_bits(name: str) -> None:
    built = fitted(name, VOLUME)
    bitstream = built.encode(VOLUME)
    np.testing.assert_array_equal(built.decode(bitstream, VOLUME.shape), VOLUME)
    assert 8 * len(bitstream) < 12 * VOLUME.size


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(
    low=st.integers(-(2**20), 2**20),
    span=st.integers(0, 65535),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    seed=st.integers(0, 99),
)
def test_any_whole_numbers_within_16_bits_come_back(
    name: str, low: int, span: int, shape: tuple[int, int, int], seed: int
) -> None:
    volume = (low + np.random.default_rng(seed).integers(0, span + 1, shape)).astype(np.float32)
    built = fitted(name, volume)
    np.testing.assert_array_equal(built.decode(built.encode(volume), shape), volume)


@pytest.mark.parametrize("name", NAMES)
def test_other_values_come_back_within_half_a_step_of_16_bits(name: str) -> None:
    volume = foam((3, 40, 50), num_voids=5)
    built = fitted(name, volume)
    error = np.abs(built.decode(built.encode(volume), volume.shape).astype(np.float64) - volume).max()
    half = np.ptp(volume) / 65535 / 2
    assert 0.9 * half < error < half + 2 * np.spacing(np.float32(1.1))


@pytest.mark.parametrize(
    ("name", "option", "low", "high"), [("bitshuffle-zstd", "level", 1, 19), ("blosc2", "level", 1, 9)]
)
def test_a_higher_level_is_smaller(name: str, option: str, low: int, high: int) -> None:
    sizes = [len(fitted(name, VOLUME, **{option: level}).encode(VOLUME)) for level in (low, high)]
    assert sizes[1] < sizes[0]
