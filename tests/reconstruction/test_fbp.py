from __future__ import annotations

import astra
import numpy as np
import pytest
from numpy.typing import NDArray

from quietbeam.reconstruction import fbp as module
from quietbeam.reconstruction.angles import angular_weights
from quietbeam.reconstruction.errors import ReductionError
from quietbeam.reconstruction.fbp import cuda_is_available, fbp, fbp_cuda

TEXTURE = 0.01
"""Of a slice's standard deviation: a texture interpolates with 8 bits, and ASTRA's CPU projector along lines."""
EXACT = 1e-5

Array = NDArray[np.float32]


def bump(theta: NDArray[np.float64], num_columns: int, axis: float, x: float, y: float, width: float = 4) -> Array:
    """Project a smooth bump of height 1, narrow enough to be in the field and wide enough to be without edges."""
    s = np.arange(num_columns) - axis - (x * np.cos(theta) + y * np.sin(theta))[:, None]
    return (width * np.sqrt(2 * np.pi) * np.exp(-(s**2) / (2 * width**2))).astype(np.float32)


def stack(num_columns: int, axis: float, theta: NDArray[np.float64]) -> Array:
    return np.stack([bump(theta, num_columns, axis, 3.0 * row, 5.0 - 2 * row) for row in range(3)])


@pytest.mark.parametrize(("size", "axis"), [(48, 23.5), (47, 20.0), (48, 17.0), (1, 0.0), (2, 1.5)])
def test_rows_have_the_axis_in_the_middle_and_cover_the_corners(size: int, axis: float) -> None:
    theta = np.zeros(1)
    rows = module._weighted_rows(bump(theta, size, axis, 0, 0)[None], theta, axis, "ram-lak", np.ones(1), 1)
    width = rows.shape[-1]
    assert width % 2 == 0
    if size > 2:
        assert size * np.sqrt(2) + 1 < width < size * np.sqrt(2) + 4
        middle = rows[0, 0, width // 2 - 4 : width // 2 + 4]
        assert middle.argmax() in (3, 4)
        np.testing.assert_allclose(middle, middle[::-1], atol=EXACT)


def test_weights_are_the_angles_shares_unless_given() -> None:
    theta = np.sort(np.random.default_rng(0).uniform(0, np.pi, 20))
    sinograms = stack(32, 15.5, theta)
    usual = fbp(sinograms, theta, 15.5)
    np.testing.assert_array_equal(fbp(sinograms, theta, 15.5, weights=angular_weights(theta)), usual)
    assert np.abs(fbp(sinograms, theta, 15.5, weights=np.full(20, np.pi / 20)) - usual).max() > 0.01


def test_geometry_of_the_stack_is_that_of_the_conventions() -> None:
    """A voxel of ASTRA's volume, its rows from the lowest y, must be seen at s = x cos(theta) + y sin(theta)."""
    theta, size, num_rows = np.array([0.0, 0.4, 2.0, 4.5]), 7, 3
    rows = np.zeros((num_rows, theta.size, 12), np.float32)
    rays, volume = module._stack_geometry(rows, theta, size)
    window = volume["option"]
    assert astra.functions.geom_size(rays) == rows.shape
    assert astra.functions.geom_size(volume) == (num_rows, size, size)
    ray, middle, u, v = np.split(astra.geom_2vec(rays)["Vectors"], 4, axis=1)
    np.testing.assert_allclose(middle, 0, atol=EXACT)
    for row, column, slice_ in [(0, 0, 0), (1, 5, 2), (6, 2, 1)]:
        x, y = column - (size - 1) / 2, (size - 1) / 2 - row
        point = np.array([window["WindowMinX"] + column + 0.5, window["WindowMinY"] + row + 0.5, 0])
        point[2] = window["WindowMinZ"] + slice_ + 0.5
        for k, angle in enumerate(theta):
            s, height, _ = np.linalg.solve(np.stack([u[k], v[k], ray[k]], axis=1), point)
            assert s == pytest.approx(x * np.cos(angle) + y * np.sin(angle))
            assert height == pytest.approx(slice_ - (num_rows - 1) / 2)


@pytest.mark.skipif(cuda_is_available(), reason="there is a CUDA device")
def test_no_gpu_is_told_before_anything_runs() -> None:
    with pytest.raises(ReductionError, match=r"needs a CUDA device .* choose the method gridrec"):
        fbp_cuda(np.ones((1, 4, 8), np.float32), np.arange(4.0), 3.5)


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_is_available(), reason="ASTRA finds no CUDA device")
@pytest.mark.parametrize(("size", "axis"), [(64, 31.5), (63, 28.3), (64, 40.9)])
@pytest.mark.parametrize("num_rows", [1, 3])
def test_gpu_gives_what_the_cpu_gives(size: int, axis: float, num_rows: int) -> None:
    theta = np.sort(np.random.default_rng(3).uniform(0, 2 * np.pi, 1100))  # more than one pass of ASTRA's, 1024 angles
    sinograms = stack(size, axis, theta)[:num_rows]
    expected = fbp(sinograms, theta, axis, filter_name="hann")
    found = fbp_cuda(sinograms, theta, axis, filter_name="hann")
    np.testing.assert_allclose(found, expected, atol=TEXTURE * expected.std())
