from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.reconstructors import circle
from quietbeam.reconstruction.stripes import STRIPE_METHODS, StripeSettings, _where_columns_differ, remove_stripes

SHADING = 0.02
"""Slow change of a slice by ring removal, over the attenuation of the sample."""
EDGES = 0.1
"""Change of a sinogram with the steep edge of a sample, over its standard deviation."""
LEAST_GAIN = {"all": 10, "sorting": 10, "filtering": 8, "fitting": 2.5, "wavelet-fft": 2, "normalization": 2}
"""By what factor each method must weaken two stripes of the whole height; the last three blur along the row."""
CHANGE = {"fitting": 0.08}
"""Change of a sinogram without stripes, over its standard deviation: 0.01 where not named. A parabola in the angle
cannot follow the first and last angles."""


def waves(width, num_angles):
    """Smooth line integrals around 2 with 1 % noise."""
    columns, angles = np.arange(width), np.linspace(0, np.pi, num_angles)[:, None]
    noise = 0.01 * np.random.default_rng(4).normal(size=(num_angles, width))
    return (2 + np.sin(columns / 20 + angles) + noise).astype(np.float32)


def test_the_table_holds_the_names_of_the_settings():
    assert {*STRIPE_METHODS, "none"} == set(get_args(StripeSettings.model_fields["method"].annotation))


@pytest.mark.parametrize("method", STRIPE_METHODS)
@pytest.mark.parametrize(("width", "num_angles"), [(128, 90), (400, 181)])
def test_stripes_are_removed(method, width, num_angles):
    clean = waves(width, num_angles)
    striped = clean.copy()
    striped[:, [40, 90]] += 0.5
    cured = remove_stripes(striped[None], StripeSettings(method=method))[0][0]
    after = np.abs(cured - clean)[:, [40, 90]].mean()
    assert 0.5 / after > LEAST_GAIN[method]


@pytest.mark.parametrize("method", STRIPE_METHODS)
@pytest.mark.parametrize(("width", "num_angles"), [(128, 90), (400, 181)])
def test_a_clean_sinogram_is_left_alone(method, width, num_angles):
    clean = waves(width, num_angles)
    cured = remove_stripes(clean[None], StripeSettings(method=method))[0][0]
    assert (cured - clean).std() < CHANGE.get(method, 0.01) * clean.std()
    assert abs(cured.mean() - clean.mean()) < 1e-3


@pytest.mark.parametrize("method", STRIPE_METHODS)
def test_air_and_the_edge_of_a_sample_are_left_alone(method):
    """A cylinder in air, whose line integrals are 0 but for the noise."""
    chord = 2 * np.sqrt(np.clip(0.4**2 - np.linspace(-0.5, 0.5, 300) ** 2, 0, None))
    clean = (chord + np.random.default_rng(6).normal(0, 0.01, (180, 300))).astype(np.float32)
    cured = remove_stripes(clean[None], StripeSettings(method=method))[0][0]
    assert (cured - clean).std() < EDGES * clean.std()


@pytest.mark.parametrize("method", STRIPE_METHODS)
@given(shape=st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_no_size_and_no_value_is_too_much(method, shape, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([0, 1, -7, 1e-30, 1e15, -1e15, 3e38, -3e38], 3)
    sinograms = np.stack([rng.choice([rng.normal(size=shape), rng.choice(values, shape), np.ones(shape)])])[0]
    cured, num_left = remove_stripes(sinograms.astype(np.float32), StripeSettings(method=method))
    assert 0 <= num_left <= shape[0]
    assert cured.shape == shape
    assert cured.dtype == np.float32
    assert np.isfinite(cured).all()


@pytest.mark.parametrize("method", STRIPE_METHODS)
def test_rows_do_not_see_each_other(method):
    sinograms = np.stack([waves(60, 50) + 0.1 * k for k in range(3)])
    sinograms[1, :, 30] += 1
    chosen = StripeSettings(method=method)
    alone = [remove_stripes(sinograms[k : k + 1], chosen)[0][0] for k in range(3)]
    for num_threads in (1, 3):
        cured, num_left = remove_stripes(sinograms, chosen, num_threads=num_threads)
        np.testing.assert_array_equal(cured, alone)
        assert num_left == 0


@pytest.mark.parametrize("width", [96, 160, 400])
def test_ring_removal_does_not_shade_the_slices_of_a_narrow_detector(width):
    """A cylinder with voids, in noise: its smoothed slice must stay what it was (SHADING of its value)."""
    theta, s = np.arange(180) * np.pi / 180, np.arange(width) - (width - 1) / 2
    rng = np.random.default_rng(6)
    sinogram = 2 * np.sqrt(np.clip((0.45 * width) ** 2 - s**2, 0, None)) * np.ones((180, 1))
    for _ in range(60):
        x, y, radius = rng.uniform((-0.3, -0.3, 0.02), (0.3, 0.3, 0.08))
        distance = s - width * (x * np.cos(theta) + y * np.sin(theta))[:, None]
        sinogram -= 2 * np.sqrt(np.clip((radius * width) ** 2 - distance**2, 0, None))
    sinogram = (sinogram / width + rng.normal(0, 0.03, sinogram.shape)).astype(np.float32)[None]
    before, after = (gridrec(sino, theta, (width - 1) / 2) for sino in (sinogram, remove_stripes(sinogram)[0]))
    change = gaussian_filter((after - before)[0], width / 40) * width * (circle(width) > 0)
    assert change.std() < SHADING


@pytest.mark.parametrize("width", [8, 26, 83])
def test_sinograms_without_any_stripe_pass(width):
    for value in (0, 1):
        smooth = np.full((1, 60, width), value, np.float32)
        cured, num_left = remove_stripes(smooth)
        np.testing.assert_allclose(cured, smooth, atol=1e-5)
        assert num_left == 0


def test_a_sinogram_without_noise_has_nothing_to_be_found():
    """algotom refuses one; a row of the beam beside the sample in a simulated scan is such."""
    smooth = (np.linspace(1, 2, 60)[:, None] * np.ones(50)).astype(np.float32)[None]
    cured, num_left = remove_stripes(smooth)
    np.testing.assert_allclose(cured, smooth, rtol=1e-5)
    assert num_left == 0


@pytest.mark.parametrize(
    ("method", "shape", "value"), [("all", (2, 30), 1), ("wavelet-fft", (31, 40), 1), ("all", (40, 30), 3e38)]
)
def test_sinograms_left_as_they_are_are_counted(method, shape, value):
    rng = np.random.default_rng(8)
    bad = (value * rng.choice([-1, 1], shape) * rng.uniform(0.9, 1, shape)).astype(np.float32)
    sinograms = np.stack([bad, np.ones(shape, np.float32), bad])
    cured, num_left = remove_stripes(sinograms, StripeSettings(method=method))
    assert num_left == 2
    np.testing.assert_array_equal(cured, sinograms)


def test_other_faults_of_a_method_are_no_lack_of_stripes():
    def refuse(sinogram):
        raise ValueError("no such window")

    with pytest.raises(ValueError, match="no such window"):
        _where_columns_differ(refuse, waves(20, 20))


def test_the_threshold_is_that_of_unresponsive_columns_too():
    """One that fluctuates from angle to angle is interpolated; sorting alone leaves it."""
    striped = waves(128, 90)
    striped[:, 40] += np.random.default_rng(9).normal(0, 0.5, 90)
    spread = [
        (remove_stripes(striped[None], StripeSettings(snr=snr))[0][0] - waves(128, 90))[:, 40].std() for snr in (3, 1e6)
    ]
    assert spread[0] < 0.05
    assert spread[1] > 0.3


def test_no_stripe_removal_changes_nothing():
    sinograms = np.random.default_rng(5).normal(size=(2, 20, 30)).astype(np.float32)
    cured, num_left = remove_stripes(sinograms, StripeSettings(method="none"))
    np.testing.assert_array_equal(cured, sinograms)
    assert num_left == 0
