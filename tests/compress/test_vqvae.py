from __future__ import annotations

import numpy as np
import pytest
import torch

from quietbeam.compress.codec import codec
from quietbeam.compress.vqvae import VqvaeCodec, VqvaeSettings, vqvae_network

from .volumes import foam

TINY = VqvaeSettings(epochs=2, batch_size=4, steps_per_epoch=5, crop_size=32, slices_per_epoch=4)
SHAPE = (3, 40, 52)
TOLERANCE = 1e-2
"""In standard deviations: weights of 12 bits in three layers; a wrong layer would show as 0.5."""


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return foam(SHAPE, num_voids=12)


@pytest.fixture(scope="module")
def trained(volume: np.ndarray) -> VqvaeCodec:
    return VqvaeCodec.fit(volume, TINY)


@pytest.mark.parametrize(
    ("depth", "count", "edge", "entries"), [(8, 43_273, 128, 64), (4, 190_981, 64, 128), (2, 781_315, 32, 256)]
)
def test_parameters_and_latents_are_those_of_the_source(depth: int, count: int, edge: int, entries: int) -> None:
    with torch.device("meta"):
        network = vqvae_network(depth)
        latents = network["encoder"](torch.zeros(1, 1, 512, 512))
    assert latents.shape == (1, depth, edge, edge)
    assert network["decoder"](latents).shape == (1, 1, 512, 512)
    assert network["quantiser"].codebook.shape == (entries, depth)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_defaults_are_those_that_are_documented() -> None:
    defaults = VqvaeSettings()
    assert (defaults.epochs, defaults.batch_size, defaults.latent_depth) == (100, 128, 8)
    assert codec("vqvae") is VqvaeCodec


def test_training_beats_the_mean_image() -> None:
    noiseless = foam((6, 48, 48), num_voids=12, noise=0)
    longer = TINY.model_copy(update={"epochs": 15, "learning_rate": 5e-3, "steps_per_epoch": 10})
    built = VqvaeCodec.fit(noiseless, longer)
    decoded = built.decode(built.encode(noiseless), noiseless.shape)
    assert np.mean((decoded - noiseless) ** 2) < 0.2 * noiseless.var()


@pytest.mark.parametrize("depth", [8, 4, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 31, 33), (1, 64, 5)])
def test_any_slice_size_goes_through(depth: int, shape: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    built = VqvaeCodec.for_volume(volume, TINY.model_copy(update={"latent_depth": depth}), seed=0)
    decoded = built.decode(built.encode(volume), shape)
    assert decoded.shape == shape
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()


def test_a_constant_volume_is_approximated() -> None:
    volume = np.full((3, 40, 40), 7.5, np.float32)
    built = VqvaeCodec.for_volume(volume, TINY, seed=0)
    assert np.abs(built.decode(built.encode(volume), volume.shape) - 7.5).max() < 1


def test_whole_numbers_are_close_to_floats(trained: VqvaeCodec, volume: np.ndarray) -> None:
    mean, std = volume.mean(dtype=np.float64), volume.std(dtype=np.float64)
    slices = torch.from_numpy(((volume - mean) / std).astype(np.float32))[:, None]
    trained.network.eval()
    with torch.no_grad():
        latents, _ = trained.network["quantiser"](trained.network["encoder"](slices))
        expected = trained.network["decoder"](latents)[:, 0].numpy()
    decoded = (trained.decode(trained.encode(volume), SHAPE) - mean) / std
    assert np.quantile(np.abs(decoded - expected), 0.99) < TOLERANCE
