"""Simulated scans of known truth for the denoising benchmarks: a foam, a foam that moves, a sample for XRD-CT.

The detector counts photons and nothing else: the open beam is known, every pixel is alike, and a pixel without a photon
counts as one photon. What a real detector adds is in `quietbeam simulate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from quietbeam.reconstruction.acquisition import Acquisition
from quietbeam.reconstruction.dynamic_phantom import DynamicFoam, moving_foam, project_dynamic
from quietbeam.reconstruction.foam import Foam, foam_phantom
from quietbeam.reconstruction.phantom import project_foam, rasterise_foam
from quietbeam.reconstruction.reconstructors import reconstruct, reconstruct_sections
from quietbeam.reconstruction.scan_patterns import interlaced_scan, static_scan
from quietbeam.reconstruction.sections import section_shares, split_angles
from quietbeam.reconstruction.xrdct_phantom import (
    count_scattered,
    mix_phases,
    project_phases,
    rasterise_phases,
    xrdct_phantom,
)

__all__ = [
    "DynamicScan",
    "DynamicSize",
    "FoamScan",
    "FoamSize",
    "XrdctScan",
    "XrdctSize",
    "count_photons",
    "foam_scans",
    "half_absorbing",
    "moving_foam_scan",
    "spread_over",
    "xrdct_scan",
]

Array = NDArray[np.float32]

NUM_SECTIONS = 4
RADIUS = 0.45
"""Of the cylinder, in detector columns: the default of `project_foam`."""
LARGEST_VOID = 0.2
ABSORPTION = 0.5
"""Mean share of the photons that is absorbed, over all rays that meet the sample."""


@dataclass(frozen=True)
class FoamSize:
    """A foam and its scan; as many slices as rows."""

    num_rows: int = 256
    num_columns: int = 256
    num_angles: int = 512
    voids_per_radius: float = 5000.0
    smallest_void: float = 0.01
    num_measured: int = 4

    def foam(self, seed: int) -> Foam:
        """Make the foam taller than the detector, so that its ends are like its middle."""
        height = self.num_rows / (RADIUS * self.num_columns) + 2 * LARGEST_VOID
        num_voids = round(self.voids_per_radius * height)
        return foam_phantom(num_voids, seed=seed, height=height, min_radius=self.smallest_void, max_radius=LARGEST_VOID)


class FoamScan(NamedTuple):
    """One scan; only some of its slices are measured against the truth.

    Attributes
    ----------
    sections : float32, shape (slice, section, y, x)
        Reconstructions by gridrec, in 1/pixel.
    shares : float32, shape (section,)
        Weights of their average.
    measured : intp, shape (measured slice,)
        Slices that are held against the truth.
    sinograms : float32, shape (measured slice, angle, column)
        Line integrals.
    theta : float64, shape (angle,)
        Radians.
    rotation_axis : float
        Column.
    truth : float32, shape (measured slice, y, x)
        In 1/pixel.
    """

    sections: Array
    shares: Array
    measured: NDArray[np.intp]
    sinograms: Array
    theta: NDArray[np.float64]
    rotation_axis: float
    truth: Array

    def full(self) -> Array:
        """Average the sections to the reconstruction of all projections, shape (slice, y, x)."""
        return np.asarray(np.einsum("k,skyx->syx", self.shares, self.sections, dtype=np.float32))


def spread_over(num_slices: int, count: int) -> NDArray[np.intp]:
    """Give the slices in the middle of `count` equal parts of a volume."""
    return np.asarray((np.arange(count) + 0.5) * num_slices / count, np.intp)


def foam_scans(size: FoamSize, photons: Sequence[float], *, seed: int = 0) -> Iterator[tuple[float, FoamScan]]:
    """Scan the same foam with different numbers of photons per pixel of the open beam.

    Parameters
    ----------
    size : FoamSize
        What to scan.
    photons : sequence of float
        Photons per pixel and projection of the open beam.
    seed : int
        Of the foam and of the noise.

    Yields
    ------
    photons, scan : float, FoamScan
        One after the other, to have one in memory.
    """
    foam, theta = size.foam(seed), static_scan(size.num_angles).theta
    shape, axis = (size.num_rows, size.num_columns), (size.num_columns - 1) / 2
    sinograms = np.ascontiguousarray(project_foam(foam, theta, *shape).swapaxes(0, 1))
    factor, measured = half_absorbing(sinograms), spread_over(size.num_rows, size.num_measured)
    truth, sinograms = rasterise_foam(foam, *shape)[measured] * factor, sinograms * factor
    sections = split_angles(theta, NUM_SECTIONS)
    for number in photons:
        noisy = count_photons(sinograms, number, np.random.default_rng(seed))
        slices = reconstruct_sections(noisy, theta, sections, axis)
        yield number, FoamScan(slices, section_shares(sections), measured, noisy[measured], theta, axis, truth)


def count_photons(line_integrals: Array, photons: float, rng: np.random.Generator) -> Array:
    """Count photons behind the sample, and take the logarithm: line integrals with noise, of the same shape."""
    noisy = np.empty_like(line_integrals)
    for counted, expected in zip(noisy, line_integrals, strict=True):
        counted[:] = -np.log(np.maximum(rng.poisson(photons * np.exp(-expected)), 1) / photons)
    return noisy


def half_absorbing(sinograms: Array) -> np.float32:
    """Find what to multiply the attenuation with for half of the photons to be absorbed."""
    some = sinograms[:, ::16]
    rays = some[some > 0].astype(np.float64)
    return np.float32(brentq(lambda factor: np.mean(-np.expm1(-factor * rays)) - ABSORPTION, 1e-3, 1e3))


@dataclass(frozen=True)
class DynamicSize:
    """A moving foam and its interlaced scan; a time step is one subscan."""

    num_rows: int = 32
    num_columns: int = 128
    angles_per_step: int = 32
    group_size: int = 8
    num_groups: int = 4
    context_steps: int = 2
    voids_per_radius: float = 1500.0
    smallest_void: float = 0.03
    photons: float = 200.0

    def foam(self, seed: int) -> DynamicFoam:
        """Make voids that move up to 0.12 radii of the cylinder over the whole scan, 6.9 of 128 pixels."""
        size = FoamSize(self.num_rows, self.num_columns, 0, self.voids_per_radius, self.smallest_void)
        return moving_foam(size.foam(seed), seed=seed)


class DynamicScan(NamedTuple):
    """An interlaced scan.

    Attributes
    ----------
    acquisition : Acquisition
        Angles and time steps.
    sinograms : float32, shape (slice, angle, column)
        Line integrals of all time steps.
    rotation_axis : float
        Column.
    truth : float32, shape (slice, time step, y, x)
        At the middle of each time step, in 1/pixel.
    """

    acquisition: Acquisition
    sinograms: Array
    rotation_axis: float
    truth: Array

    def reconstruct(self, sections: Sequence[NDArray[np.intp]]) -> Array:
        """Reconstruct sections by gridrec: float32, shape (slice, section, y, x)."""
        return reconstruct_sections(self.sinograms, self.acquisition.theta, sections, self.rotation_axis)


def moving_foam_scan(size: DynamicSize, *, seed: int = 0) -> DynamicScan:
    """Scan a foam that moves all the time, each projection at its own time; see `DynamicSize`."""
    foam = size.foam(seed)
    scan = interlaced_scan(size.angles_per_step, size.group_size, num_frames=size.num_groups)
    times = (np.arange(scan.num_projections) + 0.5) / scan.num_projections
    middles = (np.arange(scan.num_time_steps) + 0.5) / scan.num_time_steps
    shape = size.num_rows, size.num_columns
    clean = project_dynamic(foam, scan.theta, times, *shape).swapaxes(0, 1)
    noisy = count_photons(np.ascontiguousarray(clean), size.photons, np.random.default_rng(seed))
    truth = np.stack([rasterise_foam(foam.at(time), *shape) for time in middles], axis=1)
    return DynamicScan(scan, noisy, (size.num_columns - 1) / 2, truth)


@dataclass(frozen=True)
class XrdctSize:
    """A sample for XRD-CT and its scan; the dose is in photons per unit of intensity."""

    num_rows: int = 4
    num_columns: int = 128
    num_angles: int = 128
    num_channels: int = 64
    num_phases: int = 5
    grains_per_radius: float = 300.0
    dose: float = 5.0
    share: float = 0.2


class XrdctScan(NamedTuple):
    """A scan at full dose and one with a share of it.

    Attributes
    ----------
    sections : float32, shape (slice, section, channel, y, x)
        Reconstructions by gridrec at the low dose.
    shares : float32, shape (section,)
        Weights of their average.
    full_dose, low_dose : float32, shape (slice, channel, y, x)
        Reconstructions by gridrec of all projections.
    truth : float32, shape (slice, channel, y, x)
        Scattered intensity per pixel.
    """

    sections: Array
    shares: Array
    full_dose: Array
    low_dose: Array
    truth: Array


def xrdct_scan(size: XrdctSize, *, seed: int = 0) -> XrdctScan:
    """Scan grains of several phases at full dose, and again at a share of it; see `XrdctSize`."""
    height = size.num_rows / (RADIUS * size.num_columns) + 0.6
    phantom = xrdct_phantom(
        size.num_phases, round(size.grains_per_radius * height), size.num_channels, seed=seed, height=height
    )
    theta, shape = static_scan(size.num_angles).theta, (size.num_rows, size.num_columns)
    truth = mix_phases(rasterise_phases(phantom, *shape), phantom.diffractograms).swapaxes(0, 1)
    clean = mix_phases(project_phases(phantom, theta, *shape), phantom.diffractograms)
    sections = split_angles(theta, NUM_SECTIONS)
    full, low = (
        count_scattered(clean, dose, seed=seed + number)
        for number, dose in enumerate((size.dose, size.share * size.dose))
    )
    axis = (size.num_columns - 1) / 2
    whole, part = (np.stack([reconstruct(one, theta, axis) for one in dose], axis=1) for dose in (full, low))
    split = np.stack([reconstruct_sections(one, theta, sections, axis) for one in low], axis=2)
    return XrdctScan(split, section_shares(sections), whole, part, np.ascontiguousarray(truth))
