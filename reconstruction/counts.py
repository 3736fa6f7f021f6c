"""Counts as a detector gives them for known line integrals: photon noise, uneven gain, drift, dead pixels, zingers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Counts", "NoiseSettings", "simulate_counts"]


class NoiseSettings(BaseModel):
    """How the simulated detector counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_photons: float = Field(1000.0, gt=0, description="mean photons per pixel and frame in the open beam")
    num_flats: int = Field(20, ge=1, description="frames of the open beam before the projections")
    num_flats_after: int = Field(0, ge=0, description="frames of the open beam after the projections")
    num_darks: int = Field(10, ge=1, description="frames without beam")
    gain: float = Field(1.0, gt=0, description="counts per photon")
    gain_spread: float = Field(0.05, ge=0, description="standard deviation of the pixels' gain, relative to the gain")
    ring_spread: float = Field(0.0, ge=0, description="change of the pixels' gain after the flats, relative: rings")
    beam_falloff: float = Field(0.2, ge=0, lt=1, description="loss of intensity at the first and last row, relative")
    beam_drift: float = Field(
        0.0, gt=-1, description="change of the beam from before to after the projections, relative, at a constant rate"
    )
    beam_step: float = Field(0.0, gt=-1, description="change of the beam that comes at once, relative")
    beam_step_at: float = Field(0.5, gt=0, le=1, description="when it comes, as a share of the projections")
    dark_offset: float = Field(100.0, ge=0, description="counts without beam")
    read_noise: float = Field(2.0, ge=0, description="standard deviation of the counts without beam")
    dead_fraction: float = Field(0.0, ge=0, le=1, description="fraction of the pixels that give 0 in every frame")
    zinger_fraction: float = Field(
        0.0, ge=0, le=1, description="fraction of the pixels of a projection hit by a zinger"
    )
    zinger_counts: float = Field(5000.0, ge=0, description="counts that a zinger adds")


class Counts(NamedTuple):
    """What the detector wrote.

    Attributes
    ----------
    projections : uint16, shape (angle, row, column)
        With the sample.
    flats, darks : uint16, shape (frame, row, column)
        Open beam, and no beam. Flats after the projections follow those before them.
    flat_positions : float64, shape (frame,)
        Number of projections taken before each flat. On this scale, which is that of time, projection i is at i.
    """

    projections: NDArray[np.uint16]
    flats: NDArray[np.uint16]
    darks: NDArray[np.uint16]
    flat_positions: NDArray[np.float64]


def simulate_counts(projections: NDArray[np.float32], settings: NoiseSettings | None = None, *, seed: int) -> Counts:
    """Count photons behind the sample: Poisson noise, uneven gain, drift, dark offset, dead pixels and zingers.

    A frame is ``clip(round(offset + read noise + gain * Poisson(photons * beam * exp(-projection)) + zingers))``.

    Parameters
    ----------
    projections : float32, shape (angle, row, column)
        Line integrals (no unit), as of `project_foam`.
    settings : NoiseSettings, optional
        The detector.
    seed : int
        The same seed gives the same counts.

    Returns
    -------
    Counts
        Projections, flats and darks; counts beyond 65535 are cut there.
    """
    settings = settings or NoiseSettings()
    rng = np.random.default_rng(seed)
    shape = projections.shape[1:]
    detector = _draw_detector(rng, shape, settings)
    moved = detector._replace(gain=detector.gain * (1 + settings.ring_spread * rng.standard_normal(shape)))
    positions = np.arange(len(projections) + 1.0)
    photons, levels = settings.num_photons * detector.beam, _beam_levels(positions, settings)
    darks = [_expose(rng, detector, np.zeros(shape), settings) for _ in range(settings.num_darks)]
    flats = [_expose(rng, detector, photons, settings) for _ in range(settings.num_flats)]
    counts = np.empty(projections.shape, np.uint16)
    for frame, level, line_integrals in zip(counts, levels[:-1], projections, strict=True):
        frame[:] = _expose(rng, moved, level * photons * np.exp(-line_integrals), settings, settings.zinger_fraction)
    flats += [_expose(rng, moved, levels[-1] * photons, settings) for _ in range(settings.num_flats_after)]
    flat_positions = np.repeat(positions[[0, -1]], [settings.num_flats, settings.num_flats_after])
    return Counts(counts, np.stack(flats), np.stack(darks), flat_positions)


def _beam_levels(positions: NDArray[np.float64], settings: NoiseSettings) -> NDArray[np.float64]:
    """Beam at each position, relative to that at the first."""
    time = positions / max(positions[-1], 1)
    return np.asarray((1 + settings.beam_drift * time) * (1 + settings.beam_step * (time >= settings.beam_step_at)))


class _Detector(NamedTuple):
    gain: NDArray[np.float64]
    beam: NDArray[np.float64]
    dead: NDArray[np.bool_]


def _draw_detector(rng: np.random.Generator, shape: tuple[int, ...], settings: NoiseSettings) -> _Detector:
    """Draw gain and dead pixels; the beam is a parabola along the rows."""
    height = np.linspace(-1, 1, shape[0]) if shape[0] > 1 else np.zeros(1)
    beam = np.broadcast_to((1 - settings.beam_falloff * height**2)[:, None], shape)
    gain = settings.gain * np.clip(1 + settings.gain_spread * rng.standard_normal(shape), 0.1, None)
    return _Detector(gain, beam, rng.random(shape) < settings.dead_fraction)


def _expose(
    rng: np.random.Generator,
    detector: _Detector,
    photons: NDArray[np.float64],
    settings: NoiseSettings,
    zinger_fraction: float = 0.0,
) -> NDArray[np.uint16]:
    """Expose one frame, shape (row, column), to the expected number of photons per pixel."""
    counts = settings.dark_offset + settings.read_noise * rng.standard_normal(photons.shape)
    counts += detector.gain * rng.poisson(photons)
    if zinger_fraction:
        counts += settings.zinger_counts * (rng.random(photons.shape) < zinger_fraction)
    counts[detector.dead] = 0
    return np.clip(np.rint(counts), 0, np.iinfo(np.uint16).max).astype(np.uint16)
