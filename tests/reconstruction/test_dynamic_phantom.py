from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietbeam.reconstruction.dynamic_phantom import FillingFoam, growing_foam, moving_foam, project_dynamic
from quietbeam.reconstruction.foam import Foam, foam_phantom
from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.phantom import project_foam, rasterise_foam
from quietbeam.reconstruction.quality import psnr
from quietbeam.reconstruction.reconstructors import circle

FOAM = foam_phantom(120, seed=1, min_radius=0.03)
KINDS = {
    "moving": moving_foam(FOAM, seed=2),
    "growing": growing_foam(FOAM, seed=2),
    "filling": FillingFoam(FOAM, liquid=0.6),
}
# Centres and radii are float64 of size 1.
ROUNDING = 1e-12

of_each_kind = pytest.mark.parametrize("foam", KINDS.values(), ids=KINDS)
times = st.floats(0, 1)


def overlap(foam):
    """How far the worst pair of voids overlaps, or the worst void reaches out of the cylinder."""
    distances = np.linalg.norm(foam.centres[:, None] - foam.centres[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    outside = np.hypot(foam.centres[:, 0], foam.centres[:, 1]) + foam.radii - 1
    return max((foam.radii[:, None] + foam.radii[None] - distances).max(), outside.max())


def porosity(foam):
    return (4 / 3 * np.pi * foam.radii**3).sum() / (np.pi * foam.height)


@of_each_kind
class TestEveryKind:
    @settings(max_examples=40, deadline=None)
    @given(time=times)
    def test_voids_never_overlap_or_leave(self, foam, time):
        assert overlap(foam.at(time)) <= ROUNDING

    def test_times_before_and_after_are_start_and_end(self, foam):
        theta = np.zeros(1)
        for time, end in ((-3.0, 0.0), (7.0, 1.0)):
            np.testing.assert_array_equal(
                project_foam(foam.at(time), theta, 4, 32), project_foam(foam.at(end), theta, 4, 32)
            )

    def test_start_and_end_differ(self, foam):
        start, end = (rasterise_foam(foam.at(time), 4, 32) for time in (0.0, 1.0))
        assert np.abs(end - start).max() > 0.3 * start.max()

    def test_each_projection_is_of_the_foam_at_its_time(self, foam):
        theta, when = np.linspace(0, 3, 6), np.array([0, 0.2, 0.2, 0.9, 0.5, 1.0])
        options = {"rotation_axis": 17.3, "radius": 15.0, "pixel_size": 1e-6, "attenuation": 3e4, "supersampling": 3}
        projections = project_dynamic(foam, theta, when, 5, 33, **options, num_threads=2)
        for projection, angle, time in zip(projections, theta, when, strict=True):
            np.testing.assert_array_equal(projection, project_foam(foam.at(time), angle[None], 5, 33, **options)[0])

    def test_truth_at_a_time_is_what_a_scan_stopped_there_shows(self, foam):
        theta = np.linspace(0, np.pi, 200, endpoint=False)
        stopped = project_dynamic(foam, theta, np.full(200, 0.4), 1, 96)
        slices = gridrec(np.ascontiguousarray(stopped.swapaxes(0, 1)), theta, 47.5)
        truth = rasterise_foam(foam.at(0.4), 1, 96)
        inside = circle(96) > 0
        # Sharp edges of voids of a few pixels ring; the foam of another time is below 16 dB.
        assert psnr(truth[:, inside], slices[:, inside]) > 25


class TestMoving:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 100), size=st.floats(0.05, 1), time=times)
    def test_voids_stay_in_their_spheres(self, seed, size, time):
        foam = moving_foam(FOAM, seed=seed, size=size).at(time)
        reach = np.linalg.norm(foam.centres - FOAM.centres, axis=1) + foam.radii
        assert np.all(reach <= FOAM.radii + ROUNDING)
        assert overlap(foam) <= ROUNDING

    def test_ways_go_from_wall_to_wall_at_one_speed(self):
        foam = moving_foam(FOAM, seed=3, size=0.6)
        for time in (0.0, 1.0):
            reach = np.linalg.norm(foam.at(time).centres - FOAM.centres, axis=1) + foam.at(time).radii
            np.testing.assert_allclose(reach, FOAM.radii)
        np.testing.assert_allclose(foam.at(0.5).centres, FOAM.centres, atol=ROUNDING)
        step = foam.at(0.3).centres - foam.at(0.2).centres
        np.testing.assert_allclose(np.linalg.norm(step, axis=1), 0.1 * 2 * 0.4 * FOAM.radii)

    def test_volume_is_kept(self):
        foam = moving_foam(FOAM, seed=4, size=0.5)
        assert porosity(foam.at(0.1)) == porosity(foam.at(0.9)) == pytest.approx(porosity(FOAM) / 8)

    def test_size_is_checked(self):
        with pytest.raises(ValueError, match=r"size in \(0, 1\], got 1\.2"):
            moving_foam(FOAM, seed=0, size=1.2)


class TestGrowing:
    def test_radii_grow_from_the_start_to_the_full_size(self):
        foam = growing_foam(FOAM, seed=5, start_size=0.25)
        radii = np.array([foam.at(time).radii for time in np.linspace(0, 1, 50)])
        np.testing.assert_allclose(radii[0], 0.25 * FOAM.radii)
        np.testing.assert_allclose(radii[-1], FOAM.radii)
        assert np.all(np.diff(radii, axis=0) >= 0)
        # Each at a time of its own: half way, some are ready and some have not begun.
        assert {0.25, 1.0} < set(np.round(radii[25] / FOAM.radii, 6))

    def test_voids_can_come_from_nothing(self):
        foam = growing_foam(FOAM, seed=6, start_size=0.0)
        solid = Foam(np.zeros((0, 3)), np.zeros(0), FOAM.height)
        np.testing.assert_array_equal(rasterise_foam(foam.at(0), 4, 32), rasterise_foam(solid, 4, 32))

    def test_start_size_is_checked(self):
        with pytest.raises(ValueError, match=r"start_size from 0 to 1, got -0\.1"):
            growing_foam(FOAM, seed=0, start_size=-0.1)


class TestFilling:
    @pytest.mark.parametrize("direction", [(1, 0, 0), (0, -3, 0), (0, 0, 1), (1, 2, -2)])
    def test_from_empty_to_full(self, direction):
        foam = FillingFoam(FOAM, 0.7, direction)
        np.testing.assert_allclose(foam.at(0).contents, 0, atol=ROUNDING)
        np.testing.assert_allclose(foam.at(1).contents, 0.7)
        contents = np.array([foam.at(time).contents for time in np.linspace(0, 1, 40)])
        assert np.all(np.diff(contents, axis=0) >= 0)

    def test_front_comes_from_its_side(self):
        foam, along = FillingFoam(FOAM, 1.0, (0, 2, 0)).at(0.5), FOAM.centres[:, 1]
        assert np.all(foam.contents[along + FOAM.radii < -0.05] == 1)
        assert np.all(foam.contents[along - FOAM.radii > 0.05] == 0)

    @pytest.mark.parametrize("time", [0.1, 0.5, 0.85])
    def test_a_void_holds_the_cap_behind_the_front(self, time):
        one = Foam(np.zeros((1, 3)), np.array([0.5]), height=2.0)
        inside = np.random.default_rng(0).uniform(-0.5, 0.5, (400_000, 3))
        inside = inside[(inside**2).sum(1) < 0.25]
        # The share of some 200,000 points errs by 1e-3.
        share = (inside[:, 0] < time - 0.5).mean()
        assert FillingFoam(one, 1.0).at(time).contents[0] == pytest.approx(share, abs=5e-3)

    def test_no_voids(self):
        empty = Foam(np.zeros((0, 3)), np.zeros(0), height=2.0)
        assert FillingFoam(empty, 1.0).at(0.5).contents.shape == (0,)

    def test_solid_of_its_own_attenuation_is_kept(self):
        assert FillingFoam(replace(FOAM, solid=0.4), 1.0).at(0.5).solid == 0.4

    def test_direction_is_checked(self):
        with pytest.raises(ValueError, match=r"direction .* not 0, got \(0, 0, 0\)"):
            FillingFoam(FOAM, 1.0, (0, 0, 0))


def test_default_porosities_are_those_of_foam():
    for kind, foam in KINDS.items():
        assert 0.05 < porosity(foam.at(0.5)) < 0.5, kind


def test_one_time_for_each_angle():
    with pytest.raises(ValueError, match="one time for each of 3 angles, got 2"):
        project_dynamic(KINDS["moving"], np.zeros(3), [0, 1], 4, 8)
