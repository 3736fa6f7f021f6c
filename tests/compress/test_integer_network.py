from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quietbeam.compress.fixed_point import LARGEST_ACTIVATION
from quietbeam.compress.integer_network import IntegerNetwork, PixelShuffle3d, Residual, SineOfTurns
from quietbeam.compress.integer_tensors import integer_tensors, tensors_from_bytes, tensors_to_bytes

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


def test_pixel_shuffle_in_two_of_three_axes_is_that_of_torch() -> None:
    values = integers((2, 8, 1, 3, 4))
    shuffled = PixelShuffle3d(2)(values)
    assert shuffled.shape == (2, 1, 2, 6, 8)
    for offset in range(2):
        planes = values[:, 4 * offset : 4 * offset + 4, 0]
        assert torch.equal(shuffled[:, 0, offset : offset + 1], nn.PixelShuffle(2)(planes))


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
