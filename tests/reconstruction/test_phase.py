import numpy as np
import pytest
from scipy import constants, ndimage

from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.phase import (
    PhaseOptics,
    PhaseSettings,
    blur_length,
    paganin,
    phase_halo,
    phase_optics,
    retrieve_phase,
    wavelength,
)
from quietbeam.reconstruction.propagation import propagate

OPTICS = {"delta_beta": 100.0, "energy": 20.0, "distance": 0.1, "pixel_size": 1e-6}
"""20 keV, 1 µm: the Fresnel zone of 2.5 pixels is small beside the spheres."""
MU = 2000.0
"""Attenuation of the spheres, 1/m: 0.24 along the longest ray."""
RETRIEVED = 0.01
"""Root mean square error of the retrieved absorption over the largest one; the method is exact for slow edges only."""
GAIN = 20
"""By what factor the plain minus logarithm is worse at least."""
CHUNKS = 1e-5
"""Relative difference of the transmission by reading `phase_halo` rows instead of all."""


def spheres(size, pixel_size):
    """Thickness in metres of two balls and two holes, 60 µm to 8 µm in radius, in a field of 256 µm."""
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * pixel_size * 1e6
    balls = [(0, 0, 60, 2), (50, 40, 25, 2), (20, -20, 15, -2), (-25, 10, 8, -2)]
    return 1e-6 * sum(f * np.sqrt(np.clip(r**2 - (x - cx) ** 2 - (y - cy) ** 2, 0, None)) for cx, cy, r, f in balls)


def binned(image, factor=4):
    """Average over what one detector pixel sees."""
    size = len(image) // factor
    return image.reshape(size, factor, size, factor).mean(axis=(1, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def absorption():
    return MU * spheres(1024, 0.25e-6)


def detected(absorption, **optics):
    return binned(propagate(absorption, **optics | {"pixel_size": optics["pixel_size"] / 4}))


class TestAgainstPropagatedWaves:
    @pytest.mark.parametrize(("distance", "delta_beta"), [(0.02, 100.0), (0.1, 100.0), (0.05, 200.0), (0.5, 20.0)])
    def test_the_absorption_comes_back(self, absorption, distance, delta_beta):
        optics = OPTICS | {"distance": distance, "delta_beta": delta_beta}
        image, truth = detected(absorption, **optics), -np.log(binned(np.exp(-absorption)))
        retrieved = -np.log(paganin(image[None], **optics)[0])
        error, plain = (retrieved - truth).std(), (-np.log(image) - truth).std()
        assert error < RETRIEVED * truth.max()
        assert plain > GAIN * error
        assert retrieved.sum() == pytest.approx(truth.sum(), rel=2e-3)

    @pytest.mark.parametrize("factor", [0.5, 2])
    def test_a_wrong_distance_is_seen(self, absorption, factor):
        """The right units matter: half or twice the distance is worse by far."""
        image, truth = detected(absorption, **OPTICS), -np.log(binned(np.exp(-absorption)))
        right = -np.log(paganin(image[None], **OPTICS)[0]) - truth
        wrong = -np.log(paganin(image[None], **OPTICS | {"distance": factor * 0.1})[0]) - truth
        assert wrong.std() > 3 * right.std()

    def test_slow_edges_come_back_exactly(self):
        """For slow changes, propagation is I -> I - distance delta / mu laplace(I), the inverse of the filter."""
        y, x = np.mgrid[:128, :128] - 63.5
        transmitted = 1 - 0.2 * np.exp(-(x**2 + y**2) / (2 * 12.0**2))
        optics = OPTICS | {"delta_beta": 30.0}
        k2 = 4 * np.pi**2 * (np.fft.fftfreq(128)[:, None] ** 2 + np.fft.fftfreq(128) ** 2)
        mu_over_delta = 4 * np.pi / (wavelength(20.0) * 30.0)  # mu = 4 pi beta / lambda
        seen = np.fft.ifft2(np.fft.fft2(transmitted) * (1 + 0.1 / mu_over_delta * k2 / 1e-12)).real
        assert np.abs(seen - transmitted).max() > 0.01
        result = paganin(seen[None].astype(np.float32), **optics)[0]
        np.testing.assert_allclose(result, transmitted, atol=2e-6)


class TestFilter:
    @pytest.mark.parametrize("none", [{"delta_beta": 0.0}, {"distance": 0.0}])
    def test_off_is_the_transmission_itself(self, none):
        values = np.random.default_rng(0).uniform(0.1, 1, (3, 7, 9)).astype(np.float32)
        optics = OPTICS | none
        result = paganin(values, **optics)
        np.testing.assert_array_equal(result, values)
        assert result is not values
        assert phase_halo(**optics) == 0

    @pytest.mark.parametrize("padding", ["edge", "symmetric"])
    @pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 33), (1, 50, 2), (2, 31, 17)])
    def test_a_constant_stays(self, shape, padding):
        result = paganin(np.full(shape, 0.37, np.float32), **OPTICS, padding=padding)
        np.testing.assert_allclose(result, 0.37, rtol=1e-6)

    def test_linear_and_keeps_the_mean(self):
        rng = np.random.default_rng(1)
        first, second = rng.uniform(0.2, 1, (2, 1, 40, 60)).astype(np.float32)
        apart = 0.3 * paganin(first, **OPTICS) + 0.7 * paganin(second, **OPTICS)
        np.testing.assert_allclose(paganin(0.3 * first + 0.7 * second, **OPTICS), apart, atol=1e-6)
        mirrored = paganin(first, **OPTICS, padding="symmetric")
        assert mirrored.mean() == pytest.approx(first.mean(), rel=0.01)  # the mirror image has the same mean

    def test_a_point_becomes_the_kernel(self):
        """Summed over the rows, a bright pixel is exp(-|x| / L) / (2 L)."""
        length = 5.0
        optics = OPTICS | {"delta_beta": 4 * np.pi * (length * 1e-6) ** 2 / (0.1 * wavelength(20.0))}
        assert blur_length(**optics) == pytest.approx(length)
        image = np.zeros((1, 201, 201), np.float32)
        image[0, 100, 100] = 1
        columns = paganin(image, **optics)[0].sum(axis=0)
        distance = np.abs(np.arange(201) - 100)
        far = (distance > 3) & (distance < 60)  # at the middle, the pixels cut the cusp off
        np.testing.assert_allclose(columns[far], np.exp(-distance[far] / length) / (2 * length), atol=2e-4)

    def test_rows_within_the_halo_decide(self):
        rng = np.random.default_rng(2)
        for delta_beta in (0.5, 5.0, 50.0, 1000.0):
            optics = OPTICS | {"delta_beta": delta_beta}
            halo = phase_halo(**optics)
            image = rng.normal(0.6, 0.03, (2, 2 * halo + 61, 40)).astype(np.float32)
            image[:, :20] = 0
            whole = paganin(image, **optics)
            part = paganin(image[:, 30 : 31 + 2 * halo], **optics)
            np.testing.assert_allclose(part[:, halo], whole[:, 30 + halo], rtol=CHUNKS)

    def test_threads_do_not_change_the_result(self):
        image = np.random.default_rng(3).uniform(0.2, 1, (2, 50, 40)).astype(np.float32)
        np.testing.assert_array_equal(paganin(image, **OPTICS, num_threads=2), paganin(image, **OPTICS))

    def test_the_input_is_not_changed(self):
        image = np.random.default_rng(3).uniform(0.2, 1, (2, 50, 40)).astype(np.float32)
        copy = image.copy()
        paganin(image, **OPTICS)
        np.testing.assert_array_equal(image, copy)

    @pytest.mark.parametrize("wrong", [{"energy": 0.0}, {"pixel_size": -1e-6}, {"distance": -0.1}, {"delta_beta": -1}])
    def test_what_cannot_be(self, wrong):
        with pytest.raises(ValueError, match=r"expects energy \(keV\) and pixel_size \(m\) above 0"):
            paganin(np.ones((1, 2, 2), np.float32), **OPTICS | wrong)


class TestOptics:
    def test_the_user_goes_before_the_scan(self):
        settings = PhaseSettings(delta_beta=50, distance=0.2)
        assert phase_optics(settings, energy=25.0, distance=0.5, pixel_size=2e-6) == PhaseOptics(50, 25.0, 0.2, 2e-6)

    def test_off(self):
        assert phase_optics(PhaseSettings(), energy=None, distance=None, pixel_size=None) is None

    def test_what_is_missing_is_named(self):
        expected = r"give --set phase.energy=VALUE \(keV\) and --set phase.pixel_size=VALUE \(metres\)$"
        with pytest.raises(ScanError, match=expected):
            phase_optics(PhaseSettings(delta_beta=50), energy=None, distance=0.1, pixel_size=None)

    def test_wavelength_of_12_4_kev_is_one_angstrom(self):
        assert wavelength(12.398) == pytest.approx(1e-10, rel=1e-4)
        assert wavelength(20.0) * 20e3 * constants.e == pytest.approx(constants.h * constants.c)


def test_the_method_of_the_settings_is_taken():
    pytest.importorskip("tomopy")
    rng = np.random.default_rng(2)
    transmission = ndimage.gaussian_filter(rng.uniform(0.4, 0.9, (2, 96, 128)), (0, 2, 2)).astype(np.float32)
    optics = PhaseOptics(delta_beta=20, energy=20, distance=0.02, pixel_size=1e-6)
    own, theirs = (
        retrieve_phase(transmission, optics, PhaseSettings(delta_beta=20, method=method))
        for method in ("paganin", "tomopy-paganin")
    )
    assert not np.array_equal(own, theirs)
    np.testing.assert_allclose(theirs[:, 30:-30, 30:-30], own[:, 30:-30, 30:-30], atol=0.01)
