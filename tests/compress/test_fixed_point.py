from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quietbeam.compress import fixed_point
from quietbeam.compress.fixed_point import (
    LARGEST_ACTIVATION,
    TableFunction,
    exact_conv,
    exact_conv_transpose,
    exact_linear,
    gelu,
    rescale,
    sigmoid,
    sine_of_turns,
    to_fixed,
)
from quietbeam.compress.integer_network import SineOfTurns

UNIT = 2.0**-12


def integers(shape: tuple[int, ...], size: float = 2.0**14) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(-size, size + 1, shape).astype(np.float64))


def test_bands_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    values, weight = integers((2, 3, 17, 13)), integers((4, 3, 3, 3), 2**15 - 1)
    whole = nn.functional.conv2d(values, weight, stride=2, padding=1)
    transposed = nn.functional.conv_transpose2d(values, weight[:3], stride=2, padding=1, output_padding=1)
    for size in (1, 500, 10**9):
        monkeypatch.setattr(fixed_point, "_BUFFER", size)
        assert torch.equal(exact_conv(values, weight, stride=2, padding=1), whole)
        computed = exact_conv_transpose(values, weight[:3], stride=2, padding=1, output_padding=1)
        assert torch.equal(computed, transposed)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2))
def test_convolution_is_that_of_int64(seed: int, stride: int, padding: int, dilation: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-(2**23), 2**23 + 1, (1, 2, 7, 6))
    weight = rng.integers(-(2**15) + 1, 2**15, (2, 2, 3, 2))
    padded = np.pad(values[0], [(0, 0), (padding, padding), (padding, padding)])
    rows, columns = (
        (padded.shape[axis + 1] - dilation * (size - 1) - 1) // stride + 1 for axis, size in ((0, 3), (1, 2))
    )
    expected = np.zeros((2, rows, columns), np.int64)
    for out, channel, y, x in np.ndindex(weight.shape):
        reach = padded[channel, dilation * y :: stride, dilation * x :: stride][:rows, :columns]
        expected[out] += weight[out, channel, y, x] * reach
    computed = exact_conv(
        torch.from_numpy(values).double(),
        torch.from_numpy(weight).double(),
        stride=stride,
        padding=padding,
        dilation=dilation,
    )
    np.testing.assert_array_equal(computed[0].numpy(), expected)


@given(st.integers(-(2**47), 2**47), st.integers(0, 24))
def test_rescaling_rounds_halves_up(value: int, shift: int) -> None:
    expected = (2 * value + (1 << shift)) >> (shift + 1)
    limited = min(max(expected, -(2**23)), 2**23)
    assert int(rescale(torch.tensor([value], dtype=torch.float64), shift)) == limited


TABLES = [(sigmoid, torch.sigmoid, 2e-6), (gelu, nn.GELU(), 1e-5), (sine_of_turns, SineOfTurns(), 2e-6)]


@pytest.mark.parametrize(("function", "float_function", "margin"), TABLES)
@pytest.mark.parametrize("fraction_bits", [12, 16, 20])
def test_tables_are_close_to_their_functions(
    function: Callable[[Tensor, int], Tensor],
    float_function: Callable[[Tensor], Tensor],
    margin: float,
    fraction_bits: int,
) -> None:
    values = torch.arange(-LARGEST_ACTIVATION, LARGEST_ACTIVATION, 1013, dtype=torch.float64)
    values = values[values.abs() < 64 * 2.0**fraction_bits]
    off = function(values, fraction_bits) * 2.0**-fraction_bits - float_function(values * 2.0**-fraction_bits)
    assert float(off.abs().max()) < margin + 2.0**-fraction_bits / 2


@pytest.mark.parametrize(
    ("function", "first", "last", "knot_bits", "table"),
    [
        (lambda x: 1 / (1 + math.exp(-x)), -16, 16, 7, fixed_point._sigmoid_table),
        (lambda t: math.sin(2 * math.pi * t), 0, 1, 12, fixed_point._sine_table),
        (lambda x: x * math.erfc(x / math.sqrt(2)) / 2, 0, 8, 7, fixed_point._gelu_table),
    ],
)
def test_no_mathematical_library_can_change_a_table(
    function: Callable[[float], float], first: int, last: int, knot_bits: int, table: Callable[[], TableFunction]
) -> None:
    scaled = (
        np.array([function(n * 2.0**-knot_bits) for n in range(first << knot_bits, (last << knot_bits) + 1)]) * 2**20
    )
    assert np.abs(scaled - np.floor(scaled) - 0.5).min() > 1e-9
    np.testing.assert_array_equal(table().knots.numpy(), np.floor(scaled + 0.5))


def test_too_few_fraction_bits_for_a_table_are_refused() -> None:
    with pytest.raises(ValueError, match="fraction_bits must be at least 12 for this table, got 8"):
        sine_of_turns(torch.zeros(1, dtype=torch.float64), 8)


def test_values_are_rounded_and_limited() -> None:
    assert to_fixed(torch.tensor([0.0, 1.5 * UNIT, -1.5 * UNIT, 1e9])).tolist() == [0, 2, -1, 2**23]


def test_a_linear_map_is_that_of_int64() -> None:
    rng = np.random.default_rng(0)
    values, weight = rng.integers(-(2**23), 2**23 + 1, (7, 40)), rng.integers(-(2**15) + 1, 2**15, (5, 40))
    computed = exact_linear(torch.from_numpy(values).double(), torch.from_numpy(weight).double())
    np.testing.assert_array_equal(computed.numpy(), values @ weight.T)
