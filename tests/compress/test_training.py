from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from quietbeam.compress.crae import CraeCodec, CraeSettings
from quietbeam.compress.training import CodecTrainer

from .volumes import foam

SETTINGS = CraeSettings(width=8, latent_channels=16, batch_size=4, steps_per_epoch=10, crop_size=32, slices_per_epoch=4)


class CountingSource:
    """A volume that notes which slices were read, as a file would."""

    def __init__(self, volume: np.ndarray) -> None:
        self._volume, self.read = volume, set[int]()

    @property
    def shape(self) -> tuple[int, ...]:
        return self._volume.shape

    def __getitem__(self, index: slice) -> np.ndarray:
        self.read |= set(range(*index.indices(len(self._volume))))
        return self._volume[index]


def trainer_for(volume: np.ndarray, seed: int = 0) -> CodecTrainer:
    return CodecTrainer(CraeCodec.for_volume(volume, SETTINGS, seed=0), volume, SETTINGS, seed)


def same_weights(first: CodecTrainer, second: CodecTrainer) -> bool:
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_training_lowers_the_held_out_loss() -> None:
    trainer = trainer_for(foam((12, 64, 64), num_voids=30))
    before = trainer.held_out_loss()
    metrics = [trainer.train_epoch(epoch) for epoch in range(8)]
    assert metrics[-1].held_out < 0.6 * before
    assert metrics[-1].loss < metrics[0].loss


def test_resumed_training_is_the_same_to_the_bit() -> None:
    volume = foam((6, 48, 48), num_voids=10)
    whole = trainer_for(volume)
    whole.train_epoch(0)
    weights, state = copy.deepcopy(whole.model.state_dict()), copy.deepcopy(whole.optimizer.state_dict())
    metrics = whole.train_epoch(1)
    resumed = trainer_for(volume)
    resumed.model.load_state_dict(weights)
    resumed.optimizer.load_state_dict(state)
    assert resumed.train_epoch(1) == metrics
    assert same_weights(resumed, whole)


def test_another_seed_draws_other_crops() -> None:
    volume = foam((6, 48, 48), num_voids=10)
    first, second = trainer_for(volume, seed=0), trainer_for(volume, seed=1)
    first.train_epoch(0)
    second.train_epoch(0)
    assert not same_weights(first, second)


def test_only_some_slices_are_read_and_none_is_held_out_and_trained_on() -> None:
    source = CountingSource(foam((40, 32, 32), num_voids=10))
    trainer = CodecTrainer(CraeCodec.for_volume(source, SETTINGS, seed=0), source, SETTINGS, seed=0)
    source.read.clear()
    trainer.held_out_loss()
    held_out = set(source.read)
    assert len(held_out) == 4
    source.read.clear()
    trainer.train_epoch(0)
    assert len(source.read - held_out) == SETTINGS.slices_per_epoch


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 20), (2, 33, 100)])
def test_small_volumes_train(shape: tuple[int, int, int]) -> None:
    metrics = trainer_for(np.random.default_rng(0).random(shape, np.float32)).train_epoch(0)
    assert np.isfinite(metrics).all()


def test_steps_are_reported() -> None:
    seen: list[int] = []
    trainer = trainer_for(foam((6, 48, 48), num_voids=10))
    trainer.train_epoch(0, lambda step, loss: seen.append(step))
    assert seen == list(range(1, trainer.steps_per_epoch + 1))
