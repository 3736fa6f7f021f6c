from __future__ import annotations

import hashlib
import struct
import zlib
from contextlib import suppress

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from quietbeam.compress.pyramid import STEP, decode_pyramid, encode_pyramid
from quietbeam.compress.residual import (
    decode_integer_residual,
    decode_residual,
    encode_integer_residual,
    encode_residual,
)
from quietbeam.reconstruction.errors import ArchiveError

from .volumes import foam

SHAPES = [(1, 1, 1), (1, 1, 7), (3, 1, 2), (16, 33, 17), (5, 64, 64), (2, 9, 130)]
PINNED = "1c7394d3177ecbfd1cb2fae3685bc3f6d93d477bbb3d2cab44aab067a7ca45e6"
"""sha256 of a bitstream of format 1: a change means that old archives no longer decode."""


@pytest.mark.parametrize("shape", SHAPES)
def test_pyramid_is_within_half_a_step_and_decodes_to_the_same(shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).integers(-(2**28) + 1, 2**28, shape).astype(np.int32)
    bitstream, decoded = encode_pyramid(values)
    assert np.abs(decoded.astype(np.int64) - values).max() <= STEP // 2
    np.testing.assert_array_equal(decode_pyramid(bitstream, shape), decoded)


def test_pyramid_bitstream_is_pinned() -> None:
    values = np.add.outer(np.arange(8) ** 2 * 10, np.add.outer(np.arange(30) * 17, np.arange(21) % 7 * 100))
    bitstream, _ = encode_pyramid(values.astype(np.int32))
    assert hashlib.sha256(bitstream).hexdigest() == PINNED


def test_a_linear_ramp_costs_next_to_nothing() -> None:
    ramp = np.add.outer(np.arange(16) * 64, np.add.outer(np.arange(65) * 32, np.arange(65) * 96)).astype(np.int32)
    bitstream, _ = encode_pyramid(ramp)
    assert 8 * len(bitstream) / ramp.size < 0.25


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=finite), st.data())
def test_no_voxel_is_off_by_more_than_max_error(chunk: np.ndarray, data: st.DataObject) -> None:
    max_error = data.draw(st.floats(1e-300, 1e300))
    bitstream, decoded = encode_residual(chunk, None, max_error)
    assert np.all(np.abs(decoded.astype(np.float64) - chunk) <= max_error)
    np.testing.assert_array_equal(decode_residual(bitstream, None, chunk.shape), decoded)


@pytest.mark.parametrize("max_error", [1e-7, 1e-4, 1e-2, 0.3, 10.0])
def test_error_bound_with_a_prediction(max_error: float) -> None:
    chunk = foam((8, 40, 50), num_voids=20) * 3 - 1
    predicted = np.roll(chunk, 1, axis=2)
    bitstream, decoded = encode_residual(chunk, predicted, max_error)
    assert np.abs(decoded.astype(np.float64) - chunk).max() <= max_error
    np.testing.assert_array_equal(decode_residual(bitstream, predicted, chunk.shape), decoded)


def test_another_machines_prediction_stays_within_max_error() -> None:
    chunk = foam((8, 40, 50), num_voids=20)
    predicted = np.roll(chunk, 1, axis=2)
    bitstream, _ = encode_residual(chunk, predicted, 0.01)
    elsewhere = predicted + np.random.default_rng(0).uniform(-2e-6, 2e-6, chunk.shape).astype(np.float32)
    assert np.abs(decode_residual(bitstream, elsewhere, chunk.shape).astype(np.float64) - chunk).max() <= 0.01


def test_a_few_outliers_are_stored_exactly() -> None:
    chunk = foam((8, 40, 50), num_voids=20)
    without, _ = encode_residual(chunk, None, 0.01)
    chunk[3, 7, 9], chunk[0, 0, 0] = 3e38, -1e30
    bitstream, decoded = encode_residual(chunk, None, 0.01)
    assert len(bitstream) < len(without) + 500
    assert decoded[3, 7, 9] == np.float32(3e38)
    assert decoded[0, 0, 0] == np.float32(-1e30)
    assert np.abs(decoded.astype(np.float64) - chunk).max() <= 0.01
    assert decode_residual(bitstream, None, chunk.shape).tobytes() == decoded.tobytes()


def test_incompressible_data_are_stored_exactly() -> None:
    chunk = np.random.default_rng(0).standard_normal((4, 20, 20)).astype(np.float32)
    bitstream, decoded = encode_residual(chunk, None, 1e-12)
    assert decoded.tobytes() == chunk.tobytes()
    assert len(bitstream) < 1.01 * chunk.nbytes


def test_a_constant_takes_few_bytes() -> None:
    chunk = np.full((16, 64, 64), 1e6, np.float32)
    bitstream, decoded = encode_residual(chunk, None, 1e-3)
    assert len(bitstream) < 400
    np.testing.assert_array_equal(decoded, chunk)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    chunk = np.zeros((2, 3, 4), np.float32)
    chunk[1, 2, 3] = value
    with pytest.raises(ValueError, match="must be finite, got 1 voxels that are not"):
        encode_residual(chunk, None, 0.1)


@pytest.mark.parametrize("max_error", [0.0, -1.0, np.nan, np.inf])
def test_max_error_must_be_positive(max_error: float) -> None:
    with pytest.raises(ValueError, match="max_error must be positive and finite"):
        encode_residual(np.zeros((1, 1, 1), np.float32), None, max_error)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise_archive_error(data: bytes) -> None:
    for kind in (b"", b"\0", b"\1", b"\2"):
        with suppress(ArchiveError):
            assert decode_residual(kind + data, None, (2, 3, 4)).shape == (2, 3, 4)
        with suppress(ArchiveError):
            assert decode_integer_residual(kind + data, None, (2, 3, 4), np.dtype(np.int16)).dtype == np.int16


def test_a_residual_of_the_first_format_is_read() -> None:
    integers, _ = encode_pyramid(np.arange(24, dtype=np.int32).reshape(2, 3, 4) * 100)
    first = struct.pack("<Bdd", 1, 7.0, 0.5) + b"\1\5" + np.float32(99).tobytes() + integers
    decoded = decode_residual(first, None, (2, 3, 4))
    assert decoded[0, 1, 1] == 99
    assert np.abs(decoded - (np.arange(24).reshape(2, 3, 4) * 50 + 7)).ravel()[6:].max() <= STEP / 4


INTEGERS = [np.uint8, np.int8, np.uint16, np.int16]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_integers_are_within_max_error(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(INTEGERS)))
    chunk = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)))
    predictions = hnp.arrays(np.float32, chunk.shape, elements=finite)
    predicted = data.draw(st.none() | predictions)
    max_error = data.draw(st.integers(0, 20) | st.integers(0, 10**9))
    bitstream, decoded = encode_integer_residual(chunk, predicted, max_error)
    assert decoded.dtype == dtype
    assert np.abs(decoded.astype(np.int64) - chunk).max() <= max_error
    np.testing.assert_array_equal(decode_integer_residual(bitstream, predicted, chunk.shape, dtype), decoded)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_smooth_integers_are_lossless_and_small(dtype: type) -> None:
    limits = np.iinfo(dtype)
    chunk = np.clip(0.1 + 0.8 * foam((16, 48, 48), num_voids=20), 0, 1)
    chunk = (limits.min + chunk * (limits.max - limits.min)).astype(dtype)
    bitstream, decoded = encode_integer_residual(chunk, None, 0)
    assert decoded.tobytes() == chunk.tobytes()
    assert len(bitstream) < 0.85 * len(zlib.compress(chunk.tobytes(), 9))
    assert decode_integer_residual(bitstream, None, chunk.shape, chunk.dtype).tobytes() == chunk.tobytes()


def test_a_good_prediction_of_integers_saves_bytes() -> None:
    chunk = np.rint(60_000 * foam((16, 48, 48), num_voids=20).clip(0, 1)).astype(np.uint16)
    near = chunk.astype(np.float32) + np.random.default_rng(0).uniform(-2, 2, chunk.shape).astype(np.float32)
    with_prediction, _ = encode_integer_residual(chunk, near, 0)
    without, _ = encode_integer_residual(chunk, None, 0)
    assert len(with_prediction) < 0.5 * len(without)


def test_random_integers_are_stored_exactly() -> None:
    chunk = np.random.default_rng(0).integers(0, 2**16, (4, 20, 20)).astype(np.uint16)
    bitstream, decoded = encode_integer_residual(chunk, None, 0)
    assert len(bitstream) < 1.02 * chunk.nbytes
    assert decoded.tobytes() == chunk.tobytes()


def test_a_max_error_of_integers_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        encode_integer_residual(np.zeros((1, 1, 1), np.uint8), None, -1)
