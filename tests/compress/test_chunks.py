from __future__ import annotations

import zlib
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from quietbeam.compress.chunks import DTYPES, checksum, decode_chunk, encode_chunk
from quietbeam.reconstruction.errors import ArchiveError

from .volumes import foam

INTEGERS = DTYPES[1:]
SHAPE = (4, 20, 21)


class Halved:
    """A codec whose approximation is half of what it is given: its latents never pay."""

    name = "halved"

    def encode(self, chunk: np.ndarray) -> bytes:
        assert chunk.dtype == np.float32
        return zlib.compress(chunk.tobytes())

    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer(zlib.decompress(bitstream), np.float32).reshape(shape) / 2


def scaled_foam(dtype: str) -> np.ndarray:
    """Foam over the whole range of a type."""
    limits, volume = np.iinfo(dtype), foam(SHAPE, num_voids=5).astype(np.float64)
    volume = (volume - volume.min()) / np.ptp(volume)
    return np.rint(limits.min + volume * (limits.max - limits.min)).astype(dtype)


@pytest.mark.parametrize("max_error", [0, 1, 5])
@pytest.mark.parametrize("codec", [None, Halved()])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_come_back_within_max_error(dtype: str, codec: Any, max_error: int) -> None:
    chunk = scaled_foam(dtype)
    encoded = encode_chunk(codec, chunk, max_error, keep_latents="always")
    decoded = decode_chunk(codec, encoded.payload, SHAPE, np.dtype(dtype))
    assert decoded.dtype == dtype
    assert np.abs(decoded.astype(int) - chunk).max() == encoded.largest_error <= max_error
    assert checksum(decoded) == encoded.crc32


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_integers_come_back(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(INTEGERS)))
    chunk = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7)))
    max_error = data.draw(st.integers(0, 300))
    decoded = decode_chunk(None, encode_chunk(None, chunk, max_error).payload, chunk.shape, dtype)
    assert np.abs(decoded.astype(int) - chunk).max() <= max_error


def test_smooth_integers_take_less_than_their_deflated_bytes() -> None:
    chunk = scaled_foam("uint16")
    deflated = len(zlib.compress(chunk.tobytes()))
    assert encode_chunk(None, chunk, 0).num_residual_bytes < deflated
    assert encode_chunk(None, chunk, 300).num_residual_bytes < 0.5 * deflated


@pytest.mark.parametrize("dtype", INTEGERS)
def test_noise_over_the_whole_range_is_stored_exactly(dtype: str) -> None:
    limits = np.iinfo(dtype)
    chunk = np.random.default_rng(0).integers(limits.min, limits.max, SHAPE, dtype, endpoint=True)
    encoded = encode_chunk(None, chunk, 0)
    assert encoded.payload[1] == 0
    assert len(encoded.payload) < 1.01 * chunk.nbytes + 20
    np.testing.assert_array_equal(decode_chunk(None, encoded.payload, SHAPE, chunk.dtype), chunk)


@pytest.mark.parametrize("dtype", [">u2", ">f4"])
def test_byte_order_does_not_count(dtype: str) -> None:
    chunk = np.arange(60).reshape(3, 4, 5).astype(dtype)
    assert encode_chunk(None, chunk, 1) == encode_chunk(None, chunk.astype(chunk.dtype.newbyteorder("<")), 1)


def test_checksum_is_that_of_the_bytes_in_c_order() -> None:
    volume = np.arange(24, dtype="<i2").reshape(2, 3, 4)
    assert checksum(volume) == checksum(volume.astype(">i2")) == checksum(np.asfortranarray(volume))
    assert checksum(volume) == zlib.crc32(volume.tobytes())


@pytest.mark.parametrize(("dtype", "max_error"), [("uint8", 0.5), ("int16", -1), ("uint16", np.nan)])
def test_errors_between_integers_are_refused(dtype: str, max_error: float) -> None:
    with pytest.raises(ValueError, match=f"max_error must be a whole number, 0 or more, for {dtype}"):
        encode_chunk(None, np.zeros(SHAPE, dtype), max_error)


@pytest.mark.parametrize("dtype", ["float64", "int32", "bool"])
def test_other_types_are_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match=f"must be of type float32, uint8, .* got {dtype}"):
        encode_chunk(None, np.zeros(SHAPE, dtype), 1)


def test_float32_needs_an_error() -> None:
    with pytest.raises(ValueError, match="max_error must be positive"):
        encode_chunk(None, np.zeros(SHAPE, np.float32), 0)


@pytest.mark.parametrize("residual", [b"", b"\0", b"\0no zlib", b"\0" + zlib.compress(bytes(9)), b"\7"])
def test_damaged_integers_are_refused(residual: bytes) -> None:
    with pytest.raises(ArchiveError):
        decode_chunk(None, b"\0" + residual, (2, 2, 2), np.dtype(np.uint8))


@pytest.mark.parametrize("length", [7, 9])
def test_exact_integers_of_another_size_are_refused(length: int) -> None:
    with pytest.raises(ArchiveError, match="inflates to another size than 8 bytes"):
        decode_chunk(None, b"\0\0" + zlib.compress(bytes(length)), (2, 2, 2), np.dtype(np.uint8))


def test_depth_like_integers_take_a_fifth_without_loss() -> None:
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (8, 96, 96)), indexing="ij")
    depth = 512 + 400 * np.sin(5 * x + 2 * z) * np.cos(4 * y) + np.where(x + y > 1.2, 60, 0)
    chunk = np.rint(depth).astype(np.uint16)  # 10 bits
    encoded = encode_chunk(None, chunk, 0)
    assert len(encoded.payload) < 0.2 * chunk.nbytes
    np.testing.assert_array_equal(decode_chunk(None, encoded.payload, chunk.shape, chunk.dtype), chunk)
