import numpy as np
import pytest

from quietbeam.reconstruction.phase import wavelength
from quietbeam.reconstruction.propagation import propagate

OPTICS = {"delta_beta": 200.0, "energy": 20.0, "distance": 0.05, "pixel_size": 1e-6}
UNITARY = 1e-6
"""Relative error of the energy, from float32 of the result."""


def ball(size=96):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return 0.02 * np.exp(-(x**2 + y**2) / (2 * 8.0**2))


@pytest.mark.parametrize("distance", [0.0, 0.01, 0.5])
def test_free_space_keeps_the_energy(distance):
    intensity = propagate(ball(), **OPTICS | {"distance": distance})
    assert intensity.mean(dtype=np.float64) == pytest.approx(np.exp(-ball()).mean(), rel=UNITARY)


def test_no_distance_is_beer_lambert():
    np.testing.assert_allclose(propagate(ball(), **OPTICS | {"distance": 0.0}), np.exp(-ball()), rtol=UNITARY)


def test_air_is_air():
    np.testing.assert_allclose(propagate(np.zeros((30, 41)), **OPTICS), 1, rtol=UNITARY)


def test_short_ways_follow_the_transport_of_intensity():
    """I - distance (delta / mu) laplace(I), with the error going with the square of the distance.

    Refraction bends rays towards the thinner side of matter whose index is below 1, so a thick point loses light to
    the edges about it: were the sign of the phase wrong, it would gain.
    """
    transmitted = np.exp(-ball())
    k2 = 4 * np.pi**2 * (np.fft.fftfreq(96)[:, None] ** 2 + np.fft.fftfreq(96) ** 2)
    laplace = np.fft.ifft2(-k2 * np.fft.fft2(transmitted)).real
    errors = []
    for distance in (0.01, 0.02):
        strength = distance * wavelength(20.0) * 200 / (4 * np.pi) / 1e-12
        intensity = propagate(ball(), **OPTICS | {"distance": distance})
        errors.append(np.abs(intensity - (transmitted - strength * laplace)).max())
        assert errors[-1] < 0.02 * np.abs(strength * laplace).max()
    assert errors[1] == pytest.approx(4 * errors[0], rel=0.1)


def test_a_grating_comes_back_at_the_talbot_distance():
    """A periodic wave repeats itself after 2 p^2 / lambda."""
    period = 16
    grating = np.broadcast_to(0.3 + 0.3 * np.cos(2 * np.pi * np.arange(512) / period), (512, 512))
    talbot = 2 * (period * 1e-6) ** 2 / wavelength(20.0) / 16  # pixels of a quarter: a sixteenth of the distance
    optics = OPTICS | {"delta_beta": 5.0, "pixel_size": 0.25e-6}
    again = propagate(grating, **optics | {"distance": talbot})
    between = propagate(grating, **optics | {"distance": talbot / 4})
    np.testing.assert_allclose(again, np.exp(-grating), atol=1e-5)
    assert np.abs(between - np.exp(-grating)).max() > 0.1


def test_images_are_independent():
    stack = np.stack([ball(), 2 * ball()])
    np.testing.assert_array_equal(propagate(stack, **OPTICS)[1], propagate(2 * ball(), **OPTICS))


def test_a_field_too_small_is_refused():
    with pytest.raises(ValueError, match=r"a field of 96 x 96 pixels is too small .* expected at least 620 pixels"):
        propagate(ball(), **OPTICS | {"distance": 10.0})
