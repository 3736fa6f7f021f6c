import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.normalize import NormalizeSettings, dead_pixels, line_integrals, transmission
from quietbeam.reconstruction.outliers import OutlierSettings, fill_dead, remove_zingers
from quietbeam.reconstruction.reconstructors import circle
from quietbeam.reconstruction.stripes import StripeSettings, remove_stripes

FALSE_ZINGERS = 2e-3
"""Share of the values along steep edges that may be taken for zingers."""
SHADING = 0.02
"""Slow change of a slice by ring removal, over the attenuation of the sample."""


def test_corrected_flats_are_one():
    rng = np.random.default_rng(0)
    flats = rng.uniform(900, 1100, (1, 4, 6)).astype(np.float32)
    darks = rng.uniform(90, 110, (3, 4, 6)).astype(np.float32)
    np.testing.assert_allclose(transmission(flats, flats, darks).values, 1, rtol=1e-6)


def test_line_integrals_undo_beer_lambert():
    mu = np.linspace(0, 5, 50, dtype=np.float32)
    values, starved = line_integrals(np.exp(-mu))
    np.testing.assert_allclose(values, mu, atol=1e-5)
    assert starved == 0


def test_starved_pixels_are_set_to_the_floor_and_counted():
    values, starved = line_integrals(np.array([1, 0, -2, 0.5], np.float32), NormalizeSettings(min_transmission=0.01))
    assert starved == 2
    np.testing.assert_allclose(values[1:3], -np.log(0.01), rtol=1e-6)


def test_dead_pixels_are_found_and_become_nan():
    flats = np.full((2, 3, 8), 1000, np.float32)
    flats[:, 1, 4] = 3
    darks = np.zeros((1, 3, 8), np.float32)
    result = transmission(flats, flats, darks)
    assert np.argwhere(result.dead).tolist() == [[1, 4]]
    assert np.isnan(result.values[:, 1, 4]).all()
    assert dead_pixels(np.full((2, 5), np.nan, np.float32), 0.1).all()


def test_dead_values_are_interpolated_along_the_row():
    sinogram = np.broadcast_to(np.arange(10, dtype=np.float32), (1, 4, 10)).copy()
    truth = sinogram.copy()
    sinogram[0, :, [3, 4, 9]] = np.nan
    truth[0, :, 9] = 8  # beyond the last good value there is nothing to interpolate with
    np.testing.assert_allclose(fill_dead(sinogram), truth)
    assert (fill_dead(np.full((1, 2, 5), np.nan, np.float32)) == 0).all()


def test_inputs_are_not_changed():
    sinograms = np.full((1, 9, 12), np.nan, np.float32)
    fill_dead(sinograms)
    assert np.isnan(sinograms).all()


def test_zingers_go_and_noise_stays():
    rng = np.random.default_rng(3)
    clean = rng.normal(1, 0.02, (2, 60, 50)).astype(np.float32)
    hit = clean.copy()
    hit[0, 20, 30] += 2
    hit[1, 5, 49] += 1
    cured, count = remove_zingers(hit)
    assert count == 2
    np.testing.assert_allclose(cured, clean, atol=0.1)
    assert (cured != hit).sum() == 2
    assert remove_zingers(hit, OutlierSettings(zinger_threshold=None))[1] == 0


def test_edges_that_move_through_the_sinogram_are_no_zingers():
    """Steep edges, a few columns from frame to frame: the background of a sample seen at few angles."""
    theta, s = np.arange(60) * np.pi / 60, np.arange(200) - 99.5
    rng = np.random.default_rng(7)
    sinogram = np.ones((60, 200))
    for radius, angle in zip(rng.uniform(5, 80, 12), rng.uniform(0, 2 * np.pi, 12), strict=True):
        distance = s - radius * np.cos(theta - angle)[:, None]
        sinogram *= np.where(np.abs(distance) < 12, 0.9, 1)
    noisy = (sinogram + rng.normal(0, 0.002, sinogram.shape)).astype(np.float32)[None]
    _, count = remove_zingers(noisy)
    assert count < FALSE_ZINGERS * noisy.size


def test_a_constant_sinogram_has_no_zingers():
    assert remove_zingers(np.ones((1, 10, 10), np.float32))[1] == 0


@pytest.mark.parametrize("method", ["all", "sorting"])
def test_stripes_are_removed(method):
    columns = np.arange(128)
    rows = np.linspace(0, np.pi, 90)[:, None]
    clean = (2 + np.sin(columns / 20 + rows) + 0.01 * np.random.default_rng(4).normal(size=(90, 128))).astype(
        np.float32
    )
    striped = clean.copy()
    striped[:, [40, 90]] += 0.5
    cured = remove_stripes(striped[None], StripeSettings(method=method))[0]
    before, after = np.abs(striped - clean)[:, [40, 90]].mean(), np.abs(cured - clean)[:, [40, 90]].mean()
    assert after < 0.2 * before


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
    before, after = (gridrec(sino, theta, (width - 1) / 2) for sino in (sinogram, remove_stripes(sinogram)))
    change = gaussian_filter((after - before)[0], width / 40) * width * (circle(width) > 0)
    assert change.std() < SHADING


@pytest.mark.parametrize("width", [8, 26, 83])
def test_sinograms_without_any_stripe_pass(width):
    smooth = np.ones((1, 60, width), np.float32)
    np.testing.assert_allclose(remove_stripes(smooth), smooth, atol=1e-5)


def test_no_stripe_removal_changes_nothing():
    sinograms = np.random.default_rng(5).normal(size=(2, 20, 30)).astype(np.float32)
    np.testing.assert_array_equal(remove_stripes(sinograms, StripeSettings(method="none")), sinograms)
