"""Input and target pairs from the sections' reconstructions, drawn as training goes on.

The noise of input and target is independent, so the network that predicts the target best is the one that predicts the
noiseless slice best [1]_. Every pair is drawn equally often.

A group of neighbouring slices is held out: the loss on it tells how training goes, for all pairs. It lies in the middle
of the volume, where the sample is; the ends may show nothing but the border of the beam. It is one group, since the
slices next to a held-out one cannot be trained on either: no input of training, with its context, and no target holds
a held-out slice. Volumes of few slices cannot spare them, and hold out the last pair instead. With strategy X:1 its
target is then never trained on; with the others, the sections of its target are targets of other pairs, and the loss
on it tells less.

References
----------
.. [1] Hendriksen, Pelt, Batenburg, Noise2Inverse: self-supervised deep convolutional denoising for tomography, IEEE
   Transactions on Computational Imaging 6, 1320-1335, 2020, doi 10.1109/TCI.2020.3019647.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from quietbeam.reconstruction.pairing import SectionPair, Strategy, pair_sections

from .network_inputs import NetworkInputs, Sections, context_indices

__all__ = ["Crop", "PairSettings", "Pairs", "Sections", "context_indices", "held_out_group", "mirror_and_turn"]

HELD_OUT_SHARE = 16
"""Of the slices one in this many is held out."""
CORNER_SLICES = 8
"""Slices whose corners tell whether there is data in them."""


class PairSettings(BaseModel):
    """How pairs are cut out of the sections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy = Field(
        "X:1", description="All sections but one predict that one (X:1), one the others (1:X), or halves one another."
    )
    context_slices: int = Field(2, ge=0, description="Slices above and as many below that the network sees too (2.5D).")
    context_steps: int = Field(0, ge=0, description="Time steps before and as many after that the network sees too.")
    crop_size: int = Field(128, ge=16, description="Side of the random crops, pixels; smaller slices are taken whole.")
    batch_size: int = Field(1, ge=1, description="Crops of one step.")
    held_out_slices: int | None = Field(
        None, ge=1, description="Neighbouring slices never trained on; None: one in 16, in volumes of few slices none."
    )
    augment: bool = Field(True, description="Mirror and turn the crops at random, input and target alike.")


class Crop(NamedTuple):
    """One crop of a pair, drawn but not read.

    Attributes
    ----------
    pair : int
        Number of the pair.
    centre : int
        The slice in the middle of the context.
    rows, columns : slice
        Part of the slice.
    symmetry : int
        How it is mirrored and turned, see `mirror_and_turn`.
    """

    pair: int
    centre: int
    rows: slice
    columns: slice
    symmetry: int = 0


def mirror_and_turn(images: NDArray[np.float32], symmetry: int) -> NDArray[np.float32]:
    """Apply one of the eight symmetries of the square.

    Parameters
    ----------
    images : float32, shape (..., y, x)
        Images.
    symmetry : int
        0 to 7: the sum of 1 if y is reversed, 2 if x is, and 4 if y and x then change places.

    Returns
    -------
    float32, shape (..., y, x), or (..., x, y) for 4 and above
        A view.
    """
    turned = images[..., :: -1 if symmetry & 1 else 1, :: -1 if symmetry & 2 else 1]
    return turned.swapaxes(-1, -2) if symmetry & 4 else turned


def held_out_group(num_slices: int, settings: PairSettings) -> range:
    """Choose the slices that are never trained on.

    Parameters
    ----------
    num_slices : int
        Slices of the volume.
    settings : PairSettings
        Context, and how many to hold out.

    Returns
    -------
    range
        One slice in 16, at least 1, in the middle of the volume; empty where nothing is asked for and there are fewer
        than ``8 + 2 * (2 * context_slices)`` slices, of which too many would be lost to training.

    Raises
    ------
    ValueError
        If those asked for leave no slice to train on.
    """
    lost = 2 * settings.context_slices  # beside the group
    count = settings.held_out_slices
    if count is None:
        count = max(num_slices // HELD_OUT_SHARE, 1) if num_slices >= 8 + 2 * lost else 0
    elif count + lost >= num_slices:
        raise ValueError(
            f"held_out_slices={count} with context_slices={settings.context_slices} needs at least "
            f"{count + lost + 1} slices to leave one to train on, got {num_slices}: hold out fewer"
        )
    first = (num_slices - count) // 2
    return range(first, first + count)


class Pairs:
    """Random crops of inputs and targets.

    Parameters
    ----------
    sections : Sections
        Reconstructions, shape (slice, section, channel, y, x) or (slice, section, y, x).
    shares : float32, shape (section,)
        Share of the projections in each section; the weights of the averages.
    settings : PairSettings, optional
        Context, crop and batch size, what is held out.
    pairs : sequence of SectionPair, optional
        Numbers of the input and target sections; None: those of each time step are paired
        by the strategy of the settings.
    sections_per_step : int
        Sections of each time step, see `NetworkInputs`.

    Attributes
    ----------
    inputs : NetworkInputs
        What the network sees.
    pairs : list of SectionPair
        All pairs, the held-out one included.
    held_out_slices : range
        Slices that no training crop holds; empty where a pair is held out.
    held_out_pair : int or None
        Number of the pair that is never trained on, where no slices are held out.

    Raises
    ------
    ValueError
        If a section is input, or its context in time, and target of the same pair; if there is one pair only and no
        slice to hold out; or of `NetworkInputs` and `held_out_group`.
    """

    def __init__(
        self,
        sections: Sections,
        shares: NDArray[np.floating],
        settings: PairSettings | None = None,
        *,
        pairs: Sequence[SectionPair] | None = None,
        sections_per_step: int = 1,
    ) -> None:
        self.settings = settings or PairSettings()
        self.inputs = NetworkInputs(
            sections,
            shares,
            context_slices=self.settings.context_slices,
            context_steps=self.settings.context_steps,
            sections_per_step=sections_per_step,
        )
        num_slices, num_sections = self.inputs.shape[:2]
        steps = [range(first, first + sections_per_step) for first in range(0, num_sections, sections_per_step)]
        groups = steps if sections_per_step > 1 else [range(num_sections)]
        self.pairs = pair_sections(groups, self.settings.strategy) if pairs is None else list(pairs)
        for number, pair in enumerate(self.pairs):
            _check_pair(number, pair, self.inputs)
        self.held_out_slices = held_out_group(num_slices, self.settings)
        self.held_out_pair = None if self.held_out_slices else len(self.pairs) - 1
        if len(self.pairs) < 1 + (self.held_out_pair is not None):
            raise ValueError(f"{len(self.pairs)} pairs of {num_slices} slices leave nothing to train on: add pairs")
        self._circle_only = _corners_are_empty(self.inputs, self._training_centres)

    @property
    def sections(self) -> Sections:
        """Reconstructions, shape (slice, section, channel, y, x)."""
        return self.inputs.sections

    @property
    def shares(self) -> NDArray[np.float32]:
        """Share of the projections in each section, shape (section,)."""
        return self.inputs.shares

    @property
    def in_channels(self) -> int:
        """Channels of an input."""
        return self.inputs.in_channels

    @property
    def out_channels(self) -> int:
        """Channels of a target."""
        return self.inputs.out_channels

    def draw_training(self, rng: np.random.Generator) -> list[Crop]:
        """Draw the crops of one step, reading nothing: the same from the same random numbers, in every process.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of the crops.

        Returns
        -------
        list of Crop
            ``batch_size`` crops; each pair as often as any other, or once more, in random order.
        """
        crops = self._draw(rng, np.arange(len(self.pairs) - (self.held_out_pair is not None)), self._training_centres)
        if not self.settings.augment:
            return crops
        num_symmetries = 8 if self._crop_shape[0] == self._crop_shape[1] else 4
        return [crop._replace(symmetry=int(rng.integers(num_symmetries))) for crop in crops]

    def draw_held_out(self, rng: np.random.Generator) -> list[Crop]:
        """Draw crops of what is held out, as they are; see `draw_training`."""
        if self.held_out_pair is None:
            return self._draw(rng, np.arange(len(self.pairs)), np.array(self.held_out_slices))
        return self._draw(rng, np.array([self.held_out_pair]), np.arange(self.inputs.shape[0]))

    def read(self, crops: Sequence[Crop]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Read crops that were drawn.

        Parameters
        ----------
        crops : sequence of Crop
            All that were drawn or some.

        Returns
        -------
        inputs : float32, shape (batch, in_channels, y, x)
            Averages of the input sections with their context.
        targets : float32, shape (batch, out_channels, y, x)
            Averages of the target sections, middle slice.
        """
        inputs = np.empty((len(crops), self.in_channels, *self._crop_shape), np.float32)
        targets = np.empty((len(crops), self.out_channels, *self._crop_shape), np.float32)
        for i, (number, centre, rows, columns, symmetry) in enumerate(crops):
            pair = self.pairs[number]
            inputs[i] = mirror_and_turn(self.inputs.images(pair.inputs, centre, rows, columns), symmetry)
            targets[i] = mirror_and_turn(self.inputs.target(pair.targets, centre, rows, columns), symmetry)
        return inputs, targets

    def training_batch(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Draw and read the crops of one step; see `draw_training` and `read`."""
        return self.read(self.draw_training(rng))

    def held_out_batch(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Draw and read crops of what is held out; see `draw_held_out` and `read`."""
        return self.read(self.draw_held_out(rng))

    @property
    def _training_centres(self) -> NDArray[np.intp]:
        """Slices whose context holds no held-out slice."""
        centres, group = np.arange(self.inputs.shape[0]), self.held_out_slices
        context = self.settings.context_slices
        return centres[(centres < group.start - context) | (centres >= group.stop + context)] if group else centres

    @property
    def _crop_shape(self) -> tuple[int, int]:
        height, width = self.inputs.shape[-2:]
        return min(self.settings.crop_size, height), min(self.settings.crop_size, width)

    def _draw(self, rng: np.random.Generator, pairs: NDArray[np.intp], centres: NDArray[np.intp]) -> list[Crop]:
        numbers = np.resize(rng.permutation(pairs), self.settings.batch_size)
        return [Crop(int(number), int(rng.choice(centres)), *self._window(rng)) for number in numbers]

    def _window(self, rng: np.random.Generator) -> tuple[slice, slice]:
        """Draw a part of a slice; in a circle of data, one whose middle lies in it, so that half of it has data."""
        size, crop = np.array(self.inputs.shape[-2:]), np.array(self._crop_shape)
        while True:
            start = rng.integers(size - crop + 1)
            if not self._circle_only or np.hypot(*(2 * start + crop - size)) <= size[0]:
                return slice(int(start[0]), int(start[0] + crop[0])), slice(int(start[1]), int(start[1] + crop[1]))


def _check_pair(number: int, pair: SectionPair, inputs: NetworkInputs) -> None:
    seen = {section for step in inputs.input_steps(pair.inputs) for section in step}
    inputs.check_numbers(pair.targets)
    shared = sorted(seen & set(pair.targets))
    if shared:
        raise ValueError(
            f"section {shared[0]} is target of pair {number} and seen in its input {pair.inputs} with "
            f"context_steps={inputs.context_steps}, so that the network would learn its noise: take it out of one side"
        )


def _corners_are_empty(inputs: NetworkInputs, centres: NDArray[np.intp]) -> bool:
    """Tell whether slices are square and hold data in the inscribed circle only, from some spread over the volume.

    A full slice may be blank, as one above the sample, but not many.
    """
    height, width = inputs.shape[-2:]
    ends = slice(None, None, max(height - 1, 1))
    some = np.unique(np.linspace(0, len(centres) - 1, CORNER_SLICES).astype(int))
    return height == width and not any(inputs.target((0,), int(i), ends, ends).any() for i in centres[some])
