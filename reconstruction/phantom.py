"""Exact projections of foam, and the volume that they come from: known truth.

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
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled
from .counts import Counts, NoiseSettings, simulate_counts
from .foam import Foam, foam_phantom
from .threads import for_each

__all__ = [
    "Counts",
    "Foam",
    "NoiseSettings",
    "foam_phantom",
    "project_foam",
    "rasterise_foam",
    "simulate_counts",
]

FloatArray = NDArray[np.floating[Any]]

# Rays are taken in whole groups of this many, as the compiler makes them: a rest would cost more than the rays added.
_GROUP = 16


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
    num_threads: int = 1,
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
    num_threads : int
        Projections made at a time; the result does not depend on it.

    Returns
    -------
    float32, shape (angle, row, column)
        Line integrals (-log of the transmission, no unit).
    """
    body = _Body.fit(foam, num_rows, num_columns, radius, pixel_size, attenuation, supersampling)
    axis = (num_columns - 1) / 2 if rotation_axis is None else float(rotation_axis)
    scale = body.unit * body.pixel_length / supersampling**2
    projections = np.empty((len(theta), num_rows, num_columns), np.float32)

    def project(i: int) -> None:
        _project(projections[i], body, axis, float(theta[i]), supersampling, scale)

    for_each(project, len(theta), num_threads)
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
    num_threads: int = 1,
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
    num_threads : int
        Slices drawn at a time; the result does not depend on it.

    Returns
    -------
    float32, shape (slice, y, x)
        Attenuation coefficient, in 1/m with a `pixel_size`, in 1/pixel without.
    """
    body = _Body.fit(foam, num_rows, num_columns, radius, pixel_size, attenuation, supersampling)
    volume = np.empty((num_rows, num_columns, num_columns), np.float32)

    def draw(i: int) -> None:
        _draw(volume[i], body, i - num_rows / 2, supersampling)

    for_each(draw, num_rows, num_threads)
    volume *= np.float32(body.unit / supersampling**3)
    return volume


class _Body(NamedTuple):
    """The foam on pixels; what the spheres change counts from the solid that they replace."""

    spheres: NDArray[np.float64]
    changes: NDArray[np.float64]
    solid: float
    radius: float
    half_height: float
    pixel_length: float
    unit: float

    @classmethod
    def fit(
        cls,
        foam: Foam,
        num_rows: int,
        num_columns: int,
        radius: float | None,
        pixel_size: float | None,
        attenuation: float | None,
        supersampling: int,
    ) -> _Body:
        radius = 0.45 * num_columns if radius is None else radius
        length = 1.0 if pixel_size is None else float(pixel_size)
        if min(num_rows, num_columns, supersampling) < 1 or not (radius > 0 and length > 0):
            raise ValueError(
                "num_rows, num_columns and supersampling must be at least 1, radius and pixel_size positive, "
                f"got {num_rows}, {num_columns}, {supersampling}, {radius}, {pixel_size}"
            )
        unit = 1 / (radius * length) if attenuation is None else float(attenuation)
        contents = np.zeros(len(foam.radii)) if foam.contents is None else foam.contents
        spheres = np.column_stack([foam.centres, foam.radii]) * radius
        half_height = foam.height / 2 * radius
        return cls(spheres, contents - foam.solid, float(foam.solid), float(radius), half_height, length, unit)


@compiled()
def _project(
    projection: NDArray[np.float32], body: _Body, axis: float, theta: float, num_sub: int, scale: float
) -> None:  # pragma: no cover - compiled
    num_rows, num_columns = projection.shape
    s = (np.arange(num_columns * num_sub + _GROUP) + 0.5) / num_sub - 0.5 - axis
    chords = np.zeros((num_rows, s.size))
    bottom, top = _span(0.0, body.half_height, num_rows / 2, num_sub, num_rows)
    for i in range(bottom, top):
        _add_chords(chords[i // num_sub], s, 0.0, body.radius**2, axis, num_sub, body.solid)
    for k in range(len(body.spheres)):
        x, y, z, radius = body.spheres[k]
        middle = x * math.cos(theta) + y * math.sin(theta)
        first, stop = _span(z, radius, num_rows / 2, num_sub, num_rows)
        for i in range(max(first, bottom), min(stop, top)):
            square = radius**2 - ((i + 0.5) / num_sub - num_rows / 2 - z) ** 2
            _add_chords(chords[i // num_sub], s, middle, square, axis, num_sub, body.changes[k])
    _bin(chords, projection, num_sub, scale)


@compiled()
def _draw(image: NDArray[np.float32], body: _Body, bottom: float, num_sub: int) -> None:  # pragma: no cover - compiled
    """Draw the slice between heights `bottom` and `bottom` + 1."""
    points = np.zeros((image.shape[0], image.shape[1] * num_sub))
    for i in range(num_sub):
        height = bottom + (i + 0.5) / num_sub
        if abs(height) > body.half_height:
            continue
        _add_disc(points, 0.0, 0.0, body.radius**2, num_sub, body.solid)
        for k in range(len(body.spheres)):
            x, y, z, radius = body.spheres[k]
            square = radius**2 - (height - z) ** 2
            if square > 0:
                _add_disc(points, x, y, square, num_sub, body.changes[k])
    _bin(points, image, num_sub, 1.0)


@compiled(inline="always")
def _span(
    middle: float, half: float, origin: float, num_sub: int, num_pixels: int
) -> tuple[int, int]:  # pragma: no cover - compiled
    """First and stop of the sub-pixels within `half` of `middle`; number k lies at (k + 0.5) / num_sub - origin."""
    first = math.ceil((middle - half + origin) * num_sub - 0.5)
    stop = math.floor((middle + half + origin) * num_sub - 0.5) + 1
    first = max(first, 0)
    return first, max(first, min(stop, num_pixels * num_sub))


@compiled(inline="always")
def _add_chords(
    chords: NDArray[np.float64],
    s: NDArray[np.float64],
    middle: float,
    square: float,
    axis: float,
    num_sub: int,
    weight: float,
) -> None:  # pragma: no cover - compiled
    """Add the chords through a circle with radius squared `square` to one row of rays; those beside it get 0."""
    first, stop = _span(middle, math.sqrt(max(square, 0.0)), axis + 0.5, num_sub, (s.size - _GROUP) // num_sub)
    stop = first + -(-(stop - first) // _GROUP) * _GROUP
    # On views of the part, the compiler takes several rays at a time.
    lengths, offsets = chords[first:stop], s[first:stop]
    for j in range(lengths.size):
        offset = offsets[j] - middle
        lengths[j] += 2 * weight * math.sqrt(max(square - offset * offset, 0.0))


@compiled()
def _add_disc(
    points: NDArray[np.float64], x: float, y: float, square: float, num_sub: int, weight: float
) -> None:  # pragma: no cover - compiled
    """Add a disc with radius squared `square`; rows of one pixel are summed at once."""
    size = len(points)
    first, stop = _span(-y, math.sqrt(square), size / 2, num_sub, size)
    for i in range(first, stop):
        rest = square - ((i + 0.5) / num_sub - size / 2 + y) ** 2
        left, right = _span(x, math.sqrt(max(rest, 0.0)), size / 2, num_sub, size)
        inside = points[i // num_sub, left:right]
        for j in range(inside.size):
            inside[j] += weight


@compiled()
def _bin(
    rows: NDArray[np.float64], image: NDArray[np.float32], num_sub: int, scale: float
) -> None:  # pragma: no cover - compiled
    """Sum the sub-columns of each pixel."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            image[i, j] = scale * rows[i, j * num_sub : (j + 1) * num_sub].sum()
