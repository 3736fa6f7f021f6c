from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quietbeam.compress.codebook_indices import decode_indices, encode_indices
from quietbeam.reconstruction.errors import ArchiveError

PINNED = "b189fd58f4606018a64fae372856bf55fca603f30b15ae8bc59487df37b4746d"
"""sha256 of the bitstream of a grid; a change would be another format."""


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32), st.tuples(*(st.integers(1, 5),) * 3), st.sampled_from([(1, 1), (3, 2), (64, 8), (256, 2)])
)
def test_indices_come_back(seed: int, shape: tuple[int, int, int], codebook: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    entries = rng.integers(-(2**23), 2**23 + 1, codebook).astype(np.int32)
    entries[:: 1 + seed % 3] = entries[0]
    indices = rng.integers(0, codebook[0], shape).astype(np.int32)
    np.testing.assert_array_equal(decode_indices(encode_indices(indices, entries), shape, entries), indices)


def test_neighbours_make_indices_cheap() -> None:
    rng = np.random.default_rng(0)
    entries = rng.integers(-4096, 4096, (64, 8)).astype(np.int32)
    blocks = np.kron(rng.integers(0, 64, (2, 4, 4)), np.ones((4, 8, 8), int)).astype(np.int32)
    shuffled = rng.permutation(blocks.ravel()).reshape(blocks.shape)
    assert len(encode_indices(blocks, entries)) < 0.4 * len(encode_indices(shuffled, entries))


def test_the_bitstream_is_pinned() -> None:
    entries = (np.arange(16 * 3) ** 2 % 8191 - 4096).reshape(16, 3).astype(np.int32)
    indices = (np.arange(3 * 5 * 6) ** 2 % 61 % 16).reshape(3, 5, 6).astype(np.int32)
    assert hashlib.sha256(encode_indices(indices, entries)).hexdigest() == PINNED


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255), st.integers(0, 3))
def test_a_damaged_bitstream_raises_or_keeps_the_shape(place: int, flip: int, cut: int) -> None:
    rng = np.random.default_rng(0)
    entries = rng.integers(-4096, 4096, (64, 8)).astype(np.int32)
    bitstream = bytearray(encode_indices(rng.integers(0, 64, (2, 5, 6)).astype(np.int32), entries))
    bitstream[place % len(bitstream)] ^= flip
    try:
        indices = decode_indices(bytes(bitstream[: len(bitstream) - cut]), (2, 5, 6), entries)
    except ArchiveError:
        return
    assert indices.shape == (2, 5, 6)
    assert 0 <= indices.min() <= indices.max() < 64
