"""Foam that changes while it is scanned: voids that move, that grow, or that fill from one side.

A dynamic foam is a foam at each time from 0 to 1. Voids never overlap and never leave the cylinder, at any time: each
moves or grows within the sphere that it has in a foam of `foam_phantom`. The three kinds are those of [1]_.

References
----------
.. [1] D. M. Pelt, A. A. Hendriksen, K. J. Batenburg, Foam-like phantoms for comparing tomography algorithms,
   J. Synchrotron Rad. 29, 254-265, 2022, doi:10.1107/S1600577521011322.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .foam import Foam
from .phantom import project_foam
from .threads import for_each

__all__ = ["DynamicFoam", "FillingFoam", "GrowingFoam", "MovingFoam", "growing_foam", "moving_foam", "project_dynamic"]

FloatArray = NDArray[np.floating[Any]]


class DynamicFoam(Protocol):
    """A foam at any time."""

    def at(self, time: float) -> Foam:
        """Give the foam as it is at one moment.

        Parameters
        ----------
        time : float
            0 is the start of the experiment and 1 its end; earlier is as 0, later as 1.

        Returns
        -------
        Foam
            For `project_foam` and `rasterise_foam`.
        """
        ...


@dataclass(frozen=True, eq=False)
class MovingFoam:
    """Voids that move along straight lines.

    Attributes
    ----------
    start : Foam
        At time 0.
    paths : float64, shape (sphere, 3)
        Way (x, y, z) of each void from time 0 to time 1, in radii of the cylinder.
    """

    start: Foam
    paths: NDArray[np.float64]

    def at(self, time: float) -> Foam:
        """Give the foam at a time from 0 to 1."""
        return replace(self.start, centres=self.start.centres + np.clip(time, 0, 1) * self.paths)


@dataclass(frozen=True, eq=False)
class GrowingFoam:
    """Voids that grow at a constant rate, each from a time of its own.

    Attributes
    ----------
    end : Foam
        When all voids have their full radius.
    start_size : float
        Radius of each void before it grows, relative to its full radius.
    onsets, durations : float64, shape (sphere,)
        When each void starts to grow, and how long it grows; the experiment takes 1.
    """

    end: Foam
    start_size: float
    onsets: NDArray[np.float64]
    durations: NDArray[np.float64]

    def at(self, time: float) -> Foam:
        """Give the foam at a time from 0 to 1."""
        grown = np.clip((np.clip(time, 0, 1) - self.onsets) / self.durations, 0, 1)
        return replace(self.end, radii=self.end.radii * (self.start_size + (1 - self.start_size) * grown))


@dataclass(frozen=True, eq=False)
class FillingFoam:
    """Voids that fill with a liquid, as a plane front passes through the cylinder at a constant speed.

    The front reaches the first void at time 0 and leaves the last at time 1. A void holds as much as lies behind the
    front, evenly mixed with air over all of it: with the part u of its diameter behind, u^2 (3 - 2 u) of its volume.

    Attributes
    ----------
    empty : Foam
        Before the liquid comes.
    liquid : float
        Attenuation of the liquid, relative to that of the solid.
    direction : tuple of float
        Way of the front (x, y, z), of any length but 0; from the side of -x if not given.
    """

    empty: Foam
    liquid: float
    direction: tuple[float, float, float] = (1.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not np.linalg.norm(self.direction) > 0:
            raise ValueError(f"FillingFoam expects a direction (x, y, z) that is not 0, got {self.direction}")

    def at(self, time: float) -> Foam:
        """Give the foam at a time from 0 to 1."""
        radii = self.empty.radii
        along = self.empty.centres @ (np.array(self.direction) / np.linalg.norm(self.direction))
        start, stop = np.min(along - radii, initial=0), np.max(along + radii, initial=0)
        front = start + np.clip(time, 0, 1) * (stop - start)
        behind = np.clip((front - along + radii) / (2 * radii), 0, 1)
        return replace(self.empty, contents=self.liquid * behind**2 * (3 - 2 * behind))


def moving_foam(foam: Foam, *, seed: int, size: float = 0.7) -> MovingFoam:
    """Let each void move in a random direction, from wall to wall of the sphere that it has in a foam.

    Parameters
    ----------
    foam : Foam
        Spheres to move in.
    seed : int
        The same seed gives the same paths.
    size : float
        Radius of each void relative to that of its sphere, up to 1; the smaller, the longer the way.

    Returns
    -------
    MovingFoam
        With the volume of the voids of `foam` times the cube of `size`.

    Raises
    ------
    ValueError
        If `size` is not above 0 and up to 1.
    """
    if not 0 < size <= 1:
        raise ValueError(f"moving_foam expects size in (0, 1], got {size}")
    directions = np.random.default_rng(seed).standard_normal(foam.centres.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    half_ways = (1 - size) * foam.radii[:, None] * directions
    return MovingFoam(replace(foam, centres=foam.centres - half_ways, radii=size * foam.radii), 2 * half_ways)


def growing_foam(foam: Foam, *, seed: int, start_size: float = 0.3) -> GrowingFoam:
    """Let each void grow to the size that it has in a foam, at a time of its own.

    Parameters
    ----------
    foam : Foam
        As at time 1.
    seed : int
        The same seed gives the same times.
    start_size : float
        Radius of each void at time 0 relative to that at time 1, from 0 to 1.

    Returns
    -------
    GrowingFoam
        Each void takes a tenth to half of the experiment to grow.

    Raises
    ------
    ValueError
        If `start_size` is not from 0 to 1.
    """
    if not 0 <= start_size <= 1:
        raise ValueError(f"growing_foam expects start_size from 0 to 1, got {start_size}")
    rng = np.random.default_rng(seed)
    durations = rng.uniform(0.1, 0.5, len(foam.radii))
    return GrowingFoam(foam, start_size, rng.uniform(0, 1 - durations), durations)


def project_dynamic(
    foam: DynamicFoam,
    theta: FloatArray,
    times: Sequence[float] | FloatArray,
    num_rows: int,
    num_columns: int,
    *,
    rotation_axis: float | None = None,
    radius: float | None = None,
    pixel_size: float | None = None,
    attenuation: float | None = None,
    supersampling: int = 2,
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Project a foam that changes, each projection at a time of its own.

    Parameters
    ----------
    foam : DynamicFoam
        The object.
    theta : float, shape (angle,)
        Angles in radians.
    times : float, shape (angle,)
        When each projection is taken, from 0 to 1; it takes no time itself.
    num_rows, num_columns : int
        Size of the detector.
    rotation_axis, radius, pixel_size, attenuation, supersampling, num_threads
        As in `project_foam`.

    Returns
    -------
    float32, shape (angle, row, column)
        Line integrals (-log of the transmission, no unit); their truth at a time is that of ``foam.at(time)``.

    Raises
    ------
    ValueError
        If there is not one time for each angle.
    """
    if len(times) != len(theta):
        raise ValueError(f"project_dynamic expects one time for each of {len(theta)} angles, got {len(times)}")
    projections = np.empty((len(theta), num_rows, num_columns), np.float32)

    def project(i: int) -> None:
        projections[i] = project_foam(
            foam.at(float(times[i])),
            theta[i : i + 1],
            num_rows,
            num_columns,
            rotation_axis=rotation_axis,
            radius=radius,
            pixel_size=pixel_size,
            attenuation=attenuation,
            supersampling=supersampling,
        )[0]

    for_each(project, len(theta), num_threads)
    return projections
