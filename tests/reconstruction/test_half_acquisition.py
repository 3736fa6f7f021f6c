import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.reconstruction.angles import angular_weights
from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.half_acquisition import (
    extend,
    inner_excess,
    joins_opposite,
    missing_of_full_turn,
    overlap_weights,
    sees_beyond,
    sees_end,
    wide_detector,
)
from quietbeam.reconstruction.phantom import foam_phantom, project_foam, rasterise_foam
from quietbeam.reconstruction.sections import split_angles

TURN = 2 * np.pi
BLOB = 5e-4
"""Error of a smooth blob over its height: the regridding's own, about 1e-4, and that of the sampled overlap."""
PSNR = 1.0
"""Decibels by which the slice may be worse than that of an ordinary scan with a wide detector."""
SECTIONS_MEAN = 1e-4
"""Largest difference, over the standard deviation, of the sections' average from the full reconstruction."""
EXCESS_SHARE, EXCESS = 0.06, 0.002
"""Difference of the excess in a slice from the estimate: columns and pixels are cut whole at the radius."""
SLOPE = 0.005
"""Relative difference of the amplitude from that of the wide detector's slice."""


def blob(theta, num_columns, axis, x, y, sigma=5.0):
    """Project a Gaussian of height 1: smooth, so that every error of the geometry or the weights shows."""
    s = np.arange(num_columns) - axis - (x * np.cos(theta) + y * np.sin(theta))[:, None]
    return (np.sqrt(TURN) * sigma * np.exp(-(s**2) / (2 * sigma**2))).astype(np.float32)[None]


def grid(size):
    x = np.arange(size) - (size - 1) / 2
    return np.meshgrid(x, -x)


def reconstruct_wide(sinograms, theta, axis):
    half = extend(sinograms, axis)
    return gridrec(half.sinograms, theta, half.rotation_axis, weights=angular_weights(theta, turn=TURN))[0]


@given(st.integers(20, 400), st.floats(0.02, 0.98))
def test_both_sides_of_a_line_weigh_one(num_columns, place):
    """At s and -s from the axis, wherever the pixels lie: the weights are a function of s alone."""
    axis = np.clip(place * (num_columns - 1), 1, num_columns - 2)
    overlap = min(axis, num_columns - 1 - axis)
    s = np.arange(num_columns) - axis
    far = np.sign((num_columns - 1) / 2 - axis) or -1.0
    weights = overlap_weights(num_columns, axis)
    mirrored = np.interp(-s * far, np.sort(s * far), weights[np.argsort(s * far)])
    inside = np.abs(s) <= overlap
    curvature = (np.pi / (2 * overlap)) ** 2 / 16  # largest second derivative times 1/8 pixel squared, of interpolation
    np.testing.assert_allclose((weights + mirrored)[inside], 1, atol=curvature + 1e-9)
    assert (weights[s * far > overlap] == 1).all()
    assert (weights >= 0).all()


def test_weights_at_the_axis_and_the_ends():
    weights = overlap_weights(101, 20.0)
    np.testing.assert_allclose(weights[[0, 10, 20, 30, 40, 100]], [0, 0.1464466, 0.5, 0.8535534, 1, 1], atol=1e-6)
    np.testing.assert_allclose(overlap_weights(101, 80.0), weights[::-1], atol=1e-12)


@given(st.integers(8, 300), st.floats(0.02, 0.98))
def test_wide_detector_holds_all_that_was_seen_around_its_middle(num_columns, place):
    axis = place * (num_columns - 1)
    before, after = wide_detector(num_columns, axis)
    reach = max(axis, num_columns - 1 - axis)
    last = before + num_columns + after - 1
    assert min(before, after) == 0
    assert abs(before + axis - last / 2) <= 0.5 + 1e-9
    assert abs(reach - last / 2) <= 0.5 + 1e-9
    assert (before + after) % 2 == 0


@pytest.mark.parametrize("axis", [17.5, 65.5, 24.0 + 0.5])
def test_an_axis_found_a_little_off_makes_the_same_slices(axis):
    assert {wide_detector(96, axis + off) for off in (-0.3, -0.07, 0, 0.07, 0.3)} == {wide_detector(96, axis)}


@pytest.mark.parametrize(("count", "missing"), [(360, 0), (340, 20), (300, 60), (180, 180)])
def test_missing_part_of_a_full_turn(count, missing):
    assert np.rad2deg(missing_of_full_turn(np.deg2rad(np.arange(count)))) == pytest.approx(missing)


@pytest.mark.parametrize("axis", [24.0, 24.3, 24.5, 119 - 24.3])
@pytest.mark.parametrize("count", [720, 721])
@pytest.mark.parametrize(("x", "y"), [(0, 0), (10, 5), (-15, 17), (60, -20)])
def test_smooth_blob_is_exact(axis, count, x, y):
    """In the overlap, across its edge and beyond it, the axis on a pixel or between, turned either way."""
    theta = 0.1 + np.arange(count) * TURN / count
    slice_ = reconstruct_wide(blob(theta, 120, axis, x, y), theta, axis)
    X, Y = grid(len(slice_))
    truth = np.exp(-((X - x) ** 2 + (Y - y) ** 2) / 50)
    assert np.abs(slice_ - truth)[np.hypot(X, Y) < len(slice_) / 2 - 2].max() < BLOB


def psnr_and_slope(slice_, truth, reach):
    inside = np.hypot(*grid(len(truth))) < reach - 1
    a, b = slice_[inside], truth[inside]
    return 20 * np.log10(truth.max()) - 10 * np.log10(np.mean((a - b) ** 2)), np.polyfit(b, a, 1)[0]


@pytest.mark.parametrize("num_sections", [1, 4])
@pytest.mark.parametrize("count", [400, 401])
@pytest.mark.parametrize("axis", [24.3, 119 - 24.3])
def test_foam_is_as_good_as_with_a_wide_detector(axis, count, num_sections):
    """As good as half a turn with a detector of the slice's width, half the projections, and as many photons."""
    num_columns, num_rows, reach = 120, 5, 119 - 24.3
    before, after = wide_detector(num_columns, axis)
    width = before + num_columns + after
    foam, radius = foam_phantom(60, seed=1, height=0.4, min_radius=0.05), 0.97 * reach
    truth = rasterise_foam(foam, num_rows, width, radius=radius)[2]

    def project(theta, columns, column):
        rows = project_foam(foam, theta, num_rows, columns, rotation_axis=column, radius=radius)
        return rows[:, 2][None]

    theta = np.arange(count) * TURN / count
    half_turn = np.arange(count // 2) * TURN / (count // 2) / 2
    seen, wide = project(theta, num_columns, axis), project(half_turn, width, before + axis)
    parts = zip(split_angles(theta, num_sections, turn=TURN), split_angles(half_turn, num_sections), strict=True)
    for part, wide_part in parts:
        ours = reconstruct_wide(seen[:, part], theta[part], axis)
        other = gridrec(wide[:, wide_part], half_turn[wide_part], before + axis)[0]
        psnr, slope = psnr_and_slope(ours, truth, reach)
        expected_psnr, expected_slope = psnr_and_slope(other, truth, reach)
        assert psnr > expected_psnr - PSNR
        assert slope == pytest.approx(expected_slope, rel=SLOPE)


def test_average_of_sections_is_the_full_slice():
    theta = np.arange(64) * TURN / 64
    noise = np.random.default_rng(0).normal(size=(1, 64, 48)).astype(np.float32)
    full = reconstruct_wide(noise, theta, 10.3)
    parts = [reconstruct_wide(noise[:, part], theta[part], 10.3) for part in split_angles(theta, 4, turn=TURN)]
    np.testing.assert_allclose(np.mean(parts, axis=0), full, atol=SECTIONS_MEAN * full.std())


def test_measured_values_stay_on_their_columns():
    rng = np.random.default_rng(0)
    sinograms = rng.uniform(1, 2, (2, 5, 40)).astype(np.float32)
    given_ = sinograms.copy()
    half = extend(sinograms, 29.75)
    np.testing.assert_array_equal(sinograms, given_)
    assert half.sinograms.shape == (2, 5, 60)
    assert half.sinograms.dtype == np.float32
    assert half.rotation_axis == 29.75
    np.testing.assert_array_equal(half.sinograms[..., :20], sinograms[..., :20])
    assert (half.sinograms[..., 40:] == 0).all()


@pytest.mark.parametrize("axis", [-5, 0.9, 38.5, 60, np.nan])
def test_axis_outside_the_detector(axis):
    with pytest.raises(ScanError, match=r"must lie in \[1, 38\], got"):
        extend(np.ones((1, 4, 40), np.float32), axis)


@pytest.mark.parametrize(
    ("degrees", "axis", "beyond", "expected"),
    [
        (np.arange(360), 20, False, True),
        (np.arange(360), 80, False, True),
        (np.arange(361), 10, True, True),
        (np.arange(360), 47, False, False),
        (np.arange(360), 47, True, True),
        (np.arange(360), 53, True, True),
        (np.arange(360), 49.2, True, False),
        (np.arange(180), 20, True, False),
        (np.arange(300), 20, False, False),
    ],
)
def test_half_acquisition_is_told_by_turn_axis_and_sample(degrees, axis, beyond, expected):
    assert joins_opposite(None, np.deg2rad(degrees), axis, 101, sees_beyond=beyond) is expected


@pytest.mark.parametrize("asked", [True, False])
def test_settings_decide_before_the_scan(asked):
    for degrees in (np.arange(360), np.arange(180)):
        assert joins_opposite(asked, np.deg2rad(degrees), 20, 101, sees_beyond=not asked) is asked


def disc(theta, num_columns, axis, radius, *, x=0.0, attenuation=0.01, num_sub=8):
    """Mean of the chords over each column."""
    column = (np.arange(num_columns * num_sub) + 0.5) / num_sub - 0.5
    s = column - axis - x * np.cos(theta)[:, None]
    chords = 2 * attenuation * np.sqrt(np.clip(radius**2 - s**2, 0, None))
    return chords.reshape(theta.size, num_columns, num_sub).mean(axis=2).astype(np.float32)[None]


HALF_TURN = np.arange(180) * np.pi / 180


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("offset", [-0.02, 0.0, 0.02])
@pytest.mark.parametrize(
    ("axis", "radius", "x", "expected"),
    [
        (102.0, 123, 0, True),
        (114.75, 123, 0, True),
        (102.0, 30, 110, True),
        (102.0, 99, 0, False),
        (102.0, 30, 60, False),
        (114.75, 10, 0, False),
        (126.0, 123, 0, False),
    ],
)
def test_far_side_sees_beyond(axis, radius, x, expected, offset, mirrored):
    """With noise, and with flats that are off, by which air is not 0."""
    axis = 255 - axis if mirrored else axis
    theta = 2 * HALF_TURN
    noise = np.random.default_rng(0).normal(scale=0.1, size=(4, theta.size, 256))
    sinograms = (disc(theta, 256, axis, radius, x=x) + noise + offset).astype(np.float32)
    assert sees_beyond(sinograms, axis) is expected
    if expected:
        assert sees_end(sinograms, axis)


def test_what_is_wider_than_the_detector_has_no_end():
    sinograms = disc(HALF_TURN, 256, 114.75, 200)
    assert sees_beyond(sinograms, 114.75)
    assert not sees_end(sinograms, 114.75)
    assert not sees_beyond(sinograms, 127.5)  # there is nothing beyond
    assert not sees_end(sinograms, 127.5)


@pytest.mark.parametrize("radius", [110, 123, 140])
@pytest.mark.parametrize("axis", [102.0, 255 - 76.5])
def test_excess_is_that_of_a_half_turn(axis, radius):
    sinograms, reach = disc(HALF_TURN, 256, axis, radius), min(axis, 255 - axis)
    slice_ = gridrec(sinograms, HALF_TURN, axis)[0]
    found = slice_[np.hypot(*grid(256)) < 0.9 * reach].mean() / 0.01 - 1
    assert found > 0.005
    assert inner_excess(sinograms, axis) == pytest.approx(found, rel=EXCESS_SHARE, abs=EXCESS)


def test_what_is_seen_whole_has_no_excess():
    assert inner_excess(disc(HALF_TURN, 256, 102.0, 95), 102.0) == 0
    assert inner_excess(np.zeros((1, 180, 256), np.float32), 102.0) == 0
