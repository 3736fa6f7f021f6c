import numpy as np
import pytest

from quietbeam.reconstruction.axis_sweep import sharpness, sweep_rotation_axis
from quietbeam.reconstruction.reconstructors import ReconstructionSettings, reconstruct

from .axis_scans import WIDTH, foam, full_turn, half_turn

SHARPEST = 0.25
"""Pixels: half a step of the sweep."""


@pytest.mark.parametrize("noise", [0.02, 0.1])
@pytest.mark.parametrize("axis", [79.5, 70.2])
@pytest.mark.parametrize("turn", [half_turn, full_turn])
def test_the_sharpest_slice_is_the_one_about_the_axis(turn, axis, noise):
    columns = np.arange(axis - 4.37, axis + 4, 0.5)
    sweep = sweep_rotation_axis(foam(turn(), axis, num_rows=1, noise=noise)[0], turn(), columns)
    assert sweep.best == pytest.approx(axis, abs=SHARPEST)
    assert np.argmax(sweep.sharpness) == np.abs(columns - sweep.best).argmin()


@pytest.mark.parametrize("axis", [30.3, WIDTH - 31.3])
def test_half_acquisition_is_swept_over_its_whole_field_of_view(axis):
    far = max(axis, WIDTH - 1 - axis)
    columns = np.arange(axis - 3.2, axis + 3, 0.5)
    sinogram = foam(full_turn(240), axis, radius=0.9 * far, num_rows=1)[0]
    sweep = sweep_rotation_axis(sinogram, full_turn(240), columns)
    assert sweep.best == pytest.approx(axis, abs=SHARPEST)
    assert sweep.slices.shape[1] == pytest.approx(2 * far - 6, abs=4)


def test_half_acquisition_has_its_attenuation():
    axis, radius = 30.3, 100
    sinogram = foam(full_turn(240), axis, radius=radius, num_rows=1, num_spheres=0)[0]
    image = sweep_rotation_axis(sinogram, full_turn(240), np.array([axis])).slices[0]
    middle = image.shape[0] // 2
    inside = image[middle - 60 : middle + 60, middle - 60 : middle + 60]
    assert np.median(inside) * radius == pytest.approx(1, abs=0.02)  # a solid cylinder of 1 / radius


def test_slices_are_those_of_their_columns():
    theta, columns = half_turn(60), np.array([70.0, 79.5, 81.25])
    sinogram, settings = foam(theta, 79.5, num_rows=1)[0], ReconstructionSettings(filter="hann")
    sweep = sweep_rotation_axis(sinogram, theta, columns, settings)
    np.testing.assert_array_equal(sweep.columns, columns)
    for column, image in zip(columns, sweep.slices, strict=True):
        np.testing.assert_array_equal(image, reconstruct(sinogram[None], theta, column, settings)[0])


def test_columns_that_are_not_even_give_the_best_of_them():
    theta, columns = half_turn(), np.array([75.0, 79.5, 79.7, 85.0])
    sweep = sweep_rotation_axis(foam(theta, 79.5, num_rows=1)[0], theta, columns)
    assert sweep.best == 79.5


def test_one_column_is_a_sweep():
    sweep = sweep_rotation_axis(foam(half_turn(30), 79.5, num_rows=1)[0], half_turn(30), np.array([79.0]))
    assert (sweep.best, sweep.slices.shape) == (79.0, (1, WIDTH, WIDTH))


@pytest.mark.parametrize("columns", [[], [80, 79], [79, 79], [-1, 5], [150, 160]])
def test_columns_that_make_no_sweep_are_refused(columns):
    with pytest.raises(ValueError, match=r"columns to sweep must ascend within \[0, 159\], got "):
        sweep_rotation_axis(np.zeros((30, WIDTH), np.float32), half_turn(30), np.array(columns, float))


@pytest.mark.parametrize("seen_twice", [True, False])
def test_nothing_is_as_sharp_as_nothing(seen_twice):
    assert sharpness(np.zeros((3, 40, 40), np.float32), seen_twice=seen_twice).tolist() == [0, 0, 0]
    theta = full_turn(30) if seen_twice else half_turn(30)
    sweep = sweep_rotation_axis(np.zeros((30, 40), np.float32), theta, np.array([18.0, 19.0, 20.0]))
    assert sweep.best in (18, 19, 20)
