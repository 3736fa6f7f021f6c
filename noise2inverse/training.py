"""Training of the MS-D network on Noise2Inverse pairs. No disk and no clock: the caller owns epochs and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import mse_loss

from .msd import MSD, NetworkSettings
from .pairs import Pairs, Sections

__all__ = ["EpochMetrics", "NoiseTrainer", "TrainingSettings", "section_statistics"]


class TrainingSettings(BaseModel):
    """How long and how fast the network learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float = Field(10.0, gt=0, description="Time to train, minutes; becomes a number of epochs at the start.")
    epochs: int | None = Field(None, ge=1, description="Epochs to train; goes before the time.")
    steps_per_epoch: int = Field(50, ge=1, description="Steps of an epoch; after each epoch the state is kept.")
    learning_rate: float = Field(1e-3, gt=0, description="Step size of Adam.")
    held_out_batches: int = Field(8, ge=1, description="Fixed batches of the held-out pair that measure progress.")
    seed: int = Field(0, ge=0, description="Seed of weights and crops.")


class EpochMetrics(NamedTuple):
    """Mean square error over the variance of the data, of the epoch's steps and of the held-out pair."""

    loss: float
    held_out: float


def section_statistics(sections: Sections, *, num_slices: int = 16) -> tuple[float, float]:
    """Mean and standard deviation of the data, from slices spread over the volume.

    Parameters
    ----------
    sections : Sections
        Reconstructions, shape (slice, section, y, x).
    num_slices : int
        How many slices are looked at.

    Returns
    -------
    mean, std : float
        In the unit of the data; std is 1 for a constant volume.
    """
    rows = np.unique(np.linspace(0, sections.shape[0] - 1, num_slices).astype(int))
    everything = slice(None)
    total, squares, count = 0.0, 0.0, 0
    for row in rows:
        values = sections[row : row + 1, everything, everything, everything].mean(axis=1, dtype=np.float64)
        total, squares, count = total + values.sum(), squares + (values**2).sum(), count + values.size
    mean = total / count
    std = float(np.sqrt(max(squares / count - mean**2, 0)))
    return float(mean), std if std > 0 else 1.0


class NoiseTrainer:
    """An MS-D network that learns, epoch by epoch.

    The crops of an epoch depend on the seed and the epoch's number alone: training that is stopped and restored goes on
    as if it had never stopped.

    Parameters
    ----------
    pairs : Pairs
        Source of inputs and targets.
    settings : TrainingSettings, optional
        Steps, learning rate, seed.
    network : NetworkSettings, optional
        Size of the network.
    device : torch.device, optional
        Where to compute.
    """

    def __init__(
        self,
        pairs: Pairs,
        settings: TrainingSettings | None = None,
        network: NetworkSettings | None = None,
        *,
        device: torch.device | None = None,
    ) -> None:
        self.pairs = pairs
        self.settings = settings or TrainingSettings()
        self.device = device or torch.device("cpu")
        generator = torch.Generator().manual_seed(self.settings.seed)
        model = MSD(pairs.in_channels, 1, network, generator=generator)
        mean, std = section_statistics(pairs.sections)
        for values in (model.input_mean, model.output_mean):
            values.fill_(mean)
        for values in (model.input_std, model.output_std):
            values.fill_(std)
        self.model = model.to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.settings.learning_rate)
        self.steps_per_epoch = self.settings.steps_per_epoch

    def train_epoch(self, epoch: int, on_step: Callable[[int, float], None] | None = None) -> EpochMetrics:
        """Train one epoch and measure the loss on the held-out pair.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 0.
        on_step : callable, optional
            Called with the number of steps done and the loss.

        Returns
        -------
        EpochMetrics
            Training and held-out loss, relative to the variance of the data.
        """
        rng = np.random.default_rng([self.settings.seed, 1, epoch])
        losses = []
        for step in range(self.steps_per_epoch):
            losses.append(self._step(*self.pairs.training_batch(rng)))
            if on_step:
                on_step(step + 1, losses[-1])
        return EpochMetrics(float(np.mean(losses)), self.held_out_loss())

    def held_out_loss(self) -> float:
        """Mean square error on fixed crops of the held-out pair, over the variance of the data."""
        rng = np.random.default_rng([self.settings.seed, 2])
        with torch.inference_mode():
            batches = (self.pairs.held_out_batch(rng) for _ in range(self.settings.held_out_batches))
            return float(np.mean([self._loss(*batch).item() for batch in batches]))

    def _step(self, inputs: NDArray[np.float32], targets: NDArray[np.float32]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(inputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def _loss(self, inputs: NDArray[np.float32], targets: NDArray[np.float32]) -> Tensor:
        prediction = self.model(torch.from_numpy(inputs).to(self.device))
        difference = (prediction - torch.from_numpy(targets).to(self.device)) / self.model.output_std[:, None, None]
        return mse_loss(difference, torch.zeros_like(difference))
