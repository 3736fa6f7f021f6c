from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from quietbeam.reconstruction.spreading_kernel import WIDTH, grid_size, kernel, kernel_transform, tap_polynomials

FIT = 2e-4
"""Error of the polynomials: at its ends the kernel falls from 7e-4 to 0 like a root, which no polynomial does."""


@pytest.mark.parametrize("num_columns", [1, 2, 7, 100, 1024, 2049])
def test_grid_is_even_and_a_quarter_finer_than_the_slice(num_columns: int) -> None:
    size = grid_size(num_columns)
    assert size % 2 == 0
    assert size >= 1.25 * num_columns
    assert size <= max(1.5 * num_columns, 16)


def test_kernel_is_one_in_the_middle_and_zero_beyond_its_width() -> None:
    assert kernel(np.array([0.0]))[0] == 1
    assert not kernel(np.array([-2.5, -2.0, 2.0, 3.0])).any()
    assert (np.diff(kernel(np.linspace(0, 2, 50))) < 0).all()


def test_transform_is_the_fourier_integral_of_the_kernel() -> None:
    transform = kernel_transform(20)
    for pixel in (0, 5, 10, 19):
        frequency = (pixel - 10) / grid_size(20)
        integral, _ = quad(lambda d, f=frequency: kernel(np.array([d]))[0] * np.cos(2 * np.pi * f * d), -2, 2)
        assert transform[pixel] == pytest.approx(integral, rel=1e-5)


def test_polynomials_give_the_kernel_at_every_tap() -> None:
    x = np.linspace(-1, 1, 1001)[1:-1]
    polynomials = tap_polynomials().astype(np.float64)
    for tap in range(WIDTH):
        distance = (x + 1) / 2 + 1 - tap
        np.testing.assert_allclose(np.polyval(polynomials[:, tap], x), kernel(distance), atol=FIT, rtol=0)
