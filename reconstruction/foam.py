"""A foam: an upright cylinder with spheres in it that do not overlap, empty or filled [1]_.

References
----------
.. [1] D. M. Pelt, A. A. Hendriksen, K. J. Batenburg, Foam-like phantoms for comparing tomography algorithms,
   J. Synchrotron Rad. 29, 254-265, 2022, doi:10.1107/S1600577521011322.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

__all__ = ["Foam", "foam_phantom"]

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
    contents : float64, shape (sphere,), optional
        What fills each void: its attenuation relative to that of the solid; all are empty if not given.
    solid : float
        The solid's own attenuation on that scale; with 0, only the contents of the spheres are seen.
    """

    centres: NDArray[np.float64]
    radii: NDArray[np.float64]
    height: float
    contents: NDArray[np.float64] | None = None
    solid: float = 1.0

    def __post_init__(self) -> None:
        given = [len(self.radii), *([] if self.contents is None else [len(self.contents)])]
        if any(number != len(self.centres) for number in given):
            raise ValueError(f"Foam expects radii and contents of each of {len(self.centres)} spheres, got {given}")


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


@compiled()
def _place(
    rng: np.random.Generator, num_spheres: int, half_height: float, smallest: float, largest: float
) -> tuple[NDArray[np.float64], int]:  # pragma: no cover - compiled
    """Place spheres one after the other, each at the roomiest of a few random points."""
    spheres = np.zeros((num_spheres, 4))
    cells, links, used = _make_cells(num_spheres, half_height), np.empty((4 * num_spheres, 2), np.int64), 0
    for placed in range(num_spheres):
        best = 0.0
        for trial in range(_PATIENCE):
            if trial >= _TRIALS and best > 0:
                break
            azimuth, distance = 2 * math.pi * rng.random(), math.sqrt(rng.random())
            x, y = distance * math.cos(azimuth), distance * math.sin(azimuth)
            z = 2 * half_height * rng.random() - half_height
            at_wall = min(1 - math.sqrt(x * x + y * y), largest)
            room = _room(x, y, z, at_wall, max(best, smallest), half_height, spheres, cells, links)
            if room >= smallest and room > best:
                best = room
                spheres[placed] = (x, y, z, best)
        if best == 0:
            return spheres, placed
        links, used = _enter(placed, spheres[placed], half_height, cells, links, used)
    return spheres, num_spheres


@compiled()
def _make_cells(num_spheres: int, half_height: float) -> NDArray[np.int64]:  # pragma: no cover - compiled
    """Make about as many cells as spheres, axes (z, y, x); each holds the latest link of its list, -1 for none."""
    size = (2 * math.pi * half_height / max(num_spheres, 1)) ** (1 / 3)
    width, height = int(2 / size) + 1, int(2 * half_height / size) + 1
    return np.full((height, width, width), -1)


@compiled()
def _cells_within(
    middle: float, reach: float, half_length: float, num_cells: int
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Give the first and the stop of the cells along an axis from -half_length that come within reach of a point."""
    scale = num_cells / (2 * half_length)
    first = math.floor((middle - reach + half_length) * scale)
    last = math.floor((middle + reach + half_length) * scale)
    return max(first, 0), min(last, num_cells - 1) + 1


@compiled()
def _room(
    x: float,
    y: float,
    z: float,
    room: float,
    enough: float,
    half_height: float,
    spheres: NDArray[np.float64],
    cells: NDArray[np.int64],
    links: NDArray[np.int64],
) -> float:  # pragma: no cover - compiled
    """Radius up to `room` of the largest sphere around a point that touches nothing; below `enough`, any such value."""
    num_layers, width, _ = cells.shape
    # The point's own cell comes first: most points lie in a void, and need no other.
    for reach in (0.0, 1.0):
        layers = _cells_within(z, reach * room, half_height, num_layers)
        rows, columns = _cells_within(y, reach * room, 1.0, width), _cells_within(x, reach * room, 1.0, width)
        for layer in range(layers[0], layers[1]):
            for row in range(rows[0], rows[1]):
                for column in range(columns[0], columns[1]):
                    link = cells[layer, row, column]
                    while link >= 0:
                        j = links[link, 0]
                        dx, dy, dz = x - spheres[j, 0], y - spheres[j, 1], z - spheres[j, 2]
                        free = room + spheres[j, 3]
                        square = dx * dx + dy * dy + dz * dz
                        if square < free * free:
                            room = math.sqrt(square) - spheres[j, 3]
                            if room < enough:
                                return room
                        link = links[link, 1]
    return room


@compiled()
def _enter(
    j: int,
    sphere: NDArray[np.float64],
    half_height: float,
    cells: NDArray[np.int64],
    links: NDArray[np.int64],
    used: int,
) -> tuple[NDArray[np.int64], int]:  # pragma: no cover - compiled
    """List a sphere in every cell that it may reach into."""
    x, y, z, radius = sphere
    layers = _cells_within(z, radius, half_height, cells.shape[0])
    rows, columns = _cells_within(y, radius, 1.0, cells.shape[1]), _cells_within(x, radius, 1.0, cells.shape[2])
    for layer in range(layers[0], layers[1]):
        for row in range(rows[0], rows[1]):
            for column in range(columns[0], columns[1]):
                if used == len(links):
                    links = np.concatenate((links, np.empty_like(links)))
                links[used] = j, cells[layer, row, column]
                cells[layer, row, column] = used
                used += 1
    return links, used
