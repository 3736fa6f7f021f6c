import numpy as np
import pytest

from quietbeam.reconstruction.reconstructors import RECONSTRUCTORS, ReconstructionSettings, reconstruct

AMPLITUDE = 0.01
"""Relative error of a disc's mean value; the discretisation of its edge."""
BACKGROUND = 0.005
"""Mean of the empty part of the slice over the disc's value."""
POSITION = 0.1
"""Pixels by which the disc's centre of mass may be off."""


def disc(theta, num_columns, axis, *, x, y, radius, mu=1.0):
    s = np.arange(num_columns) - axis - (x * np.cos(theta) + y * np.sin(theta))[:, None]
    return (2 * mu * np.sqrt(np.clip(radius**2 - s**2, 0, None))).astype(np.float32)


@pytest.mark.parametrize("method", sorted(RECONSTRUCTORS))
@pytest.mark.parametrize(("size", "axis"), [(128, 63.5), (127, 63.0), (128, 59.3), (127, 66.8)])
@pytest.mark.parametrize("turn", [np.pi, 2 * np.pi])
def test_disc_has_its_value_and_place(method, size, axis, turn):
    theta = np.arange(240) * turn / 240
    x, y, radius = 14.0, 21.0, 12.0
    sinogram = disc(theta, size, axis, x=x, y=y, radius=radius, mu=2.0)
    settings = ReconstructionSettings(method=method)
    image = reconstruct(sinogram[None], theta, axis, settings)[0]
    grid = np.arange(size) - (size - 1) / 2
    X, Y = np.meshgrid(grid, -grid)
    distance = np.hypot(X - x, Y - y)
    assert image[distance < radius - 3].mean() == pytest.approx(2.0, rel=AMPLITUDE)
    empty = (distance > radius + 3) & (np.hypot(X, Y) < size / 2 - 8)
    assert abs(image[empty].mean()) < BACKGROUND * 2.0
    weight = np.clip(image, 0, None) * (distance < radius + 5)
    assert (weight * X).sum() / weight.sum() == pytest.approx(x, abs=POSITION)
    assert (weight * Y).sum() / weight.sum() == pytest.approx(y, abs=POSITION)


@pytest.mark.parametrize("method", sorted(RECONSTRUCTORS))
def test_reconstruction_is_linear_and_slices_are_independent(method):
    rng = np.random.default_rng(1)
    sinograms = rng.normal(size=(3, 30, 32)).astype(np.float32)
    theta = np.arange(30) * np.pi / 30
    settings = ReconstructionSettings(method=method)
    together = reconstruct(sinograms, theta, 15.2, settings)
    for index in range(3):
        alone = reconstruct(3 * sinograms[index : index + 1], theta, 15.2, settings)
        np.testing.assert_allclose(alone[0], 3 * together[index], atol=2e-4 * together.std())


def test_pixel_size_gives_attenuation_per_metre():
    theta = np.arange(90) * np.pi / 90
    sinogram = disc(theta, 64, 31.5, x=0, y=0, radius=10, mu=0.01)
    image = reconstruct(sinogram[None], theta, 31.5, pixel_size=1e-6)
    assert image[0, 28:36, 28:36].mean() == pytest.approx(0.01 / 1e-6, rel=AMPLITUDE)


def test_backends_agree_on_a_smooth_object():
    theta = np.arange(200) * np.pi / 200
    sinogram = disc(theta, 96, 45.4, x=8, y=-5, radius=20) + disc(theta, 96, 45.4, x=-20, y=10, radius=6)
    settings = {name: ReconstructionSettings(method=name, filter="hann") for name in RECONSTRUCTORS}
    a, b = (reconstruct(sinogram[None], theta, 45.4, settings[name]) for name in ("gridrec", "fbp"))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999


def test_number_of_threads_changes_only_rounding():
    rng = np.random.default_rng(2)
    sinograms = rng.normal(size=(2, 40, 50)).astype(np.float32)
    theta = np.arange(40) * np.pi / 40
    one = reconstruct(sinograms, theta, 24.5, num_threads=1)
    two = reconstruct(sinograms, theta, 24.5, num_threads=2)
    np.testing.assert_allclose(two, one, atol=1e-4 * one.std())


@pytest.mark.filterwarnings("ignore:FINUFFT eps tolerance")
def test_regridding_never_prints(monkeypatch, capfd):
    """Finufft would tell the standard error, below any Python, that no such tolerance can be kept."""
    monkeypatch.setattr("quietbeam.reconstruction.gridrec.TOLERANCE", 1e-9)
    theta = np.arange(30) * np.pi / 30
    assert np.isfinite(reconstruct(np.ones((1, 30, 32), np.float32), theta, 15.5)).all()
    assert capfd.readouterr() == ("", "")
