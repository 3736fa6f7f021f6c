"""A sandstone: grains of three minerals, a heavy accessory one, and connected pores, on voxels.

Pores and grains are level sets of smooth Gaussian random fields, the usual stochastic model of porous media [1]_. There
is no closed form of its projections: project its voxels with `quietbeam.reconstruction.projectors`.

References
----------
.. [1] Quiblier, A new three-dimensional modeling technique for studying porous media, Journal of Colloid and Interface
   Science 98, 84-102, 1984, doi:10.1016/0021-9797(84)90481-8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter

__all__ = ["MINERALS", "sandstone_phantom"]

MINERALS = (0.0, 0.85, 1.0, 1.1, 2.0)
"""Attenuation of pore, clay, quartz, feldspar and iron oxide, over that of quartz."""
_POROSITY, _CLAY, _FELDSPAR, _OXIDE = 0.16, 0.12, 0.25, 0.004
_PORE_SIZE, _GRAIN_SIZE, _OXIDE_SIZE = 3.5, 9.0, 2.5
"""Standard deviations of the Gaussians that smooth the fields, voxels."""
_EDGE = 0.6
"""Standard deviation of the blur of the edges, voxels: a voxel at an edge holds some of each side."""
_RADIUS = 0.46
"""Of the core, in edges of a slice."""

Array = NDArray[np.float32]


def sandstone_phantom(num_slices: int, size: int, *, seed: int) -> Array:
    """Make the core of a sandstone, an upright cylinder with 16 % of pores.

    Parameters
    ----------
    num_slices : int
        Height, voxels.
    size : int
        Voxels along an edge of a slice.
    seed : int
        Of the fields.

    Returns
    -------
    float32, shape (slice, y, x)
        Attenuation relative to quartz; 0 in pores and outside the core.

    Raises
    ------
    ValueError
        If there is no voxel.
    """
    if num_slices < 1 or size < 1:
        raise ValueError(f"num_slices and size must be positive, got {num_slices} and {size}")
    shape = num_slices, size, size
    rng = np.random.default_rng(seed)
    volume = np.full(shape, MINERALS[2], np.float32)
    grains = _ranks(_random_field(shape, _GRAIN_SIZE, rng))
    volume[grains < _CLAY] = MINERALS[1]
    volume[grains > 1 - _FELDSPAR] = MINERALS[3]
    volume[_ranks(_random_field(shape, _OXIDE_SIZE, rng)) > 1 - _OXIDE] = MINERALS[4]
    volume[_ranks(_random_field(shape, _PORE_SIZE, rng)) < _POROSITY] = MINERALS[0]
    squares = (np.arange(size) - (size - 1) / 2) ** 2
    volume *= squares[:, None] + squares <= (_RADIUS * size) ** 2
    return np.asarray(gaussian_filter(volume, _EDGE), np.float32)


def _random_field(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Array:
    """Smooth white noise by a Gaussian in Fourier space, periodic at the edges; mean 0, variance 1."""
    spectrum = fft.rfftn(rng.standard_normal(shape, np.float32))
    for axis, n in enumerate(shape):
        frequencies = fft.rfftfreq(n) if axis == len(shape) - 1 else fft.fftfreq(n)
        along = np.exp(-2 * (np.pi * sigma * frequencies) ** 2).astype(np.float32)
        spectrum *= along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    field = fft.irfftn(spectrum, s=shape).astype(np.float32)
    deviation = field.std()
    return np.asarray(field / deviation if deviation > 0 else field, np.float32)


def _ranks(field: Array) -> Array:
    """Give each value's share of lower ones, by the sorted values of a part of the field."""
    some = np.sort(field.ravel()[:: max(field.size // 2**18, 1)])
    return np.asarray(np.searchsorted(some, field) / len(some), np.float32)
