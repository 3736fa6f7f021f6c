"""A simulated scan as an instrument would have written it, with the truth beside it: to try everything out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from quietbeam.reconstruction.counts import Counts, NoiseSettings, simulate_counts
from quietbeam.reconstruction.foam import Foam, foam_phantom
from quietbeam.reconstruction.half_acquisition import wide_detector
from quietbeam.reconstruction.phantom import project_foam, rasterise_foam

from .atomic import atomic_path
from .scan_writers import write_dxchange, write_nxtomo

__all__ = ["SimulateSettings", "simulate_scan", "truth_path", "write_dxchange"]

# Radius of the largest void, in radii of the cylinder.
_MAX_VOID = 0.2
# The cylinder's radius, as a fraction of the way from the axis to the edge of the detector.
_MARGIN = 0.94
_DETECTOR = NoiseSettings(num_photons=2000, ring_spread=0.01, dead_fraction=1e-4)


class SimulateSettings(BaseModel):
    """A foam, how it is scanned, and how well the photons are counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_rows: int = Field(96, ge=1, description="detector rows, and slices of the volume")
    num_columns: int = Field(160, ge=8, description="detector columns")
    num_angles: int = Field(256, ge=2, description="projections")
    angle_range: float = Field(
        180.0, gt=0, description="degrees that the projections cover in equal steps, stop excluded"
    )
    axis_offset: float = Field(3.3, description="pixels from the middle of the detector to the rotation axis")
    half_acquisition: bool = Field(
        False, description="let the sample reach the edge that is further from the axis; takes a full turn"
    )
    voids_per_radius: float = Field(300.0, ge=0, description="voids per height of one cylinder radius")
    min_void: float = Field(0.03, gt=0, lt=1, description="smallest void's radius, in radii of the cylinder")
    max_attenuation: float = Field(1.2, gt=0, description="line integral through the middle of the solid cylinder")
    pixel_size: float = Field(1e-6, gt=0, description="metres")
    name: str = Field("simulated foam", description="name of the sample")
    layout: Literal["DXchange", "NXtomo"] = Field(
        "DXchange",
        description="layout of the file; DXchange tells when flats were taken only if as many were after as before",
    )
    seed: int = Field(0, ge=0, description="the same seed gives the same scan")
    noise: NoiseSettings = Field(
        _DETECTOR, description="the detector; what is not given of a table is as in this default, not as in its class"
    )

    @field_validator("noise", mode="before")
    @classmethod
    def _complete_noise(cls, value: object) -> object:
        return _DETECTOR.model_dump() | value if isinstance(value, dict) else value

    @property
    def rotation_axis(self) -> float:
        """Column of the rotation axis, pixels."""
        return (self.num_columns - 1) / 2 + self.axis_offset

    @property
    def radius(self) -> float:
        """Radius of the cylinder in pixels: it stays within the detector at every angle, or every other half turn."""
        nearer, further = sorted((self.rotation_axis + 0.5, self.num_columns - 0.5 - self.rotation_axis))
        return _MARGIN * (further if self.half_acquisition else nearer)

    @property
    def slice_size(self) -> int:
        """Edge of the slices in pixels: the detector's columns, and those that a half-acquisition adds."""
        added = wide_detector(self.num_columns, self.rotation_axis) if self.half_acquisition else ()
        return self.num_columns + sum(added)


def simulate_scan(
    path: Path, settings: SimulateSettings | None = None, *, overwrite: bool = False, num_threads: int = 1
) -> Path:
    """Write the scan of a foam as an instrument would, and the volume it shows beside it.

    Parameters
    ----------
    path : Path
        The file to write; the truth goes to `truth_path` of it: float32, shape (slice, y, x), in 1/m, with the
        rotation axis through the middle of the slices.
    settings : SimulateSettings, optional
        What to simulate.
    overwrite : bool, optional
        Replace the scan and the truth of these names, if there are any.
    num_threads : int, optional
        Projections made at a time; the result does not depend on it.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    FileExistsError
        If scan or truth is there already and `overwrite` is not given; nothing is changed.
    ValueError
        If the rotation axis lies outside of the detector, or if a half-acquisition does not cover a full turn.
    """
    settings = settings or SimulateSettings()
    if not overwrite:
        _refuse_existing(path, truth_path(path))
    _check_geometry(settings)
    truth, counts, theta = _measure(settings, num_threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(truth_path(path)) as temporary, temporary.open("wb") as file:
        np.save(file, truth, allow_pickle=False)
    return _write(path, counts, theta, settings)


def truth_path(path: Path) -> Path:
    """Where `simulate_scan` puts the truth: ``<stem>_truth.npy`` beside the scan."""
    return path.with_name(f"{path.stem}_truth.npy")


def _refuse_existing(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise FileExistsError(f"{path} is there already: choose another name, or remove it")


def _check_geometry(settings: SimulateSettings) -> None:
    if not 0 <= settings.rotation_axis <= settings.num_columns - 1:
        raise ValueError(f"axis_offset={settings.axis_offset} puts the rotation axis outside of the detector")
    if settings.half_acquisition and settings.angle_range < 360:
        raise ValueError(f"half_acquisition needs angle_range of 360 degrees or more, got {settings.angle_range}")


def _make_foam(settings: SimulateSettings) -> Foam:
    """Make the foam taller than the detector, so that the first and last slice cut through voids like all others."""
    height = settings.num_rows / settings.radius + 2 * _MAX_VOID
    num_voids = round(settings.voids_per_radius * height)
    return foam_phantom(
        num_voids, seed=settings.seed, height=height, min_radius=settings.min_void, max_radius=_MAX_VOID
    )


def _measure(settings: SimulateSettings, num_threads: int) -> tuple[NDArray[np.float32], Counts, NDArray[np.float64]]:
    """Give the truth, the counts, and the angles."""
    foam = _make_foam(settings)
    theta = np.deg2rad(settings.angle_range) * np.arange(settings.num_angles) / settings.num_angles
    attenuation = settings.max_attenuation / (2 * settings.radius * settings.pixel_size)
    truth = rasterise_foam(
        foam,
        settings.num_rows,
        settings.slice_size,
        radius=settings.radius,
        pixel_size=settings.pixel_size,
        attenuation=attenuation,
        num_threads=num_threads,
    )
    projections = project_foam(
        foam,
        theta,
        settings.num_rows,
        settings.num_columns,
        rotation_axis=settings.rotation_axis,
        radius=settings.radius,
        pixel_size=settings.pixel_size,
        attenuation=attenuation,
        num_threads=num_threads,
    )
    return truth, simulate_counts(projections, settings.noise, seed=settings.seed), theta


def _write(path: Path, counts: Counts, theta: NDArray[np.float64], settings: SimulateSettings) -> Path:
    write = write_nxtomo if settings.layout == "NXtomo" else write_dxchange
    return write(
        path,
        counts.projections,
        counts.flats,
        counts.darks,
        theta,
        flat_positions=counts.flat_positions,
        pixel_size=settings.pixel_size,
        name=settings.name,
    )
