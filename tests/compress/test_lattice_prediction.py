from __future__ import annotations

import numpy as np
import pytest

from quietbeam.compress.lattice import COSETS, PADDING, Geometry, Grid, make_geometry, mirror_edges
from quietbeam.compress.lattice_prediction import (
    CLASS,
    GRADIENT,
    NUM_FEATURES,
    PREDICTED,
    default_model,
    describe,
    expected_size,
    fit_model,
    scales_from_codes,
    solve,
    with_scales,
)

from .volumes import foam

SHAPE = (12, 20, 20)
LIMITS = (-5000, 5000)


def grid_and_geometry(values: np.ndarray, position: int) -> tuple[Grid, Geometry, np.ndarray]:
    """Give a grid whose points are all known but for those of a pass and after, the pass, and its points."""
    padded = np.zeros([side + 2 * PADDING for side in values.shape], np.int32)
    inside = padded[(slice(PADDING, -PADDING),) * 3]
    inside[:] = values
    for odd in COSETS[position:]:
        inside[odd[0] :: 2, odd[1] :: 2, odd[2] :: 2] = 10**6
    mirror_edges(padded)
    geometry = make_geometry(values.shape, 0, position, 20)
    assert geometry is not None
    odd = COSETS[position]
    zeros = np.zeros(padded.size, np.int32)
    original = values[odd[0] :: 2, odd[1] :: 2, odd[2] :: 2].ravel().astype(np.int32)
    return Grid(padded.ravel(), zeros, zeros.astype(np.int8)), geometry, original


def predictions(grid: Grid, geometry: Geometry, model: object) -> np.ndarray:
    out, rows = np.zeros(NUM_FEATURES, np.int64), []
    for point in range(len(geometry.places)):
        describe(grid, geometry, model, LIMITS, point, out)
        rows.append(out.copy())
    return np.array(rows)


@pytest.mark.parametrize("position", range(7))
def test_a_plane_is_predicted_exactly_inside(position: int) -> None:
    z, y, x = np.indices(SHAPE)
    values = 100 + 8 * z - 6 * y + 4 * x
    grid, geometry, original = grid_and_geometry(values, position)
    found = predictions(grid, geometry, default_model(geometry))[:, PREDICTED]
    odd = COSETS[position]
    sides = [len(range(o, side, 2)) for o, side in zip(odd, SHAPE, strict=True)]
    error = np.abs(found - original).reshape(sides)
    assert error[1:-1, 1:-1, 1:-1].max() == 0


@pytest.mark.parametrize("num_classes", [1, 3, 12])
def test_fitted_weights_predict_better_than_the_mean(num_classes: int) -> None:
    values = np.rint(3000 * foam(SHAPE, num_voids=8)).astype(np.int32)
    grid, geometry, original = grid_and_geometry(values, 3)
    model = fit_model(grid, geometry, original, num_classes=num_classes, num_pairs=8, coarseness=1)
    assert model.weights.shape == (num_classes, 20)
    assert not (model.weights % 2).any()
    described = predictions(grid, geometry, model)
    plain = predictions(grid, geometry, default_model(geometry))
    assert np.square(described[:, PREDICTED] - original).sum() < 0.8 * np.square(plain[:, PREDICTED] - original).sum()
    assert set(described[:, CLASS]) <= set(range(num_classes))
    assert len(set(described[:, CLASS])) > num_classes // 2


def test_expected_sizes_go_with_the_errors() -> None:
    values = np.rint(3000 * foam(SHAPE, num_voids=8)).astype(np.int32)
    grid, geometry, original = grid_and_geometry(values, 3)
    model = with_scales(grid, geometry, default_model(geometry), original, limits=LIMITS, step=20)
    described = predictions(grid, geometry, model)
    expected = np.array([expected_size(model.scales, row, 20) for row in described])
    error = np.abs(described[:, PREDICTED] - original)
    assert np.corrcoef(expected, error)[0, 1] > 0.6
    assert 0.5 < expected.mean() / error.mean() < 2
    assert not grid.sizes.any()


def test_scales_of_the_codes() -> None:
    assert scales_from_codes(np.array([0, 1, 4, 5, 64])).tolist() == [0, 4, 7, 8, 7 << 15]


def test_values_at_the_limits_do_not_overflow() -> None:
    values = np.where(np.indices(SHAPE).sum(0) % 3, 2**28 - 1, 1 - 2**28).astype(np.int32)
    grid, geometry, _ = grid_and_geometry(values, 6)
    model = default_model(geometry)
    model.weights[:] = np.where(np.arange(20) % 2, 2047, -2047)
    out = np.zeros(NUM_FEATURES, np.int64)
    for point in range(0, len(geometry.places), 7):
        describe(grid, geometry, model, (1 - 2**28, 2**28 - 1), point, out)
        assert abs(out[PREDICTED]) < 2**28
        assert 0 <= out[GRADIENT] <= 6 * 2**29


def test_solve_solves() -> None:
    rng = np.random.default_rng(0)
    root = rng.standard_normal((12, 12))
    matrix, expected = root @ root.T + np.eye(12), rng.standard_normal(12)
    np.testing.assert_allclose(solve(matrix, matrix @ expected), expected, rtol=1e-8)
