import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.normalize import NormalizeSettings, dead_pixels, line_integrals, transmission, unlit_rows
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


def counted(rng, photons, num_frames):
    """Frames of a detector that adds 100 counts and 3 counts of noise."""
    frames = rng.poisson(photons, (num_frames, *photons.shape)) + rng.normal(100, 3, (num_frames, *photons.shape))
    return np.rint(frames).astype(np.float32)


@pytest.mark.parametrize(("num_flats", "num_darks"), [(20, 10), (1, 10), (20, 1), (1, 1)])
def test_rows_without_light_are_dead_and_dim_ones_are_not(num_flats, num_darks):
    rng = np.random.default_rng(8)
    photons = np.zeros((40, 200))
    photons[12:28] = 2000
    photons[12] = 60
    flats, darks = counted(rng, photons, num_flats), counted(rng, 0 * photons, num_darks)
    lit = photons[:, 0] > 0
    assert (unlit_rows(flats, darks) == ~lit).all()
    dead = transmission(flats, flats, darks).dead
    assert dead[~lit].all()
    assert not dead[lit].all(axis=1).any()
    rows = [unlit_rows(flats[:, i : i + 1], darks[:, i : i + 1])[0] for i in range(40)]
    assert rows == (~lit).tolist()  # no row looks at another


def test_a_beam_that_decays_or_has_no_photons_unit_is_light():
    """Flats before and after, at 1 and 0.3 of the current, of a detector that writes shares of its range."""
    rng = np.random.default_rng(9)
    current = np.array([1.0, 0.3])[:, None, None]
    flats = (current * rng.uniform(0.4, 0.6, (2, 5, 80)) + 0.01).astype(np.float32)
    flats[:, :, 7] = np.nan
    assert not unlit_rows(flats, np.full((2, 5, 80), 0.01, np.float32)).any()


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
