"""Which sections are the network's input and which its target.

A pair averages the reconstructions of its input sections and of its target sections, each by their shares of the
projections. Its sections come from one group: the angular sections of one time step, or neighbouring time steps. With
strategy ``X:1`` the input is the average of all sections of the group but one and the target is that one; with ``1:X``
the other way round; with ``symmetric`` each half of the group predicts the other half, for all ways to halve it.
Angular sections take ``X:1`` if nothing else is asked for. Time steps take ``1:X``: from each step in turn the others
of its group are predicted [2]_, so that no input is an average over time and the network is applied to each step alone.

References
----------
.. [1] Hendriksen, Pelt, Batenburg, Noise2Inverse: self-supervised deep convolutional denoising for tomography, IEEE
   Transactions on Computational Imaging 6, 1320-1335, 2020, doi 10.1109/TCI.2020.3019647.
.. [2] Hendriksen et al., Deep denoising for multi-dimensional synchrotron X-ray tomography without high-quality
   reference data, Scientific Reports 11, 11895, 2021, doi 10.1038/s41598-021-91084-8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .acquisition import Acquisition
from .sections import SectionSettings, angular_sections, check_sections, time_groups, time_sections

__all__ = [
    "Pairing",
    "PairingSettings",
    "SectionPair",
    "Strategy",
    "check_pairs",
    "pair_sections",
    "pair_time_steps",
    "plan_pairs",
]

Strategy = Literal["X:1", "1:X", "symmetric"]
MOST_HALVED = 12
"""Most sections that are halved in every way: 924 pairs."""


class PairingSettings(BaseModel):
    """How sections become input and target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy | None = Field(
        None,
        description="All sections of a group but one predict that one (X:1), one the others (1:X), or each half the "
        "other (symmetric); None: X:1, over time steps 1:X.",
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
    scan: Acquisition,
    sections: SectionSettings | None = None,
    pairing: PairingSettings | None = None,
    *,
    context_steps: int = 0,
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
    context_steps : int
        Time steps before and after the input that the network sees too, so that they can be no targets of it. Angular
        sections predict those of their own time step only, and are paired as ever.

    Returns
    -------
    Pairing
        Checked by `check_pairs`.

    Raises
    ------
    ValueError
        If the scan has too few projections or time steps for the settings, if an average over time steps should have
        context in time, or if the pairs break a condition.
    """
    sections, pairing = sections or SectionSettings(), pairing or PairingSettings()
    if pairing.group_size is None:
        parts = angular_sections(scan, sections.num_sections)
        steps = np.split(np.arange(len(parts)), scan.num_time_steps)
        pairs = pair_sections(steps, pairing.strategy or "X:1")
    else:
        parts = time_sections(scan)
        groups = time_groups(scan.num_time_steps, pairing.group_size)
        pairs = _pair_in_time(groups, pairing.strategy or "1:X", context_steps)
    check_pairs(pairs, parts, scan.num_projections, good=scan.good)
    return Pairing(parts, pairs)


def _pair_in_time(groups: list[NDArray[np.intp]], strategy: Strategy, context_steps: int) -> list[SectionPair]:
    if strategy == "1:X":
        return pair_time_steps(groups, context_steps=context_steps)
    if context_steps:
        raise ValueError(
            f"strategy {strategy} averages time steps, which leaves no context of context_steps={context_steps} about "
            "them: take strategy 1:X, or context_steps=0"
        )
    return pair_sections(groups, strategy)


def pair_sections(groups: Iterable[Iterable[int]], strategy: Strategy = "X:1") -> list[SectionPair]:
    """Pair the sections of each group with one another.

    Parameters
    ----------
    groups : iterable of iterables of int
        Numbers of the sections that may be paired with one another, two or more in a group.
    strategy : {"X:1", "1:X", "symmetric"}
        Whether a single section is the target, or the input, or each half of a group predicts the other half. Of an odd
        number of sections the halves differ by one, and each way is taken in both directions.

    Returns
    -------
    list of SectionPair
        One for each section, or for each way to choose the input half; within a group, each section is equally often
        a target.

    Raises
    ------
    ValueError
        If a group has fewer than two sections, or more than `MOST_HALVED` to be halved.
    """
    pairs = []
    for group in groups:
        numbers = tuple(int(number) for number in group)
        if len(numbers) < 2:
            raise ValueError(f"a group needs two sections or more to be paired, got {numbers}")
        for chosen in _choices(numbers, strategy):
            others = tuple(number for number in numbers if number not in chosen)
            pairs.append(SectionPair(others, chosen) if strategy == "X:1" else SectionPair(chosen, others))
    return pairs


def _choices(numbers: tuple[int, ...], strategy: Strategy) -> list[tuple[int, ...]]:
    """Sections of one side of the pairs of a group."""
    if strategy != "symmetric":
        return [(one,) for one in numbers]
    if len(numbers) > MOST_HALVED:
        raise ValueError(
            f"{len(numbers)} sections have too many halves, at most {MOST_HALVED} can be paired by strategy symmetric: "
            "take X:1 or 1:X"
        )
    sizes = {len(numbers) // 2, (len(numbers) + 1) // 2}
    return [half for size in sorted(sizes) for half in combinations(numbers, size)]


def pair_time_steps(groups: Sequence[Sequence[int] | NDArray[np.intp]], *, context_steps: int = 0) -> list[SectionPair]:
    """Predict from each time step in turn the others of its group, as many from each.

    In a group of n steps with c context steps, step i predicts steps i + d, counted round the group, with distances d
    from c + 1 to n - c - 1. A group larger than the smallest one, as the last may be, uses only the nearest of them: so
    every step is equally often a target, and never one that the network sees as context.

    Parameters
    ----------
    groups : sequence of sequences of int
        Consecutive time steps that may be paired with one another.
    context_steps : int
        Time steps before and after the input that the network sees too.

    Returns
    -------
    list of SectionPair
        One for each time step.

    Raises
    ------
    ValueError
        If a group has too few time steps to leave a target beside the context.
    """
    smallest = min(map(len, groups))
    num_targets = smallest - 2 * context_steps - 1
    if num_targets < 1:
        raise ValueError(
            f"a group needs at least {2 * context_steps + 2} time steps to leave a target beside context_steps="
            f"{context_steps}, got {smallest}: make the groups larger (group_size) or the context smaller"
        )
    pairs = []
    for group in groups:
        numbers, size = [int(number) for number in group], len(group)
        round_group = [min(distance, size - distance) for distance in range(size)]
        distances = sorted(range(context_steps + 1, size - context_steps), key=round_group.__getitem__)
        for i, number in enumerate(numbers):
            others = sorted(numbers[(i + distance) % size] for distance in distances[:num_targets])
            pairs.append(SectionPair((number,), tuple(others)))
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
            f"{times[many]} times: make all groups of one size, or take strategy X:1 (over time steps 1:X)"
        )
