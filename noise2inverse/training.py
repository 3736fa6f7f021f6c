"""Training of the MS-D network on Noise2Inverse pairs. No disk and no clock: the caller owns epochs and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import mse_loss

from .averaging import WeightAverage
from .device_memory import DeviceLimit
from .distributed import Group
from .msd import MSD, NetworkSettings
from .pairs import Crop, Pairs
from .schedule import Schedule, learning_rate
from .statistics import section_statistics

__all__ = ["EpochMetrics", "NoiseTrainer", "TrainingSettings", "network_for"]


class TrainingSettings(BaseModel):
    """How long and how fast the network learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="Time to train, minutes; becomes a number of epochs at the start."
    )
    epochs: int | None = Field(
        None,
        ge=0,
        description="Epochs to train; goes before the time. 0: a network that is there already is applied as it is.",
    )
    steps_per_epoch: int = Field(50, ge=1, description="Steps of an epoch; after each epoch the state is kept.")
    learning_rate: float = Field(
        1e-3, gt=0, allow_inf_nan=False, description="Step size of Adam, the largest of a schedule."
    )
    schedule: Schedule = Field(
        "constant", description="Step size after the warm-up: constant, or falling to 0 along half a cosine."
    )
    warmup_steps: int = Field(
        50, ge=0, description="Steps over which the step size rises from 0 at the start; at most a quarter of all."
    )
    averaging: float | None = Field(
        0.99, ge=0, lt=1, description="Share of the old in the moving average of the weights, which is then the result."
    )
    clip: float | None = Field(
        1.0, gt=0, allow_inf_nan=False, description="Largest norm of the gradient; a larger one is scaled down to it."
    )
    patience: int | None = Field(
        None, ge=1, description="Epochs without a better held-out loss after which training stops early."
    )
    held_out_batches: int = Field(8, ge=1, description="Fixed batches of what is held out, that measure progress.")
    seed: int = Field(0, ge=0, description="Seed of weights and crops.")
    reuse: Literal["per-scan", "first", "registry"] = Field(
        "per-scan",
        description="Whose network denoises: the scan's own; in a series that of the first scan that is done; or the "
        "newest of warm_start.registry that fits, which is trained where there is none.",
    )
    compare: bool = Field(
        False, description="Whether a network taken over is held against one of the scan's own, trained for that."
    )
    compare_every: int | None = Field(
        10, ge=1, description="In a series, each how many-th scan is compared, from the first that takes over; or none."
    )
    compare_epochs: int | None = Field(
        None, ge=1, description="Epochs of the scan's own network where it is only compared; None takes the time."
    )


class EpochMetrics(NamedTuple):
    """How an epoch went.

    Attributes
    ----------
    loss : float
        Mean square error over the variance of the data, mean over the epoch's steps.
    held_out : float
        The same of what is held out, after the epoch.
    learning_rate : float
        Step size of the epoch's last step.
    """

    loss: float
    held_out: float
    learning_rate: float


class NoiseTrainer:
    """An MS-D network that learns, epoch by epoch.

    The crops of an epoch depend on the seed and the epoch's number alone, and the step size on the step's: training
    that is stopped and restored goes on as if it had never stopped.

    Parameters
    ----------
    pairs : Pairs
        Source of inputs and targets.
    settings : TrainingSettings, optional
        Steps, learning rate, seed.
    network : NetworkSettings, optional
        Size of the network.
    num_epochs : int, optional
        Epochs in all, for the schedule; as set, if not given.
    device : torch.device, optional
        Where to compute; as the group, if not given.
    start : MSD, optional
        Trained network whose weights to begin with. They act on normalised data: mean and deviation are this scan's.
    group : Group, optional
        The processes that train together; each makes its trainer alike.
    limit : DeviceLimit, optional
        How many crops a GPU takes at once. A batch that does not fit is taken in parts whose gradients are added: the
        gradient of the whole batch, but for rounding. Each process of a group has its own.

    Attributes
    ----------
    model : MSD
        What learns.
    steps_per_epoch : int
        Calls of `on_step` in an epoch.

    Raises
    ------
    ValueError
        If the schedule needs a number of epochs, if `start` is of another size, or if a batch has fewer crops than
        there are processes.
    """

    def __init__(
        self,
        pairs: Pairs,
        settings: TrainingSettings | None = None,
        network: NetworkSettings | None = None,
        *,
        num_epochs: int | None = None,
        device: torch.device | None = None,
        start: MSD | None = None,
        group: Group | None = None,
        limit: DeviceLimit | None = None,
    ) -> None:
        self.pairs, self.settings, self.group = pairs, settings or TrainingSettings(), group or Group()
        self._limit = limit or DeviceLimit()
        _check_batch(pairs.settings.batch_size, self.group.size)
        self.device = device or self.group.device
        self.steps_per_epoch = self.settings.steps_per_epoch
        epochs = num_epochs or self.settings.epochs
        self.num_steps = epochs * self.steps_per_epoch if epochs else None
        self.learning_rate(0)  # tells at once what the schedule lacks
        self.model = network_for(pairs, network, seed=self.settings.seed, start=start).to(self.device)
        self.group.share(list(self.model.state_dict().values()))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.settings.learning_rate)
        decay = self.settings.averaging
        self._average = None if decay is None else WeightAverage(self.model, decay)

    @property
    def measured(self) -> MSD:
        """The network whose held-out loss is taken: with the averaged weights where they are averaged."""
        return self._average.model if self._average else self.model

    def learning_rate(self, step: int) -> float:
        """Step size of a step, counted from the first of all; see `schedule.learning_rate`."""
        peak, schedule = self.settings.learning_rate, self.settings.schedule
        return learning_rate(step, peak, schedule, warmup_steps=self.settings.warmup_steps, num_steps=self.num_steps)

    def train_epoch(self, epoch: int, on_step: Callable[[int, float], None] | None = None) -> EpochMetrics:
        """Train one epoch and measure the loss on what is held out.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 0.
        on_step : callable, optional
            Called with the number of steps done and the loss.

        Returns
        -------
        EpochMetrics
            Training and held-out loss, relative to the variance of the data; the same in all processes.
        """
        rng = np.random.default_rng([self.settings.seed, 1, epoch])
        losses = []
        first = epoch * self.steps_per_epoch
        for step in range(self.steps_per_epoch):
            losses.append(self._step(first + step, self.pairs.draw_training(rng)))
            if on_step:
                on_step(step + 1, losses[-1])
        last = self.learning_rate(first + self.steps_per_epoch - 1)
        return EpochMetrics(float(np.mean(losses)), self.held_out_loss(), last)

    @torch.inference_mode()
    def held_out_loss(self) -> float:
        """Mean square error on fixed crops of what is held out, over the variance of the data."""
        rng = np.random.default_rng([self.settings.seed, 2])
        crops = [crop for _ in range(self.settings.held_out_batches) for crop in self.pairs.draw_held_out(rng)]
        mine, size = self.group.part(crops), self.pairs.settings.batch_size
        batches = [mine[i : i + size] for i in range(0, len(mine), size)]
        total = sum(self._in_parts(batch, self._held_out_part).item() for batch in batches)
        summed = torch.tensor([total], dtype=torch.float64)
        self.group.add([summed])
        return summed.item() / len(crops)

    def state(self) -> dict[str, Tensor]:
        """Give all that the coming epochs depend on, beside the settings: weights, their average, Adam's moments."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self._average:
            tensors |= {f"average.{name}": value for name, value in self._average.model.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave; training then goes on as it would have.

        Parameters
        ----------
        state : dict of str to Tensor
            From a trainer of the same settings and data; it is copied.

        Raises
        ------
        ValueError
            If one of the two averages the weights and the other does not.
        """
        if bool(_below(state, "average")) != bool(self._average):
            raise ValueError(
                "one of state and training averages the weights and the other does not: set averaging as it was"
            )
        self.model.load_state_dict(_below(state, "model"))
        if self._average:
            self._average.model.load_state_dict(_below(state, "average"))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(state, "optimizer").items():
            index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value.clone()
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})

    def _step(self, step: int, crops: Sequence[Crop]) -> float:
        mine = self.group.part(crops)
        loss = self._in_parts(mine, lambda part: self._add_gradient(part, len(crops)), begin=self.optimizer.zero_grad)
        self.group.add([loss, *(weight.grad for weight in self.model.parameters() if weight.grad is not None)])
        if self.settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.learning_rate(step)
        self.optimizer.step()
        if self._average:
            self._average.update(self.model, step)
        return loss.item()

    def _in_parts(
        self, crops: Sequence[Crop], take: Callable[[Sequence[Crop]], Tensor], begin: Callable[[], None] = lambda: None
    ) -> Tensor:
        """Take crops, all at once or in parts that fit on the device, and add up what comes of the parts.

        `begin` is called before each attempt, since one that failed may have added a gradient already.
        """

        def attempt(size: int) -> Tensor:
            begin()
            found = [take(crops[first : first + size]) for first in range(0, len(crops), size)]
            return found[0] if len(found) == 1 else torch.stack(found).sum()

        what = "a single crop: lower pairs.crop_size, network.depth or network.width"
        return self._limit.run(len(crops), attempt, least=1, what=what)

    def _add_gradient(self, crops: Sequence[Crop], num_crops: int) -> Tensor:
        """Add the gradient of these crops' part of the loss of so many."""
        loss = self._loss(self.model, crops) * (len(crops) / num_crops)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _held_out_part(self, crops: Sequence[Crop]) -> Tensor:
        return self._loss(self.measured, crops).double() * len(crops)

    def _loss(self, model: MSD, crops: Sequence[Crop]) -> Tensor:
        inputs, targets = (torch.from_numpy(images).to(self.device) for images in self.pairs.read(crops))
        difference = (model(inputs) - targets) / model.output_std[:, None, None]
        return mse_loss(difference, torch.zeros_like(difference))


def network_for(
    pairs: Pairs, network: NetworkSettings | None = None, *, seed: int = 0, start: MSD | None = None
) -> MSD:
    """Make the network of a scan, with the weights of another one if there is one to begin with.

    Parameters
    ----------
    pairs : Pairs
        The scan's sections; mean and deviation of the network's input and output are theirs.
    network : NetworkSettings, optional
        Size of the network.
    seed : int
        Seed of the weights.
    start : MSD, optional
        Trained network whose weights to take.

    Returns
    -------
    MSD
        On the CPU.

    Raises
    ------
    ValueError
        If `start` is of another size.
    """
    model = MSD(pairs.in_channels, pairs.out_channels, network, generator=torch.Generator().manual_seed(seed))
    if start:
        _check_start(start, model)
        trained = dict(start.named_parameters())
        model.load_state_dict({**model.state_dict(), **{name: trained[name].detach() for name in trained}})
    mean, std = map(torch.from_numpy, section_statistics(pairs.sections))
    times = model.in_channels // len(mean)  # the channel changes fastest, below slices and time steps
    model.input_mean.copy_(mean.repeat(times))
    model.input_std.copy_(std.repeat(times))
    model.output_mean.copy_(mean)
    model.output_std.copy_(std)
    return model


def _check_start(start: MSD, model: MSD) -> None:
    got, expected = ((one.in_channels, one.out_channels, one.settings) for one in (start, model))
    if got != expected:
        raise ValueError(
            f"the network to start with has (input channels, output channels, settings) {got}, this training needs "
            f"{expected}: set network and pairs as they were, or train from the beginning"
        )


def _check_batch(batch_size: int, num_processes: int) -> None:
    if batch_size < num_processes:
        raise ValueError(
            f"batch_size must be at least the number of processes, {num_processes}, got {batch_size}: set "
            f"pairs.batch_size={num_processes} or a multiple, or start fewer processes"
        )


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
