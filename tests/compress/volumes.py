"""Small volumes made from a seed, as a denoiser leaves them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter


def foam(shape: tuple[int, int, int], *, num_voids: int, seed: int = 0, noise: float = 0.003) -> NDArray[np.float32]:
    """Spherical voids of radius 3 to 14 in a cylinder of ones, slightly blurred, with a little noise."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    inside = (y - shape[1] / 2) ** 2 + (x - shape[2] / 2) ** 2 < (0.48 * shape[1]) ** 2
    volume = np.ones(shape, np.float32) * inside
    for centre, radius in zip(rng.random((num_voids, 3)) * shape, rng.uniform(3, 14, num_voids), strict=True):
        volume[(z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2] = 0
    return (gaussian_filter(volume, 0.8) + noise * rng.standard_normal(shape)).astype(np.float32)
