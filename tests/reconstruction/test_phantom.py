from __future__ import annotations

from dataclasses import replace

import astra
import numpy as np
import pytest

from quietbeam.reconstruction.foam import Foam, foam_phantom
from quietbeam.reconstruction.phantom import project_foam, rasterise_foam

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


class TestContents:
    def test_filled_void_has_exact_chords(self):
        x, y, z, radius = 0.3, -0.2, 0.05, 0.4
        foam = Foam(np.array([[x, y, z]]), np.array([radius]), height=10.0, contents=np.array([0.35]), solid=0.8)
        theta, size = 0.9, 20.0
        rays = project_foam(foam, np.array([theta]), 9, 51, radius=size, attenuation=0.1, supersampling=1)[0]
        s, height = np.arange(51) - 25.0, np.arange(9)[:, None] - 4.0
        middle = size * (x * np.cos(theta) + y * np.sin(theta))
        void = 2 * np.sqrt(np.clip((size * radius) ** 2 - (s - middle) ** 2 - (height - size * z) ** 2, 0, None))
        cylinder = 2 * np.sqrt(np.clip(size**2 - s**2, 0, None))
        np.testing.assert_allclose(rays, 0.1 * (0.8 * (cylinder - void) + 0.35 * void), atol=1e-6)

    def test_contents_like_the_solid_leave_no_trace(self):
        voids = foam_phantom(50, seed=2)
        filled, theta = replace(voids, contents=np.ones(50)), np.linspace(0, 3, 5)
        solid = Foam(np.zeros((0, 3)), np.zeros(0), voids.height)
        np.testing.assert_array_equal(project_foam(filled, theta, 8, 40), project_foam(solid, theta, 8, 40))
        np.testing.assert_array_equal(rasterise_foam(filled, 8, 40), rasterise_foam(solid, 8, 40))

    def test_sample_is_the_sum_of_its_parts(self):
        foam, theta = foam_phantom(50, seed=3), np.linspace(0, 3, 5)
        contents = np.linspace(-0.5, 2, 50)
        only_spheres = replace(foam, contents=contents, solid=0.0)
        whole = replace(foam, contents=contents)
        for draw in (lambda part: project_foam(part, theta, 8, 40), lambda part: rasterise_foam(part, 8, 40)):
            np.testing.assert_allclose(draw(whole), draw(foam) + draw(only_spheres), atol=1e-6)

    def test_mass_of_contents_is_kept(self):
        foam = replace(foam_phantom(200, seed=4), contents=np.linspace(0, 3, 200))
        projections, truth = project_foam(foam, np.linspace(0, 3, 7), 16, 64), rasterise_foam(foam, 16, 64)
        np.testing.assert_allclose(projections.sum((1, 2)), truth.sum(), rtol=2e-3)


class TestThreads:
    @pytest.mark.parametrize("num_threads", [2, 5])
    def test_number_of_threads_changes_nothing(self, num_threads):
        foam, theta = foam_phantom(300, seed=5), np.linspace(0, 3, 13)
        alone, together = (project_foam(foam, theta, 11, 37, num_threads=number) for number in (1, num_threads))
        np.testing.assert_array_equal(alone, together)
        alone, together = (rasterise_foam(foam, 11, 37, num_threads=number) for number in (1, num_threads))
        np.testing.assert_array_equal(alone, together)

    def test_projection_alone_is_that_of_many(self):
        foam, theta = foam_phantom(300, seed=6), np.linspace(0, 3, 13)
        np.testing.assert_array_equal(
            project_foam(foam, theta[7:8], 11, 37)[0], project_foam(foam, theta, 11, 37, num_threads=3)[7]
        )


@pytest.mark.parametrize("num_columns", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("axis", [-30.0, 0.0, 7.3, 60.0])
def test_spheres_cut_by_the_edge_are_as_on_a_wider_detector(num_columns, axis):
    foam, theta = foam_phantom(200, seed=7), np.linspace(0, 6, 9)
    part = project_foam(foam, theta, 6, num_columns, rotation_axis=axis, radius=20.0)
    whole = project_foam(foam, theta, 12, 200, rotation_axis=axis + 80, radius=20.0)
    np.testing.assert_allclose(part, whole[:, 3:9, 80 : 80 + num_columns], atol=1e-6)
