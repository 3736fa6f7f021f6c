import gc

import numpy as np
import pytest

from quietbeam.reconstruction.errors import ReductionError
from quietbeam.reconstruction.fbp import cuda_is_available
from quietbeam.reconstruction.projectors import make_projector, operator_norm

ROUNDING = 1e-6
"""Of an inner product of float32 arrays, over the product of their norms."""
CHORD = 0.15
"""Root mean square error of the chords of a disc, pixels: its edge falls between pixels."""
AGREEMENT = 0.01
"""Difference of two projectors of a smooth slice over its norm: ASTRA interpolates linearly."""
BESIDE, RINGING = 4, 0.06
"""Pixels beside the detector from which a pixel counts as not seen, and what it may leave of its 1.3."""
GEOMETRIES = [(64, 31.5), (65, 32.0), (64, 27.2), (65, 40.7), (64, 3.0), (33, 31.9)]


def disc(size, *, x, y, radius, num_sub=16):
    """Mean of a disc of attenuation 1 over each pixel."""
    points = (np.arange(size * num_sub) + 0.5) / num_sub - size / 2
    inside = (points - x) ** 2 + (-points[:, None] - y) ** 2 < radius**2
    return inside.reshape(size, num_sub, size, num_sub).mean(axis=(1, 3)).astype(np.float32)


def chords(theta, axis, size, *, x, y, radius, num_sub=16):
    """Mean of its chords over each column."""
    column = (np.arange(size * num_sub) + 0.5) / num_sub - 0.5
    s = column - axis - (x * np.cos(theta) + y * np.sin(theta))[:, None]
    return 2 * np.sqrt(np.clip(radius**2 - s**2, 0, None)).reshape(theta.size, size, num_sub).mean(axis=2)


def blob(size):
    grid = np.arange(size) - (size - 1) / 2
    return np.exp(-((grid - 3) ** 2 + (grid[:, None] + 2) ** 2) / (size / 8) ** 2).astype(np.float32)


@pytest.mark.parametrize("name", ["nufft", "astra"])
@pytest.mark.parametrize(("size", "axis"), GEOMETRIES)
def test_backprojection_is_the_adjoint(name, size, axis):
    rng = np.random.default_rng(0)
    theta = rng.uniform(-1, 7, 37)
    matrix = make_projector(name, theta, axis, size)
    for _ in range(5):
        image = rng.normal(size=(size, size)).astype(np.float32)
        sinogram = rng.normal(size=(37, size)).astype(np.float32)
        projected, back = matrix.forward(image), matrix.adjoint(sinogram)
        assert projected.shape == sinogram.shape
        assert back.shape == image.shape
        assert projected.dtype == back.dtype == np.float32
        difference = np.vdot(projected.astype(float), sinogram) - np.vdot(image.astype(float), back)
        assert abs(difference) < ROUNDING * np.linalg.norm(projected) * np.linalg.norm(sinogram)


@pytest.mark.parametrize("name", ["nufft", "astra"])
@pytest.mark.parametrize(("size", "axis"), GEOMETRIES)
def test_projection_of_a_disc_is_its_chords(name, size, axis):
    theta = np.random.default_rng(1).uniform(-1, 7, 50)
    place = {"x": 0.1 * size, "y": 0.08 * size, "radius": 0.23 * size}
    found = make_projector(name, theta, axis, size).forward(disc(size, **place))
    right = chords(theta, axis, size, **place)
    assert np.sqrt(np.mean((found - right) ** 2)) < CHORD
    if axis == (size - 1) / 2:
        assert found.mean() == pytest.approx(right.mean(), rel=1e-3)


@pytest.mark.parametrize(("size", "axis"), GEOMETRIES)
def test_projectors_agree_on_a_smooth_slice(size, axis):
    theta = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    nufft, astra = (make_projector(name, theta, axis, size).forward(blob(size)) for name in ("nufft", "astra"))
    assert np.linalg.norm(nufft - astra) < AGREEMENT * np.linalg.norm(astra)


@pytest.mark.parametrize(("size", "axis"), [(64, 3.0), (65, 61.0), (48, 24.0), (40, 19.5)])
def test_nothing_comes_back_from_beyond_the_transform(size, axis):
    """A pixel in the corner, seen beside the detector: its ringing dies away before it wraps around."""
    corner = np.zeros((size, size), np.float32)
    corner[0, 0] = 1
    theta = np.array([np.pi * 3 / 4, -np.pi / 4])  # straight to either side
    found = make_projector("nufft", theta, axis, size).forward(corner)
    reach = (size - 1) / np.sqrt(2)
    place = axis + reach * np.array([[1.0], [-1.0]])
    beside = np.abs(place - (size - 1) / 2)[:, 0] > size / 2 + BESIDE
    assert beside.any()
    assert np.abs(found[beside]).max() < RINGING


def test_pixels_of_slice_and_detector_blur_alike():
    """Why the Fourier projector has no factor for either."""
    w, theta = np.linspace(0, 0.5, 200)[:, None], np.linspace(0, np.pi / 2, 100)
    ratio = np.sinc(w) / (np.sinc(w * np.cos(theta)) * np.sinc(w * np.sin(theta)))
    assert np.abs(ratio - 1).max() < 0.03


@pytest.mark.parametrize("name", ["nufft", "astra"])
def test_axes_along_the_pixels_give_sums(name):
    """At theta = 0 the sums over the columns, at pi / 2 over the rows, the last row first."""
    image = np.random.default_rng(2).random((16, 16), dtype=np.float32)
    found = make_projector(name, np.array([0, np.pi / 2]), 7.5, 16).forward(image)
    np.testing.assert_allclose(found, [image.sum(axis=0), image.sum(axis=1)[::-1]], rtol=1e-4)


@pytest.mark.parametrize("name", ["nufft", "astra"])
def test_nothing_wraps_around(name):
    """A spot in a corner, seen beyond the edge of the detector and within it."""
    grid = np.arange(32) - 15.5
    image = np.exp(-((grid - 12) ** 2) / 4 - (-grid[:, None] - 12) ** 2 / 4).astype(np.float32)  # s = 17 at 45 degrees
    for axis, column in ((30.0, None), (20.0, None), (9.0, 26), (1.0, 18)):
        row = make_projector(name, np.array([np.pi / 4]), axis, 32).forward(image)[0]
        seen = 0 if column is None else float(image.sum())
        assert row.sum() == pytest.approx(seen, abs=0.01 * float(image.sum()))
        assert column is None or np.argmax(row) == column


@pytest.mark.parametrize("name", ["nufft", "astra"])
def test_norm_is_the_largest_singular_value(name):
    theta = np.linspace(0, np.pi, 9, endpoint=False)
    matrix = make_projector(name, theta, 6.2, 12)
    columns = [matrix.forward(pixel.reshape(12, 12)).ravel() for pixel in np.eye(144, dtype=np.float32)]
    assert operator_norm(matrix, 12) == pytest.approx(np.linalg.svd(columns, compute_uv=False)[0], rel=1e-3)


def test_norm_does_not_depend_on_the_seed():
    matrix = make_projector("nufft", np.linspace(0, np.pi, 9, endpoint=False), 15.5, 32)
    assert operator_norm(matrix, 32, seed=1) == pytest.approx(operator_norm(matrix, 32), rel=1e-4)
    assert operator_norm(matrix, 32) == operator_norm(matrix, 32)


def test_projectors_leave_their_input_alone():
    rng = np.random.default_rng(3)
    image, sinogram = rng.random((16, 16), np.float32), rng.random((5, 16), np.float32)
    for name in ("nufft", "astra"):
        matrix = make_projector(name, np.arange(5.0), 7.5, 16)
        before = image.copy(), sinogram.copy()
        matrix.forward(image)
        matrix.adjoint(sinogram)
        np.testing.assert_array_equal(image, before[0])
        np.testing.assert_array_equal(sinogram, before[1])


def test_astra_forgets_a_projector_that_is_gone():
    import astra

    matrix = make_projector("astra", np.arange(3.0), 3.5, 8)
    identity = matrix._matrix.proj_id
    assert astra.projector.projection_geometry(identity)
    del matrix
    gc.collect()
    with pytest.raises(astra.log.AstraError, match="not found"):
        astra.projector.projection_geometry(identity)


def test_unknown_projector_names_the_known_ones():
    with pytest.raises(ValueError, match="nufft, astra or astra-cuda, got 'radon'"):
        make_projector("radon", np.arange(3.0), 3.5, 8)


@pytest.mark.skipif(cuda_is_available(), reason="there is a CUDA device")
def test_cuda_projector_needs_a_device():
    with pytest.raises(ReductionError, match="CUDA device, and ASTRA finds none here: choose nufft"):
        make_projector("astra-cuda", np.arange(3.0), 3.5, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_is_available(), reason="no CUDA device")
def test_cuda_projector_agrees():
    theta = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    gpu, cpu = (make_projector(name, theta, 27.2, 64).forward(blob(64)) for name in ("astra-cuda", "astra"))
    assert np.linalg.norm(gpu - cpu) < AGREEMENT * np.linalg.norm(cpu)
