from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietbeam.compress.codec import codec, learned_codec
from quietbeam.compress.crae2 import Crae2Codec, Crae2Settings, float32_latents
from quietbeam.compress.importance import STEPS, WEIGHTS, Statistics, activity
from quietbeam.compress.training import CodecTrainer
from quietbeam.reconstruction.errors import ArchiveError

from .volumes import foam

TINY = Crae2Settings(
    width=4, latent_channels=8, batch_size=4, steps_per_epoch=5, crop_size=32, slices_per_epoch=4, epochs=2
)
ROUNDED_WEIGHTS = 0.02
"""In standard deviations: weights of 16 bits and values of 12 fraction bits, through five layers."""


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return foam((4, 50, 70), num_voids=10)


@pytest.fixture(scope="module")
def trained(volume: np.ndarray) -> Crae2Codec:
    return Crae2Codec.fit(volume, TINY)


@pytest.fixture(scope="module")
def by_importance(volume: np.ndarray) -> Crae2Codec:
    return Crae2Codec.fit(volume, TINY.model_copy(update={"importance": True}))


def test_parameter_counts_are_those_of_the_paper() -> None:
    stride, encoder, decoder = Crae2Codec.architecture
    assert parameters(encoder(64, 44)) == 203_374
    assert parameters(decoder(64, 44)) == 775_570
    latents = encoder(8, 44)(torch.zeros(1, 1, 128, 128))
    assert latents.shape == (1, 44, 128 // stride, 128 // stride)
    assert decoder(8, 44)(latents).shape == (1, 1, 128, 128)


def test_the_codec_is_found_by_name() -> None:
    assert codec("crae2") is learned_codec("crae2") is Crae2Codec


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 31, 33), (1, 64, 5)])
@pytest.mark.parametrize("importance", [False, True])
def test_any_slice_size_goes_through(shape: tuple[int, int, int], importance: bool) -> None:
    volume = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    built = Crae2Codec.for_volume(volume, TINY.model_copy(update={"importance": importance}), seed=0)
    approximated = built.decode(built.encode(volume), shape)
    assert approximated.shape == shape
    assert approximated.dtype == np.float32
    assert np.isfinite(approximated).all()


def test_stored_decoder_gives_the_same_bits(volume: np.ndarray, by_importance: Crae2Codec) -> None:
    bitstream = by_importance.encode(volume)
    again = Crae2Codec.from_bytes(by_importance.to_bytes())
    np.testing.assert_array_equal(again.decode(bitstream, volume.shape), by_importance.decode(bitstream, volume.shape))
    assert again.num_parameters == by_importance.num_parameters
    assert again.to_bytes() == by_importance.to_bytes()


def test_a_slice_decodes_to_the_same_bits_in_any_chunk(volume: np.ndarray, trained: Crae2Codec) -> None:
    together = trained.decode(trained.encode(volume), volume.shape)
    alone = trained.decode(trained.encode(volume[2:3]), (1, 50, 70))
    np.testing.assert_array_equal(alone[0], together[2])


def test_whole_numbers_are_near_the_trained_network(volume: np.ndarray) -> None:
    built = Crae2Codec.fit(volume, TINY.model_copy(update={"weight_bits": 16}))
    # Latents that are hardly rounded, so that what differs is the arithmetic of the decoder.
    with torch.no_grad():
        built.network["encoder"][-1].weight *= 500
        built.network["encoder"][-1].bias *= 500
        built.network["decoder"][0].weight /= 500
    unrounded, _ = built.through_float32(volume)
    decoded = built.decode(built.encode(volume), volume.shape)
    assert np.abs(decoded - unrounded).max() < ROUNDED_WEIGHTS * volume.std()


def test_training_lowers_the_error(volume: np.ndarray) -> None:
    whole = TINY.model_copy(update={"crop_size": 96, "learning_rate": 1e-2})
    codecs = [Crae2Codec.fit(volume, whole.model_copy(update={"epochs": epochs})) for epochs in (1, 12)]
    errors = [np.square(built.decode(built.encode(volume), volume.shape) - volume).mean() for built in codecs]
    assert errors[1] < 0.8 * errors[0]


def test_a_crop_as_large_as_the_slices_trains_on_them_whole(volume: np.ndarray) -> None:
    whole = TINY.model_copy(update={"crop_size": 96})
    built = Crae2Codec.for_volume(volume, whole, seed=0)
    seen = []
    loss = built.loss
    built.loss = lambda crops: seen.append(crops) or loss(crops)  # type: ignore[method-assign,func-returns-value]
    CodecTrainer(built, volume, whole, seed=0).train_epoch(0)
    assert {tuple(crops.shape[1:]) for crops in seen} == {(1, 64, 96)}
    assert all((crops[:, 0, :50, :70] == torch.from_numpy(volume)[:, None]).all((2, 3)).any() for crops in seen)


def test_importance_puts_tiles_with_edges_above_flat_ones() -> None:
    volume = np.zeros((1, 96, 96), np.float32)
    volume[0, :32, :16] = 1
    volume[0, 40:52:3, 40:52] = 1
    built = Crae2Codec.for_volume(volume, TINY.model_copy(update={"importance": True}), seed=0)
    _, levels = built._latents(volume[0])
    assert levels.shape == (1, 1, 3, 3)
    assert levels[0, 0, 1, 1] == levels.max() == 1
    assert levels[0, 0, 2, 2] == levels.min() == 0


def test_steps_belong_to_the_weights() -> None:
    assert np.average(WEIGHTS, weights=(2, 1)) == pytest.approx(1)
    np.testing.assert_allclose(np.array(WEIGHTS) * np.square(STEPS), WEIGHTS[-1])


def test_activity_is_the_mean_absolute_difference_of_a_tile() -> None:
    ramp = torch.arange(64.0).expand(1, 1, 32, 64)
    found = activity(ramp, 32)
    torch.testing.assert_close(found, torch.tensor([[[[1.0, 31 / 32]]]]))


def test_a_level_costs_little(volume: np.ndarray, by_importance: Crae2Codec) -> None:
    bitstream = by_importance.encode(volume)
    num_bytes = bitstream[0]
    assert 0 < num_bytes <= 40


def test_float32_latents_take_17_percent_of_8_bit_slices() -> None:
    volume = foam((2, 64, 96), num_voids=10)
    found = float32_latents(volume, TINY.model_copy(update={"latent_channels": 44, "epochs": 1}))
    assert found.share_of_8_bit == pytest.approx(0.172, abs=5e-4)
    assert found.bits_per_voxel == pytest.approx(8 * found.share_of_8_bit)
    assert 0 < found.psnr < 60


def test_encoding_with_a_stored_decoder_is_refused(volume: np.ndarray, trained: Crae2Codec) -> None:
    stored = Crae2Codec.from_bytes(trained.to_bytes())
    with pytest.raises(ValueError, match=r"only decodes; Crae2Codec.fit"):
        stored.encode(volume)
    with pytest.raises(ValueError, match="must have its encoder"):
        Crae2Codec.for_volume(volume, TINY, seed=0, start=stored)


def test_equal_seeds_give_equal_codecs(volume: np.ndarray, trained: Crae2Codec) -> None:
    assert Crae2Codec.fit(volume, TINY).to_bytes() == trained.to_bytes()
    assert Crae2Codec.for_volume(volume, TINY, 3).to_bytes() != Crae2Codec.for_volume(volume, TINY, 4).to_bytes()


def test_a_damaged_state_raises(trained: Crae2Codec) -> None:
    state = trained.to_bytes()
    nan = state[:2] + struct.pack("<dd", np.nan, 1.0) + state[18:]
    wide = b"\xff\x03" + state[1:]
    for damaged in (b"", state[:10], state[:40], state[:-1], b"\0" + state[1:], nan, wide):
        with pytest.raises(ArchiveError, match=r"damaged|cut"):
            Crae2Codec.from_bytes(damaged)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_bitstream_raises_or_gives_the_right_shape(
    volume: np.ndarray, by_importance: Crae2Codec, place: int, byte: int
) -> None:
    damaged = bytearray(by_importance.encode(volume))
    damaged[place % len(damaged)] = byte
    try:
        decoded = by_importance.decode(bytes(damaged), volume.shape)
    except ArchiveError:
        return
    assert decoded.shape == volume.shape


def test_volume_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Statistics.of(np.full((2, 8, 8), np.nan, np.float32), 32)
