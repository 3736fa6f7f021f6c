import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from quietbeam.reconstruction.outliers import (
    OutlierSettings,
    _median_of_five,
    fill_dead,
    mask_unmeasured,
    remove_zingers,
)

FALSE_ZINGERS = 2e-3
"""Share of the values along steep edges that may be taken for zingers."""


def test_dead_values_are_interpolated_along_the_row():
    sinogram = np.broadcast_to(np.arange(10, dtype=np.float32), (1, 4, 10)).copy()
    truth = sinogram.copy()
    sinogram[0, :, [3, 4, 9]] = np.nan
    truth[0, :, 9] = 8  # beyond the last good value there is nothing to interpolate with
    np.testing.assert_allclose(fill_dead(sinogram, empty=1), truth)
    assert (fill_dead(np.full((1, 2, 5), np.nan, np.float32), empty=1) == 1).all()


def test_dead_columns_and_single_values_are_filled_as_interp_does():
    rng = np.random.default_rng(4)
    sinograms = rng.normal(1, 0.1, (3, 30, 40)).astype(np.float32)
    sinograms[0][:, [0, 7, 8, 39]] = np.nan
    sinograms[0, 5, 9], sinograms[0, 6], sinograms[1, 3, :4], sinograms[2] = np.inf, np.nan, np.nan, np.nan
    expected = sinograms.copy()
    for row in expected.reshape(-1, 40):
        good = np.isfinite(row)
        row[~good] = np.interp(np.flatnonzero(~good), np.flatnonzero(good), row[good]) if good.any() else 1
    np.testing.assert_array_equal(fill_dead(sinograms, empty=1), expected)


def test_inputs_are_not_changed():
    sinograms = np.full((1, 9, 12), np.nan, np.float32)
    fill_dead(sinograms, empty=1)
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


def test_photon_noise_beside_a_dark_sample_is_no_zinger():
    """The sample covers four fifths of the columns and lets through e^-5 of 1000 photons."""
    rng = np.random.default_rng(10)
    photons = np.full((180, 250), 1000.0)
    photons[:, 25:225] *= np.exp(-5)
    clean = (rng.poisson(photons) / 1000).astype(np.float32)[None]
    assert remove_zingers(clean)[1] <= 1e-4 * clean.size
    hit = clean.copy()
    air, sample = [(20, 5), (90, 240), (150, 12)], [(10, 60), (77, 120), (140, 200)]
    for (i, j), height in zip(air + sample, [1.0] * 3 + [0.5] * 3, strict=True):
        hit[0, i, j] += height
    cured, _ = remove_zingers(hit)
    where = tuple(np.array(air + sample).T)
    assert (cured[0][where] < clean[0][where] + 0.3).all()
    assert (cured != clean).sum() <= len(air + sample) + 1e-4 * clean.size


def test_the_threshold_is_twelve_standard_deviations():
    rng = np.random.default_rng(12)
    clean = rng.normal(1, 0.02, (1, 200, 100)).astype(np.float32)
    for height, expected in ((9, 0), (16, 1)):
        hit = clean.copy()
        around = [clean[0, 79:82:2, 49:52].max(), np.median(clean[0, 80, 48:53])]
        hit[0, 80, 50] = max(around) + 0.02 * height
        assert remove_zingers(hit)[1] == expected


def test_a_zinger_where_no_light_comes_through():
    """The noise is at least one photon of 1000; half of the open beam's light stands out."""
    rng = np.random.default_rng(13)
    photons = np.full((100, 200), 1000.0)
    photons[:, 60:140] = 0
    hit = (rng.poisson(photons) / 1000).astype(np.float32)[None]
    hit[0, 50, 100] = 0.5
    cured, count = remove_zingers(hit)
    assert count == 1
    assert cured[0, 50, 100] == 0


def test_noise_of_reading_out_in_a_dark_sample_does_not_hide_zingers_in_the_light():
    rng = np.random.default_rng(14)
    light = np.ones((100, 200))
    light[:, 40:160] = 0
    hit = (light + rng.normal(0, 0.01, light.shape)).astype(np.float32)[None]
    hit[0, 50, 20] += 0.5
    assert remove_zingers(hit)[0][0, 50, 20] < 1.1


@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 999))
def test_the_median_is_that_of_scipy(shape, seed):
    values = np.random.default_rng(seed).choice([-1, 0, 0.25, 3e14, 7], shape).astype(np.float32)
    np.testing.assert_array_equal(_median_of_five(values), ndimage.median_filter(values, size=(5, 1), mode="mirror"))


def test_threads_do_not_change_the_result():
    noisy = np.random.default_rng(15).exponential(1, (5, 40, 50)).astype(np.float32)
    (alone, count), (together, same) = (
        remove_zingers(noisy, OutlierSettings(zinger_threshold=3), num_threads=n) for n in (1, 3)
    )
    assert count == same > 0
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("num_photons", [30, 100, 1000, 100000])
@pytest.mark.parametrize("thickness", [3, 5, 8])
def test_counts_of_any_light_are_no_zingers(num_photons, thickness):
    rng = np.random.default_rng(11)
    photons = np.full((120, 200), float(num_photons))
    photons[:, 20:180] *= np.exp(-thickness)
    clean = (rng.poisson(photons) / num_photons).astype(np.float32)[None]
    assert remove_zingers(clean)[1] <= 1e-4 * clean.size


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


def test_what_no_detector_measures_becomes_nan():
    values = np.array([0, -5, 1e14, np.inf, -np.inf, np.nan, 3e38], np.float32)
    np.testing.assert_array_equal(np.isnan(mask_unmeasured(values)), [False] * 3 + [True] * 4)
    assert mask_unmeasured(values[:3]).base is values  # nothing to do: no copy
    assert np.isinf(values[3])
