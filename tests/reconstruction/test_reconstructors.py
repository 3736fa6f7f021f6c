from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from quietbeam.reconstruction.angles import angular_weights
from quietbeam.reconstruction.errors import ReductionError
from quietbeam.reconstruction.filters import FilterName, ramp_filter
from quietbeam.reconstruction.reconstructors import (
    RECONSTRUCTORS,
    ReconstructionSettings,
    available_reconstructors,
    reconstruct,
    reconstruct_sections,
)

METHODS = [pytest.param(name, marks=pytest.mark.gpu if "cuda" in name else ()) for name in RECONSTRUCTORS]
AMPLITUDE = {"tomopy-gridrec": (1.12, 0.04)}
"""Slope of the slice over the truth and how much it may differ: tomopy's norm is too high, its background curved."""
RIGHT_AMPLITUDE = (1.0, 0.002)
"""The slope of all others: what 240 angles leave of the ripples of the edges."""
POSITION = {"tomopy-gridrec": 0.05}
"""Pixels by which the object may seem to be off, for the same reason; half a pixel is the mistake to find."""
RIGHT_POSITION = 0.01
"""The same for all others: the ripples of the edges."""
EDGE = 7
"""Pixels around a pixel in which the truth must be the same: edges are as sharp as each method makes them."""
ROUNDING = 2e-5
"""Of the slice's standard deviation: float32, transforms of other slices in the imaginary part."""
UNEQUAL_ANGLES = 0.003
"""Error of the slope on top of it where the share of each projection is its Voronoi cell."""
NOISE = 0.05
"""Relative error of the standard deviation of a slice of noise, three thousand pixels that are not independent."""

DISCS = ((-6.0, 8.0, 30.0, 100.0), (14.0, 21.0, 9.0, 150.0), (-20.5, -9.25, 4.0, -60.0))
"""An object without symmetry: x, y, radius in pixels, attenuation in 1/m."""
PIXEL_SIZE = 2e-6

Array = NDArray[np.float32]
Angles = NDArray[np.float64]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    if request.param not in available_reconstructors():
        pytest.skip(f"the library or the device of {request.param} is not here")
    return str(request.param)


def project(theta: Angles, num_columns: int, axis: float, num_rays: int = 8) -> Array:
    rays = np.arange(num_columns)[:, None] + (np.arange(num_rays) + 0.5) / num_rays - 0.5 - axis
    total = np.zeros((theta.size, num_columns))
    for x, y, radius, mu in DISCS:
        s = rays - (x * np.cos(theta) + y * np.sin(theta))[:, None, None]
        total += (2 * mu * PIXEL_SIZE * np.sqrt(np.clip(radius**2 - s**2, 0, None))).mean(-1)
    return total.astype(np.float32)


def truth(size: int, num_points: int = 8) -> Array:
    grid = (np.arange(size * num_points) + 0.5) / num_points - size / 2
    image = np.zeros((size * num_points, size * num_points))
    for x, y, radius, mu in DISCS:
        image += mu * (np.hypot(grid - x, -grid[:, None] - y) < radius)
    return image.reshape(size, num_points, size, num_points).mean((1, 3)).astype(np.float32)


def inside(size: int) -> NDArray[np.bool_]:
    grid = np.arange(size) - (size - 1) / 2
    return np.hypot(grid, grid[:, None]) < size / 2 - 1


def slope(image: Array) -> float:
    right = truth(len(image))
    flat = inside(len(image)) & (maximum_filter(right, EDGE) == minimum_filter(right, EDGE))
    return float(np.polyfit(right[flat], image[flat], 1)[0])


def shift(image: Array) -> NDArray[np.float64]:
    """Pixels by which the slice lies below and to the right of the truth, to first order in the truth's gradient."""
    right, where = truth(len(image)), inside(len(image))
    columns = [right, *np.gradient(right), np.ones_like(right)]
    fit = np.linalg.lstsq(np.stack([column[where] for column in columns], axis=1), image[where])[0]
    return -fit[1:3] / fit[0]


def kept_power(method: str, theta: Angles, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power that interpolation between two columns leaves on average over the places between them.

    The autocorrelation at 0 and 1 of the triangle of interpolation; the adjoint of ASTRA's projector along lines has a
    triangle that is narrower, and higher, the more the ray is a diagonal.
    """
    if "fbp" not in method:
        return np.ones_like(frequency)
    c = np.maximum(abs(np.cos(theta)), abs(np.sin(theta)))[:, None] if method == "fbp" else np.ones((1, 1))
    power = 2 / (3 * c) + (2 * c - 1) ** 3 / (3 * c**4) * np.cos(2 * np.pi * frequency)
    return np.asarray(power.mean(axis=0))


def noise(num_rows: int, num_angles: int, num_columns: int) -> Array:
    return np.random.default_rng(1).normal(size=(num_rows, num_angles, num_columns)).astype(np.float32)


def half_turn(num_angles: int) -> Angles:
    return np.arange(num_angles) * np.pi / num_angles


@pytest.mark.parametrize(("size", "axis"), [(96, 47.5), (95, 47.0), (96, 43.3), (95, 50.8)])
@pytest.mark.parametrize("turn", [np.pi, 2 * np.pi])
def test_slice_is_the_object_in_value_and_place(method: str, size: int, axis: float, turn: float) -> None:
    theta = np.arange(240) * turn / 240
    settings = ReconstructionSettings(method=method)
    image = reconstruct(project(theta, size, axis)[None], theta, axis, settings, pixel_size=PIXEL_SIZE)[0]
    expected, tolerance = AMPLITUDE.get(method, RIGHT_AMPLITUDE)
    assert slope(image) == pytest.approx(expected, abs=tolerance)
    np.testing.assert_allclose(shift(image), 0, atol=POSITION.get(method, RIGHT_POSITION))


@pytest.mark.parametrize("pattern", ["jittered", "golden"])
def test_unequal_angles_keep_the_amplitude(method: str, pattern: str) -> None:
    theta = {
        "jittered": half_turn(240) + np.random.default_rng(2).uniform(-0.4, 0.4, 240) * np.pi / 240,
        "golden": np.arange(240) * np.pi * (np.sqrt(5) - 1) / 2 % np.pi,
    }[pattern]
    settings = ReconstructionSettings(method=method)
    image = reconstruct(project(theta, 96, 45.2)[None], theta, 45.2, settings, pixel_size=PIXEL_SIZE)[0]
    expected, tolerance = AMPLITUDE.get(method, RIGHT_AMPLITUDE)
    assert slope(image) == pytest.approx(expected, abs=tolerance + UNEQUAL_ANGLES)


def test_projections_are_weighed_as_given(method: str) -> None:
    theta, sinograms = half_turn(30), noise(1, 30, 32)
    settings = ReconstructionSettings(method=method)
    usual = reconstruct(sinograms, theta, 15.2, settings)
    weights = angular_weights(theta)
    close = {"atol": ROUNDING * float(usual.std())}
    np.testing.assert_allclose(reconstruct(sinograms, theta, 15.2, settings, weights=weights), usual, **close)
    np.testing.assert_allclose(reconstruct(sinograms, theta, 15.2, settings, weights=2 * weights), 2 * usual, **close)
    masked = np.where(np.arange(30) < 10, 0, weights)
    without = reconstruct(sinograms[:, 10:], theta[10:], 15.2, settings, weights=weights[10:])
    np.testing.assert_allclose(reconstruct(sinograms, theta, 15.2, settings, weights=masked), without, **close)


def test_linear_with_rows_that_do_not_see_each_other(method: str) -> None:
    theta, sinograms = half_turn(30), noise(9, 30, 33)
    settings = ReconstructionSettings(method=method)
    together = reconstruct(sinograms, theta, 15.2, settings)
    for start, stop in ((0, 1), (1, 2), (2, 4), (4, 9)):
        alone = reconstruct(3 * sinograms[start:stop], theta, 15.2, settings)
        np.testing.assert_allclose(alone, 3 * together[start:stop], atol=3 * ROUNDING * together.std())


def test_repeated_angles_share_the_turn(method: str) -> None:
    theta, sinograms = half_turn(30), noise(2, 30, 32)
    settings = ReconstructionSettings(method=method)
    once = reconstruct(sinograms, theta, 15.2, settings)
    twice = reconstruct(np.repeat(sinograms, 2, axis=1), np.repeat(theta, 2), 15.2, settings)
    np.testing.assert_allclose(twice, once, atol=ROUNDING * once.std())


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 16), (2, 7, 1), (1, 3, 2), (3, 5, 7)])
def test_any_size_and_a_missing_wedge_stay_finite(method: str, shape: tuple[int, int, int]) -> None:
    theta = np.linspace(0.3, 1.1, shape[1])
    slices = reconstruct(noise(*shape), theta, shape[2] / 3, ReconstructionSettings(method=method))
    assert slices.shape == (shape[0], shape[2], shape[2])
    assert slices.dtype == np.float32
    assert np.isfinite(slices).all()


@pytest.mark.parametrize("name", get_args(FilterName))
def test_window_takes_its_share_of_the_noise(method: str, name: FilterName) -> None:
    theta, sinograms = half_turn(150), noise(1, 150, 64)
    bare, windowed = (
        reconstruct(sinograms, theta, 31.5, ReconstructionSettings(method=method, filter=window))[:, inside(64)].std()
        for window in ("ram-lak", name)
    )
    kept = kept_power(method, theta, np.fft.rfftfreq(256))
    expected = np.sqrt((kept * ramp_filter(256, name) ** 2).sum() / (kept * ramp_filter(256) ** 2).sum())
    assert windowed / bare == pytest.approx(expected, rel=NOISE)


def test_methods_agree_on_a_smooth_object() -> None:
    theta = half_turn(200)
    sinogram = project(theta, 96, 45.4)[None]
    images = [
        reconstruct(sinogram, theta, 45.4, ReconstructionSettings(method=name, filter="hann"))[:, inside(96)].ravel()
        for name in available_reconstructors()
    ]
    assert np.corrcoef(images).min() > 0.999


def test_threads_change_only_rounding(method: str) -> None:
    theta, sinograms = half_turn(40), noise(5, 40, 50)
    settings = ReconstructionSettings(method=method)
    one, two = (reconstruct(sinograms, theta, 24.5, settings, num_threads=count) for count in (1, 2))
    np.testing.assert_allclose(two, one, atol=ROUNDING * one.std())


def test_input_stays_as_it_is(method: str) -> None:
    theta, sinograms, weights = half_turn(20), noise(2, 20, 16), np.full(20, np.pi / 20)
    kept = theta.copy(), sinograms.copy(), weights.copy()
    reconstruct(sinograms, theta, 7.0, ReconstructionSettings(method=method), weights=weights)
    for after, before in zip((theta, sinograms, weights), kept, strict=True):
        np.testing.assert_array_equal(after, before)


def test_circle_leaves_nothing_outside() -> None:
    slices = [reconstruct(noise(1, 20, 16), half_turn(20), 7.5, ReconstructionSettings(circle=on)) for on in (0, 1)]
    assert (slices[1][0, :2, :2] == 0).all()
    assert (slices[0][0, :2, :2] != 0).all()
    np.testing.assert_array_equal(slices[0][0, 4:12, 4:12], slices[1][0, 4:12, 4:12])


def test_settings_name_every_method() -> None:
    assert get_args(ReconstructionSettings.model_fields["method"].annotation) == tuple(RECONSTRUCTORS)
    assert {"gridrec", "fbp"} <= set(available_reconstructors())


def test_method_that_is_not_here_says_what_to_do() -> None:
    for name in set(RECONSTRUCTORS) - set(available_reconstructors()):
        with pytest.raises(ReductionError, match="choose the method gridrec"):
            reconstruct(noise(1, 4, 8), half_turn(4), 3.5, ReconstructionSettings(method=name))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"sinograms": noise(2, 6, 8)[0]},
            r"shape \(row, angle, column\) and not empty, got float32 of shape \(6, 8\)",
        ),
        ({"sinograms": noise(2, 6, 8)[:0]}, r"not empty, got float32 of shape \(0, 6, 8\)"),
        ({"sinograms": noise(2, 6, 8).astype(float)}, "must be float32 .* got float64"),
        ({"theta": half_turn(5)}, r"theta must hold 6 finite angles, .* got shape \(5,\)"),
        ({"theta": np.zeros((6, 1))}, r"theta must hold 6 finite angles, .* got shape \(6, 1\)"),
        ({"theta": np.r_[half_turn(5), np.nan]}, "with 5 finite"),
        ({"rotation_axis": -0.1}, r"rotation_axis must lie in \[0, 8\), got -0.1"),
        ({"rotation_axis": 8.0}, r"rotation_axis must lie in \[0, 8\), got 8.0"),
        ({"rotation_axis": np.nan}, "rotation_axis must lie in .* got nan"),
        ({"weights": np.ones(5)}, r"weights must hold 6 finite .* got shape \(5,\)"),
        ({"weights": np.r_[np.ones(5), -1.0]}, "least -1.0"),
        ({"weights": np.r_[np.ones(5), np.inf]}, "greatest inf"),
        ({"pixel_size": 0.0}, "pixel_size must be 1e-12 to 1 metres, or None, got 0.0"),
        ({"pixel_size": np.nan}, "pixel_size .* got nan"),
    ],
)
def test_bad_input_is_told(changed: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"sinograms": noise(2, 6, 8), "theta": half_turn(6), "rotation_axis": 3.5}
    with pytest.raises(ValueError, match=message):
        reconstruct(**(good | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_value_that_is_not_finite_is_named(bad: float) -> None:
    sinograms = noise(2, 6, 8)
    sinograms[1, 2, 3] = sinograms[1, 4, 0] = bad
    with pytest.raises(ValueError, match="got 2 values that are not, the first at row 1, angle 2, column 3"):
        reconstruct(sinograms, half_turn(6), 3.5)


@pytest.mark.parametrize("method", ["gridrec", "fbp"])
@pytest.mark.parametrize("turn", [np.pi, 2 * np.pi])
def test_sections_are_what_their_projections_alone_give(method: str, turn: float) -> None:
    rng = np.random.default_rng(4)
    sinograms, theta = rng.standard_normal((2, 24, 20)).astype(np.float32), np.sort(rng.uniform(0, 2 * np.pi, 24))
    settings = ReconstructionSettings(method=method, filter="hann")
    sections = [np.arange(0, 24, 2), np.arange(1, 24, 2)]
    together = reconstruct_sections(sinograms, theta, sections, 8.3, settings, turn=turn, pixel_size=1e-6)
    for index, section in enumerate(sections):
        part = np.ascontiguousarray(sinograms[:, section])
        weights = angular_weights(theta[section], turn)
        alone = reconstruct(part, theta[section], 8.3, settings, weights=weights, pixel_size=1e-6)
        np.testing.assert_allclose(together[:, index], alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_sections_that_do_not_fit_are_refused() -> None:
    sinograms, theta = np.ones((1, 8, 6), np.float32), np.pi * np.arange(8) / 8
    with pytest.raises(ValueError, match="at least one section, got none"):
        reconstruct_sections(sinograms, theta, [], 2.5)
    with pytest.raises(ValueError, match="section 0 must list projections 0 to 7, got 0 to 8"):
        reconstruct_sections(sinograms, theta, [np.arange(9)], 2.5)
    with pytest.raises(ValueError, match="num_threads must be at least 1, got -1"):
        reconstruct_sections(sinograms, theta, [np.arange(8)], 2.5, num_threads=-1)
