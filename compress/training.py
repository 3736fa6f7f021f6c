"""One training loop for all learned codecs: no disk, no clock, no choice of device.

An epoch is a function of the weights, the optimiser's state, the seed and the epoch's number, so that training which is
taken up again from a checkpoint gives the same bits on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .codec import CodecSettings, LearnedCodec, SliceSource

__all__ = ["CodecTrainer", "EpochMetrics", "fit_codec"]

_L = TypeVar("_L", bound=LearnedCodec)

_MOST_HELD_OUT = 4
_TILE = 32


class EpochMetrics(NamedTuple):
    """How an epoch went.

    Attributes
    ----------
    loss : float
        Mean over the steps of the epoch.
    held_out : float
        Loss on the held-out crops after the epoch.
    learning_rate : float
        Step size.
    """

    loss: float
    held_out: float
    learning_rate: float


def fit_codec(
    kind: type[_L],
    volume: SliceSource,
    settings: Any,
    *,
    seed: int = 0,
    start: _L | None = None,
    clock: Callable[[], float] = time.process_time,
) -> _L:
    """Train a codec on a volume for the epochs or the minutes of its settings, and keep the weights of the best epoch.

    Parameters
    ----------
    kind : type
        A `LearnedCodec`.
    volume : SliceSource
        Shape (slice, y, x).
    settings : CodecSettings
        Of the kind's `settings_type`.
    seed : int
        Of the weights and of the crops.
    start : LearnedCodec, optional
        Built by `for_volume`, to be trained further in place of a new one.
    clock : callable
        Seconds, for settings that give minutes; with epochs, equal arguments give equal weights.

    Returns
    -------
    LearnedCodec
        Trained; of the kind.
    """
    codec = start or kind.for_volume(volume, settings, seed)
    trainer = CodecTrainer(codec, volume, settings, seed)
    end, epoch, least = clock() + 60 * settings.minutes, 0, np.inf
    best = trainer.model.state_dict()
    while epoch < settings.epochs if settings.epochs else epoch == 0 or clock() < end:
        held_out = trainer.train_epoch(epoch).held_out
        if held_out < least:
            least, best = held_out, {name: value.clone() for name, value in trainer.model.state_dict().items()}
        epoch += 1
    trainer.model.load_state_dict(best)
    return codec


class CodecTrainer:
    """Trains a codec on random crops of a volume's slices.

    About one slice in ten, at most four, is held out; of a volume with one slice, that one is trained on too.

    Parameters
    ----------
    codec : LearnedCodec
        Built by `for_volume`; its network is trained in place, on the device where it is.
    source : SliceSource
        The volume, shape (slice, y, x); only `slices_per_epoch` slices are read for an epoch.
    settings : CodecSettings
        Crop size, batch size, steps, learning rate.
    seed : int
        Which crops are drawn.

    Attributes
    ----------
    model, measured : torch.nn.Module
        What is trained, encoder and decoder, and whose held-out loss is taken: the same.
    optimizer : torch.optim.Optimizer
        Adam.
    steps_per_epoch : int
        Calls of `on_step` in an epoch.
    """

    model: nn.Module
    measured: nn.Module
    optimizer: torch.optim.Optimizer
    steps_per_epoch: int

    def __init__(self, codec: LearnedCodec, source: SliceSource, settings: CodecSettings, seed: int) -> None:
        self._codec, self._source, self._settings, self._seed = codec, source, settings, seed
        self.model = self.measured = codec.network
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        self.steps_per_epoch = settings.steps_per_epoch
        num_slices = source.shape[0]
        self._held_out = _evenly_spaced(num_slices, min(_MOST_HELD_OUT, -(-num_slices // 10)))
        self._trained = sorted(set(range(num_slices)) - set(self._held_out)) or self._held_out

    def train_epoch(self, epoch: int, on_step: Callable[[int, float], None] = lambda step, loss: None) -> EpochMetrics:
        """Train for one epoch.

        Parameters
        ----------
        epoch : int
            Its number, from 0; the crops depend on nothing but the seed and this.
        on_step : callable
            Called after each step with the number of steps done in the epoch, from 1, and the step's loss.

        Returns
        -------
        EpochMetrics
            Mean loss, and loss on the held-out crops.
        """
        rng = np.random.default_rng([self._seed, epoch])
        num_read = min(self._settings.slices_per_epoch, len(self._trained))
        planes = self._read(sorted(rng.choice(self._trained, num_read, replace=False).tolist()))
        losses = []
        self.model.train()
        for step in range(self.steps_per_epoch):
            crops = [self._crop(planes[rng.integers(len(planes))], rng) for _ in range(self._settings.batch_size)]
            losses.append(self._step(self._batch(crops)))
            on_step(step + 1, losses[-1])
        return EpochMetrics(float(np.mean(losses)), self.held_out_loss(), self._settings.learning_rate)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Give the loss on the middle of the held-out slices."""
        self.model.eval()
        crops = [self._crop(plane, None) for plane in self._read(self._held_out)]
        return float(self._codec.loss(self._batch(crops)))

    def state(self) -> dict[str, Tensor]:
        """Give all that the coming epochs depend on, beside the settings: weights and Adam's moments."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        return tensors

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave; training then goes on as it would have.

        Parameters
        ----------
        state : dict of str to Tensor
            From a trainer of the same settings and volume.
        """
        names = self.model.state_dict()
        self.model.load_state_dict({name: state[f"model.{name}"] for name in names})
        moments: dict[int, dict[str, Tensor]] = {}
        for index, name in (key.split(".")[1:] for key in state if key.startswith("optimizer.")):
            moments.setdefault(int(index), {})[name] = state[f"optimizer.{index}.{name}"]
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})

    def _step(self, crops: Tensor) -> float:
        self.optimizer.zero_grad()
        loss = self._codec.loss(crops)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def _batch(self, crops: list[NDArray[np.float32]]) -> Tensor:
        return torch.from_numpy(np.stack(crops)[:, None]).to(next(self.model.parameters()).device)

    def _read(self, indices: list[int]) -> NDArray[np.float32]:
        return np.concatenate([np.asarray(self._source[index : index + 1], np.float32) for index in indices])

    def _crop(self, plane: NDArray[np.float32], rng: np.random.Generator | None) -> NDArray[np.float32]:
        """Cut a square out, at random or from the middle; a smaller slice is enlarged to multiples of 32."""
        free = [max(size - self._settings.crop_size, 0) for size in plane.shape]
        y, x = ((size // 2 if rng is None else int(rng.integers(size + 1))) for size in free)
        crop = plane[y : y + self._settings.crop_size, x : x + self._settings.crop_size]
        if self._settings.augment and rng is not None:
            crop = np.rot90(crop[:: rng.choice((-1, 1))], int(rng.integers(4)) if crop.shape[0] == crop.shape[1] else 0)
        return np.pad(crop, [(0, -size % _TILE) for size in crop.shape], mode="edge")


def _evenly_spaced(num_slices: int, count: int) -> list[int]:
    """Give the middles of `count` equal parts."""
    return [(2 * part + 1) * num_slices // (2 * count) for part in range(count)]
