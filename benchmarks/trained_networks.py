"""Networks trained for the benchmarks: for so many minutes of CPU time, or so many steps, with the defaults."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from classical_denoisers import Answer
from numpy.typing import NDArray

from quietbeam.noise2inverse.inference import Mode, Passes, denoise_passes, denoise_time_steps, plan_passes
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.noise2inverse.pairs import Pairs
from quietbeam.noise2inverse.training import NoiseTrainer, TrainingSettings

__all__ = ["Plan", "Trained", "denoise", "denoise_steps", "train_for"]


@dataclass(frozen=True)
class Plan:
    """How the networks of a run are made: CPU minutes, unless the settings give a number of epochs, and the size."""

    minutes: float = 10.0
    network: NetworkSettings = field(default_factory=NetworkSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)


class Trained(NamedTuple):
    """A network with the weights of its best epoch, the CPU minutes of all its steps, and how many there were."""

    model: MSD
    cpu_minutes: float
    steps: int

    @property
    def columns(self) -> dict[str, tuple[float, str]]:
        """What the tables tell of the training."""
        return {"training": (self.cpu_minutes, "CPU min"), "steps": (float(self.steps), "")}


def train_for(pairs: Pairs, plan: Plan) -> Trained:
    """Train a network as a reduction does.

    Parameters
    ----------
    pairs : Pairs
        Inputs and targets.
    plan : Plan
        Settings; a first few steps tell how many epochs the time on one thread holds.

    Returns
    -------
    Trained
        In evaluation mode.
    """
    epochs = plan.training.epochs or _epochs_within(pairs, plan)
    trainer = NoiseTrainer(pairs, plan.training, plan.network, num_epochs=epochs)
    start, least, best = time.process_time(), np.inf, trainer.model.state_dict()
    for epoch in range(epochs):
        held_out = trainer.train_epoch(epoch).held_out
        if held_out < least:
            least, best = held_out, {name: value.clone() for name, value in trainer.measured.state_dict().items()}
    minutes = (time.process_time() - start) / 60
    trainer.model.load_state_dict(best)
    return Trained(trainer.model.eval(), minutes, epochs * trainer.steps_per_epoch)


def _epochs_within(pairs: Pairs, plan: Plan) -> int:
    trial = NoiseTrainer(pairs, plan.training.model_copy(update={"steps_per_epoch": 4}), plan.network, num_epochs=2)
    trial.train_epoch(0)  # warms up
    start = time.process_time()
    trial.held_out_loss()
    looked = time.process_time()
    trial.train_epoch(1)
    looking = looked - start
    step = (time.process_time() - looked - looking) / 4
    return max(round(60 * plan.minutes / (plan.training.steps_per_epoch * step + looking)), 1)


def denoise(trained: Trained, pairs: Pairs, slices: NDArray[np.intp], *, mode: Mode = "full") -> Answer:
    """Denoise some slices: float32, shape (slice, channel, y, x)."""
    passes, start = plan_passes(mode, pairs.pairs), time.process_time()
    found = [denoise_passes(trained.model, pairs.inputs, passes, int(i)).mean for i in slices]
    return Answer(np.stack(found), time.process_time() - start)


def denoise_steps(trained: Trained, pairs: Pairs, steps: list[Passes]) -> Answer:
    """Denoise all slices of each time step: float32, shape (slice, time step, y, x)."""
    shape = pairs.inputs.shape
    found, start = np.empty((shape[0], len(steps), *shape[-2:]), np.float32), time.process_time()
    denoise_time_steps(trained.model, pairs.inputs, steps, found)
    return Answer(found, time.process_time() - start)
