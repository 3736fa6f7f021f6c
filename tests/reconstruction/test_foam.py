from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial import cKDTree

from quietbeam.reconstruction.foam import Foam, foam_phantom


def gaps(foam):
    distances = np.linalg.norm(foam.centres[:, None] - foam.centres[None], axis=2)
    gap = distances - foam.radii[:, None] - foam.radii[None]
    return gap[~np.eye(len(foam.radii), dtype=bool)]


class TestFoam:
    def test_voids_lie_apart_and_inside(self):
        foam = foam_phantom(500, seed=1, min_radius=0.02, max_radius=0.15)
        assert len(foam.radii) == 500
        assert gaps(foam).min() > -1e-12
        assert (np.hypot(foam.centres[:, 0], foam.centres[:, 1]) + foam.radii).max() <= 1 + 1e-12
        assert foam.radii.min() >= 0.02
        assert foam.radii.max() <= 0.15
        assert foam.radii.max() > 3 * foam.radii.min()

    def test_same_seed_same_foam(self):
        first, again, other = (foam_phantom(50, seed=seed) for seed in (7, 7, 8))
        np.testing.assert_array_equal(first.centres, again.centres)
        assert not np.array_equal(first.centres, other.centres)

    def test_thousands_of_voids_fit(self):
        assert len(foam_phantom(3000, seed=0).radii) == 3000

    def test_full_cylinder_is_an_error(self):
        with pytest.raises(ValueError, match=r"full after \d+ of 100 voids; ask for fewer"):
            foam_phantom(100, seed=0, min_radius=0.4, max_radius=0.5)

    def test_bounds_are_checked(self):
        with pytest.raises(ValueError, match="min_radius <= max_radius"):
            foam_phantom(3, seed=0, min_radius=0.3, max_radius=0.2)

    def test_shapes_are_checked(self):
        with pytest.raises(ValueError, match=r"each of 2 spheres, got \[2, 3\]"):
            Foam(np.zeros((2, 3)), np.ones(2), 1.0, contents=np.zeros(3))
        with pytest.raises(ValueError, match=r"each of 2 spheres, got \[1\]"):
            Foam(np.zeros((2, 3)), np.ones(1), 1.0)


def place_slowly(num_spheres, seed, height, min_radius, max_radius):
    """Each void at the first roomiest of eight places or more, tried against all voids there are."""
    rng, spheres = np.random.default_rng(seed), np.zeros((0, 4))
    while len(spheres) < num_spheres:
        best, trial = (0, 0, 0, 0.0), 0
        while trial < 8 or best[3] < min_radius:
            azimuth, distance = 2 * math.pi * rng.random(), math.sqrt(rng.random())
            x, y, z = distance * math.cos(azimuth), distance * math.sin(azimuth), height * rng.random() - height / 2
            free = np.linalg.norm(spheres[:, :3] - (x, y, z), axis=1) - spheres[:, 3]
            room = min([1 - math.hypot(x, y), max_radius, *free])
            best, trial = max(best, (x, y, z, room), key=lambda sphere: sphere[3]), trial + 1
        spheres = np.vstack([spheres, best])
    return spheres


class TestPlacement:
    @pytest.mark.parametrize("height", [0.3, 2.0, 7.0])
    def test_search_in_cells_finds_what_a_search_of_all_finds(self, height):
        foam = foam_phantom(120, seed=11, height=height, min_radius=0.03, max_radius=0.25)
        expected = place_slowly(120, 11, height, 0.03, 0.25)
        np.testing.assert_allclose(np.column_stack([foam.centres, foam.radii]), expected, atol=1e-12)

    def test_tens_of_thousands_of_voids_lie_apart(self):
        foam = foam_phantom(30_000, seed=0, min_radius=0.005)
        # Two voids that overlap are nearer than twice the larger one's radius.
        tree = cKDTree(foam.centres)
        largest_first = np.argsort(-foam.radii)
        for i in largest_first[:2000]:
            near = [j for j in tree.query_ball_point(foam.centres[i], 2 * foam.radii[i]) if j != i]
            distances = np.linalg.norm(foam.centres[near] - foam.centres[i], axis=1)
            assert np.all(distances >= foam.radii[near] + foam.radii[i] - 1e-12)
        share = (4 / 3 * np.pi * foam.radii**3).sum() / (np.pi * foam.height)
        assert 0.5 < share < 0.8
