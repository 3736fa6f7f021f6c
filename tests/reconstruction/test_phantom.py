from __future__ import annotations

import astra
import numpy as np
import pytest

from quietbeam.reconstruction.phantom import (
    Foam,
    NoiseSettings,
    foam_phantom,
    project_foam,
    rasterise_foam,
    simulate_counts,
)

SOLID = Foam(np.zeros((0, 3)), np.zeros(0), height=10.0)


def astra_fbp(sinogram, theta):
    num_columns = sinogram.shape[1]
    rays = astra.create_proj_geom("parallel", 1.0, num_columns, theta)
    grid = astra.create_vol_geom(num_columns, num_columns)
    projector = astra.create_projector("linear", rays, grid)
    data, image = astra.data2d.create("-sino", rays, sinogram), astra.data2d.create("-vol", grid)
    options = astra.astra_dict("FBP") | {
        "ProjectorId": projector,
        "ProjectionDataId": data,
        "ReconstructionDataId": image,
    }
    algorithm = astra.algorithm.create(options)
    astra.algorithm.run(algorithm)
    result = astra.data2d.get(image)
    astra.algorithm.delete(algorithm)
    astra.projector.delete(projector)
    astra.data2d.delete([data, image])
    return result


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


class TestProjections:
    def test_solid_cylinder_has_exact_chords(self):
        projections = project_foam(SOLID, np.array([0.3]), 2, 41, radius=15.0, attenuation=0.1, supersampling=1)
        s = np.arange(41) - 20.0
        np.testing.assert_allclose(projections[0, 0], 0.2 * np.sqrt(np.clip(15.0**2 - s**2, 0, None)), atol=1e-6)

    @pytest.mark.parametrize("theta", [0.0, 0.4, np.pi / 2, 2.5])
    def test_single_void_falls_where_the_convention_says(self, theta):
        foam = Foam(np.array([[0.4, 0.3, 0.1]]), np.array([0.2]), height=10.0)
        angle, axis, radius = np.array([theta]), 22.7, 20.0
        with_void = project_foam(foam, angle, 15, 51, rotation_axis=axis, radius=radius, supersampling=4)
        chord = project_foam(SOLID, angle, 15, 51, rotation_axis=axis, radius=radius, supersampling=4) - with_void
        column = (chord[0].sum(0) * np.arange(51)).sum() / chord.sum()
        row = (chord[0].sum(1) * np.arange(15)).sum() / chord.sum()
        assert column == pytest.approx(axis + radius * (0.4 * np.cos(theta) + 0.3 * np.sin(theta)), abs=0.02)
        assert row == pytest.approx(7 + radius * 0.1, abs=0.02)
        # The void's chords add up to its volume times the attenuation coefficient, 1 / radius.
        assert chord.sum() == pytest.approx(4 / 3 * np.pi * (0.2 * radius) ** 3 / radius, rel=0.01)

    def test_mass_is_kept_at_every_angle_and_equals_the_truths(self):
        foam = foam_phantom(200, seed=3)
        projections = project_foam(foam, np.linspace(0, 3, 7), 16, 64)
        truth = rasterise_foam(foam, 16, 64)
        np.testing.assert_allclose(projections.sum((1, 2)), truth.sum(), rtol=2e-3)

    def test_opposite_projections_are_mirrored(self):
        foam = foam_phantom(100, seed=4)
        first, opposite = project_foam(foam, np.array([0.7, 0.7 + np.pi]), 8, 64)
        np.testing.assert_allclose(first, opposite[:, ::-1], atol=1e-5)

    def test_fbp_of_the_projections_is_the_truth_in_the_same_orientation(self):
        foam = foam_phantom(60, seed=5, min_radius=0.08)
        theta = np.linspace(0, np.pi, 240, endpoint=False)
        projections, truth = project_foam(foam, theta, 3, 128), rasterise_foam(foam, 3, 128)[1]
        reconstruction = astra_fbp(np.ascontiguousarray(projections[:, 1]), theta)

        def correlation(image):
            return np.corrcoef(image.ravel(), truth.ravel())[0, 1]

        assert correlation(reconstruction) > 0.98
        for turned in (reconstruction[::-1], reconstruction[:, ::-1], reconstruction.T):
            assert correlation(turned) < 0.8
        solid = truth == truth.max()
        assert np.median(reconstruction[solid]) == pytest.approx(truth.max(), rel=0.02)

    def test_units(self):
        foam, theta = foam_phantom(30, seed=6), np.linspace(0, 3, 4)
        in_pixels = project_foam(foam, theta, 4, 48, attenuation=0.05)
        in_metres = project_foam(foam, theta, 4, 48, attenuation=0.05 / 2e-6, pixel_size=2e-6)
        np.testing.assert_allclose(in_metres, in_pixels, rtol=1e-6, atol=1e-6)
        assert rasterise_foam(foam, 4, 48, attenuation=0.05).max() == pytest.approx(0.05)
        assert rasterise_foam(foam, 4, 48, pixel_size=2e-6).max() == pytest.approx(1 / (0.45 * 48 * 2e-6))

    def test_beyond_its_height_there_is_nothing(self):
        low = Foam(SOLID.centres, SOLID.radii, height=0.2)
        projections, truth = project_foam(low, np.zeros(1), 9, 40, radius=10.0), rasterise_foam(low, 9, 40, radius=10.0)
        assert not projections[0, [0, 1, 2, 6, 7, 8]].any()
        assert projections[0, 4].max() > 1.9
        assert not truth[[0, 1, 2, 6, 7, 8]].any()

    def test_sizes_are_checked(self):
        with pytest.raises(ValueError, match="at least 1"):
            project_foam(SOLID, np.zeros(1), 0, 8)


class TestCounts:
    line_integrals = np.full((40, 6, 50), 0.7, np.float32)

    def test_corrected_counts_give_the_line_integrals_back(self):
        settings = NoiseSettings(num_photons=10_000, num_flats=30, num_darks=30)
        projections, flats, darks = simulate_counts(self.line_integrals, settings, seed=0)
        assert {projections.dtype, flats.dtype, darks.dtype} == {np.dtype(np.uint16)}
        dark = darks.mean(0)
        transmission = (projections - dark) / (flats.mean(0) - dark)
        # 12,000 pixels with a relative noise of about 1.7 %.
        assert -np.log(transmission.mean()) == pytest.approx(0.7, abs=3e-3)

    def test_noise_is_that_of_photons(self):
        settings = NoiseSettings(num_photons=400, gain_spread=0, beam_falloff=0, read_noise=0, num_flats=200)
        flats = simulate_counts(self.line_integrals, settings, seed=1).flats - 100.0
        assert flats.mean() == pytest.approx(400, rel=0.01)
        assert flats.var() == pytest.approx(400, rel=0.05)

    def test_gain_stays_with_its_pixel(self):
        settings = NoiseSettings(num_photons=20_000, gain_spread=0.1, beam_falloff=0)
        projections, flats, _ = simulate_counts(self.line_integrals, settings, seed=2)
        seen = np.corrcoef(projections.mean(0).ravel(), flats.mean(0).ravel())[0, 1]
        assert seen > 0.98

    def test_ring_spread_moves_the_gain_after_the_flats(self):
        spread = []
        for ring_spread in (0.0, 0.05):
            settings = NoiseSettings(num_photons=40_000, gain_spread=0, ring_spread=ring_spread, dark_offset=0)
            projections, flats, _ = simulate_counts(self.line_integrals, settings, seed=3)
            spread.append((projections.mean(0) / flats.mean(0)).std())
        assert spread[1] > 10 * spread[0]

    def test_dead_pixels_are_zero_everywhere(self):
        settings = NoiseSettings(dead_fraction=0.1)
        counts = simulate_counts(self.line_integrals, settings, seed=4)
        dead = (counts.projections == 0).all(0)
        assert 10 < dead.sum() < 60
        assert not counts.flats[:, dead].any()
        assert not counts.darks[:, dead].any()

    def test_zingers_hit_single_frames(self):
        settings = NoiseSettings(zinger_fraction=0.01, zinger_counts=20_000)
        hits = simulate_counts(self.line_integrals, settings, seed=5).projections > 10_000
        assert hits.mean() == pytest.approx(0.01, abs=0.003)
        assert hits.sum(0).max() < 6

    def test_counts_end_at_full_scale(self):
        settings = NoiseSettings(num_photons=1e6, num_flats=1)
        assert simulate_counts(self.line_integrals, settings, seed=6).flats.min() == 65535

    def test_same_seed_same_counts(self):
        first, again, other = (simulate_counts(self.line_integrals, seed=seed).projections for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
