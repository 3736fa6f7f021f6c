"""Sections of a measurement: disjoint subsets that see the same sample with noise of their own.

Noise2Inverse [1]_ learns from pairs of reconstructions whose noise is independent. Interleaved projections give them:
section k takes every K-th direction, starting at the k-th.

References
----------
.. [1] Hendriksen, Pelt, Batenburg, Noise2Inverse: self-supervised deep convolutional denoising for tomography, IEEE
   Transactions on Computational Imaging 6, 1320-1335, 2020, doi 10.1109/TCI.2020.3019647.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .angles import direction_order

__all__ = ["SectionSettings", "check_sections", "section_shares", "split_angles"]

MIN_ANGLES = 4
"""Fewest projections of a section that still reconstruct to more than a star."""


class SectionSettings(BaseModel):
    """How the measurement is split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_sections: int = Field(4, ge=2, description="Number K of interleaved angular sections.")


def split_angles(theta: NDArray[np.float64], num_sections: int) -> list[NDArray[np.intp]]:
    """Split projections into interleaved sections by direction.

    Projections are dealt out in the order of their direction (theta modulo pi), so that on a full turn the two
    projections of one direction go to different sections.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians, in any order.
    num_sections : int
        Number K of sections; K need not divide the number of angles.

    Returns
    -------
    list of intp arrays
        Indices of the projections of each section, ascending.

    Raises
    ------
    ValueError
        If a section would have fewer than `MIN_ANGLES` projections.
    """
    if theta.size < MIN_ANGLES * num_sections:
        raise ValueError(
            f"{num_sections} sections need at least {MIN_ANGLES * num_sections} projections, got {theta.size}: "
            "choose fewer with sections.num_sections"
        )
    order = direction_order(theta)
    sections = [np.sort(order[k::num_sections]) for k in range(num_sections)]
    check_sections(sections, theta.size)
    return sections


def check_sections(sections: Sequence[NDArray[np.intp]], num_projections: int) -> None:
    """Check that sections are disjoint and together complete.

    Parameters
    ----------
    sections : sequence of intp arrays
        Indices of the projections of each section.
    num_projections : int
        Number of projections of the measurement.

    Raises
    ------
    ValueError
        Naming a projection that is in no section or in two, whose noise the network would then learn.
    """
    times = np.bincount(np.concatenate(list(sections)), minlength=num_projections)
    wrong = np.flatnonzero(times != 1)
    if wrong.size or times.size > num_projections:
        raise ValueError(
            f"each projection must be in exactly one section; projection {wrong[0]} is in {times[wrong[0]]}"
        )


def section_shares(sections: Sequence[NDArray[np.intp]]) -> NDArray[np.float32]:
    """Share of the projections in each section: the weights that average sections to the full reconstruction.

    Parameters
    ----------
    sections : sequence of intp arrays
        Indices of the projections of each section.

    Returns
    -------
    float32, shape (section,)
        Weights with sum 1.
    """
    counts = np.array([len(section) for section in sections], dtype=np.float32)
    return np.asarray(counts / counts.sum())
