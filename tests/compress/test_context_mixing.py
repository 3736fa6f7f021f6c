from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from quietbeam.compress.binary_coder import BinaryCoder, check_end, finish, new_decoder, new_encoder, reserve
from quietbeam.compress.context_mixing import (
    NUM_MODELS,
    code_integer,
    code_mixed,
    new_counted_bits,
    new_mixer,
    squash_table,
    stretch_table,
)

SQUASH_ERROR = 0.035
"""Of a probability: lines between knots half a unit of the exponent apart."""
LEARNING = 0.05
"""Share of the entropy that finding the probabilities may cost."""


def run(coder: BinaryCoder, bits: np.ndarray, contexts: np.ndarray) -> list[int]:
    mixer, row = new_mixer(), np.zeros(NUM_MODELS, np.int64)
    out = []
    for bit, context in zip(bits.tolist(), contexts.tolist(), strict=True):
        row[:] = [context, *range(NUM_MODELS - 1)]
        out.append(code_mixed(coder, mixer, row, (3, 1, 2, 7), bit))
    return out


def encode(bits: np.ndarray, contexts: np.ndarray) -> bytes:
    coder = reserve(new_encoder(), len(bits))
    run(coder, bits, contexts)
    return finish(coder)


def test_decisions_come_back() -> None:
    rng = np.random.default_rng(0)
    contexts = rng.integers(0, 4096, 3000)
    bits = (rng.random(3000) < contexts / 4096).astype(np.int64)
    decoder = new_decoder(encode(bits, contexts))
    assert run(decoder, np.zeros_like(bits), contexts) == bits.tolist()
    check_end(decoder)


@pytest.mark.parametrize("probability", [0.03, 0.5, 0.9])
def test_size_is_near_the_entropy(probability: float) -> None:
    bits = (np.random.default_rng(1).random(20_000) < probability).astype(np.int64)
    entropy = -(probability * math.log2(probability) + (1 - probability) * math.log2(1 - probability))
    measured = 8 * len(encode(bits, np.zeros_like(bits))) / len(bits)
    empirical = bits.mean() * -math.log2(probability) + (1 - bits.mean()) * -math.log2(1 - probability)
    assert empirical - 0.01 * entropy < measured < empirical + LEARNING * entropy


def test_a_context_that_tells_the_bit_is_found_among_others() -> None:
    contexts = np.random.default_rng(2).integers(0, 2, 4000)
    assert 8 * len(encode(contexts, contexts)) / len(contexts) < 0.1


def test_squash_is_the_logistic_function_and_stretch_its_inverse() -> None:
    squash, stretch, odds = squash_table(), stretch_table(), np.arange(-2047, 2048)
    exact = 65536 / (1 + np.exp(-odds / 256))
    assert np.abs(squash[1:] / exact - 1).max() < SQUASH_ERROR
    assert np.all(np.diff(squash) >= 0)
    inner = np.abs(odds) < 1000
    assert np.abs(stretch[squash[1:][inner] >> 4] - odds[inner]).max() <= 6
    assert stretch.min() == -2047 and stretch.max() <= 2047


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1 - 2**31, 2**31 - 1) | st.integers(-20, 20), max_size=60))
def test_integers_come_back(values: list[int]) -> None:
    coder, bits = reserve(new_encoder(), 100 * len(values)), new_counted_bits(2)
    for place, value in enumerate(values):
        assert code_integer(coder, bits, place % 2, value) == value
    decoder, bits = new_decoder(finish(coder)), new_counted_bits(2)
    assert [code_integer(decoder, bits, place % 2, 0) for place in range(len(values))] == values
    check_end(decoder)
