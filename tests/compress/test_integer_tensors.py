from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quietbeam.compress.fixed_point import LARGEST_ACTIVATION
from quietbeam.compress.integer_network import IntegerNetwork
from quietbeam.compress.integer_tensors import integer_tensors, tensors_from_bytes, tensors_to_bytes
from quietbeam.reconstruction.errors import ArchiveError

PINNED = "5c2585d5ec3f9b4095a32d18f17284311beb1139fdedd40fbb12c58dc056e7f3"
"""sha256 of the bytes of a network; a change would be another format."""


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.ConvTranspose2d(8, 4, 3, stride=2, bias=False)),
        *(nn.ReLU(), nn.Conv2d(4, 1, 1)),
    )


def integers(shape: tuple[int, ...], size: float = 2.0**14) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(-size, size + 1, shape).astype(np.float64))


def test_fewer_bits_make_smaller_files() -> None:
    module, values = layers(), integers((1, 3, 12, 12))
    tensors = {bits: integer_tensors(module, weight_bits=bits) for bits in (8, 12, 16)}
    sizes = [len(tensors_to_bytes(each)) for each in tensors.values()]
    assert sizes == sorted(sizes)
    assert max(int(tensors[8][name].abs().max()) for name in ("0.weight", "2.weight", "4.weight")) < 2**7
    computed = [IntegerNetwork(module, each)(values) for each in tensors.values()]
    errors = [(each - computed[-1]).abs().mean() for each in computed]
    assert errors[0] > errors[1] > errors[2] == 0


def test_the_bytes_are_pinned() -> None:
    rng = np.random.default_rng(0)
    tensors = {
        name: torch.from_numpy(np.asarray(rng.integers(-3000, 3000, tuple(tensor.shape)), np.int32))
        if tensor.ndim
        else torch.tensor(14, dtype=torch.int32)
        for name, tensor in integer_tensors(layers()).items()
    }
    stored = tensors_to_bytes(tensors)
    assert hashlib.sha256(stored).hexdigest() == PINNED
    read = tensors_from_bytes(layers(), stored)
    names = [f"{layer}.{part}" for layer in (0, 4) for part in ("weight", "shift", "bias")]
    assert list(read) == [*names[:3], "1.weight", "2.weight", "2.shift", *names[3:]]
    assert all(torch.equal(read[name], tensors[name]) for name in read)


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
    module = layers()
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
