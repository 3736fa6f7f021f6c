import numpy as np
import pytest

from quietbeam.reconstruction.noise import noise_of_sections


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
