"""Input and target pairs from the sections' reconstructions, drawn as training goes on.

With strategy X:1 the input is the average of all sections but one, and the target is that one: their noise is
independent, so the network that predicts the target best is the one that predicts the noiseless slice best. The last
pair is held out: its target is never trained on, and the loss on it tells how training goes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["PairSettings", "Pairs", "Sections", "context_indices"]


class PairSettings(BaseModel):
    """How pairs are cut out of the sections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    context_slices: int = Field(2, ge=0, description="Slices above and as many below that the network sees too (2.5D).")
    crop_size: int = Field(128, ge=16, description="Side of the random crops, pixels; smaller slices are taken whole.")
    batch_size: int = Field(1, ge=1, description="Crops of one step.")


class Sections(Protocol):
    """Reconstructions of all sections, in memory or on disk: float32, shape (slice, section, y, x)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (slice, section, y, x)."""

    def __getitem__(self, key: tuple[slice, slice, slice, slice], /) -> NDArray[np.float32]:
        """Read a part, of the same number of axes."""


def context_indices(centre: int, context: int, num_slices: int) -> NDArray[np.intp]:
    """Slices around one slice, mirrored about the first and the last.

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


class Pairs:
    """Random crops of input and target (X:1).

    Parameters
    ----------
    sections : Sections
        Reconstructions, shape (slice, section, y, x).
    shares : float32, shape (section,)
        Share of the projections in each section; the weights of the average.
    settings : PairSettings, optional
        Context, crop and batch size.
    """

    def __init__(self, sections: Sections, shares: NDArray[np.float32], settings: PairSettings | None = None) -> None:
        self.sections, self.shares = sections, shares
        self.settings = settings or PairSettings()
        self.held_out = sections.shape[1] - 1
        self.in_channels = 2 * self.settings.context_slices + 1

    def training_batch(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Draw a batch of all pairs but the held-out one.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of the crops.

        Returns
        -------
        inputs : float32, shape (batch, 2 * context + 1, y, x)
            Averages of all sections but the target.
        targets : float32, shape (batch, 1, y, x)
            The section left out, middle slice.
        """
        return self._batch(rng, lambda: int(rng.integers(self.held_out)))

    def held_out_batch(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Draw a batch of the held-out pair; see `training_batch`."""
        return self._batch(rng, lambda: self.held_out)

    def _batch(self, rng: np.random.Generator, target: _Draw) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        crops = [self._crop(rng, target()) for _ in range(self.settings.batch_size)]
        inputs, targets = zip(*crops, strict=True)
        return np.stack(inputs), np.stack(targets)

    def _crop(self, rng: np.random.Generator, target: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        num_slices, _, height, width = self.sections.shape
        centre = int(rng.integers(num_slices))
        rows, columns = self._interval(rng, height), self._interval(rng, width)
        indices = context_indices(centre, self.settings.context_slices, num_slices)
        first = int(indices.min())
        block = self.sections[first : int(indices.max()) + 1, :, rows, columns]
        others = np.where(np.arange(len(self.shares)) == target, 0, self.shares)
        averages = np.einsum("k,skyx->syx", others / others.sum(), block, dtype=np.float32)
        return averages[indices - first], block[centre - first, target : target + 1]

    def _interval(self, rng: np.random.Generator, size: int) -> slice:
        length = min(self.settings.crop_size, size)
        start = int(rng.integers(size - length + 1))
        return slice(start, start + length)


class _Draw(Protocol):
    def __call__(self) -> int: ...
