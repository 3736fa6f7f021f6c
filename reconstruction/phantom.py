"""Simulated foam with known truth: exact projections, the volume they come from, and counts as a detector gives them.

Geometry of the whole package (ASTRA's for parallel beams [1]_):

- a point (x, y) of the sample is seen at angle theta at ``s = x cos(theta) + y sin(theta)``;
- it falls on detector column ``rotation_axis + s`` (pixels, 0 at the centre of the first pixel);
- in a slice of N x N pixels ``volume[slice, iy, ix]``, ``x = ix - (N - 1) / 2`` and ``y = (N - 1) / 2 - iy``: the first
  row of the image is the top, and the rotation axis goes through the centre of the image;
- slice i is detector row i.

Lengths are in pixels, or in metres where a ``pixel_size`` is given; attenuation coefficients are then in 1/pixel or
1/m, so that the reconstruction of the projections in the same unit is the truth itself.

References
----------
.. [1] W. van Aarle et al., The ASTRA Toolbox, Ultramicroscopy 157, 35-47, 2015, doi:10.1016/j.ultramic.2015.05.002.
.. [2] D. M. Pelt, A. A. Hendriksen, K. J. Batenburg, Foam-like phantoms for comparing tomography algorithms,
   J. Synchrotron Rad. 29, 254-265, 2022, doi:10.1107/S1600577521011322.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from .counts import Counts, NoiseSettings, simulate_counts

__all__ = ["Counts", "Foam", "NoiseSettings", "foam_phantom", "project_foam", "rasterise_foam", "simulate_counts"]

FloatArray = NDArray[np.floating[Any]]

# A void gets the best of this many places tried, which fills the gaps with the largest voids that fit.
_TRIALS = 8
# After so many places without room for the smallest void the cylinder counts as full.
_PATIENCE = 20_000


@dataclass(frozen=True, eq=False)
class Foam:
    """A solid upright cylinder with spherical voids that do not overlap.

    Attributes
    ----------
    centres : float64, shape (sphere, 3)
        Position (x, y, z) of each void; the cylinder has radius 1 around the z axis.
    radii : float64, shape (sphere,)
        Radius of each void, in radii of the cylinder.
    height : float
        Height of the cylinder, centred on z = 0, in radii of the cylinder. Voids may be cut by its two ends.
    """

    centres: NDArray[np.float64]
    radii: NDArray[np.float64]
    height: float


def foam_phantom(
    num_spheres: int, *, seed: int, height: float = 2.0, min_radius: float = 0.01, max_radius: float = 0.2
) -> Foam:
    """Place voids of varied radii at random in a cylinder of radius 1, none overlapping.

    Parameters
    ----------
    num_spheres : int
        Number of voids.
    seed : int
        The same seed gives the same foam.
    height : float
        Height of the cylinder in radii.
    min_radius, max_radius : float
        Bounds of the radii, in radii of the cylinder.

    Returns
    -------
    Foam
        Voids in the order of their placement.

    Raises
    ------
    ValueError
        If the bounds make no sense, or if the cylinder is full before the last void.
    """
    if not (num_spheres >= 0 and height > 0 and 0 < min_radius <= max_radius < 1):
        raise ValueError(
            "foam_phantom expects num_spheres >= 0, height > 0 and 0 < min_radius <= max_radius < 1, "
            f"got {num_spheres}, {height}, {min_radius}, {max_radius}"
        )
    spheres, placed = _place(np.random.default_rng(seed), num_spheres, height / 2, min_radius, max_radius)
    if placed < num_spheres:
        raise ValueError(
            f"the foam is full after {placed} of {num_spheres} voids; ask for fewer, or lower min_radius ({min_radius})"
        )
    return Foam(centres=spheres[:, :3].copy(), radii=spheres[:, 3].copy(), height=height)


def project_foam(
    foam: Foam,
    theta: FloatArray,
    num_rows: int,
    num_columns: int,
    *,
    rotation_axis: float | None = None,
    radius: float | None = None,
    pixel_size: float | None = None,
    attenuation: float | None = None,
    supersampling: int = 2,
) -> NDArray[np.float32]:
    """Project the foam along parallel rays: exact chord lengths times the attenuation coefficient.

    Parameters
    ----------
    foam : Foam
        The object; its axis is the rotation axis, its middle (z = 0) the middle of the detector's rows.
    theta : float, shape (angle,)
        Angles in radians.
    num_rows, num_columns : int
        Size of the detector.
    rotation_axis : float, optional
        Column of the axis in pixels; the middle of the detector, ``(num_columns - 1) / 2``, if not given.
    radius : float, optional
        Radius of the cylinder in pixels; 0.45 `num_columns` if not given.
    pixel_size : float, optional
        Pixel size in metres.
    attenuation : float, optional
        Attenuation coefficient of the solid, in 1/m with a `pixel_size`, in 1/pixel without. If not given, one over the
        cylinder's radius, so that the solid cylinder's line integral is 2 at the most.
    supersampling : int
        Rays per pixel along each of row and column; a pixel is the mean of its rays.

    Returns
    -------
    float32, shape (angle, row, column)
        Line integrals (-log of the transmission, no unit).
    """
    grid = _Grid.fit(num_rows, num_columns, radius, pixel_size, attenuation, supersampling)
    axis = (num_columns - 1) / 2 if rotation_axis is None else rotation_axis
    projections = np.empty((len(theta), num_rows, num_columns), np.float32)
    spheres = np.column_stack([foam.centres, foam.radii]) * grid.radius
    weight = grid.attenuation * grid.pixel_length / supersampling**2
    for image, angle in zip(projections, theta, strict=True):
        chords = np.zeros((num_rows, num_columns))
        _add_cylinder_chords(chords, grid.radius, foam.height / 2 * grid.radius, axis, supersampling)
        _cut_sphere_chords(chords, spheres, foam.height / 2 * grid.radius, axis, float(angle), supersampling)
        image[:] = weight * chords
    return projections


def rasterise_foam(
    foam: Foam,
    num_rows: int,
    num_columns: int,
    *,
    radius: float | None = None,
    pixel_size: float | None = None,
    attenuation: float | None = None,
    supersampling: int = 2,
) -> NDArray[np.float32]:
    """Draw the foam into the volume that its projections come from: the truth.

    Parameters
    ----------
    foam : Foam
        The object.
    num_rows, num_columns : int
        Number of slices, and edge of a slice.
    radius, pixel_size, attenuation
        As in `project_foam`; use the same values.
    supersampling : int
        Points per voxel along each of the three axes; a voxel is the mean of its points.

    Returns
    -------
    float32, shape (slice, y, x)
        Attenuation coefficient, in 1/m with a `pixel_size`, in 1/pixel without.
    """
    grid = _Grid.fit(num_rows, num_columns, radius, pixel_size, attenuation, supersampling)
    volume = np.zeros((num_rows, num_columns, num_columns), np.float32)
    spheres = np.column_stack([foam.centres, foam.radii]) * grid.radius
    _add_cylinder_points(volume, grid.radius, foam.height / 2 * grid.radius, supersampling)
    _cut_sphere_points(volume, spheres, foam.height / 2 * grid.radius, supersampling)
    volume *= np.float32(grid.attenuation / supersampling**3)
    return volume


class _Grid(NamedTuple):
    """How the foam lies on pixels: radius in pixels, length of a pixel, attenuation per that length's unit."""

    radius: float
    pixel_length: float
    attenuation: float

    @classmethod
    def fit(
        cls,
        num_rows: int,
        num_columns: int,
        radius: float | None,
        pixel_size: float | None,
        attenuation: float | None,
        supersampling: int,
    ) -> _Grid:
        radius = 0.45 * num_columns if radius is None else radius
        length = 1.0 if pixel_size is None else pixel_size
        if min(num_rows, num_columns, supersampling) < 1 or not (radius > 0 and length > 0):
            raise ValueError(
                "num_rows, num_columns and supersampling must be at least 1, radius and pixel_size positive, "
                f"got {num_rows}, {num_columns}, {supersampling}, {radius}, {pixel_size}"
            )
        return cls(radius, length, 1 / (radius * length) if attenuation is None else attenuation)


@numba.njit(cache=True)
def _room(
    x: float, y: float, z: float, spheres: NDArray[np.float64], last: NDArray[np.intp], before: NDArray[np.intp], b: int
) -> float:  # pragma: no cover - compiled
    """Radius of the largest sphere around a point that touches nothing; 0 or less inside of another.

    Spheres are listed by layers of z: `last` holds the latest of a layer, `before` the one before each.
    """
    room = 1 - math.sqrt(x * x + y * y)
    for layer in range(max(0, b - 1), min(len(last), b + 2)):
        j = last[layer]
        while j >= 0:
            dx, dy, dz = x - spheres[j, 0], y - spheres[j, 1], z - spheres[j, 2]
            reach = room + spheres[j, 3]
            square = dx * dx + dy * dy + dz * dz
            if square < reach * reach:
                room = math.sqrt(square) - float(spheres[j, 3])
            j = before[j]
    return room


@numba.njit(cache=True)
def _place(
    rng: np.random.Generator, num_spheres: int, half_height: float, smallest: float, largest: float
) -> tuple[NDArray[np.float64], int]:  # pragma: no cover - compiled
    """Place spheres one after the other, each at the roomiest of a few random points."""
    spheres = np.zeros((num_spheres, 4))
    # Spheres that touch are two of the largest radii apart at the most: in the same layer or in neighbours.
    thickness = 2 * largest
    last = np.full(int(2 * half_height / thickness) + 1, -1)
    before = np.full(num_spheres, -1)
    for placed in range(num_spheres):
        best = 0.0
        for trial in range(_PATIENCE):
            if trial >= _TRIALS and best >= smallest:
                break
            azimuth, distance = 2 * math.pi * rng.random(), math.sqrt(rng.random())
            x, y = distance * math.cos(azimuth), distance * math.sin(azimuth)
            height = 2 * half_height * rng.random()
            room = _room(x, y, height - half_height, spheres, last, before, int(height / thickness))
            if min(room, largest) > best:
                best = min(room, largest)
                spheres[placed] = (x, y, height - half_height, best)
        if best < smallest:
            return spheres, placed
        layer = int((spheres[placed, 2] + half_height) / thickness)
        before[placed], last[layer] = last[layer], placed
    return spheres, num_spheres


@numba.njit(cache=True)
def _add_cylinder_chords(
    chords: NDArray[np.float64], radius: float, half_height: float, axis: float, num_sub: int
) -> None:  # pragma: no cover - compiled
    num_rows, num_columns = chords.shape
    for row in range(num_rows * num_sub):
        z = (row + 0.5) / num_sub - num_rows / 2
        if abs(z) > half_height:
            continue
        for column in range(num_columns * num_sub):
            s = (column + 0.5) / num_sub - 0.5 - axis
            if abs(s) < radius:
                chords[row // num_sub, column // num_sub] += 2 * math.sqrt(radius * radius - s * s)


@numba.njit(cache=True)
def _cut_sphere_chords(
    chords: NDArray[np.float64],
    spheres: NDArray[np.float64],
    half_height: float,
    axis: float,
    theta: float,
    num_sub: int,
) -> None:  # pragma: no cover - compiled
    num_rows, num_columns = chords.shape
    for x, y, z, radius in spheres:
        s = x * math.cos(theta) + y * math.sin(theta)
        # Positions in sub-pixels: ray k of a row or column lies at k + 0.5.
        column, row = (axis + 0.5 + s) * num_sub, (z + num_rows / 2) * num_sub
        reach = radius * num_sub
        for i in range(max(0, math.floor(row - reach)), min(num_rows * num_sub, math.ceil(row + reach))):
            if abs((i + 0.5) / num_sub - num_rows / 2) > half_height:
                continue
            rest = reach * reach - (i + 0.5 - row) ** 2
            for j in range(max(0, math.floor(column - reach)), min(num_columns * num_sub, math.ceil(column + reach))):
                square = rest - (j + 0.5 - column) ** 2
                if square > 0:
                    chords[i // num_sub, j // num_sub] -= 2 * math.sqrt(square) / num_sub


@numba.njit(cache=True)
def _add_cylinder_points(
    volume: NDArray[np.float32], radius: float, half_height: float, num_sub: int
) -> None:  # pragma: no cover - compiled
    num_slices, size, _ = volume.shape
    for iz in range(num_slices * num_sub):
        if abs((iz + 0.5) / num_sub - num_slices / 2) > half_height:
            continue
        for iy in range(size * num_sub):
            y = size / 2 - (iy + 0.5) / num_sub
            for ix in range(size * num_sub):
                x = (ix + 0.5) / num_sub - size / 2
                if x * x + y * y < radius * radius:
                    volume[iz // num_sub, iy // num_sub, ix // num_sub] += 1


@numba.njit(cache=True)
def _cut_sphere_points(
    volume: NDArray[np.float32], spheres: NDArray[np.float64], half_height: float, num_sub: int
) -> None:  # pragma: no cover - compiled
    num_slices, size, _ = volume.shape
    for x, y, z, radius in spheres:
        cx, cy, cz = (x + size / 2) * num_sub, (size / 2 - y) * num_sub, (z + num_slices / 2) * num_sub
        reach = radius * num_sub
        for iz in range(max(0, math.floor(cz - reach)), min(num_slices * num_sub, math.ceil(cz + reach))):
            if abs((iz + 0.5) / num_sub - num_slices / 2) > half_height:
                continue
            for iy in range(max(0, math.floor(cy - reach)), min(size * num_sub, math.ceil(cy + reach))):
                rest = reach * reach - (iz + 0.5 - cz) ** 2 - (iy + 0.5 - cy) ** 2
                for ix in range(max(0, math.floor(cx - reach)), min(size * num_sub, math.ceil(cx + reach))):
                    if (ix + 0.5 - cx) ** 2 < rest:
                        volume[iz // num_sub, iy // num_sub, ix // num_sub] -= 1
