"""The kernel "exponential of semicircle" that spreads a sample on the grid points around it [1]_.

phi(d) = exp(beta (sqrt(1 - (2 d / w)^2) - 1)) for distances d of up to w / 2 grid points, and 0 beyond. Its Fourier
transform falls so quickly that w = 4 points along each axis, and a grid 1.25 times as fine as the slice, are enough.

References
----------
.. [1] Barnett, Magland, af Klinteberg, A parallel nonuniform fast Fourier transform library based on an "exponential of
   semicircle" kernel, SIAM Journal on Scientific Computing 41(5), C479-C504, 2019, doi 10.1137/18M120885X.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial import chebyshev, legendre
from numpy.typing import NDArray
from scipy import fft

__all__ = ["DEGREE", "OVERSAMPLING", "WIDTH", "grid_size", "kernel", "kernel_transform", "tap_polynomials"]

WIDTH = 4
"""Grid points that a sample is spread on, along each axis; the loops of `polar_grid` are written out for so many."""
OVERSAMPLING = 1.25
"""Least ratio of the grid's side to the slice's."""
DEGREE = 8
"""Degree of the polynomials that stand for the kernel; written out, too. They err by 1e-4
at its ends, where it falls like a root."""

# beta = gamma pi w (1 - 1 / (2 sigma)) for an oversampling sigma. [1]_ takes gamma = 0.97, best near the middle of the
# slice; 0.91 gives the least error over the whole of its circle.
_BETA = 0.91 * math.pi * WIDTH * (1 - 0.5 / OVERSAMPLING)
_NUM_NODES = 100  # of the quadrature


def grid_size(num_columns: int) -> int:
    """Even side of the fine grid for a slice of `num_columns` pixels a side, one that transforms fast."""
    least = max(OVERSAMPLING * num_columns, 4 * WIDTH)
    return 2 * int(fft.next_fast_len(math.ceil(least / 2)))


def kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Value of the kernel at some distances.

    Parameters
    ----------
    distance : float64, any shape
        In grid points.

    Returns
    -------
    float64, the same shape
        1 at distance 0, 0 from ``WIDTH / 2`` on.
    """
    inside = np.clip(1 - np.square(2 * distance / WIDTH), 0, None)
    return np.where(np.abs(distance) < WIDTH / 2, np.exp(_BETA * (np.sqrt(inside) - 1)), 0.0)


def kernel_transform(num_columns: int) -> NDArray[np.float64]:
    """Fourier transform of the kernel at the pixels of a slice: what spreading multiplies them with along each axis.

    Parameters
    ----------
    num_columns : int
        Pixels along a side; pixel i is ``i - num_columns // 2`` from where the transform counts.

    Returns
    -------
    float64, shape (num_columns,)
        Positive.
    """
    node, weight = legendre.leggauss(_NUM_NODES)
    distance = node * WIDTH / 2
    frequency = (np.arange(num_columns) - num_columns // 2) / grid_size(num_columns)
    waves = np.cos(2 * np.pi * np.outer(frequency, distance))
    return np.asarray(waves @ (weight * WIDTH / 2 * kernel(distance)), dtype=np.float64)


def tap_polynomials() -> NDArray[np.float32]:
    """Fit the kernel by one polynomial for each of the grid points that a sample is spread on.

    Returns
    -------
    float32, shape (DEGREE + 1, WIDTH)
        Coefficients, that of the highest power first. The variable goes from -1, where the sample lies on the second of
        its points, to 1 on the third.
    """
    nodes = chebyshev.chebpts1(4 * DEGREE)
    distance = (nodes[:, None] + 1) / 2 + (1 - np.arange(WIDTH))
    fits = [chebyshev.cheb2poly(chebyshev.chebfit(nodes, values, DEGREE)) for values in kernel(distance).T]
    return np.ascontiguousarray(np.stack(fits, axis=1)[::-1], dtype=np.float32)
