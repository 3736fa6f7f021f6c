"""Fourier regridding against finufft doing the same, ASTRA, scikit-image and tomopy, on a phantom known exactly.

The phantom is a disc with eight ellipses in it; its projections are exact chord lengths without noise, each pixel of
the detector the mean of eight rays, and the truth is the mean of 4 x 4 points in each pixel. Each method gets the
phantom around its own axis: scikit-image's lies on a pixel. PSNR is inside 0.47 of the width from the axis, raw, and
after the affine map that fits the truth best. The amplitude is the slope of the least-squares line from the truth to
the slice: 1 where the values are right. CPU time is per slice on one thread, in one process for all methods; the ratio
is to that of gridrec. tomopy's rows appear where tomopy is installed: its gridrec pads to the next power of two, which
for these widths is none; the padded row got zeros up to twice the width. Both have their axis shifted to where ours is.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from fourier_peers import FinufftPlan
from numpy.typing import NDArray
from rows import Row, arguments, cpu_seconds, report
from skimage.transform import iradon

from quietbeam.reconstruction.fbp import fbp
from quietbeam.reconstruction.gridrec import GridrecPlan
from quietbeam.reconstruction.quality import psnr
from quietbeam.reconstruction.sections import section_shares, split_angles
from quietbeam.reconstruction.tomopy_backend import tomopy_gridrec, tomopy_is_installed

Array = NDArray[np.float32]

# centre x, centre y, half axes, turned by degrees, attenuation added; in radii of the circle
ELLIPSES = (
    (0.0, 0.0, 0.9, 0.9, 0, 1.0),
    (0.0, 0.05, 0.7, 0.8, 20, -0.3),
    (0.3, 0.2, 0.2, 0.1, 40, 0.5),
    (-0.35, 0.1, 0.12, 0.3, -25, -0.4),
    (0.0, -0.4, 0.25, 0.08, 5, 0.8),
    (0.25, -0.1, 0.05, 0.05, 0, 0.6),
    (-0.1, 0.35, 0.03, 0.06, 60, 0.6),
    (-0.2, -0.2, 0.02, 0.02, 0, 1.0),
    (0.45, -0.25, 0.08, 0.15, 75, -0.5),
)
SUB_RAYS, SUB_PIXELS = 8, 4
LARGEST_SLOW = 1024
"""Columns up to which the slow methods are measured too."""
NUM_SLICES = 16
"""Slices at a time of the fast methods; the slow ones get one."""
FIELD_OF_VIEW = 0.47
"""Radius in which slices are compared, over their width."""


class Method(NamedTuple):
    """A way from sinograms to slices, how many slices it gets, where it has its axis, how to take one slice out."""

    name: str
    reconstruct: Callable[[Array], Array]
    num_slices: int
    axis: float
    first: Callable[[Array], Array] = itemgetter(0)


def main() -> None:
    """Measure all methods on one slice repeated."""
    options = arguments(__doc__)
    sizes = ((64, 64),) if options.tiny else ((512, 512), (1024, 1024), (1500, 2048))
    rows = [row for num_angles, size in sizes for row in _compare(num_angles, size)]
    report(rows, options.json)


def _compare(num_angles: int, size: int) -> list[Row]:
    theta = np.pi * np.arange(num_angles) / num_angles
    case = f"{num_angles} angles x {size} columns"
    rows = [row for method in _methods(theta, size) for row in _measure(case, method, theta, size)]
    times = {row.method: row.value for row in rows if row.metric == "CPU time of a slice"}
    ours = times["quietbeam (gridrec)"]
    return rows + [Row(case, name, "time over gridrec's", time / ours, "") for name, time in times.items()]


def _methods(theta: NDArray[np.float64], size: int) -> list[Method]:
    axis = (size - 1) / 2
    plan, sections = GridrecPlan(theta, size, axis), split_angles(theta, 4)

    def by_sections(rows: Array) -> Array:
        return plan.reconstruct_sections(rows, sections)

    def mean_of_first(slices: Array) -> Array:
        return np.asarray(np.tensordot(section_shares(sections), slices[0], 1), dtype=np.float32)

    methods = [
        Method("quietbeam (gridrec)", plan.reconstruct, NUM_SLICES, axis),
        Method("quietbeam (gridrec, 4 sections)", by_sections, NUM_SLICES, axis, mean_of_first),
        Method("finufft", FinufftPlan(theta, size, axis).reconstruct, NUM_SLICES, axis),
    ]
    if tomopy_is_installed():
        methods += _tomopy_methods(theta, size)
    if size <= LARGEST_SLOW:
        methods += [
            Method("ASTRA FBP, CPU", lambda rows: fbp(rows, theta, axis), 1, axis),
            Method("scikit-image iradon", lambda rows: _iradon(rows[0], theta)[None], 1, size // 2),
        ]
    return methods


def _tomopy_methods(theta: NDArray[np.float64], size: int) -> list[Method]:
    axis = (size - 1) / 2
    return [
        Method("tomopy gridrec", lambda rows: tomopy_gridrec(rows, theta, axis, padded=False), NUM_SLICES, axis),
        Method("tomopy gridrec, padded", lambda rows: tomopy_gridrec(rows, theta, axis), NUM_SLICES, axis),
    ]


def _measure(case: str, method: Method, theta: NDArray[np.float64], size: int) -> list[Row]:
    sinogram, truth = _project(theta, size, method.axis), _rasterise(size, method.axis)
    sinograms = np.repeat(sinogram[None], method.num_slices, axis=0)
    distance = np.hypot(*np.meshgrid(*[np.arange(size) - method.axis] * 2))
    inside = distance < FIELD_OF_VIEW * size
    right, found = (image[inside].astype(np.float64) for image in (truth, method.first(method.reconstruct(sinograms))))
    fast = method.num_slices > 1
    seconds = cpu_seconds(lambda: method.reconstruct(sinograms), repeats=5 if fast else 1) / method.num_slices
    return [
        Row(case, method.name, "CPU time of a slice", 1e3 * seconds, "ms"),
        Row(case, method.name, "PSNR", psnr(right, found), "dB"),
        Row(
            case,
            method.name,
            "PSNR after affine fit",
            psnr(right, np.polyval(np.polyfit(found, right, 1), found)),
            "dB",
        ),
        Row(case, method.name, "amplitude", float(np.polyfit(right, found, 1)[0]), ""),
    ]


def _iradon(sinogram: Array, theta: NDArray[np.float64]) -> Array:
    return np.asarray(iradon(sinogram.T, np.rad2deg(theta), circle=True), dtype=np.float32)


def _project(theta: NDArray[np.float64], size: int, axis: float) -> Array:
    """Line integrals in units of the attenuation per pixel, shape (angle, column)."""
    radius = size / 2
    s = ((np.arange(size * SUB_RAYS) + 0.5) / SUB_RAYS - 0.5 - axis) / radius
    total = np.zeros((theta.size, s.size))
    for x, y, a, b, turned, value in ELLIPSES:
        angle = theta[:, None] - np.deg2rad(turned)
        r2 = (a * np.cos(angle)) ** 2 + (b * np.sin(angle)) ** 2
        t = s - (x * np.cos(theta) + y * np.sin(theta))[:, None]
        total += value * 2 * a * b * np.sqrt(np.clip(r2 - t**2, 0, None)) / r2
    return (radius * total.reshape(theta.size, size, SUB_RAYS).mean(axis=2)).astype(np.float32)


def _rasterise(size: int, axis: float) -> Array:
    """Draw the phantom, x to the right and y upwards from pixel (axis, axis), shape (y, x)."""
    points = ((np.arange(size * SUB_PIXELS) + 0.5) / SUB_PIXELS - 0.5 - axis) / (size / 2)
    px, py = points[None, :], -points[:, None]
    image = np.zeros((points.size, points.size), np.float32)
    for x, y, a, b, turned, value in ELLIPSES:
        c, s = np.cos(np.deg2rad(turned)), np.sin(np.deg2rad(turned))
        u, v = (px - x) * c + (py - y) * s, (py - y) * c - (px - x) * s
        image[(u / a) ** 2 + (v / b) ** 2 <= 1] += value
    return image.reshape(size, SUB_PIXELS, size, SUB_PIXELS).mean(axis=(1, 3))


if __name__ == "__main__":
    main()
