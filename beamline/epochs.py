"""Epochs of a training, with the state kept on disk after each: the one loop for the denoiser and the codecs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from quietbeam.noise2inverse.distributed import Group
from quietbeam.reconstruction.errors import ReductionError

from .atomic import write_atomically
from .progress import JobProgress, Step

__all__ = ["Trainer", "best_epoch", "train"]

SMOOTHING = 0.05
"""Weight of the last step in the loss that is shown."""
Record = dict[str, float]
"""What is told of one epoch: epoch (from 1), loss, held_out, learning_rate, seconds."""


class Metrics(Protocol):
    """What an epoch gives."""

    @property
    def loss(self) -> float:
        """Mean loss of the steps."""

    @property
    def held_out(self) -> float:
        """Loss on what is not trained on."""

    @property
    def learning_rate(self) -> float:
        """Step size of the last step."""


class Trainer(Protocol):
    """A model that learns epoch by epoch, each a function of the state and the epoch's number."""

    @property
    def model(self) -> nn.Module:
        """What learns, and in the end holds the best weights."""

    @property
    def measured(self) -> nn.Module:
        """The model whose held-out loss is taken: the same, or one of averaged weights."""

    @property
    def steps_per_epoch(self) -> int:
        """Calls of `on_step` in an epoch."""

    def train_epoch(self, epoch: int, on_step: Callable[[int, float], None], /) -> Metrics:
        """Train one epoch."""

    def state(self) -> dict[str, Tensor]:
        """Give all that the coming epochs depend on."""

    def restore(self, state: dict[str, Tensor], /) -> None:
        """Put a state back."""


def train(
    trainer: Trainer,
    num_epochs: int,
    checkpoint: Path,
    key: str,
    *,
    name: str,
    progress: JobProgress,
    patience: int | None = None,
    metrics: Path | None = None,
    on_epoch: Callable[[int], None] | None = None,
    group: Group | None = None,
) -> list[Record]:
    """Train until `num_epochs` are done, going on from a checkpoint, and leave the best weights in the model.

    Parameters
    ----------
    trainer : Trainer
        As made, untrained.
    num_epochs : int
        Epochs in all.
    checkpoint : Path
        File of the state, replaced atomically after each epoch.
    key : str
        What the training depends on; a checkpoint of another key is not used.
    name : str
        Shown with the progress.
    progress : JobProgress
        Where to tell.
    patience : int, optional
        Stop after so many epochs without a better held-out loss.
    metrics : Path, optional
        File of JSON lines, one for each epoch: ``epoch`` (from 1), ``loss``, ``held_out``, ``learning_rate``,
        ``seconds``.
    on_epoch : callable, optional
        Called with the number of each epoch, from 0, after its state was kept; the network is in ``trainer.measured``.
    group : Group, optional
        The processes that train together: the first one reads and writes the files and calls `on_epoch`.

    Returns
    -------
    list of dict
        ``loss``, ``held_out`` and ``learning_rate`` of each epoch.

    Raises
    ------
    ReductionError
        If a loss is not finite.
    """
    run = _Run(trainer, checkpoint, key, metrics, group or Group())
    steps = trainer.steps_per_epoch
    with progress.stage(name, num_epochs * steps, len(run.records) * steps) as bar:
        for epoch in range(len(run.records), num_epochs):
            if _waited(run.records) >= (patience or math.inf):
                break
            began = time.monotonic()
            result = trainer.train_epoch(epoch, _telling(bar, run.records))
            _check_finite(result, epoch, name)
            run.keep(result, time.monotonic() - began)
            bar.advance(0, _note(result.loss, run.records))
            if on_epoch and run.group.is_first:
                on_epoch(epoch)
        best = run.records[best_epoch([record["held_out"] for record in run.records])]
        bar.advance(0, f"best held-out loss {best['held_out']:.4g} in epoch {best['epoch']:g}")
    if len(run.records) < num_epochs:
        _tell_early_stop(progress, name, len(run.records), num_epochs, steps)
    trainer.model.load_state_dict(run.best)
    return [{kind: record[kind] for kind in ("loss", "held_out", "learning_rate")} for record in run.records]


def best_epoch(held_out: list[float]) -> int:
    """Give the number, from 0, of the epoch whose weights are kept: of equal losses the last."""
    return max(range(len(held_out)), key=lambda epoch: (-held_out[epoch], epoch))


class _Run:
    """The state of a training, in memory and on disk."""

    def __init__(self, trainer: Trainer, checkpoint: Path, key: str, metrics: Path | None, group: Group) -> None:
        self.trainer, self.checkpoint, self.key, self.group = trainer, checkpoint, key, group
        self.metrics = metrics if group.is_first else None
        self.records: list[Record] = []
        self.best: dict[str, Tensor] = {}
        self._restore()
        if self.metrics:  # written anew: a crash may have lost a line, or left one that is torn
            write_atomically(self.metrics, "".join(map(_line, self.records)).encode())

    def keep(self, result: Metrics, seconds: float) -> None:
        """Keep what an epoch gave: the state first, which the lines are written from after a crash."""
        values = {"loss": result.loss, "held_out": result.held_out, "learning_rate": result.learning_rate}
        self.records.append({"epoch": len(self.records) + 1, **values, "seconds": round(seconds, 3)})
        if _waited(self.records) == 0:
            self.best = {name: value.clone() for name, value in self.trainer.measured.state_dict().items()}
        if not self.group.is_first:
            return
        tensors = _under("state", self.trainer.state()) | _under("best", self.best)
        write_atomically(self.checkpoint, save(tensors, {"run": json.dumps([self.key, self.records])}))
        if self.metrics:
            with self.metrics.open("a") as file:
                file.write(_line(self.records[-1]))

    def _restore(self) -> None:
        """Go on from the checkpoint, if there is one of this key."""
        content = self.checkpoint.read_bytes() if self.group.is_first and self.checkpoint.is_file() else b""
        header, tensors = _parse(self.group.share_bytes(content))
        if header[0] == self.key:
            self.trainer.restore(_below(tensors, "state"))
            self.records, self.best = header[1], _below(tensors, "best")


def _waited(records: list[Record]) -> int:
    """Count the epochs since the best one."""
    return len(records) - 1 - best_epoch([record["held_out"] for record in records]) if records else 0


def _check_finite(result: Metrics, epoch: int, name: str) -> None:
    if not (math.isfinite(result.loss) and math.isfinite(result.held_out)):
        raise ReductionError(
            f"{name}: the loss of epoch {epoch + 1} is {result.loss}, held out {result.held_out}: lower the "
            "learning_rate"
        )


def _telling(bar: Step, records: list[Record]) -> Callable[[int, float], None]:
    """Show the loss of the last step, smoothed, and what was held out's after the last epoch."""
    smoothed = records[-1]["loss"] if records else None

    def tell(step: int, loss: float) -> None:
        nonlocal smoothed
        smoothed = loss if smoothed is None else smoothed + SMOOTHING * (loss - smoothed)
        bar.advance(1, _note(smoothed, records))

    return tell


def _note(loss: float, records: list[Record]) -> str:
    return f"loss {loss:.4g}" + (f", held out {records[-1]['held_out']:.4g}" if records else "")


def _tell_early_stop(progress: JobProgress, name: str, done: int, num_epochs: int, steps: int) -> None:
    progress.say(
        f"{name}: stopped after {done} of {num_epochs} epochs, which saves {(num_epochs - done) * steps} steps: the "
        "held-out loss came down no further"
    )


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"


def _parse(content: bytes) -> tuple[list[Any], dict[str, Tensor]]:
    """Read a checkpoint: its key and records, and its tensors; a broken one or another file gives no key."""
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")  # of the header, by the format of safetensors
        return json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["run"]), tensors
    except (SafetensorError, ValueError, KeyError):
        return [None, []], {}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value.contiguous() for name, value in tensors.items()}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
