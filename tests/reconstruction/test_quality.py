import numpy as np
import pytest

from quietbeam.reconstruction.quality import fourier_ring_correlation, noise_of_sections, psnr


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


@pytest.mark.parametrize("counts", [(90, 90), (45, 45, 45, 45), (10, 50, 120), (1, 9)])
def test_noise_of_sections_is_that_of_their_average(counts):
    """Section k of n_k projections has noise of variance 1 / n_k, so the average has 1 / sum n_k."""
    rng = np.random.default_rng(4)
    counts = np.array(counts)
    noise = rng.normal(size=(2, len(counts), 200, 200)) / np.sqrt(counts)[:, None, None]
    truth = rng.normal(size=(2, 1, 200, 200))
    brightness = np.array([1, 3])[:, None, None, None]
    found = noise_of_sections((brightness * noise + 50 * truth).astype(np.float32), counts / counts.sum())
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.array([1, 3]) / np.sqrt(counts.sum()), rtol=0.02)


def test_noise_outside_the_circle_does_not_count():
    slices = np.zeros((1, 2, 64, 64), np.float32)
    slices[0, 0, :4, :4] = 1e3
    assert noise_of_sections(slices, np.array([0.5, 0.5])).tolist() == [0]


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.25, 0.25]])
def test_noise_of_sections_needs_a_share_of_each(shares):
    with pytest.raises(ValueError, match="a share of each"):
        noise_of_sections(np.zeros((1, min(len(shares), 2), 8, 8), np.float32), np.array(shares))
