"""Fourier regridding against filtered backprojection by ASTRA and by scikit-image, on a phantom known exactly.

The phantom is a disc with eight ellipses in it; its projections are exact chord lengths without noise, each pixel of
the detector the mean of eight rays, and the truth is the mean of 4 x 4 points in each pixel. Each method gets the
phantom around its own axis: scikit-image's lies on a pixel. PSNR is inside the circle. The amplitude is the slope of
the least-squares line from the truth to the slice: 1 where the values are right. CPU time is per slice on one thread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rows import Row, arguments, cpu_seconds, report
from skimage.transform import iradon

from quietbeam.reconstruction.fbp import fbp
from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.quality import psnr
from quietbeam.reconstruction.reconstructors import circle
from quietbeam.reconstruction.sections import section_shares, split_angles

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
NUM_SLICES = 16
"""Slices at a time of the fast methods; the others get one."""


def main() -> None:
    """Measure all methods on one slice repeated."""
    options = arguments(__doc__)
    sizes = ((64, 64),) if options.tiny else ((512, 512), (1024, 1024))
    rows = [row for num_angles, size in sizes for row in _compare(num_angles, size)]
    report(rows, options.json)


def _compare(num_angles: int, size: int) -> list[Row]:
    theta = np.pi * np.arange(num_angles) / num_angles
    axis = (size - 1) / 2
    methods: dict[str, tuple[Callable[[Array], Array], int, float]] = {
        "quietbeam (gridrec)": (lambda rows: gridrec(rows, theta, axis), NUM_SLICES, axis),
        "quietbeam (gridrec, 4 sections)": (lambda rows: _by_sections(rows, theta, axis), NUM_SLICES, axis),
        "ASTRA FBP, CPU": (lambda rows: fbp(rows, theta, axis), 1, axis),
        "scikit-image iradon": (lambda rows: _iradon(rows[0], theta)[None], 1, size // 2),
    }
    case = f"{num_angles} angles x {size} columns"
    rows = []
    for name, (method, num_slices, axis_of_method) in methods.items():
        sinogram, truth = _project(theta, size, axis_of_method), _rasterise(size, axis_of_method)
        rows += _measure(case, name, method, np.repeat(sinogram[None], num_slices, axis=0), truth)
    return rows


def _measure(case: str, name: str, method: Callable[[Array], Array], rows: Array, truth: Array) -> list[Row]:
    inside = circle(truth.shape[0]) > 0
    right, found = truth[inside], method(rows)[0][inside]
    seconds = cpu_seconds(lambda: method(rows), repeats=3 if len(rows) > 1 else 1) / len(rows)
    return [
        Row(case, name, "CPU time of a slice", 1e3 * seconds, "ms"),
        Row(case, name, "PSNR", psnr(right, found), "dB"),
        Row(case, name, "amplitude", float(np.polyfit(right, found, 1)[0]), ""),
    ]


def _by_sections(sinograms: Array, theta: NDArray[np.float64], axis: float) -> Array:
    """Reconstruct four sections one after the other, as a reduction does, and average them."""
    sections = split_angles(theta, 4)
    parts = [gridrec(np.ascontiguousarray(sinograms[:, part]), theta[part], axis) for part in sections]
    return np.einsum("k,ksyx->syx", section_shares(sections), np.stack(parts), dtype=np.float32)


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
