"""What the network sees: averages of sections, with neighbouring slices and time steps as channels.

Static tomography averages angular sections; a slice comes with its neighbours (2.5D). Dynamic tomography takes each
time step as a section, and may show the steps before and after as well [1]_. In diffraction tomography (XRD-CT) all
channels go in and all channels come out.

The channels of an input lie as the axes (time step, slice, channel) do, the last fastest: with C channels and c context
slices, number ``(step * (2 * c + 1) + slice) * C + channel``, where step and slice count from the earliest step and the
lowest slice of the context.

References
----------
.. [1] Hendriksen et al., Deep denoising for multi-dimensional synchrotron X-ray tomography without high-quality
   reference data, Scientific Reports 11, 11895, 2021, doi 10.1038/s41598-021-91084-8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["NetworkInputs", "Sections", "context_indices", "with_channel_axis"]


class Sections(Protocol):
    """Reconstructions of all sections, in memory or on disk: float32, shape (slice, section, [channel,] y, x)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (slice, section, channel, y, x), or (slice, section, y, x) of one channel."""

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        """Read a part, given by a slice of each axis."""


class _OneChannel:
    """Sections of four axes, seen with a channel axis of length one."""

    def __init__(self, sections: Sections) -> None:
        self._sections = sections

    @property
    def shape(self) -> tuple[int, ...]:
        first, second, *sides = self._sections.shape
        return first, second, 1, *sides

    def __getitem__(self, key: tuple[slice, ...], /) -> NDArray[np.float32]:
        slices, numbers, channels, rows, columns = (*key, *[slice(None)] * (5 - len(key)))
        return self._sections[slices, numbers, rows, columns][:, :, None][:, :, channels]


def with_channel_axis(sections: Sections) -> Sections:
    """See sections of one channel, shape (slice, section, y, x), as (slice, section, channel, y, x).

    Parameters
    ----------
    sections : Sections
        Reconstructions of four axes or five.

    Returns
    -------
    Sections
        Of five axes; nothing is read before a part is asked for.

    Raises
    ------
    ValueError
        If there are neither four axes nor five.
    """
    if len(sections.shape) not in (4, 5):
        raise ValueError(f"sections must have the axes (slice, section, [channel,] y, x), got shape {sections.shape}")
    return sections if len(sections.shape) == 5 else _OneChannel(sections)


def context_indices(centre: int, context: int, num_slices: int) -> NDArray[np.intp]:
    """Slices (or time steps) around one, mirrored about the first and the last.

    Parameters
    ----------
    centre, context, num_slices : int
        The slice, how many slices on either side, how many there are.

    Returns
    -------
    intp, shape (2 * context + 1,)
        Indices in [0, num_slices).
    """
    period = max(2 * (num_slices - 1), 1)
    index = np.arange(centre - context, centre + context + 1) % period
    return np.minimum(index, period - index) if num_slices > 1 else np.zeros_like(index)


class NetworkInputs:
    """Averages of sections, with neighbouring slices and time steps as channels.

    Parameters
    ----------
    sections : Sections
        Reconstructions, shape (slice, section, channel, y, x) or (slice, section, y, x).
    shares : float32, shape (section,)
        Share of the projections in each section; the weights of the average.
    context_slices : int
        Slices above and as many below that the network sees too.
    context_steps : int
        Time steps before and as many after that the network sees too.
    sections_per_step : int
        Sections of each time step, in their order: 1 where each time step is one section. Of use with `context_steps`
        only.

    Attributes
    ----------
    shape : tuple of int
        (slice, section, channel, y, x).
    in_channels, out_channels : int
        Channels of an input, and of a target.

    Raises
    ------
    ValueError
        If there are not as many positive shares as sections, or the sections are no whole time steps.
    """

    def __init__(
        self,
        sections: Sections,
        shares: NDArray[np.floating],
        *,
        context_slices: int,
        context_steps: int = 0,
        sections_per_step: int = 1,
    ) -> None:
        self.sections, self.shares = with_channel_axis(sections), np.asarray(shares, np.float32)
        self.shape = self.sections.shape
        self.context_slices, self.context_steps = context_slices, context_steps
        self.sections_per_step = sections_per_step
        self.out_channels = self.shape[2]
        self.in_channels = self.out_channels * (2 * context_slices + 1) * (2 * context_steps + 1)
        _check(self.shape[1], self.shares, sections_per_step)

    def images(self, numbers: Sequence[int], centre: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Average sections to what the network sees of a slice.

        Parameters
        ----------
        numbers : sequence of int
            Input sections; with `context_steps`, all of one time step.
        centre : int
            The slice in the middle of the context.
        rows, columns : slice
            Part of the slice.

        Returns
        -------
        float32, shape (in_channels, y, x)
            Time steps, slices and channels in the order that the module describes.
        """
        steps = self.input_steps(numbers)
        indices = context_indices(centre, self.context_slices, self.shape[0])
        first, stop = int(indices.min()), int(indices.max()) + 1
        averages = {step: self._average(step, slice(first, stop), rows, columns) for step in set(steps)}
        seen = np.stack([averages[step][indices - first] for step in steps])  # (step, slice, channel, y, x)
        return np.asarray(seen.reshape(self.in_channels, *seen.shape[-2:]))

    def target(self, numbers: Sequence[int], centre: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Average sections to what the network is to predict: float32, shape (out_channels, y, x); see `images`."""
        return np.asarray(self._average(tuple(numbers), slice(centre, centre + 1), rows, columns)[0])

    def input_steps(self, numbers: Sequence[int]) -> list[tuple[int, ...]]:
        """Tell which sections are averaged for each time step of the context.

        Parameters
        ----------
        numbers : sequence of int
            Input sections.

        Returns
        -------
        list of tuple of int
            ``2 * context_steps + 1`` times as many sections as given, mirrored about the first and the last time step.

        Raises
        ------
        ValueError
            If there is context in time and the sections are not all of one time step, or if one does not exist.
        """
        self.check_numbers(numbers)
        if self.context_steps == 0:
            return [tuple(numbers)]
        step, *others = sorted({number // self.sections_per_step for number in numbers})
        if others:
            raise ValueError(
                f"with context_steps the input must be of one time step, got sections {tuple(numbers)} of time steps "
                f"{(step, *others)}: take strategy 1:X, or context_steps=0"
            )
        steps = context_indices(step, self.context_steps, self.shape[1] // self.sections_per_step)
        shifts = (steps - step) * self.sections_per_step
        return [tuple(int(number + shift) for number in numbers) for shift in shifts]

    def check_numbers(self, numbers: Sequence[int]) -> None:
        """Refuse numbers of sections that do not exist, or none, with a ValueError."""
        if not numbers or not all(0 <= number < self.shape[1] for number in numbers):
            raise ValueError(f"input and target need sections of 0 to {self.shape[1] - 1}, got {tuple(numbers)}")

    def _average(self, numbers: tuple[int, ...], slices: slice, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Average sections, shape (slice, channel, y, x), reading no other ones."""
        total = self.shares[list(numbers)].sum()
        channels = slice(None)
        average = np.zeros((), np.float32)
        for run in _runs(numbers):
            block = self.sections[slices, run, channels, rows, columns]
            for number, weight in enumerate(self.shares[run] / total):
                average = average + weight * block[:, number]
        return np.asarray(average, np.float32)


def _runs(numbers: Sequence[int]) -> Iterator[slice]:
    """Join consecutive numbers to slices."""
    ordered = sorted(numbers)
    breaks = [i for i in range(1, len(ordered)) if ordered[i] != ordered[i - 1] + 1]
    for start, stop in zip([0, *breaks], [*breaks, len(ordered)], strict=True):
        yield slice(ordered[start], ordered[stop - 1] + 1)


def _check(num_sections: int, shares: NDArray[np.float32], sections_per_step: int) -> None:
    if shares.shape != (num_sections,) or not (shares > 0).all():
        raise ValueError(f"expected a positive share of each of {num_sections} sections, got {shares}")
    if sections_per_step < 1 or num_sections % sections_per_step:
        raise ValueError(f"{num_sections} sections are no whole time steps of {sections_per_step} sections each")
