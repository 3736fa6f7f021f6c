"""Sections of a measurement: disjoint subsets that see the same sample with noise of their own.

Noise2Inverse learns from pairs of reconstructions whose noise is independent. Interleaved projections give them [1]_:
section k takes every K-th direction, starting at the k-th. In a dynamic scan time gives them as well [2]_: each time
step is a section, and steps near in time see nearly the same sample. Channels measured together (diffraction, energies)
go with their projections: a section holds all channels of each of its projections.

References
----------
.. [1] Hendriksen, Pelt, Batenburg, Noise2Inverse: self-supervised deep convolutional denoising for tomography, IEEE
   Transactions on Computational Imaging 6, 1320-1335, 2020, doi 10.1109/TCI.2020.3019647.
.. [2] Hendriksen et al., Deep denoising for multi-dimensional synchrotron X-ray tomography without high-quality
   reference data, Scientific Reports 11, 11895, 2021, doi 10.1038/s41598-021-91084-8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .acquisition import Acquisition
from .angles import direction_order, unevenness
from .caveats import Caveat

__all__ = [
    "SectionSettings",
    "angular_sections",
    "check_sections",
    "evenness_caveats",
    "section_shares",
    "split_angles",
    "time_groups",
    "time_sections",
]

MIN_ANGLES = 4
"""Fewest projections of a section that still reconstruct to more than a star."""
EVEN = 1.25
"""Unevenness over that of all projections from which the user is told; golden-angle and interlaced runs stay below."""


class SectionSettings(BaseModel):
    """How the measurement is split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_sections: int = Field(4, ge=2, description="Number K of interleaved angular sections.")


def split_angles(
    theta: NDArray[np.float64], num_sections: int, *, good: NDArray[np.bool_] | None = None, turn: float = np.pi
) -> list[NDArray[np.intp]]:
    """Split projections into interleaved sections by direction.

    Projections are dealt out in the order of their direction (theta modulo the turn), so that on a full turn the two
    projections of one direction go to different sections. On a half-acquisition (``turn=2 * pi``) the two see different
    parts of the slice, and each section gets directions from all around.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians, in any order.
    num_sections : int
        Number K of sections; K need not divide the number of angles.
    good : bool, shape (angle,), optional
        False for projections that go to no section.
    turn : float
        Period of the directions in radians: pi, or 2 pi for a half-acquisition.

    Returns
    -------
    list of intp arrays
        Indices of the projections of each section, ascending; their counts differ by 1 at most.

    Raises
    ------
    ValueError
        If a section would have fewer than `MIN_ANGLES` projections.
    """
    usable = np.arange(theta.size) if good is None else np.flatnonzero(good)
    sections = _deal(theta, usable, num_sections, turn)
    check_sections(sections, theta.size, good=good)
    return sections


def _deal(
    theta: NDArray[np.float64], usable: NDArray[np.intp], num_sections: int, turn: float
) -> list[NDArray[np.intp]]:
    if usable.size < MIN_ANGLES * num_sections:
        raise ValueError(
            f"{num_sections} sections need at least {MIN_ANGLES * num_sections} projections, got {usable.size}: "
            "choose fewer with sections.num_sections"
        )
    order = usable[direction_order(theta[usable], turn)]
    return [np.sort(order[k::num_sections]) for k in range(num_sections)]


def angular_sections(scan: Acquisition, num_sections: int) -> list[NDArray[np.intp]]:
    """Split each time step of a scan into interleaved sections by direction.

    Parameters
    ----------
    scan : Acquisition
        Angles, time steps, good projections, half-acquisition or not.
    num_sections : int
        Number K of sections of each time step.

    Returns
    -------
    list of intp arrays
        Indices of the projections of each section, ascending; section ``t * K + k`` is the k-th of time step t.

    Raises
    ------
    ValueError
        If a section would have fewer than `MIN_ANGLES` projections.
    """
    steps = [scan.projections_of(step) for step in range(scan.num_time_steps)]
    sections = [part for step in steps for part in _deal(scan.theta, step, num_sections, scan.turn)]
    check_sections(sections, scan.num_projections, good=scan.good)
    return sections


def time_sections(scan: Acquisition) -> list[NDArray[np.intp]]:
    """Take each time step of a dynamic scan as one section.

    Parameters
    ----------
    scan : Acquisition
        Two time steps or more.

    Returns
    -------
    list of intp arrays
        Indices of the good projections of each time step, ascending.

    Raises
    ------
    ValueError
        If there is one time step only, or if one has fewer than `MIN_ANGLES` good projections.
    """
    if scan.num_time_steps < 2:
        raise ValueError("a scan of one time step has no sections in time: split its angles with angular_sections")
    sections = [scan.projections_of(step) for step in range(scan.num_time_steps)]
    fewest = min(range(len(sections)), key=lambda step: sections[step].size)
    if sections[fewest].size < MIN_ANGLES:
        raise ValueError(
            f"time step {fewest} has {sections[fewest].size} good projections, a section needs {MIN_ANGLES}: "
            "take more projections for each time step"
        )
    check_sections(sections, scan.num_projections, good=scan.good)
    return sections


def time_groups(num_time_steps: int, group_size: int) -> list[NDArray[np.intp]]:
    """Group consecutive time steps, between which the sample is meant to change little.

    Of an interlaced scan, groups of 2, 4, 8, ... subscans have equally spaced angles.

    Parameters
    ----------
    num_time_steps : int
        Number of time steps.
    group_size : int
        Time steps of a group; what is left over at the end belongs to the last group.

    Returns
    -------
    list of intp arrays
        Time steps of each group.

    Raises
    ------
    ValueError
        If there are fewer time steps than in one group, or fewer than two in a group.
    """
    if not 2 <= group_size <= num_time_steps:
        raise ValueError(f"a group must have 2 to {num_time_steps} time steps, as many as there are, got {group_size}")
    starts = np.arange(group_size, num_time_steps - group_size + 1, group_size)
    return list(np.split(np.arange(num_time_steps), starts))


def check_sections(
    sections: Sequence[NDArray[np.intp]], num_projections: int, *, good: NDArray[np.bool_] | None = None
) -> None:
    """Check that sections are disjoint and together complete.

    Parameters
    ----------
    sections : sequence of intp arrays
        Indices of the projections of each section.
    num_projections : int
        Number of projections of the measurement.
    good : bool, shape (angle,), optional
        False for projections that must be in no section.

    Raises
    ------
    ValueError
        Naming a projection that does not exist, that is in no section or in two, whose noise the network would then
        learn, or that is bad and in one.
    """
    dealt = np.concatenate([np.empty(0, np.intp), *sections])
    strange = dealt[(dealt < 0) | (dealt >= num_projections)]
    if strange.size:
        raise ValueError(f"projections are numbered 0 to {num_projections - 1}; a section has projection {strange[0]}")
    times = np.bincount(dealt, minlength=num_projections)
    expected = np.ones(num_projections, np.bool_) if good is None else good
    wrong = np.flatnonzero(times != expected)
    if wrong.size:
        first = wrong[0]
        rule = "each projection must be in exactly one section" if expected[first] else "a bad one must be in none"
        raise ValueError(f"{rule}; projection {first} is in {times[first]}")


def evenness_caveats(scan: Acquisition, parts: Iterable[NDArray[np.intp]]) -> tuple[Caveat, ...]:
    """Tell of parts of a scan whose angles are much less evenly spread than those of the whole.

    Their reconstructions differ by streaks, which the network takes for noise and smooths away with the detail.

    Parameters
    ----------
    scan : Acquisition
        The whole.
    parts : iterable of intp arrays
        Projections of each part: of a section, or of a group of time steps that are averaged.

    Returns
    -------
    tuple of Caveat
        ``uneven-angles``, or nothing.
    """
    whole = unevenness(scan.theta[scan.good], scan.turn)
    ratios = np.array([unevenness(scan.theta[part], scan.turn) / whole for part in parts])
    if ratios.max() <= EVEN:
        return ()
    message = (
        f"the angles of {(ratios > EVEN).sum()} of {ratios.size} parts of the measurement are unevenly spread, those "
        f"of part {ratios.argmax()} {ratios.max():.1f} times as much as all together: expect streaks of its own in each"
    )
    return (Caveat("uneven-angles", message),)


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
