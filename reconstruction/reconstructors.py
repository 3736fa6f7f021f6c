"""The one table of reconstruction methods, all of one signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .angles import angular_weights
from .argument_checks import check_geometry, check_section_indices, check_sinograms, check_threads, check_weights
from .fbp import cuda_is_available, fbp, fbp_cuda
from .filters import FilterName
from .gridrec import GridrecPlan, gridrec
from .tomopy_backend import tomopy_gridrec, tomopy_is_installed

__all__ = [
    "RECONSTRUCTORS",
    "ReconstructionSettings",
    "Reconstructor",
    "available_reconstructors",
    "circle",
    "reconstruct",
    "reconstruct_sections",
]


PIXEL_SIZES = (1e-12, 1.0)
"""Metres between which a pixel size can be meant."""


class Reconstructor(Protocol):
    """From sinograms, shape (row, angle, column), to slices, shape (row, column, column), per pixel."""

    def __call__(
        self,
        sinograms: NDArray[np.float32],
        theta: NDArray[np.float64],
        rotation_axis: float,
        *,
        filter_name: FilterName = ...,
        weights: NDArray[np.float64] | None = ...,
        num_threads: int = ...,
    ) -> NDArray[np.float32]:
        """Reconstruct; see `quietbeam.reconstruction.gridrec.gridrec`."""


RECONSTRUCTORS: dict[str, Reconstructor] = {
    "gridrec": gridrec,
    "fbp": fbp,
    "fbp-cuda": fbp_cuda,
    "tomopy-gridrec": tomopy_gridrec,
}

_IS_AVAILABLE: dict[str, Callable[[], bool]] = {
    # the others need nothing that is not installed with this package
    "fbp-cuda": cuda_is_available,
    "tomopy-gridrec": tomopy_is_installed,
}


class ReconstructionSettings(BaseModel):
    """How slices are reconstructed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["gridrec", "fbp", "fbp-cuda", "tomopy-gridrec"] = Field(
        "gridrec",
        description="Fourier regridding; ASTRA's FBP on the CPU (slow) or on a GPU (fbp-cuda); tomopy's gridrec, where "
        "tomopy is installed (values a tenth or more too high).",
    )
    filter: FilterName = Field("ram-lak", description="Window of the ramp filter.")
    half_acquisition: bool | None = Field(
        None,
        description="Join opposite projections of a full turn about an axis beside the middle to slices wider than "
        "the detector; None does so where the sample or the axis asks for it, true also with up to 60 degrees missing.",
    )
    circle: bool = Field(
        True,
        description="Set what lies outside the inscribed circle of the slice to 0; only with the axis in the middle "
        "of the detector did every projection see all of the circle.",
    )


def available_reconstructors() -> list[str]:
    """Names of the methods whose library and device are here, in the order of the table."""
    return [name for name in RECONSTRUCTORS if name not in _IS_AVAILABLE or _IS_AVAILABLE[name]()]


def reconstruct(
    sinograms: NDArray[np.float32],
    theta: NDArray[np.float64],
    rotation_axis: float,
    settings: ReconstructionSettings | None = None,
    *,
    weights: NDArray[np.float64] | None = None,
    pixel_size: float | None = None,
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Reconstruct slices with the method of the settings.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals, without unit.
    theta : float64, shape (angle,)
        Angles in radians, in any order, also repeated.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.
    settings : ReconstructionSettings, optional
        Method, filter, circle.
    weights : float64, shape (angle,), optional
        Share of the turn of each projection in radians; `angular_weights` of `theta` if not given.
    pixel_size : float, optional
        Size of a pixel in metres.
    num_threads : int
        Threads of the method.

    Returns
    -------
    float32, shape (row, column, column)
        Attenuation in 1/m, or in 1/pixel where the pixel size is not known; the axis in the middle, theta = 0 projects
        along the columns of the slice, first row on top.

    Raises
    ------
    ValueError
        If shapes or types do not fit, values are not finite, the axis is not on the detector, weights are negative, or
        the pixel size is not positive.
    ReductionError
        If the library or the device of the method is not here.
    """
    settings = settings or ReconstructionSettings()
    _check(sinograms, theta, rotation_axis, pixel_size, num_threads)
    if weights is not None:
        check_weights(weights, theta.size)
    slices = RECONSTRUCTORS[settings.method](
        sinograms, theta, rotation_axis, filter_name=settings.filter, weights=weights, num_threads=num_threads
    )
    return _finish(slices, settings, pixel_size)


def reconstruct_sections(
    sinograms: NDArray[np.float32],
    theta: NDArray[np.float64],
    sections: Sequence[NDArray[np.intp]],
    rotation_axis: float,
    settings: ReconstructionSettings | None = None,
    *,
    turn: float = np.pi,
    pixel_size: float | None = None,
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Reconstruct slices from each section of the projections.

    Parameters
    ----------
    sinograms, theta, rotation_axis, settings, pixel_size, num_threads
        As in `reconstruct`, of all projections.
    sections : sequence of intp arrays
        Projections of each section.
    turn : float
        Period of the directions in radians: pi, or 2 pi for the sinograms of
        `quietbeam.reconstruction.half_acquisition.extend`.

    Returns
    -------
    float32, shape (row, section, column, column)
        What `reconstruct` gives for the projections of each section; gridrec plans, filters and spreads only once.

    Raises
    ------
    ValueError, ReductionError
        As in `reconstruct`.
    """
    settings = settings or ReconstructionSettings()
    _check(sinograms, theta, rotation_axis, pixel_size, num_threads)
    check_section_indices(sections, theta.size)
    weights = [angular_weights(theta[section], turn) for section in sections]
    if settings.method == "gridrec":
        plan = GridrecPlan(theta, sinograms.shape[-1], rotation_axis, filter_name=settings.filter)
        slices = plan.reconstruct_sections(sinograms, sections, weights=weights, num_threads=num_threads)
    else:
        method = partial(RECONSTRUCTORS[settings.method], filter_name=settings.filter, num_threads=num_threads)
        parts = [np.ascontiguousarray(sinograms[:, section]) for section in sections]
        each = zip(parts, sections, weights, strict=True)
        slices = np.stack([method(p, theta[s], rotation_axis, weights=w) for p, s, w in each], axis=1)
    return _finish(slices, settings, pixel_size)


def _check(
    sinograms: NDArray[np.float32],
    theta: NDArray[np.float64],
    rotation_axis: float,
    pixel_size: float | None,
    num_threads: int,
) -> None:
    check_sinograms(sinograms)
    check_geometry(theta, rotation_axis, num_columns=sinograms.shape[2], num_angles=sinograms.shape[1])
    check_threads(num_threads)
    smallest, largest = PIXEL_SIZES
    if pixel_size is not None and not smallest <= pixel_size <= largest:
        raise ValueError(f"pixel_size must be {smallest:g} to {largest:g} metres, or None, got {pixel_size}")


def _finish(
    slices: NDArray[np.float32], settings: ReconstructionSettings, pixel_size: float | None
) -> NDArray[np.float32]:
    """Cut out the circle, and give attenuation per metre where the pixel size is known."""
    if settings.circle:
        slices *= circle(slices.shape[-1])
    return slices if pixel_size is None else slices / np.float32(pixel_size)


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
