from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from quietbeam.compress.lattice_stream import DISTORTION_WEIGHT, LARGEST, decode_lattice, encode_lattice
from quietbeam.compress.pyramid import STEP, encode_pyramid
from quietbeam.reconstruction.errors import ArchiveError

from .volumes import foam

PINNED = "1a26a9cbab036cf809851f94cb234f65f114674eb601e0f7c605f157c8618ce6"
"""sha256 of bitstreams: a change means that old archives no longer decode."""
EXAMPLES = """
import hashlib, numpy as np
from quietbeam.compress.lattice_stream import decode_lattice, encode_lattice
rng = np.random.default_rng(0)
def code(values, step, weight):
    coded, decoded = encode_lattice(values.astype(np.int32), step, distortion_weight=weight)
    assert np.array_equal(decode_lattice(coded, values.shape), decoded)
    return coded
z, y, x = np.indices((6, 6, 6))
smooth = 40 * z - 30 * y + x * x * 5 + rng.integers(-9, 9, (6, 6, 6))
wild = rng.integers(1 - 2**28, 2**28, (3, 4, 5))
made = [code(smooth, 7, 0.12), code(smooth, 3, 0.0), code(wild, 2**20 + 1, 0.0), code(wild, 9999, 0.12)]
print(hashlib.sha256(b"".join(made)).hexdigest())
"""

extremes = st.sampled_from([1 - LARGEST, LARGEST - 1, 0, 1])
shapes = hnp.array_shapes(min_dims=3, max_dims=3, max_side=9)
numbers = st.integers(1 - LARGEST, LARGEST - 1) | st.integers(-300, 300) | extremes
blocks = hnp.arrays(np.int32, shapes, elements=numbers)


def smooth(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.rint(30_000 * foam(shape, num_voids=30, seed=seed)).astype(np.int32)


def psnr(decoded: np.ndarray, values: np.ndarray) -> float:
    return float(20 * np.log10(np.ptp(values) / np.sqrt(np.mean(np.square(decoded - values.astype(np.float64))))))


@settings(max_examples=60, deadline=None)
@given(blocks, st.integers(1, 2000) | st.integers(1, 2**29 - 1), st.sampled_from([0.0, DISTORTION_WEIGHT]))
def test_decoder_gives_what_the_encoder_gave(values: np.ndarray, step: int, weight: float) -> None:
    bitstream, decoded = encode_lattice(values, step, distortion_weight=weight)
    np.testing.assert_array_equal(decode_lattice(bitstream, values.shape), decoded)
    if not weight:
        assert np.abs(decoded.astype(np.int64) - values).max() <= step // 2


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 200), (1, 70, 90), (40, 1, 33), (2, 100, 90), (16, 48, 50), (33, 32, 31)]
)
@pytest.mark.parametrize("weight", [0.0, DISTORTION_WEIGHT])
def test_shapes_with_models_and_filters(shape: tuple[int, int, int], weight: float) -> None:
    values = smooth(shape)
    bitstream, decoded = encode_lattice(values, 301, distortion_weight=weight)
    np.testing.assert_array_equal(decode_lattice(bitstream, shape), decoded)
    error = np.abs(decoded - values)
    assert error.max() <= (150 if not weight else 3000)
    assert error.mean() < 150


@pytest.mark.parametrize("noise", [0, 2**15])
def test_a_step_of_one_is_lossless(noise: int) -> None:
    values = smooth((9, 40, 40))
    values += np.random.default_rng(0).integers(-noise, noise + 1, values.shape, np.int32)
    bitstream, decoded = encode_lattice(values.astype(np.int32), 1)
    np.testing.assert_array_equal(decode_lattice(bitstream, values.shape), values)
    np.testing.assert_array_equal(decoded, values)
    assert 8 * len(bitstream) < 18 * values.size


def test_a_constant_takes_a_few_bytes() -> None:
    for constant in (0, -5, LARGEST - 1, 1 - LARGEST):
        values = np.full((5, 60, 60), constant, np.int32)
        bitstream, _ = encode_lattice(values, 17)
        assert len(bitstream) < 16
        np.testing.assert_array_equal(decode_lattice(bitstream, values.shape), values)


def test_fewer_bits_than_the_pyramid_at_equal_quality() -> None:
    values = smooth((24, 64, 64))
    step = 1000
    scale = STEP / step
    coded, _ = encode_pyramid(np.rint(values * scale).astype(np.int32))
    decoded = encode_pyramid(np.rint(values * scale).astype(np.int32))[1] / scale
    bounded, same_bound = encode_lattice(values, step)
    assert len(bounded) < 0.9 * len(coded)
    free, filtered = encode_lattice(values, 1100, distortion_weight=DISTORTION_WEIGHT)
    assert psnr(filtered, values) > max(psnr(decoded, values), psnr(same_bound, values)) - 0.5
    assert len(free) < 0.8 * len(coded)


def test_the_filter_brings_values_nearer() -> None:
    values = smooth((24, 64, 64))
    plain_bytes, plain = encode_lattice(values, 1500, distortion_weight=DISTORTION_WEIGHT, filtered=False)
    coded, filtered = encode_lattice(values, 1500, distortion_weight=DISTORTION_WEIGHT)
    assert psnr(filtered, values) > psnr(plain, values) + 0.1
    assert len(plain_bytes) < len(coded) < 1.1 * len(plain_bytes)


def digest(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("num_threads", ["1", "2"])
def test_bitstreams_are_pinned_for_any_number_of_threads(num_threads: str) -> None:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    assert digest(**dict.fromkeys(names, num_threads)) == PINNED


def test_without_compilation_the_bits_are_the_same() -> None:
    # Numbers of Python and numpy complain where machine integers would wrap round.
    assert digest(NUMBA_DISABLE_JIT="1") == PINNED


@pytest.mark.parametrize("weight", [0.0, DISTORTION_WEIGHT])
def test_damaged_bytes_decode_or_raise_archive_error(weight: float) -> None:
    values = smooth((5, 20, 20))
    bitstream, _ = encode_lattice(values, 900, distortion_weight=weight)
    rng = np.random.default_rng(0)
    noticed = 0
    for trial in range(60):
        damaged = bytearray(bitstream)
        if trial % 3:
            damaged[rng.integers(len(damaged) if trial % 3 == 1 else 20)] ^= 1 << rng.integers(8)
        else:
            del damaged[rng.integers(len(damaged)) :]
        try:
            assert decode_lattice(bytes(damaged), values.shape).shape == values.shape
        except ArchiveError:
            noticed += 1
    assert noticed > 40


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_decode_or_raise_archive_error(data: bytes) -> None:
    with suppress(ArchiveError):
        assert decode_lattice(data, (2, 5, 4)).shape == (2, 5, 4)


def test_what_cannot_be_coded_is_refused() -> None:
    with pytest.raises(ValueError, match=r"below 2\^28"):
        encode_lattice(np.full((1, 1, 2), LARGEST, np.int32), 1)
    with pytest.raises(ValueError, match="step be positive, got values from 0 to 0, step 0"):
        encode_lattice(np.zeros((1, 1, 2), np.int32), 0)
    with pytest.raises(ValueError, match=r"at least one each, got shape \(1, 0, 2\)"):
        encode_lattice(np.zeros((1, 0, 2), np.int32), 1)
