"""What the codecs ``dcnn`` and ``vqvae`` have in common: storing, seeds, threads, damage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from quietbeam.compress.codec import learned_codec
from quietbeam.compress.training import CodecTrainer
from quietbeam.reconstruction.errors import ArchiveError

from .volumes import foam

TINY = {"epochs": 2, "batch_size": 4, "steps_per_epoch": 5, "crop_size": 32, "slices_per_epoch": 4}
SHAPE = (3, 40, 52)
NUM_PARAMETERS = {"dcnn": 6681, "vqvae": 23_937}
"""Of the decoder, and the codebook if there is one, with latents of depth 8."""


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return foam(SHAPE, num_voids=12)


@pytest.fixture(scope="module", params=NUM_PARAMETERS)
def kind(request: pytest.FixtureRequest) -> Any:
    return learned_codec(request.param)


@pytest.fixture(scope="module")
def tiny(kind: Any) -> Any:
    return kind.settings_type.model_validate(TINY)


@pytest.fixture(scope="module")
def trained(kind: Any, tiny: Any, volume: np.ndarray) -> Any:
    return kind.fit(volume, tiny)


def test_a_stored_codec_decodes_to_the_same_bits(kind: Any, trained: Any, volume: np.ndarray) -> None:
    bitstream, stored = trained.encode(volume), kind.from_bytes(trained.to_bytes())
    np.testing.assert_array_equal(stored.decode(bitstream, SHAPE), trained.decode(bitstream, SHAPE))
    assert stored.to_bytes() == trained.to_bytes()
    assert stored.num_parameters == trained.num_parameters == NUM_PARAMETERS[kind.name]
    assert trained.bytes_per_voxel == len(trained.to_bytes()) / volume.size
    with pytest.raises(ValueError, match="only decodes"):
        stored.encode(volume)


def test_threads_change_no_bit(trained: Any, volume: np.ndarray) -> None:
    before, bitstream, decoded = torch.get_num_threads(), trained.encode(volume), []
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            decoded.append(trained.decode(bitstream, SHAPE))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*decoded)


def test_equal_seeds_give_equal_weights_and_leave_torch_alone(kind: Any, tiny: Any, volume: np.ndarray) -> None:
    before = torch.random.get_rng_state()
    states = [kind.for_volume(volume, tiny, seed).to_bytes() for seed in (3, 3, 4)]
    assert states[0] == states[1] != states[2]
    assert torch.equal(before, torch.random.get_rng_state())


def test_resumed_training_is_the_same_to_the_bit(kind: Any, tiny: Any, volume: np.ndarray) -> None:
    trainers = [CodecTrainer(kind.for_volume(volume, tiny, seed=0), volume, tiny, seed=0) for _ in range(2)]
    trainers[0].train_epoch(0)
    trainers[1].restore({name: value.clone() for name, value in trainers[0].state().items()})
    assert trainers[0].train_epoch(1) == trainers[1].train_epoch(1)


def test_volume_with_nan_is_refused(kind: Any, tiny: Any) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        kind.for_volume(np.full((2, 8, 8), np.nan, np.float32), tiny, seed=0)


def test_a_damaged_state_raises(kind: Any, trained: Any) -> None:
    state = trained.to_bytes()
    not_finite = state[:1] + np.array([np.nan, 1.0]).tobytes() + state[17:]
    for damaged in (b"", state[:-1], state[:30], b"\x07" + state[1:], b"\x04" + state[1:], not_finite):
        with pytest.raises(ArchiveError):
            kind.from_bytes(damaged)
