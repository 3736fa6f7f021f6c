import numpy as np
import pytest

from quietbeam.reconstruction.outliers import OutlierSettings, fill_dead, mask_unmeasured, remove_zingers

FALSE_ZINGERS = 2e-3
"""Share of the values along steep edges that may be taken for zingers."""


def test_dead_values_are_interpolated_along_the_row():
    sinogram = np.broadcast_to(np.arange(10, dtype=np.float32), (1, 4, 10)).copy()
    truth = sinogram.copy()
    sinogram[0, :, [3, 4, 9]] = np.nan
    truth[0, :, 9] = 8  # beyond the last good value there is nothing to interpolate with
    np.testing.assert_allclose(fill_dead(sinogram, empty=1), truth)
    assert (fill_dead(np.full((1, 2, 5), np.nan, np.float32), empty=1) == 1).all()


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
