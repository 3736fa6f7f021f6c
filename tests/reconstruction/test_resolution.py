import numpy as np
import pytest

from quietbeam.reconstruction.resolution import (
    FRC,
    fourier_ring_correlation,
    fourier_shell_correlation,
    half_bit_threshold,
)

ROUNDING = 1e-5
"""Of correlations summed from single-precision transforms."""
SCATTER = 0.15
"""Relative error of a standard deviation from the few hundred samples taken here."""


def test_equal_images_correlate_fully_and_noise_not_at_all():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 8, 128, 128)).astype(np.float32)
    np.testing.assert_allclose(fourier_ring_correlation(a, a).correlation, 1, rtol=1e-5)
    frc = fourier_ring_correlation(a, b)
    assert np.abs(frc.correlation[2:]).max() < 4 / np.sqrt(8 * frc.num_samples[2:].min())


def test_known_signal_to_noise_gives_its_correlation():
    """White signal of variance 1 in noise of variance 1/4: FRC = 1 / (1 + 1/4)."""
    rng = np.random.default_rng(1)
    signal = rng.normal(size=(16, 96, 96))
    a, b = (signal + 0.5 * rng.normal(size=(2, *signal.shape))).astype(np.float32)
    assert fourier_ring_correlation(a, b).correlation[4:].mean() == pytest.approx(0.8, abs=0.01)


def test_resolution_is_where_the_signal_ends():
    rng = np.random.default_rng(2)
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None, :])
    signal = np.fft.ifft2(np.fft.fft2(rng.normal(size=(8, 128, 128))) * (frequency < 0.25)).real * 3
    a, b = (signal + 0.3 * rng.normal(size=(2, *signal.shape))).astype(np.float32)
    assert fourier_ring_correlation(a, b).resolution() == pytest.approx(0.25, abs=0.03)
    assert fourier_ring_correlation(a, a).resolution() == 0.5


@pytest.mark.parametrize("shape", [(32, 32), (33, 33), (24, 31), (31, 24)])
def test_ring_correlation_is_that_of_the_full_plane(shape):
    height, width = shape
    rng = np.random.default_rng(3)
    a, b = (rng.normal(size=(3, *shape)) + rng.normal(size=(2, 3, *shape))).astype(np.float32)
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    A, B = (np.fft.fft2(window * (x - x.mean(axis=(1, 2), keepdims=True))) for x in (a, b))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    frc = fourier_ring_correlation(a, b, num_rings=6)
    for index in range(6):
        ring = (radius * 12).astype(int) == index
        power = np.sqrt((np.abs(A[:, ring]) ** 2).sum() * (np.abs(B[:, ring]) ** 2).sum())
        expected = (A[:, ring] * B[:, ring].conj()).real.sum() / power
        assert frc.correlation[index] == pytest.approx(expected, abs=1e-5)
        assert frc.num_samples[index] == ring.sum()


def test_equal_volumes_correlate_fully_and_noise_not_at_all():
    a, b = np.random.default_rng(5).normal(size=(2, 40, 48, 44)).astype(np.float32)
    np.testing.assert_allclose(fourier_shell_correlation(a, a).correlation, 1, rtol=ROUNDING)
    fsc = fourier_shell_correlation(a, b)
    assert (np.abs(fsc.correlation) < 4 / np.sqrt(fsc.num_independent))[1:].all()


@pytest.mark.parametrize("shape", [(12, 16, 16), (13, 15, 17), (8, 11, 14)])
def test_shell_correlation_is_that_of_the_full_transform(shape):
    rng = np.random.default_rng(6)
    a, b = (rng.normal(size=shape) + rng.normal(size=(2, *shape))).astype(np.float32)
    windows = np.ix_(*(np.hanning(size + 2)[1:-1] for size in shape))
    A, B = (np.fft.fftn(windows[0] * windows[1] * windows[2] * (x - x.mean())) for x in (a, b))
    z, y, x = np.ix_(*(np.fft.fftfreq(size) for size in shape))
    radius = np.sqrt(z**2 + y**2 + x**2)
    fsc = fourier_shell_correlation(a, b, num_shells=4)
    for index in range(4):
        shell = (radius * 8).astype(int) == index
        power = np.sqrt((np.abs(A[shell]) ** 2).sum() * (np.abs(B[shell]) ** 2).sum())
        assert fsc.correlation[index] == pytest.approx((A[shell] * B[shell].conj()).real.sum() / power, abs=ROUNDING)
        assert fsc.num_samples[index] == shell.sum()


def test_shells_of_a_known_signal():
    """White signal of variance 1 up to 0.25 / pixel, in noise of variance 1/4: 1 / (1 + 1/4) up to there."""
    rng = np.random.default_rng(7)
    z, y, x = np.ix_(*(np.fft.fftfreq(size) for size in (64, 56, 60)))
    signal = np.fft.ifftn(np.fft.fftn(rng.normal(size=(64, 56, 60))) * (z**2 + y**2 + x**2 < 0.25**2)).real
    a, b = (signal + 0.5 * rng.normal(size=(2, *signal.shape))).astype(np.float32)
    fsc = fourier_shell_correlation(a, b)
    assert fsc.correlation[2:6].mean() == pytest.approx(0.8, abs=0.03)
    for threshold in (1 / 7, half_bit_threshold(fsc.num_independent)):  # shells are 0.036 wide, the window blurs one
        assert fsc.resolution(threshold) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("slices", [1, 6])
def test_correlation_of_noise_scatters_by_the_number_of_independent_samples(slices):
    rng = np.random.default_rng(8)
    found = [fourier_ring_correlation(*rng.normal(size=(2, slices, 48, 40))) for _ in range(300)]
    relative = np.std([frc.correlation for frc in found], axis=0)[1:] * np.sqrt(found[0].num_independent[1:])
    assert (relative < 1 + SCATTER).all()
    assert 0.8 < relative.mean() < 1  # a ring is a few samples wide: some of their neighbours lie in the next


def test_half_bit_threshold_is_that_of_the_paper():
    """Equation 17 of van Heel and Schatz: (0.2071 + 1.9102 / sqrt n) / (1.2071 + 0.9102 / sqrt n)."""
    n = np.array([1, 7, 100, 10_000, 10**12])
    published = (0.2071 + 1.9102 / np.sqrt(n)) / (1.2071 + 0.9102 / np.sqrt(n))
    np.testing.assert_allclose(half_bit_threshold(n), published, atol=1e-4)
    whole = (0.4142 + 2.2872 / np.sqrt(n)) / (1.4142 + 1.2872 / np.sqrt(n))
    np.testing.assert_allclose(half_bit_threshold(n, half_data=False), whole, atol=1e-4)
    assert half_bit_threshold(np.array([0]))[0] == pytest.approx(1)


def test_half_bit_threshold_finds_half_a_bit():
    """White signal of variance S in noise of variance 1 has the correlation S / (1 + S) in every ring.

    At S of 1.6 times 0.2071 the average of the two images holds more than half a bit, at 0.6 times less.
    """
    rng = np.random.default_rng(9)
    signal = rng.normal(size=(64, 96, 96))
    for snr, is_above in ((1.6 * 0.2071, True), (0.6 * 0.2071, False)):
        frc = fourier_ring_correlation(*(np.sqrt(snr) * signal + rng.normal(size=(2, *signal.shape))))
        threshold = half_bit_threshold(frc.num_independent)
        assert ((frc.correlation > threshold)[8:] == is_above).all()


def test_resolution_takes_a_threshold_for_each_ring():
    frequency = np.arange(4) / 8 + 1 / 16
    frc = FRC(frequency, np.array([0.9, 0.6, 0.4, 0.2]), np.full(4, 9), np.full(4, 9.0))
    assert frc.resolution(0.5) == frequency[2]
    assert frc.resolution(np.array([0.95, 0.1, 0.3, 0.3])) == frequency[3]  # the first ring is below, but alone
    assert frc.resolution(np.zeros(4)) == 0.5


def test_correlation_needs_two_alike():
    volume = np.zeros((4, 8, 8), np.float32)
    with pytest.raises(ValueError, match="one shape"):
        fourier_ring_correlation(volume, volume[1:])
    with pytest.raises(ValueError, match="one shape"):
        fourier_ring_correlation(volume[0, 0], volume[0, 0])
    with pytest.raises(ValueError, match="axes"):
        fourier_shell_correlation(volume[0], volume[0])


def test_empty_images_do_not_correlate():
    volume = np.ones((8, 8, 8), np.float32)
    assert not fourier_ring_correlation(volume, volume).correlation.any()
    assert not fourier_shell_correlation(volume, volume).correlation.any()
