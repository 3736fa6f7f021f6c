from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from quietbeam.compress.lattice import (
    COSETS,
    PADDING,
    Shape,
    lattice_shape,
    make_geometry,
    mirror_edges,
    nearest_pairs,
    new_grid,
    num_levels,
)

SHAPES: list[Shape] = [(1, 1, 2), (1, 6, 9), (2, 3, 1), (5, 4, 7), (9, 1, 3)]


def places(shape: Shape, level: int) -> list[tuple[int, ...]]:
    """List the points of a level's passes in the order of coding, unpadded."""
    padded = tuple(side + 2 * PADDING for side in shape)
    found = [make_geometry(shape, level, position, 20) for position in range(len(COSETS))]
    flat = np.concatenate([np.empty(0, np.int64), *(each.places for each in found if each is not None)])
    return [tuple(index - PADDING for index in point) for point in zip(*np.unravel_index(flat, padded), strict=True)]


@pytest.mark.parametrize("shape", SHAPES)
def test_passes_visit_every_point_once_but_the_even_ones(shape: Shape) -> None:
    even = set(product(*(range(0, side, 2) for side in shape)))
    every = set(product(*map(range, shape)))
    visited = places(shape, 0)
    assert len(visited) == len(set(visited))
    assert set(visited) == every - even


@pytest.mark.parametrize("shape", SHAPES)
def test_pairs_lead_to_points_known_before(shape: Shape) -> None:
    padded = [side + 2 * PADDING for side in shape]
    inside = (slice(PADDING, -PADDING),) * 3
    known = np.zeros(padded, np.int32)
    known[inside][::2, ::2, ::2] = 1
    for position in range(len(COSETS)):
        geometry = make_geometry(shape, 0, position, 20)
        if geometry is None:
            continue
        mirror_edges(known)
        for sign in (-1, 1):
            assert known.ravel()[geometry.places[:, None] + sign * geometry.pairs].all()
        known.reshape(-1)[geometry.places] = 1
    assert known[inside].all()


def test_pairs_of_the_first_pass_are_nearest_first() -> None:
    geometry = make_geometry((9, 9, 9), 0, 0, 20)
    assert geometry is not None
    row, plane = 9 + 2 * PADDING, (9 + 2 * PADDING) ** 2
    assert geometry.pairs[:2].tolist() == [plane - row, plane + row]
    assert geometry.num_nearest == 2
    assert nearest_pairs(4) == [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, -1)]


@pytest.mark.parametrize("side", [1, 2, 3, 4, 9])
def test_edges_are_mirrored(side: int) -> None:
    line = np.zeros((1 + 2 * PADDING, 1 + 2 * PADDING, side + 2 * PADDING), np.int32)
    line[PADDING, PADDING, PADDING:-PADDING] = np.arange(side) + 1
    mirror_edges(line)
    expected = np.pad(np.arange(side) + 1, PADDING, mode="reflect" if side > 1 else "edge")
    np.testing.assert_array_equal(line, np.broadcast_to(expected, line.shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_levels_go_down_to_one_point(shape: Shape) -> None:
    levels = num_levels(shape)
    assert lattice_shape(shape, levels) == (1, 1, 1)
    assert max(lattice_shape(shape, levels - 1)) == 2
    assert lattice_shape(shape, 0) == shape


def test_a_finer_grid_holds_the_coarser_one() -> None:
    coarse = new_grid((2, 2, 2), None, 7)
    coarse.values[PADDING:-PADDING, PADDING:-PADDING, PADDING:-PADDING] = np.arange(8).reshape(2, 2, 2)
    fine = new_grid((3, 4, 3), coarse, 7)
    inside = fine.values[PADDING:-PADDING, PADDING:-PADDING, PADDING:-PADDING]
    np.testing.assert_array_equal(inside[::2, ::2, ::2].ravel(), np.arange(8))
    assert np.count_nonzero(inside) == 7
