from __future__ import annotations

import numpy as np
import pytest

from quietbeam.compress.binary_coder import check_end, finish, new_decoder, new_encoder, reserve
from quietbeam.compress.lattice import PADDING, Grid, mirror_edges
from quietbeam.compress.lattice_filter import code_filter, filter_grid, fit_filter

from .volumes import foam

SHAPE = (16, 40, 40)
LIMITS = (-3000, 30_000)
TWICE = 2.0
"""Error of a filter fitted to a third of the few points here, over that of all; parities left out have eight times."""


def padded(values: np.ndarray) -> Grid:
    grid = np.zeros([side + 2 * PADDING for side in values.shape], np.int32)
    grid[(slice(PADDING, -PADDING),) * 3] = values
    mirror_edges(grid)
    return Grid(grid, np.zeros_like(grid), np.zeros(grid.shape, np.int8))


def noisy_and_original() -> tuple[Grid, np.ndarray]:
    original = np.rint(20_000 * foam(SHAPE, num_voids=20, noise=0)).astype(np.int32)
    noise = np.random.default_rng(0).integers(-900, 900, SHAPE)
    return padded(np.clip(original + noise, *LIMITS)), original


def test_a_filter_takes_noise_away() -> None:
    grid, original = noisy_and_original()
    filtered = filter_grid(grid, fit_filter(grid, original, 0.0), LIMITS)
    before = np.square(grid.values[(slice(PADDING, -PADDING),) * 3] - original).mean()
    assert np.square(filtered - original).mean() < 0.5 * before


@pytest.mark.parametrize(("bit_cost", "num_groups"), [(1e12, 0), (1e4, None), (0.0, 8)])
def test_a_filter_comes_back(bit_cost: float, num_groups: int | None) -> None:
    grid, original = noisy_and_original()
    model = fit_filter(grid, original, bit_cost)
    assert num_groups is None or len(model.weights) == num_groups
    coder = reserve(new_encoder(), 300_000)
    written = code_filter(coder, model)
    decoder = new_decoder(finish(coder))
    read = code_filter(decoder, None)
    check_end(decoder)
    np.testing.assert_array_equal(read.weights, model.weights)
    np.testing.assert_array_equal(read.thresholds, written.thresholds)


def test_no_filter_takes_off_the_padding_alone() -> None:
    grid, original = noisy_and_original()
    unchanged = filter_grid(grid, fit_filter(grid, original, np.inf), LIMITS)
    np.testing.assert_array_equal(unchanged, grid.values[(slice(PADDING, -PADDING),) * 3])


def test_filtered_values_keep_to_the_limits() -> None:
    grid, original = noisy_and_original()
    filtered = filter_grid(grid, fit_filter(grid, original, 0.0), (100, 15_000))
    assert filtered.min() == 100
    assert filtered.max() == 15_000


def test_a_part_of_the_points_makes_nearly_as_good_a_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, original = noisy_and_original()
    errors = []
    for most_points in (original.size, original.size // 17):  # all, and every second would be taken
        monkeypatch.setattr("quietbeam.compress.lattice_filter._MOST_POINTS", most_points)
        filtered = filter_grid(grid, fit_filter(grid, original, 0.0), LIMITS)
        errors.append([np.square(filtered - original)[z::2, y::2, x::2].mean() for z, y, x in np.ndindex(2, 2, 2)])
    assert np.max(np.divide(errors[1], errors[0])) < TWICE
