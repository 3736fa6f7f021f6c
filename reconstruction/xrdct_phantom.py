"""A sample for XRD-CT with known truth: grains of several phases, each phase with a diffractogram of its own.

In x-ray diffraction computed tomography [1]_ a pencil beam gives one diffractogram for each angle and position; each
channel of them (q, or 2 theta) is a sinogram. With the share of phase p in each voxel, its map m_p, and the
diffractogram D_p of the pure phase,

    image of channel c = sum_p D_p[c] m_p,        sinogram of channel c = sum_p D_p[c] (line integrals of m_p),

where the absorption of the scattered beam on its way out is left aside. Arrays of many channels have the axes of one
channel's after a leading axis: sinograms (channel, row, angle, column), images (channel, slice, y, x).

References
----------
.. [1] P. Bleuet et al., Probing the structure of heterogeneous diluted materials by diffraction tomography, Nature
   Materials 7, 468-472, 2008, doi:10.1038/nmat2168.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .foam import Foam, foam_phantom
from .phantom import project_foam, rasterise_foam

__all__ = [
    "XrdctPhantom",
    "count_scattered",
    "mix_phases",
    "project_phases",
    "rasterise_phases",
    "xrdct_phantom",
]

FloatArray = NDArray[np.floating[Any]]

# Peaks of a diffractogram: how many, their width (standard deviation) in channels, their height over a background.
_NUM_PEAKS = (3, 6)
_WIDTHS = (0.8, 2.0)
_HEIGHTS = (0.3, 1.0)
_BACKGROUND = 0.1


@dataclass(frozen=True, eq=False)
class XrdctPhantom:
    """Grains of several phases in a cylinder of another.

    Attributes
    ----------
    grains : Foam
        The cylinder, phase 0, and the spherical grains that take its place.
    phases : intp, shape (sphere,)
        Phase of each grain, from 1.
    diffractograms : float64, shape (phase, channel)
        Scattered intensity of each pure phase per pixel of the beam's way through it.
    """

    grains: Foam
    phases: NDArray[np.intp]
    diffractograms: NDArray[np.float64]

    def phase(self, number: int) -> Foam:
        """Give the part of the sample that is one phase.

        Parameters
        ----------
        number : int
            0 for what is around the grains.

        Returns
        -------
        Foam
            With 1 where this phase is and 0 elsewhere, as relative attenuation.
        """
        here = (self.phases == number).astype(np.float64)
        return replace(self.grains, contents=here, solid=1.0 if number == 0 else 0.0)


def xrdct_phantom(
    num_phases: int,
    num_grains: int,
    num_channels: int,
    *,
    seed: int,
    height: float = 2.0,
    min_radius: float = 0.03,
    max_radius: float = 0.3,
) -> XrdctPhantom:
    """Make a sample of grains, and diffractograms of a few Gaussian peaks over a smooth background.

    Parameters
    ----------
    num_phases : int
        Phases, the one around the grains included; each of the others has the same number of grains, or one less.
    num_grains : int
        Number of grains.
    num_channels : int
        Channels of a diffractogram.
    seed : int
        The same seed gives the same sample.
    height, min_radius, max_radius : float
        As in `foam_phantom`.

    Returns
    -------
    XrdctPhantom
        The sample; the highest peaks of its diffractograms are near 1.

    Raises
    ------
    ValueError
        If there are fewer than two phases or no channel, or if the grains do not fit.
    """
    if num_phases < 2 or num_channels < 1:
        raise ValueError(
            f"xrdct_phantom expects num_phases >= 2 and num_channels >= 1, got {num_phases}, {num_channels}"
        )
    rng = np.random.default_rng(seed)
    grains = foam_phantom(num_grains, seed=seed, height=height, min_radius=min_radius, max_radius=max_radius)
    phases = rng.permutation(np.arange(num_grains) % (num_phases - 1) + 1)
    return XrdctPhantom(grains, phases, np.stack([_draw_diffractogram(rng, num_channels) for _ in range(num_phases)]))


def _draw_diffractogram(rng: np.random.Generator, num_channels: int) -> NDArray[np.float64]:
    """Draw one diffractogram, shape (channel,); its background falls to 1/e over the channels."""
    channels = np.arange(num_channels)
    num_peaks = rng.integers(*_NUM_PEAKS, endpoint=True)
    middles = rng.uniform(0, num_channels - 1, num_peaks)
    widths, heights = rng.uniform(*_WIDTHS, num_peaks), rng.uniform(*_HEIGHTS, num_peaks)
    peaks = np.exp(-0.5 * ((channels - middles[:, None]) / widths[:, None]) ** 2)
    return np.asarray(heights @ peaks + _BACKGROUND * np.exp(-channels / num_channels))


def project_phases(
    phantom: XrdctPhantom,
    theta: FloatArray,
    num_rows: int,
    num_columns: int,
    *,
    rotation_axis: float | None = None,
    radius: float | None = None,
    supersampling: int = 2,
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Project each phase: the exact length of each ray in it.

    Parameters
    ----------
    phantom : XrdctPhantom
        The sample.
    theta : float, shape (angle,)
        Angles in radians.
    num_rows, num_columns : int
        Heights of the beam, and its positions across the sample.
    rotation_axis, radius, supersampling, num_threads
        As in `project_foam`.

    Returns
    -------
    float32, shape (phase, row, angle, column)
        Sinograms of the phases, in pixels; `mix_phases` makes those of the channels.
    """

    def project(phase: Foam) -> NDArray[np.float32]:
        projections = project_foam(
            phase,
            theta,
            num_rows,
            num_columns,
            rotation_axis=rotation_axis,
            radius=radius,
            attenuation=1.0,
            supersampling=supersampling,
            num_threads=num_threads,
        )
        return projections.swapaxes(0, 1)

    return _of_each_phase(phantom, project)


def rasterise_phases(
    phantom: XrdctPhantom,
    num_rows: int,
    num_columns: int,
    *,
    radius: float | None = None,
    supersampling: int = 2,
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Draw the maps that the sinograms of the phases come from: the truth.

    Parameters
    ----------
    phantom : XrdctPhantom
        The sample.
    num_rows, num_columns : int
        Number of slices, and edge of a slice.
    radius, supersampling, num_threads
        As in `rasterise_foam`.

    Returns
    -------
    float32, shape (phase, slice, y, x)
        Share of each phase in each voxel, from 0 to 1.
    """

    def draw(phase: Foam) -> NDArray[np.float32]:
        return rasterise_foam(
            phase,
            num_rows,
            num_columns,
            radius=radius,
            attenuation=1.0,
            supersampling=supersampling,
            num_threads=num_threads,
        )

    return _of_each_phase(phantom, draw)


def _of_each_phase(phantom: XrdctPhantom, make: Callable[[Foam], NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.stack([make(phantom.phase(number)) for number in range(len(phantom.diffractograms))])


def mix_phases(maps: NDArray[np.float32], diffractograms: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weigh the phases with their diffractograms: from phases to channels, of sinograms as of images.

    Parameters
    ----------
    maps : float32, shape (phase, ...)
        Of `project_phases` or `rasterise_phases`.
    diffractograms : float64, shape (phase, channel)
        Of the phantom.

    Returns
    -------
    float32, shape (channel, ...)
        Scattered intensity.

    Raises
    ------
    ValueError
        If there is not one diffractogram for each phase.
    """
    if len(maps) != len(diffractograms):
        raise ValueError(f"mix_phases expects a diffractogram of each of {len(maps)} phases, got {len(diffractograms)}")
    return np.tensordot(diffractograms.T.astype(np.float32), maps, axes=1)


def count_scattered(sinograms: NDArray[np.float32], dose: float, *, seed: int) -> NDArray[np.float32]:
    """Measure scattered intensity by counting photons, whose number grows with the dose.

    Parameters
    ----------
    sinograms : float32, shape (channel, ...)
        True intensity, not negative.
    dose : float
        Photons per unit of intensity: a value v is ``Poisson(dose v) / dose``, with the variance v / dose.
    seed : int
        The same seed gives the same photons.

    Returns
    -------
    float32, shape (channel, ...)
        Measured intensity, in the unit of `sinograms` and without bias.

    Raises
    ------
    ValueError
        If `dose` is not positive.
    """
    if not dose > 0:
        raise ValueError(f"count_scattered expects a dose above 0 photons per unit, got {dose}")
    rng = np.random.default_rng(seed)
    measured = np.empty(sinograms.shape, np.float32)
    for counted, expected in zip(measured, sinograms, strict=True):
        counted[:] = rng.poisson(dose * expected.astype(np.float64)) / dose
    return measured
