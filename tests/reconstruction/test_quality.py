import numpy as np
import pytest

from quietbeam.reconstruction.quality import fourier_ring_correlation, psnr


def test_psnr_of_a_known_error():
    truth = np.linspace(0, 10, 1000)
    assert psnr(truth, truth + 0.1) == pytest.approx(40)
    assert psnr(truth, truth) == float("inf")
    with pytest.raises(ValueError, match="one shape"):
        psnr(truth, truth[1:])


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
