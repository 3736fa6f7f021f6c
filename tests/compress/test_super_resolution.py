from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from quietbeam.compress.integer_tensors import integer_tensors
from quietbeam.compress.siren import VALUE_BITS, Training
from quietbeam.compress.super_resolution import (
    Convolution,
    LinearAttention,
    SuperResolution,
    exact_super_resolution,
    fit_super_resolution,
)
from quietbeam.reconstruction.errors import ArchiveError

UNIT = 2.0**-VALUE_BITS
FLOAT32 = 1e-5
"""float32 sums of some hundred products of order 1."""
SIXTEEN_BITS = 2e-3
"""Weights of 16 bits and values of 2^-16 through eleven layers; weights of 12 bits would show as 1e-2."""


def seeded(channels: int = 4, factor: int = 2) -> SuperResolution:
    torch.manual_seed(0)
    return SuperResolution(channels, factor)


def small_volume(shape: tuple[int, int, int] = (3, 4, 5)) -> torch.Tensor:
    """Values that whole numbers hold exactly."""
    return torch.round(torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2**16)


def stored(network: torch.nn.Module, weight_bits: int = 16) -> dict[str, torch.Tensor]:
    return integer_tensors(network, fraction_bits=VALUE_BITS, weight_bits=weight_bits)


def lifted_as_in_the_source(features: torch.Tensor) -> torch.Tensor:
    """Look the eight corners up by coordinates as SRNO does: the nearest sample, with ties moved up by 1e-6."""
    columns, areas = [], []
    for corner in product((-1, 1), repeat=3):
        indices, distances = [], []
        for side, size in zip(corner, features.shape, strict=True):
            centres = (2 * np.arange(size) + 1 - size) / size
            shifted = np.clip(centres + side / size + 1e-6, -1 + 1e-6, 1 - 1e-6)
            nearest = np.floor((shifted + 1) / 2 * size).astype(int)
            indices.append(nearest)
            distances.append((centres - centres[nearest]) * size)
        grid = np.stack(np.meshgrid(*distances, indexing="ij"), -1).reshape(-1, 3)
        columns.append((grid, features.numpy()[np.ix_(*indices)].reshape(-1)))
        areas.append(np.abs(grid.prod(1)) + 1e-9)
    weights = np.stack(areas[::-1]) / np.sum(areas, axis=0)
    sizes = np.full((features.numel(), 3), 2.0)
    weighted = [values * weight for (_, values), weight in zip(columns, weights, strict=True)]
    return torch.from_numpy(np.column_stack([*(grid for grid, _ in columns), *weighted, sizes]))


@pytest.mark.parametrize("channels", [4, 8, 16])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_parameters_are_those_of_the_documented_table(channels: int, factor: int) -> None:
    with torch.device("meta"):
        network = SuperResolution(channels, factor)
    parts = [network.features, network.lift, network.attention, network.project]
    features = 28 * channels + 5 * (27 * channels**2 + channels) + (27 * channels + 1) * factor**3
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    assert counts == [features, 72, 76, 1025]
    assert sum(parameter.numel() for parameter in network.parameters()) == features + 1173


def test_convolution_in_planes_is_the_one_in_space() -> None:
    torch.manual_seed(0)
    layer, volume = Convolution(3, 4), torch.randn(1, 3, 4, 5, 6)
    with torch.no_grad():
        expected = F.conv3d(volume, layer.weight, layer.bias, padding=1)
        torch.testing.assert_close(layer(volume), expected, atol=FLOAT32, rtol=0)


@pytest.mark.parametrize(("feature_weight", "compared"), [(1.0, slice(None, -1)), (0.0, slice(None))])
def test_lift_is_that_of_the_source(feature_weight: float, compared: slice) -> None:
    """In the last planes the source weights neighbours equally: there, only the distances are compared."""
    features = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = seeded().double()
    network.factor, network.features = 1, torch.nn.Sequential()
    network.attention, network.project = torch.nn.ModuleList(), torch.nn.Sequential()
    with torch.no_grad():
        network.lift.weight.normal_()
        network.lift.weight[:, 24:32] *= feature_weight
        expected = network.lift(lifted_as_in_the_source(features))[:, 0].reshape(3, 4, 5)
        lifted = network(features).reshape(3, 4, 5) - features
    where = (compared, compared, compared)
    torch.testing.assert_close(lifted[where], expected[where], atol=1e-6, rtol=0)


def test_attention_is_that_of_the_source() -> None:
    torch.manual_seed(0)
    block, points = LinearAttention().double(), torch.randn(30, 2, dtype=torch.float64)
    with torch.no_grad():
        block.key.weight.copy_(torch.tensor([[1.5], [-0.5]]))
        block.key.bias.copy_(torch.tensor([0.25, 0.75]))
        queries, keys, values = block.qkv(points).chunk(3, dim=-1)
        keys, values = ((part - part.mean(1, True)) / (part.std(1, keepdim=True) + 1e-5) for part in (keys, values))
        keys = keys * torch.tensor([1.5, 0.5]) + torch.tensor([0.25, 0.75])
        attended = queries @ (keys.T @ values / 30) + points
        torch.testing.assert_close(block(points), block.output(attended) + points, atol=1e-9, rtol=1e-4)


def test_weights_without_effect_start_and_stay_at_zero() -> None:
    pair = (small_volume() * UNIT).float(), torch.rand(6, 8, 10)
    network = fit_super_resolution(seeded, [pair], Training(2, 1e-2, 0, "cpu"))
    assert not network.lift.weight[:, 25:32].any()
    assert network.lift.weight[:, 24].all()


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_whole_numbers_are_near_the_trained_network(factor: int) -> None:
    network, volume = seeded(4, factor), small_volume()
    with torch.device("meta"):
        built = SuperResolution(4, factor)
    exact = exact_super_resolution(built, stored(network), volume)
    with torch.no_grad():
        expected = network((volume * UNIT).float()).reshape(exact.shape)
        trilinear = F.interpolate((volume * UNIT)[None, None], scale_factor=factor, mode="trilinear")[0, 0]
    assert exact.shape == tuple(factor * size for size in volume.shape)
    assert torch.equal(exact, exact.round())
    assert (expected - trilinear).abs().max() > 10 * SIXTEEN_BITS
    np.testing.assert_allclose(exact * UNIT, expected, atol=SIXTEEN_BITS)


def test_without_weights_the_volume_is_enlarged_trilinearly() -> None:
    network, volume = seeded(), small_volume()
    nothing = {name: torch.zeros_like(tensor) for name, tensor in stored(network).items()}
    exact = exact_super_resolution(network, nothing, volume)
    expected = F.interpolate(volume[None, None], scale_factor=2, mode="trilinear")[0, 0]
    assert torch.equal(exact, torch.floor(expected + 0.5))


def test_sampled_voxels_are_those_of_the_whole() -> None:
    network, volume = seeded(), (small_volume() * UNIT).float()
    voxels = torch.tensor([0, 479, 17, 17])
    with torch.no_grad():
        torch.testing.assert_close(network(volume, voxels), network(volume)[voxels], atol=FLOAT32, rtol=0)


def test_training_takes_the_pairs_in_turn_and_learns() -> None:
    volume = (small_volume() * UNIT).float()
    pairs = [(volume, torch.full((6, 8, 10), 0.25)), (volume.flip(0), torch.full((6, 8, 10), 0.25))]
    network = fit_super_resolution(seeded, pairs, Training(60, 1e-2, 0, "cpu"), sampled_voxels=200)
    with torch.no_grad():
        errors = [float((network(small) - large.reshape(-1)).abs().mean()) for small, large in pairs]
        untrained = float((seeded()(volume) - 0.25).abs().mean())
    assert max(errors) < 0.5 * untrained


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ArchiveError, match="does not fit"):
        exact_super_resolution(seeded(8), stored(seeded(4)), small_volume())
