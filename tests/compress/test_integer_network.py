from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quietbeam.compress import integer_network
from quietbeam.compress.integer_network import (
    LARGEST_ACTIVATION,
    IntegerNetwork,
    PixelShuffle3d,
    Residual,
    SineOfTurns,
    TableFunction,
    exact_conv,
    exact_conv_transpose,
    gelu,
    integer_tensors,
    rescale,
    sigmoid,
    sine_of_turns,
    tensors_from_bytes,
    tensors_to_bytes,
    to_fixed,
)
from quietbeam.reconstruction.errors import ArchiveError

UNIT = 2.0**-12
TOLERANCE = 4 * UNIT
"""Each of at most ten layers rounds to half a unit, and their gains, with torch's initial weights, are below one."""
FIELD_TOLERANCE = 40 * UNIT
"""A sine of turns has a gain of 2 pi; two follow each other."""


def layers_2d() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.MaxPool2d(2), nn.Identity()),
        Residual(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1)),
        *(nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1), nn.PReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 5, stride=2, padding=2, bias=False), nn.GELU()),
        *(nn.PixelShuffle(2), nn.Upsample(scale_factor=2), nn.Conv2d(4, 1, 3, padding=2, dilation=2), nn.Sigmoid()),
    )


def layers_3d() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose3d(4, 8, 2, stride=2), nn.GELU()),
        *(PixelShuffle3d(2), nn.Conv3d(1, 2, 3, stride=2, padding=1)),
    )


def fields() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 16), SineOfTurns(), nn.Linear(16, 16), SineOfTurns(), nn.Linear(16, 1))


def integers(shape: tuple[int, ...], size: float = 2.0**14) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(-size, size + 1, shape).astype(np.float64))


def pinned_network() -> IntegerNetwork:
    """Weights that do not depend on how torch draws random numbers."""
    rng, module = np.random.default_rng(0), layers_2d()
    tensors = {
        name: torch.from_numpy(np.asarray(rng.integers(-3000, 3000, tuple(tensor.shape)), np.int32))
        if tensor.ndim
        else torch.tensor(14, dtype=torch.int32)
        for name, tensor in integer_tensors(module).items()
    }
    return IntegerNetwork(module, tensors)


def network(module: nn.Module) -> IntegerNetwork:
    return IntegerNetwork(module, integer_tensors(module))


CASES: list[tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = [
    (layers_2d, (2, 3, 14, 10)),
    (layers_3d, (2, 1, 4, 6, 5)),
    (fields, (50, 3)),
]


@pytest.mark.parametrize(("build", "shape"), CASES)
def test_whole_numbers_are_close_to_floats(build: Callable[[], nn.Sequential], shape: tuple[int, ...]) -> None:
    module, values = build(), integers(shape)
    with torch.no_grad():
        expected = module.double()(values * UNIT)
    computed = network(module)(values)
    assert torch.equal(computed, torch.round(computed))
    tolerance = FIELD_TOLERANCE if build is fields else TOLERANCE
    torch.testing.assert_close(computed * UNIT, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("build", "shape"), CASES)
def test_stored_networks_give_the_same(build: Callable[[], nn.Sequential], shape: tuple[int, ...]) -> None:
    module, values = build(), integers(shape)
    data = tensors_to_bytes(integer_tensors(module))
    with torch.device("meta"):
        structure = build()
    again = IntegerNetwork(structure, tensors_from_bytes(structure, data))
    assert torch.equal(again(values), network(module)(values))
    assert len(data) < 2 * sum(parameter.numel() for parameter in module.parameters()) + 200


def test_fewer_bits_make_smaller_files() -> None:
    module, values = layers_2d(), integers((1, 3, 12, 12))
    tensors = {bits: integer_tensors(module, weight_bits=bits) for bits in (8, 12, 16)}
    sizes = [len(tensors_to_bytes(each)) for each in tensors.values()]
    assert sizes == sorted(sizes)
    assert max(int(tensors[8][name].abs().max()) for name in tensors[8] if name.endswith("0.weight")) < 2**7
    errors = [
        (IntegerNetwork(module, each)(values) - network(module)(values)).abs().mean() for each in tensors.values()
    ]
    assert errors[0] > errors[1] > errors[2] == 0


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("onednn", [True, False])
def test_threads_and_libraries_change_no_bit(num_threads: int, onednn: bool) -> None:
    before = torch.get_num_threads()
    values = integers((2, 3, 40, 36), 2.0**15)
    try:
        torch.set_num_threads(num_threads)
        with torch.backends.mkldnn.flags(enabled=onednn):
            computed = pinned_network()(values)
    finally:
        torch.set_num_threads(before)
    assert hashlib.sha256(computed.numpy().astype("<i4").tobytes()).hexdigest() == PINNED


PINNED = "9f3dc1e3477144649ae4b15f0ab29979940bf06095364f27ea43274088c64700"


def test_batches_and_memory_layout_change_no_bit() -> None:
    values, computes = integers((3, 3, 20, 18), LARGEST_ACTIVATION), network(layers_2d())
    together = computes(values)
    assert torch.equal(together, torch.cat([computes(values[index : index + 1]) for index in range(3)]))
    assert torch.equal(together, computes(values.to(memory_format=torch.channels_last)))


def test_bands_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    values, weight = integers((2, 3, 17, 13)), integers((4, 3, 3, 3), 2**15 - 1)
    whole = nn.functional.conv2d(values, weight, stride=2, padding=1)
    transposed = nn.functional.conv_transpose2d(values, weight[:3], stride=2, padding=1, output_padding=1)
    for size in (1, 500, 10**9):
        monkeypatch.setattr(integer_network, "_BUFFER", size)
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


def test_pixel_shuffle_in_two_of_three_axes_is_that_of_torch() -> None:
    values = integers((2, 8, 1, 3, 4))
    shuffled = PixelShuffle3d(2)(values)
    assert shuffled.shape == (2, 1, 2, 6, 8)
    for offset in range(2):
        planes = values[:, 4 * offset : 4 * offset + 4, 0]
        assert torch.equal(shuffled[:, 0, offset : offset + 1], nn.PixelShuffle(2)(planes))


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
        (lambda x: 1 / (1 + math.exp(-x)), -16, 16, 7, integer_network._sigmoid_table),
        (lambda t: math.sin(2 * math.pi * t), 0, 1, 12, integer_network._sine_table),
        (lambda x: x * math.erfc(x / math.sqrt(2)) / 2, 0, 8, 7, integer_network._gelu_table),
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


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-3, 100.0, 3e4])
def test_extreme_weights_stay_exact(size: float) -> None:
    layer = nn.Conv2d(64, 2, 3, bias=True)
    with torch.no_grad():
        layer.weight.fill_(min(size, 2.0**24 / 577))
        layer.bias.fill_(1e9)
    tensors = integer_tensors(layer)
    values = torch.full((1, 64, 3, 3), -LARGEST_ACTIVATION, dtype=torch.float64)
    weight, shift = int(tensors["weight"][0, 0, 0, 0]), int(tensors["shift"])
    assert weight * 2.0**-shift == pytest.approx(min(size, 2.0**24 / 577), rel=2.0**-10, abs=2.0**-24)
    exact = (2**23 << shift) - 576 * weight * 2**23
    expected = max(min((2 * exact + (1 << shift)) >> (shift + 1), 2**23), -(2**23))
    assert IntegerNetwork(layer, tensors)(values).unique().tolist() == [expected]


@pytest.mark.parametrize(("value", "match"), [(math.nan, "not finite"), (math.inf, "not finite"), (4e4, "below 32768")])
def test_networks_that_diverged_are_refused(value: float, match: str) -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight[0, 0] = value
    with pytest.raises(ValueError, match=match):
        integer_tensors(layer)


class Unknown(nn.Sequential):
    def forward(self, values: Tensor) -> Tensor:
        return -values


@pytest.mark.parametrize(
    "layer",
    [
        nn.Tanh(),
        nn.GELU(approximate="tanh"),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=1.5),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(2, 2, 3, stride=(1, 2)),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(2, 2, 3, dilation=2),
        Unknown(),
    ],
)
def test_layers_that_would_be_computed_wrong_are_refused(layer: nn.Module) -> None:
    with pytest.raises(TypeError, match="in whole numbers"):
        network(nn.Sequential(layer))


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("0.weight", torch.zeros(8, 3, 3, 1), "first at 0.weight"),
        ("0.bias", torch.zeros(9), "first at 0.bias"),
        ("9.weight", torch.zeros(1), "first at 9.weight"),
        ("0.shift", torch.tensor(200), "0.shift of a stored network exceeds 24"),
        ("0.shift", torch.tensor(-1), "0.shift of a stored network exceeds 24"),
        ("0.bias", torch.full((8,), 2**24), "0.bias of a stored network exceeds"),
        ("1.weight", torch.full((8,), -(2**25)), "1.weight of a stored network exceeds"),
        ("0.weight", torch.full((8, 3, 3, 3), 2**15), "0.weight of a stored network exceeds"),
        ("0.weight", torch.full((8, 3, 3, 3), 2**20), "weights of 0.weight in a stored network are too large"),
    ],
)
def test_damaged_tensors_raise(name: str, value: Tensor, match: str) -> None:
    module = layers_2d()
    with pytest.raises(ArchiveError, match=match):
        IntegerNetwork(module, {**integer_tensors(module), name: value.to(torch.int32)})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_raise_or_give_another_network(data: st.DataObject) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.PReLU(), nn.Conv2d(2, 1, 1))
    stored = bytearray(tensors_to_bytes(integer_tensors(module)))
    place = data.draw(st.integers(0, len(stored) - 1))
    stored[place] ^= data.draw(st.integers(1, 255))
    del stored[data.draw(st.integers(1, len(stored))) :]
    try:
        computes = IntegerNetwork(module, tensors_from_bytes(module, bytes(stored)))
    except ArchiveError:
        return
    assert computes(integers((1, 1, 5, 5))).shape == (1, 1, 3, 3)


def test_values_are_rounded_and_limited() -> None:
    assert to_fixed(torch.tensor([0.0, 1.5 * UNIT, -1.5 * UNIT, 1e9])).tolist() == [0, 2, -1, 2**23]
