"""What every reconstruction asks of its arguments; compiled loops would read past their arrays without it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST", "check_geometry", "check_section_indices", "check_sinograms", "check_threads", "check_weights"]

LARGEST = 1e15
"""Line integrals beyond it are no measurement, and overflow where they are squared."""


def check_sinograms(sinograms: NDArray[np.float32]) -> None:
    """Refuse sinograms of another type or shape, empty ones, and those with values that are not finite.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals.

    Raises
    ------
    ValueError
        With what was expected and got, and where the first bad value is.
    """
    if sinograms.ndim != 3 or sinograms.size == 0 or sinograms.dtype != np.float32:
        raise ValueError(
            "sinograms must be float32 of shape (row, angle, column) and not empty, "
            f"got {sinograms.dtype} of shape {sinograms.shape}"
        )
    finite = np.abs(sinograms) < LARGEST
    if not finite.all():
        row, angle, column = np.unravel_index(np.argmin(finite), finite.shape)
        raise ValueError(
            f"sinograms must be finite and below {LARGEST:g}, got {np.count_nonzero(~finite)} values that are not, the "
            f"first at row {row}, angle {angle}, column {column}: replace them by measured neighbours first"
        )


def check_geometry(
    theta: NDArray[np.float64], rotation_axis: float, *, num_columns: int, num_angles: int | None = None
) -> None:
    """Refuse angles that are not finite or not one for each projection, and an axis that is not on the detector.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians.
    rotation_axis : float
        Column of the axis.
    num_columns : int
        Columns of the detector.
    num_angles : int, optional
        Number of projections, where it is known.

    Raises
    ------
    ValueError
        With what was expected and got.
    """
    number = theta.size if num_angles is None else num_angles
    if theta.shape != (number,) or number == 0 or not np.isfinite(theta).all():
        raise ValueError(
            f"theta must hold {number or 'some'} finite angles, one for each projection, got shape {theta.shape} with "
            f"{np.count_nonzero(np.isfinite(theta))} finite"
        )
    if not 0 <= rotation_axis < num_columns:
        raise ValueError(f"rotation_axis must lie in [0, {num_columns}), got {rotation_axis}")


def check_weights(weights: NDArray[np.float64], num_angles: int) -> None:
    """Refuse weights that are not one for each projection, not finite, or negative.

    Parameters
    ----------
    weights : float64, shape (angle,)
        Share of the turn of each projection in radians.
    num_angles : int
        Number of projections.

    Raises
    ------
    ValueError
        With what was expected and got.
    """
    if weights.shape != (num_angles,) or not np.all((weights >= 0) & np.isfinite(weights)):
        raise ValueError(
            f"weights must hold {num_angles} finite numbers of at least 0, one for each projection, got shape "
            f"{weights.shape}, least {weights.min(initial=math.inf)}, greatest {weights.max(initial=-math.inf)}"
        )


def check_section_indices(sections: Sequence[NDArray[np.intp]], num_angles: int) -> None:
    """Refuse no sections, empty ones, and projections that do not exist.

    Parameters
    ----------
    sections : sequence of intp arrays
        Projections of each section.
    num_angles : int
        Number of projections.

    Raises
    ------
    ValueError
        Naming the section.
    """
    if not len(sections):
        raise ValueError("expected at least one section, got none")
    for number, section in enumerate(sections):
        if section.ndim != 1 or section.size == 0:
            raise ValueError(f"section {number} must list at least one projection, got shape {section.shape}")
        if section.min() < 0 or section.max() >= num_angles:
            raise ValueError(
                f"section {number} must list projections 0 to {num_angles - 1}, got {section.min()} to {section.max()}"
            )


def check_threads(num_threads: int) -> None:
    """Refuse fewer than one thread."""
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
