"""Choices of training at equal CPU time: batch size, crop size, mirroring, step sizes, averaged weights, clipping.

The scan is the simulated foam of `quietbeam simulate`; four sections are reconstructed as a reduction does. The first
row is one crop of 128 x 128 a step, step size 0.001, nothing else; each other row changes what its name says. All begin
with the same weights on one thread and are stopped at the same CPU times, each time every eighth slice is denoised and
its PSNR taken against the truth inside the circle. The final weights are used, where a reduction keeps those of the
best epoch. Cosines reach 0 at the last of these times, and are on their way at the others. The row of another seed
tells which differences are chance.

The held-out loss is measured on the same crops for all, outside the time. The first row's loss at the last time but one
is the mark: the CPU time after which a row first is at or below it, looked for 40 times, and the PSNR then; empty for a
row that never is.

The peer is the reconstruction as it is, and the best Gaussian blur (3D) of it, at the same slices.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

from rows import Row, arguments, report
from simulated_scan import SimulatedScan, after, reconstruct_simulated
from torch import Tensor

from quietbeam.beamline.simulate import SimulateSettings
from quietbeam.noise2inverse.msd import NetworkSettings
from quietbeam.noise2inverse.pairs import Pairs, PairSettings
from quietbeam.noise2inverse.training import NoiseTrainer, TrainingSettings

STEPS = 5
"""Steps between two looks at the clock."""
LOOKS = 40
"""Times that the held-out loss is looked at."""


class Choice(NamedTuple):
    """What one row changes."""

    name: str
    pairs: dict[str, Any]
    training: dict[str, Any]


CHOICES = (
    Choice("batch size 1", {}, {}),
    Choice("seed 1", {}, {"seed": 1}),
    Choice("batch size 2", {"batch_size": 2}, {}),
    Choice("batch size 4", {"batch_size": 4}, {}),
    Choice("half crops", {"crop_size": 0.5}, {}),
    Choice("double crops", {"crop_size": 2}, {}),
    Choice("augmented", {"augment": True}, {}),
    Choice("warm-up 50", {}, {"warmup_steps": 50}),
    Choice("clip 1", {}, {"clip": 1.0}),
    Choice("step size 0.003", {}, {"learning_rate": 3e-3}),
    Choice("cosine", {}, {"schedule": "cosine"}),
    Choice("averaging 0.99", {}, {"averaging": 0.99}),
    Choice("averaging 0.999", {}, {"averaging": 0.999}),
    Choice("cosine 0.003, warm-up 50", {}, {"schedule": "cosine", "warmup_steps": 50, "learning_rate": 3e-3}),
    Choice("averaging 0.99, 0.003", {}, {"averaging": 0.99, "learning_rate": 3e-3}),
    Choice(
        "averaging 0.99, 0.003, warm-up 50, clip 1, augmented",
        {"augment": True},
        {"averaging": 0.99, "learning_rate": 3e-3, "warmup_steps": 50, "clip": 1.0},
    ),
)
PLAIN = {"learning_rate": 1e-3, "warmup_steps": 0, "averaging": None, "clip": None}
"""What the first row has, and the others where they do not change it; the last row is the default."""
TINY_CHOICES = ("batch size 1", "batch size 4", "half crops", "cosine", "averaging 0.99")
TINY = SimulateSettings(num_rows=8, num_columns=64, num_angles=128)


class Task(NamedTuple):
    """What all rows share."""

    case: str
    scan: SimulatedScan
    network: NetworkSettings
    crop_size: int
    seconds: tuple[float, ...]


def main() -> None:
    """Train with each choice."""
    options = arguments(__doc__)
    scan, network = (TINY, NetworkSettings(depth=10)) if options.tiny else (SimulateSettings(), NetworkSettings())
    crop, seconds = (48, (1.0, 2.0)) if options.tiny else (128, (30.0, 60.0, 120.0))
    case = f"{scan.num_columns} columns, {scan.num_angles} angles, depth {network.depth}, crops of {crop}"
    task = Task(case, reconstruct_simulated(scan), network, crop, seconds)
    rows, mark = task.scan.plain_rows(case, seconds), math.nan
    for choice in CHOICES:
        if not options.tiny or choice.name in TINY_CHOICES:
            run = Run(task, choice)
            run.train()
            mark = run.loss_before(seconds[-2]) if math.isnan(mark) else mark
            rows += run.rows(mark)
    report(rows, options.json)


class Look(NamedTuple):
    """Where a training was at one time."""

    seconds: float
    held_out: float
    weights: dict[str, Tensor]


class Run:
    """The training of one row."""

    def __init__(self, task: Task, choice: Choice) -> None:
        self.task, self.choice = task, choice
        self.looks: list[Look] = []
        self.epoch = 0
        self.ruler = self._trainer(Choice("held out", {}, {}), 1, held_out_batches=16)

    def train(self) -> None:
        """Train to the last time, looking at the network from time to time."""
        end = self.task.seconds[-1]
        self.trainer = self._trainer(self.choice, max(1, round(end / self._seconds_per_epoch(end / LOOKS))))
        spent = 0.0
        for limit in self._times():
            while spent < limit:
                start = time.process_time()
                self.trainer.train_epoch(self.epoch)
                spent, self.epoch = spent + time.process_time() - start, self.epoch + 1
            self.looks.append(self._look(spent))

    def loss_before(self, seconds: float) -> float:
        """Held-out loss at one of the times."""
        return self.looks[self._times().index(seconds)].held_out

    def rows(self, mark: float) -> list[Row]:
        """PSNR after each time, and what it took to bring the held-out loss to the mark."""
        case, method, times = self.task.case, f"quietbeam ({self.choice.name})", self._times()
        rows = [Row(case, method, after(s), self._psnr(self.looks[times.index(s)]), "dB") for s in self.task.seconds]
        rows.append(Row(case, method, "steps", self.epoch * STEPS, ""))
        for look in [look for look in self.looks if look.held_out <= mark][:1]:
            rows.append(Row(case, method, f"time to held-out loss {mark:.4g}", look.seconds, "s"))
            rows.append(Row(case, method, f"PSNR at held-out loss {mark:.4g}", self._psnr(look), "dB"))
        return rows

    def _times(self) -> list[float]:
        end = self.task.seconds[-1]
        return sorted({*self.task.seconds, *(end * (i + 1) / LOOKS for i in range(LOOKS))})

    def _trainer(self, choice: Choice, num_epochs: int, *, held_out_batches: int = 1) -> NoiseTrainer:
        crop = round(self.task.crop_size * choice.pairs.get("crop_size", 1))
        cut = PairSettings(**{"augment": False} | choice.pairs | {"crop_size": crop})
        pairs = Pairs(self.task.scan.sections, self.task.scan.shares, cut)
        training = PLAIN | choice.training
        settings = TrainingSettings(steps_per_epoch=STEPS, held_out_batches=held_out_batches, **training)
        return NoiseTrainer(pairs, settings, self.task.network, num_epochs=num_epochs)

    def _seconds_per_epoch(self, seconds: float) -> float:
        """Time some epochs of a trainer that is thrown away, after one that warms up."""
        trainer, epochs = self._trainer(self.choice, 1), 0
        trainer.train_epoch(0)
        start = time.process_time()
        while epochs == 0 or time.process_time() - start < seconds:
            trainer.train_epoch(epochs)
            epochs += 1
        return (time.process_time() - start) / epochs

    def _look(self, spent: float) -> Look:
        self.ruler.model.load_state_dict(self.trainer.measured.state_dict())
        weights = {name: value.clone() for name, value in self.ruler.model.state_dict().items()}
        return Look(spent, self.ruler.held_out_loss(), weights)

    def _psnr(self, look: Look) -> float:
        self.ruler.model.load_state_dict(look.weights)
        return self.task.scan.denoised_psnr(self.ruler.model, self.ruler.pairs.settings.context_slices)


if __name__ == "__main__":
    main()
