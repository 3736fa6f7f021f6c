"""The one table of reconstruction methods, all of one signature."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .fbp import fbp
from .filters import FilterName
from .gridrec import gridrec

__all__ = ["RECONSTRUCTORS", "ReconstructionSettings", "Reconstructor", "circle", "reconstruct"]


class Reconstructor(Protocol):
    """From sinograms, shape (row, angle, column), to slices, shape (row, column, column), per pixel."""

    def __call__(
        self,
        sinograms: NDArray[np.float32],
        theta: NDArray[np.float64],
        rotation_axis: float,
        *,
        filter_name: FilterName = ...,
        num_threads: int = ...,
    ) -> NDArray[np.float32]:
        """Reconstruct; see `quietbeam.reconstruction.gridrec.gridrec`."""


RECONSTRUCTORS: dict[str, Reconstructor] = {"gridrec": gridrec, "fbp": fbp}


class ReconstructionSettings(BaseModel):
    """How slices are reconstructed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["gridrec", "fbp"] = Field(
        "gridrec", description="Fourier regridding, or ASTRA's FBP (slow on a CPU)."
    )
    filter: FilterName = Field("ram-lak", description="Window of the ramp filter.")
    circle: bool = Field(
        True,
        description="Set what lies outside the inscribed circle of the slice to 0; only with the axis in the middle "
        "of the detector did every projection see all of the circle.",
    )


def reconstruct(
    sinograms: NDArray[np.float32],
    theta: NDArray[np.float64],
    rotation_axis: float,
    settings: ReconstructionSettings | None = None,
    *,
    pixel_size: float | None = None,
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Reconstruct slices with the method of the settings.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals, without unit.
    theta : float64, shape (angle,)
        Angles in radians.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.
    settings : ReconstructionSettings, optional
        Method, filter, circle.
    pixel_size : float, optional
        Size of a pixel in metres.
    num_threads : int
        Threads of the method.

    Returns
    -------
    float32, shape (row, column, column)
        Attenuation in 1/m, or in 1/pixel where the pixel size is not known; the axis in the middle, theta = 0 projects
        along the columns of the slice, first row on top.
    """
    settings = settings or ReconstructionSettings()
    method = RECONSTRUCTORS[settings.method]
    slices = method(sinograms, theta, rotation_axis, filter_name=settings.filter, num_threads=num_threads)
    if settings.circle:
        slices *= circle(slices.shape[-1])
    return slices / np.float32(pixel_size) if pixel_size else slices


def circle(size: int) -> NDArray[np.float32]:
    """Make the mask of the inscribed circle of a slice.

    Every projection saw all of it only if the axis is in the middle of the detector.

    Parameters
    ----------
    size : int
        Pixels along a side.

    Returns
    -------
    float32, shape (size, size)
        1 inside, 0 outside.
    """
    r2 = (np.arange(size) - (size - 1) / 2) ** 2
    return (r2[:, None] + r2[None, :] <= (size / 2) ** 2).astype(np.float32)
