import numpy as np
import pytest

from quietbeam.reconstruction.axis_sweep import sharpness, sweep_rotation_axis
from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.reconstructors import ReconstructionSettings, reconstruct

from .axis_scans import WIDTH, foam, full_turn, half_turn

SHARPEST = 0.25
"""Pixels: half a step of the sweep."""
PLACE = 0.1
"""Pixels between the spot's centre of mass and its place, and between those of neighbouring columns."""


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


@pytest.mark.parametrize("mirrored", [False, True])
def test_slices_of_a_half_acquisition_lie_at_one_place(mirrored):
    """Of odd and of even width: a spot creeps as the columns do, and does not jump by half a pixel."""
    theta, width, axis = full_turn(240), 120, 35.0
    columns = axis + np.arange(-4, 5) * 0.25
    if mirrored:
        columns, axis = width - 1 - columns[::-1], width - 1 - axis
    s = np.arange(width) - axis - (7 * np.cos(theta) + 4 * np.sin(theta))[:, None]
    settings = ReconstructionSettings(filter="hann", half_acquisition=True)
    slices = sweep_rotation_axis(np.exp(-(s**2) / 18).astype(np.float32), theta, columns, settings).slices
    x = np.arange(slices.shape[-1]) - (slices.shape[-1] - 1) / 2
    spot = np.where(np.hypot(x - 7, -x[:, None] - 4) < 15, slices, 0)
    mass = spot.sum(axis=(1, 2))
    for place, along in ((7, x), (4, -x[:, None])):
        found = (spot * along).sum(axis=(1, 2)) / mass
        assert found[4] == pytest.approx(place, abs=PLACE)
        np.testing.assert_allclose(np.diff(found), 0, atol=PLACE)


@pytest.mark.parametrize("share", [0.4, 0.57])
def test_a_sample_wider_than_the_near_side_is_joined_unless_told_not_to(share):
    axis, radius = share * (WIDTH - 1), 0.57 * (WIDTH - 1) - 8
    sinogram = foam(full_turn(240), axis, radius=radius, num_rows=1)[0]
    columns = axis + np.arange(-4, 4.1, 0.5)
    joined, narrow, asked = (
        sweep_rotation_axis(sinogram, full_turn(240), columns, ReconstructionSettings(half_acquisition=choice))
        for choice in (None, False, True)
    )
    assert joined.best == pytest.approx(axis, abs=SHARPEST)
    assert joined.slices.shape[1] > WIDTH
    np.testing.assert_array_equal(joined.slices, asked.slices)
    assert narrow.slices.shape[1] == WIDTH
    assert narrow.best == pytest.approx(axis, abs=SHARPEST)


def test_a_half_turn_cannot_be_joined():
    settings = ReconstructionSettings(half_acquisition=True)
    with pytest.raises(ScanError, match="projections over the full turn"):
        sweep_rotation_axis(np.zeros((90, WIDTH), np.float32), half_turn(90), np.array([60.0]), settings)


def test_the_rim_is_not_judged():
    rng = np.random.default_rng(0)
    slices = np.repeat(rng.normal(size=(1, 60, 60)).astype(np.float32), 2, axis=0)
    x = np.arange(60) - 29.5
    rim = np.hypot(x, x[:, None]) > 0.6 * 60  # further from what is judged than the blur reaches
    slices[1, rim] += rng.normal(size=rim.sum()).astype(np.float32)
    for seen_twice in (True, False):
        scores = sharpness(slices, seen_twice=seen_twice)
        assert scores[0] == pytest.approx(scores[1], rel=1e-6)


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
