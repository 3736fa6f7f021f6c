"""Which sections are the network's input and which its target.

A pair averages the reconstructions of its input sections and of its target sections, each by their shares of the
projections. Its sections come from one group: the angular sections of one time step, or neighbouring time steps. With
strategy ``X:1`` the input is the average of all sections of the group but one and the target is that one; with ``1:X``
the other way round, which over time steps predicts the others of its group from each step in turn.

References
----------
.. [1] Hendriksen, Pelt, Batenburg, Noise2Inverse: self-supervised deep convolutional denoising for tomography, IEEE
   Transactions on Computational Imaging 6, 1320-1335, 2020, doi 10.1109/TCI.2020.3019647.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .acquisition import Acquisition
from .sections import SectionSettings, angular_sections, check_sections, time_groups, time_sections

__all__ = ["Pairing", "PairingSettings", "SectionPair", "Strategy", "check_pairs", "pair_sections", "plan_pairs"]

Strategy = Literal["X:1", "1:X"]


class PairingSettings(BaseModel):
    """How sections become input and target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy = Field(
        "X:1", description="Average all sections of a group but one to the input and keep one as target, or 1:X."
    )
    group_size: int | None = Field(
        None,
        ge=2,
        description="Consecutive time steps paired with one another; None pairs the angular sections of each step.",
    )


class SectionPair(NamedTuple):
    """One pair of input and target.

    Attributes
    ----------
    inputs, targets : tuple of int
        Numbers of the sections averaged to the input, and to the target.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


class Pairing(NamedTuple):
    """A measurement split and paired.

    Attributes
    ----------
    sections : list of intp arrays
        Indices of the projections of each section.
    pairs : list of SectionPair
        Inputs and targets, numbers of sections.
    """

    sections: list[NDArray[np.intp]]
    pairs: list[SectionPair]


def plan_pairs(
    scan: Acquisition, sections: SectionSettings | None = None, pairing: PairingSettings | None = None
) -> Pairing:
    """Split a scan into sections and pair them.

    Parameters
    ----------
    scan : Acquisition
        Static or dynamic.
    sections : SectionSettings, optional
        Number of angular sections; not used where time steps are the sections.
    pairing : PairingSettings, optional
        Strategy, and the time steps of a group.

    Returns
    -------
    Pairing
        Checked by `check_pairs`.

    Raises
    ------
    ValueError
        If the scan has too few projections or time steps for the settings, or if the pairs break a condition.
    """
    sections, pairing = sections or SectionSettings(), pairing or PairingSettings()
    if pairing.group_size is None:
        parts = angular_sections(scan, sections.num_sections)
        groups: list[NDArray[np.intp]] = np.split(np.arange(len(parts)), scan.num_time_steps)
    else:
        parts = time_sections(scan)
        groups = time_groups(scan.num_time_steps, pairing.group_size)
    pairs = pair_sections(groups, pairing.strategy)
    check_pairs(pairs, parts, scan.num_projections, good=scan.good)
    return Pairing(parts, pairs)


def pair_sections(groups: Iterable[Iterable[int]], strategy: Strategy = "X:1") -> list[SectionPair]:
    """Pair each section of a group with all the others of it.

    Parameters
    ----------
    groups : iterable of iterables of int
        Numbers of the sections that may be paired with one another, two or more in a group.
    strategy : {"X:1", "1:X"}
        Whether the single section is the target or the input.

    Returns
    -------
    list of SectionPair
        One for each section.

    Raises
    ------
    ValueError
        If a group has fewer than two sections.
    """
    pairs = []
    for group in groups:
        numbers = tuple(int(number) for number in group)
        if len(numbers) < 2:
            raise ValueError(f"a group needs two sections or more to be paired, got {numbers}")
        for one in numbers:
            others = tuple(number for number in numbers if number != one)
            pairs.append(SectionPair(others, (one,)) if strategy == "X:1" else SectionPair((one,), others))
    return pairs


def check_pairs(
    pairs: Sequence[SectionPair],
    sections: Sequence[NDArray[np.intp]],
    num_projections: int,
    *,
    good: NDArray[np.bool_] | None = None,
) -> None:
    """Check the conditions under which pairs train a denoiser: independent noise, and no projection left out.

    Parameters
    ----------
    pairs : sequence of SectionPair
        Numbers of the input and target sections.
    sections : sequence of intp arrays
        Indices of the projections of each section.
    num_projections : int
        Number of projections of the measurement.
    good : bool, shape (angle,), optional
        False for projections that must not be used.

    Raises
    ------
    ValueError
        If a projection is in two sections or none, if a pair lacks a side or has a section on both, or if some good
        projections are targets more often than others; it names the pair, the section and a projection.
    """
    check_sections(sections, num_projections, good=good)
    for number, pair in enumerate(pairs):
        _check_pair(number, pair, sections)
    _check_balance(pairs, sections)


def _check_pair(number: int, pair: SectionPair, sections: Sequence[NDArray[np.intp]]) -> None:
    if not pair.inputs or not pair.targets:
        raise ValueError(f"pair {number} needs an input and a target section, got {pair.inputs} and {pair.targets}")
    strange = [one for one in (*pair.inputs, *pair.targets) if not 0 <= one < len(sections)]
    if strange:
        raise ValueError(f"pair {number} names section {strange[0]}; there are sections 0 to {len(sections) - 1}")
    for side, numbers in (("input", pair.inputs), ("target", pair.targets)):
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"pair {number} names a section twice in its {side}, {numbers}; name each once")
    shared = sorted(set(pair.inputs) & set(pair.targets))
    if shared:
        raise ValueError(
            f"section {shared[0]} is input and target of pair {number}, so that the network would learn the noise of "
            f"projection {sections[shared[0]][0]}: take it out of one side"
        )


def _check_balance(pairs: Sequence[SectionPair], sections: Sequence[NDArray[np.intp]]) -> None:
    targets = np.array([target for pair in pairs for target in pair.targets], np.intp)
    times = np.bincount(targets, minlength=len(sections))
    few, many = int(times.argmin()), int(times.argmax())
    if times[few] == 0:
        raise ValueError(
            f"section {few} is never a target, so that projection {sections[few][0]} is left out: add a pair for it"
        )
    if times[few] != times[many]:
        raise ValueError(
            f"section {few} (projection {sections[few][0]}, ...) is a target {times[few]} times, section {many} "
            f"{times[many]} times: make all groups of one size, or take strategy X:1"
        )
