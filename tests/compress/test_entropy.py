from __future__ import annotations

import hashlib
from contextlib import suppress
from itertools import pairwise

import constriction
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from quietbeam.compress.bitstream import ByteReader, varint
from quietbeam.compress.entropy import LARGEST, FrequencyTable, IntegerDecoder, IntegerEncoder
from quietbeam.reconstruction.errors import ArchiveError

PINNED = "847e8234aba0c42d0bd57a21e00e40c6d697b02d351de4a68bfea41e6603947b"
"""sha256 of a bitstream of format 1: a change means that old archives no longer decode."""


def encode(values: np.ndarray, contexts: np.ndarray, num_contexts: int) -> bytes:
    encoder = IntegerEncoder(num_contexts)
    encoder.add(values, contexts)
    return encoder.to_bytes()


def heavy_tailed(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.round(rng.standard_t(1.2, count)).clip(1 - LARGEST, LARGEST - 1).astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.int32, st.integers(0, 300), elements=st.integers(1 - LARGEST, LARGEST - 1)), st.integers(1, 5))
def test_integers_come_back(values: np.ndarray, num_contexts: int) -> None:
    contexts = np.arange(len(values)) % num_contexts
    decoded = IntegerDecoder(encode(values, contexts, num_contexts), num_contexts).take(contexts)
    np.testing.assert_array_equal(decoded, values)


def test_groups_come_back_one_by_one() -> None:
    values, contexts = heavy_tailed(1000), np.random.default_rng(1).integers(0, 7, 1000).astype(np.uint8)
    encoder = IntegerEncoder(7)
    groups = [slice(0, 1), slice(1, 1), slice(1, 400), slice(400, 1000)]
    for group in groups:
        encoder.add(values[group], contexts[group])
    decoder = IntegerDecoder(encoder.to_bytes(), 7)
    for group in groups:
        np.testing.assert_array_equal(decoder.take(contexts[group]), values[group])


def test_size_is_near_the_entropy() -> None:
    values = np.random.default_rng(0).binomial(1, 0.02, 200_000).astype(np.int32)
    entropy = -(0.02 * np.log2(0.02) + 0.98 * np.log2(0.98))
    bits = 8 * len(encode(values, np.zeros(len(values), np.uint8), 1)) / len(values)
    assert 0.97 * entropy < bits < 1.03 * entropy


def test_bitstream_is_pinned() -> None:
    values = (np.arange(5000) * 7919 % 257 - 128) ** 3 // 10_000
    data = encode(values.astype(np.int32), np.arange(5000) % 3, 3)
    assert hashlib.sha256(data).hexdigest() == PINNED


def test_constriction_realises_exactly_our_frequencies() -> None:
    table = FrequencyTable.from_counts(np.array([5, 0, 90_000, 1, 333, 0, 7_777]))
    starts = np.concatenate([[0], table.frequencies.cumsum()]) * 2**10
    for rank, (first, end) in enumerate(pairwise(starts)):
        for quantile in (first, end - 1):
            words = np.array([quantile << 8, 0], np.uint32)
            assert constriction.stream.queue.RangeDecoder(words).decode(table.model) == rank


@given(hnp.arrays(np.int64, 70, elements=st.integers(0, 2**40)))
def test_tables_have_a_fixed_sum_and_come_back(counts: np.ndarray) -> None:
    table = FrequencyTable.from_counts(counts)
    np.testing.assert_array_equal(table.tokens, np.flatnonzero(counts))
    assert table.frequencies.sum() in (0, 2**14)
    assert np.all(table.frequencies >= 1)
    again = FrequencyTable.read(ByteReader(table.to_bytes(), "a table"))
    np.testing.assert_array_equal(again.tokens, table.tokens)
    np.testing.assert_array_equal(again.frequencies, table.frequencies)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_archive_error(data: bytes) -> None:
    with suppress(ArchiveError):
        assert IntegerDecoder(data, 2).take(np.array([0, 1, 1, 0])).shape == (4,)


def test_a_cut_bitstream_raises() -> None:
    values, contexts = heavy_tailed(500), np.zeros(500, np.uint8)
    data = encode(values, contexts, 1)
    for length in (0, 1, 5, 20, len(data) - 1):
        with pytest.raises(ArchiveError, match=r"damaged|cut"):
            IntegerDecoder(data[:length], 1).take(contexts)


def test_integers_beyond_the_limit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie between -536870912 and 536870912, got 536870912"):
        encode(np.array([LARGEST], np.int32), np.zeros(1, np.uint8), 1)


def test_unknown_contexts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"contexts must lie in \[0, 2\), got 2"):
        encode(np.zeros(1, np.int32), np.array([2]), 2)


@given(st.integers(0, 2**35 - 1))
def test_varints_come_back(value: int) -> None:
    assert ByteReader(varint(value), "a number").varint() == value


def test_endless_varint_raises() -> None:
    with pytest.raises(ArchiveError, match="more than 35 bits"):
        ByteReader(b"\xff" * 9, "a number").varint()
