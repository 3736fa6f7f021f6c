"""A simulated scan as an instrument would have written it, with the truth beside it: to try everything out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from quietbeam.reconstruction.counts import NoiseSettings, simulate_counts
from quietbeam.reconstruction.phantom import Foam, foam_phantom, project_foam, rasterise_foam

from .atomic import atomic_path

__all__ = ["SimulateSettings", "simulate_scan", "truth_path", "write_dxchange"]

# Radius of the largest void, in radii of the cylinder.
_MAX_VOID = 0.2
# The cylinder's edge stays this far within the detector, as a fraction of the half that the axis leaves.
_MARGIN = 0.94


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
    voids_per_radius: float = Field(300.0, ge=0, description="voids per height of one cylinder radius")
    min_void: float = Field(0.03, gt=0, lt=1, description="smallest void's radius, in radii of the cylinder")
    max_attenuation: float = Field(1.2, gt=0, description="line integral through the middle of the solid cylinder")
    pixel_size: float = Field(1e-6, gt=0, description="metres")
    name: str = Field("simulated foam", description="name of the sample")
    seed: int = Field(0, ge=0, description="the same seed gives the same scan")
    noise: NoiseSettings = Field(
        default_factory=lambda: NoiseSettings(num_photons=2000, ring_spread=0.01, dead_fraction=1e-4),
        description="the detector",
    )

    @property
    def rotation_axis(self) -> float:
        """Column of the rotation axis, pixels."""
        return (self.num_columns - 1) / 2 + self.axis_offset

    @property
    def radius(self) -> float:
        """Radius of the cylinder in pixels: it stays within the detector at every angle."""
        return _MARGIN * min(self.rotation_axis + 0.5, self.num_columns - 0.5 - self.rotation_axis)


def simulate_scan(path: Path, settings: SimulateSettings | None = None, *, overwrite: bool = False) -> Path:
    """Write the scan of a foam as a DXchange file, and the volume it shows beside it.

    Parameters
    ----------
    path : Path
        The file to write; the truth goes to `truth_path` of it: float32, shape (slice, y, x), in 1/m, with the
        rotation axis through the middle of the slices.
    settings : SimulateSettings, optional
        What to simulate.
    overwrite : bool, optional
        Replace the scan and the truth of these names, if there are any.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    FileExistsError
        If scan or truth is there already and `overwrite` is not given; nothing is changed.
    ValueError
        If the rotation axis lies outside of the detector.
    """
    settings = settings or SimulateSettings()
    if not overwrite:
        _refuse_existing(path, truth_path(path))
    if settings.radius <= 0:
        raise ValueError(f"axis_offset={settings.axis_offset} puts the rotation axis outside of the detector")
    attenuation = settings.max_attenuation / (2 * settings.radius * settings.pixel_size)
    foam = _make_foam(settings)
    theta = np.deg2rad(settings.angle_range) * np.arange(settings.num_angles) / settings.num_angles
    rows, columns = settings.num_rows, settings.num_columns
    scale = {"radius": settings.radius, "pixel_size": settings.pixel_size, "attenuation": attenuation}
    truth = rasterise_foam(foam, rows, columns, supersampling=2, **scale)
    projections = project_foam(
        foam, theta, rows, columns, rotation_axis=settings.rotation_axis, supersampling=2, **scale
    )
    counts = simulate_counts(projections, settings.noise, seed=settings.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(truth_path(path)) as temporary, temporary.open("wb") as file:
        np.save(file, truth, allow_pickle=False)
    return write_dxchange(path, *counts, theta, pixel_size=settings.pixel_size, name=settings.name)


def truth_path(path: Path) -> Path:
    """Where `simulate_scan` puts the truth: ``<stem>_truth.npy`` beside the scan."""
    return path.with_name(f"{path.stem}_truth.npy")


def _refuse_existing(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise FileExistsError(f"{path} is there already: choose another name, or remove it")


def _make_foam(settings: SimulateSettings) -> Foam:
    """Make the foam taller than the detector, so that the first and last slice cut through voids like all others."""
    height = settings.num_rows / settings.radius + 2 * _MAX_VOID
    num_voids = round(settings.voids_per_radius * height)
    return foam_phantom(
        num_voids, seed=settings.seed, height=height, min_radius=settings.min_void, max_radius=_MAX_VOID
    )


def write_dxchange(
    path: Path,
    projections: NDArray[Any],
    flats: NDArray[Any],
    darks: NDArray[Any],
    theta: NDArray[np.floating[Any]],
    *,
    pixel_size: float | None = None,
    name: str | None = None,
) -> Path:
    """Write a scan in the DXchange layout; under its final name it is whole or not there.

    Parameters
    ----------
    path : Path
        The file to write; one of this name is replaced.
    projections : any number type, shape (angle, row, column)
        Counts.
    flats, darks : any number type, shape (frame, row, column)
        Open beam, and no beam.
    theta : float, shape (angle,)
        Radians; written in degrees, as the layout has it.
    pixel_size : float, optional
        Metres.
    name : str, optional
        Name of the sample.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """
    shape = projections.shape
    if len(shape) != 3 or len(theta) != shape[0] or flats.shape[1:] != shape[1:] or darks.shape[1:] != shape[1:]:
        raise ValueError(
            "write_dxchange expects (angle, row, column) projections, flats and darks of the same rows and "
            f"columns, and one angle each, got {shape}, {flats.shape}, {darks.shape}, {len(theta)} angles"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["implements"] = "exchange:measurement"
        for key, frames in {"data": projections, "data_white": flats, "data_dark": darks}.items():
            file.create_dataset(f"exchange/{key}", data=frames).attrs["units"] = "counts"
        file["exchange/theta"] = np.rad2deg(theta)
        file["exchange/theta"].attrs["units"] = "degrees"
        if name is not None:
            file["measurement/sample/name"] = name
        if pixel_size is not None:
            file["measurement/instrument/detector/x_actual_pixel_size"] = pixel_size
            file["measurement/instrument/detector/x_actual_pixel_size"].attrs["units"] = "m"
    return path
