from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from quietbeam.compress.integer_tensors import integer_tensors
from quietbeam.compress.siren import VALUE_BITS, Siren, Training, exact_siren, fit_siren, grid_coordinates, in_turns
from quietbeam.reconstruction.errors import ArchiveError

UNIT = 2.0**-VALUE_BITS
FLOAT32 = 1e-4
"""float32 sines of angles up to about 60, whose last bit is 4e-6, through three layers."""
SIXTEEN_BITS = 2e-3
"""Weights of 16 bits: steps of 2^-16 of the largest, in sums of 20 products, times 30, through three layers."""


def seeded(width: int, seed: int = 0) -> Siren:
    torch.manual_seed(seed)
    return Siren(width)


def wave(shape: tuple[int, int, int]) -> np.ndarray:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    return 0.5 * np.cos(3 * z + 2 * y) * np.cos(2 * x)


@pytest.mark.parametrize("width", range(30, 231, 20))
def test_parameters_are_those_of_the_formula(width: int) -> None:
    with torch.device("meta"):
        siren = Siren(width)
    assert sum(parameter.numel() for parameter in siren.parameters()) == 2 * width**2 + 7 * width + 1


def test_weights_start_within_the_bounds_of_the_source() -> None:
    siren = seeded(50)
    for index, layer in enumerate(siren.layers):
        bound = math.sqrt(6 / 50) / 30 if index else 1 / 3
        largest = float(layer.weight.detach().abs().max())
        assert 0.9 * bound < largest <= bound


def test_coordinates_are_cell_centres_in_c_order() -> None:
    expected = [(z, y, 0.0) for z in (-0.5, 0.5) for y in (-0.75, -0.25, 0.25, 0.75)]
    assert (grid_coordinates((2, 4, 1)) * UNIT).tolist() == [list(row) for row in expected]


def test_layers_in_turns_are_the_same_function() -> None:
    siren = seeded(20)
    points = (grid_coordinates((3, 4, 5)) * UNIT).float()
    with torch.no_grad():
        np.testing.assert_allclose(in_turns(siren)(points), siren(points), atol=FLOAT32)


def test_whole_numbers_are_near_the_trained_network() -> None:
    siren, shape = seeded(20), (3, 4, 5)
    stored = integer_tensors(in_turns(siren), fraction_bits=VALUE_BITS, weight_bits=16)
    exact = exact_siren(in_turns(seeded(20, seed=1)), stored, shape)
    with torch.no_grad():
        expected = siren((grid_coordinates(shape) * UNIT).float()).reshape(shape)
    assert torch.equal(exact, exact.round())
    assert expected.abs().max() > 10 * SIXTEEN_BITS
    np.testing.assert_allclose(exact * UNIT, expected, atol=SIXTEEN_BITS)


def test_fewer_cells_of_the_same_grid_give_the_same_values() -> None:
    layers = in_turns(seeded(20))
    stored = integer_tensors(layers, fraction_bits=VALUE_BITS)
    assert torch.equal(exact_siren(layers, stored, (1, 4, 5))[0], exact_siren(layers, stored, (3, 4, 5))[1])


def test_another_width_is_refused() -> None:
    stored = integer_tensors(in_turns(seeded(20)), fraction_bits=VALUE_BITS)
    with pytest.raises(ArchiveError):
        exact_siren(in_turns(seeded(21)), stored, (1, 1, 1))


def test_training_learns_a_wave_and_depends_on_nothing_but_its_seed() -> None:
    volume = wave((4, 5, 6))
    training = Training(epochs=40, learning_rate=3e-3, seed=3, device="cpu")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = fit_siren(volume, 16, training), fit_siren(volume, 16, training)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with torch.no_grad():
        learned = first((grid_coordinates(volume.shape) * UNIT).float()).reshape(volume.shape).numpy()
    assert np.abs(learned - volume).mean() < 0.2 * np.abs(volume).mean()


def test_the_weights_of_the_smallest_loss_are_kept() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    start = float(layer.weight.detach())
    training = Training(epochs=3, learning_rate=0.5, seed=0, device="cpu")
    training.minimise(layer, lambda epoch: layer.weight.sum() + 10 * (epoch > 0))
    assert float(layer.weight.detach()) == start
