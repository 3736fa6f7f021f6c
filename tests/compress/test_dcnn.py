from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quietbeam.compress.codec import codec
from quietbeam.compress.dcnn import DcnnCodec, DcnnSettings, dcnn_decoder, dcnn_encoder
from quietbeam.compress.latents import decode_latents
from quietbeam.reconstruction.errors import ArchiveError

from .volumes import foam

TINY = DcnnSettings(epochs=2, batch_size=4, steps_per_epoch=5, crop_size=32, slices_per_epoch=4)
SHAPE = (3, 40, 52)
TOLERANCE = 2e-3
"""Of the range of values: weights of 12 bits in six layers; a wrong layer would show as 0.1."""


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return foam(SHAPE, num_voids=12)


@pytest.fixture(scope="module")
def trained(volume: np.ndarray) -> DcnnCodec:
    return DcnnCodec.fit(volume, TINY)


@pytest.mark.parametrize(("depth", "count", "edge"), [(8, 12_785, 128), (4, 12_937, 64), (2, 12_977, 32)])
def test_parameters_and_latents_are_those_of_the_source(depth: int, count: int, edge: int) -> None:
    with torch.device("meta"):
        encoder, decoder = dcnn_encoder(depth), dcnn_decoder(depth)
        latents = encoder(torch.zeros(1, 1, 512, 512))
    assert latents.shape == (1, depth, edge, edge)
    assert decoder(latents).shape == (1, 1, 512, 512)
    assert sum(parameter.numel() for part in (encoder, decoder) for parameter in part.parameters()) == count


def test_defaults_are_those_of_the_source() -> None:
    defaults = DcnnSettings()
    assert (defaults.epochs, defaults.batch_size, defaults.latent_depth) == (100, 128, 8)
    assert codec("dcnn") is DcnnCodec


@pytest.mark.slow
def test_training_beats_the_mean_image() -> None:
    noiseless = foam((6, 48, 48), num_voids=12, noise=0)
    longer = TINY.model_copy(update={"epochs": 15, "learning_rate": 1e-2, "steps_per_epoch": 10})
    built = DcnnCodec.fit(noiseless, longer)
    decoded = built.decode(built.encode(noiseless), noiseless.shape)
    assert np.mean((decoded - noiseless) ** 2) < 0.2 * noiseless.var()


@pytest.mark.parametrize("depth", [8, 4, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 31, 33), (1, 64, 5)])
def test_any_slice_size_goes_through(depth: int, shape: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    built = DcnnCodec.for_volume(volume, TINY.model_copy(update={"latent_depth": depth}), seed=0)
    decoded = built.decode(built.encode(volume), shape)
    assert decoded.shape == shape
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("value", [0.0, -7.5, 1e20])
def test_constant_volumes_go_through(value: float) -> None:
    volume = np.full((2, 20, 20), value, np.float32)
    built = DcnnCodec.for_volume(volume, TINY, seed=0)
    assert np.isfinite(built.decode(built.encode(volume), volume.shape)).all()


def test_whole_numbers_are_close_to_floats(trained: DcnnCodec, volume: np.ndarray) -> None:
    bitstream = trained.encode(volume)
    steps = 2.0 ** (np.frombuffer(bitstream[:8], np.uint8) - 12.0)
    latents = steps[:, None, None] * decode_latents(bitstream[8:], (3, 8, 10, 13))
    with torch.no_grad():
        expected = trained.network["decoder"](torch.from_numpy(latents).float())[:, 0].numpy()
    low, high = float(volume.min()), float(volume.max())
    assert np.abs((trained.decode(bitstream, SHAPE) - low) / (high - low) - expected).max() < TOLERANCE


def test_rounding_costs_no_more_than_it_may(trained: DcnnCodec, volume: np.ndarray) -> None:
    sizes, errors = [], []
    for rounding_loss in (1e-6, 0.05, 1.0):
        changed = TINY.model_copy(update={"rounding_loss": rounding_loss, "weight_bits": 16})
        built = DcnnCodec(
            trained.network["encoder"],
            trained.network["decoder"],
            (float(volume.min()), float(volume.max())),
            changed,
        )
        bitstream = built.encode(volume)
        sizes.append(len(bitstream))
        errors.append(float(np.mean((built.decode(bitstream, SHAPE)[1] - volume[1]) ** 2)))
    assert sizes[0] > sizes[1] >= sizes[2]
    assert errors[1] < 1.06 * errors[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255), st.integers(0, 3))
def test_a_damaged_bitstream_raises_or_keeps_the_shape(place: int, flip: int, cut: int) -> None:
    shape = (1, 9, 13)
    chunk = np.random.default_rng(0).random(shape, np.float32)
    built = DcnnCodec.for_volume(chunk, TINY, seed=0)
    bitstream = bytearray(built.encode(chunk))
    bitstream[place % len(bitstream)] ^= flip
    try:
        decoded = built.decode(bytes(bitstream[: len(bitstream) - cut]), shape)
    except ArchiveError:
        return
    assert decoded.shape == shape
