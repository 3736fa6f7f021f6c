from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from quietbeam.compress.latents import LARGEST_LATENT, decode_latents, encode_latents
from quietbeam.reconstruction.errors import ArchiveError

PINNED = "a4e2979158f40d2f11348e7a8fbfc1d9642fee710570a96b4a7d44888fd6a271"
"""sha256 of the bitstream of a grid; a change would be another format."""

GRIDS = arrays(
    np.int32,
    array_shapes(min_dims=4, max_dims=4, max_side=5),
    elements=st.one_of(st.integers(-3, 3), st.integers(-LARGEST_LATENT, LARGEST_LATENT)),
)


def alike_slices(num_slices: int = 16) -> np.ndarray:
    """Latents that hardly change from slice to slice, as those of a tomographic volume."""
    rng = np.random.default_rng(0)
    first = rng.integers(-40, 41, (1, 12, 6, 5))
    return (first + rng.integers(-1, 2, (num_slices, 12, 6, 5)).cumsum(0)).astype(np.int32)


@given(GRIDS)
def test_latents_come_back(latents: np.ndarray) -> None:
    decoded = decode_latents(encode_latents(latents), latents.shape)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, latents)


def test_slices_that_are_alike_take_far_fewer_bytes_than_each_alone() -> None:
    latents = alike_slices()
    together = len(encode_latents(latents))
    alone = sum(len(encode_latents(latents[index : index + 1])) for index in range(len(latents)))
    assert together < alone / 2
    # A step of -1, 0 or 1 carries log2(3) bits; the first slice and the tables come on top.
    assert 8 * together / latents.size < 3.0


def test_rows_that_are_alike_are_predicted_within_a_slice() -> None:
    ramp = np.add.outer(np.arange(40), np.arange(40))[None, None].astype(np.int32)
    shuffled = np.random.default_rng(0).permutation(ramp.ravel()).reshape(ramp.shape)
    assert len(encode_latents(ramp)) < len(encode_latents(shuffled)) / 3


def test_the_bitstream_is_pinned() -> None:
    latents = (np.arange(3 * 5 * 4 * 6) ** 2 % 61 - 30).reshape(3, 5, 4, 6).astype(np.int32)
    latents[:, 2] = 0
    assert hashlib.sha256(encode_latents(latents)).hexdigest() == PINNED


def test_a_latent_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match=f"at most {LARGEST_LATENT} in size, got {LARGEST_LATENT + 1}"):
        encode_latents(np.full((1, 1, 1, 1), -LARGEST_LATENT - 1, np.int32))


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_bitstream_raises_or_gives_latents_of_the_right_shape(place: int, byte: int) -> None:
    latents = alike_slices(2)
    damaged = bytearray(encode_latents(latents))
    damaged[place % len(damaged)] = byte
    try:
        decoded = decode_latents(bytes(damaged), latents.shape)
    except ArchiveError:
        return
    assert decoded.shape == latents.shape
    assert np.abs(decoded).max() <= LARGEST_LATENT


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_bitstream_cut_short_raises(keep: int) -> None:
    latents = alike_slices(2)
    with pytest.raises(ArchiveError):
        decode_latents(encode_latents(latents)[:keep], latents.shape)
