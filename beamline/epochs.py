"""Epochs of a training, with the state kept on disk after each: the one loop for the denoiser and the codecs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from quietbeam.reconstruction.errors import ReductionError

from .atomic import write_atomically
from .progress import JobProgress, Step

__all__ = ["Trainer", "train"]


class Metrics(Protocol):
    """What an epoch gives."""

    @property
    def loss(self) -> float:
        """Mean loss of the steps."""

    @property
    def held_out(self) -> float:
        """Loss on what is not trained on."""


class Trainer(Protocol):
    """A model that learns epoch by epoch, each a function of the state and the epoch's number."""

    @property
    def model(self) -> nn.Module:
        """What learns."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """How it learns."""

    @property
    def steps_per_epoch(self) -> int:
        """Calls of `on_step` in an epoch."""

    def train_epoch(self, epoch: int, on_step: Callable[[int, float], None], /) -> Metrics:
        """Train one epoch."""


def train(
    trainer: Trainer, num_epochs: int, checkpoint: Path, key: str, *, name: str, progress: JobProgress
) -> list[dict[str, float]]:
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

    Returns
    -------
    list of dict
        ``loss`` and ``held_out`` of each epoch.
    """
    history, best = _restore(trainer, checkpoint, key)
    steps = trainer.steps_per_epoch
    with progress.stage(name, num_epochs * steps, len(history) * steps) as bar:
        for epoch in range(len(history), num_epochs):
            metrics = trainer.train_epoch(epoch, _telling(bar, history))
            if not (math.isfinite(metrics.loss) and math.isfinite(metrics.held_out)):
                raise ReductionError(
                    f"{name}: the loss of epoch {epoch + 1} is {metrics.loss}: lower the learning_rate"
                )
            history.append({"loss": metrics.loss, "held_out": metrics.held_out})
            if metrics.held_out <= min(past["held_out"] for past in history):
                best = {key: value.clone() for key, value in trainer.model.state_dict().items()}
            _keep(trainer, checkpoint, key, history, best)
    trainer.model.load_state_dict(best)
    return history


def _telling(bar: Step, history: list[dict[str, float]]) -> Callable[[int, float], None]:
    note = f"held-out loss {history[-1]['held_out']:.4g}" if history else ""
    return lambda step, loss: bar.advance(1, note or f"loss {loss:.4g}")


def _keep(
    trainer: Trainer, checkpoint: Path, key: str, history: list[dict[str, float]], best: dict[str, Tensor]
) -> None:
    tensors = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    header = json.dumps({"key": key, "history": history})
    write_atomically(checkpoint, save({name: value.contiguous() for name, value in tensors.items()}, {"state": header}))


def _restore(trainer: Trainer, checkpoint: Path, key: str) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Put the state of a checkpoint into the trainer; an untouched trainer and an empty history if there is none."""
    header, tensors = _read(checkpoint)
    if header.get("key") != key:
        return [], {}
    trainer.model.load_state_dict(_below(tensors, "model"))
    optimizer: dict[str, Any] = trainer.optimizer.state_dict()
    optimizer["state"] = {}
    for name, value in _below(tensors, "optimizer").items():
        index, _, field = name.partition(".")
        optimizer["state"].setdefault(int(index), {})[field] = value
    trainer.optimizer.load_state_dict(optimizer)
    return header["history"], _below(tensors, "best")


def _read(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(checkpoint, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("state", "{}"))
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError):
        return {}, {}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
