from __future__ import annotations

import numpy as np
import pytest
import torch

from quietbeam.compress.codec import codec, known_codecs
from quietbeam.compress.crae import CraeCodec, CraeDecoder, CraeEncoder, CraeSettings
from quietbeam.compress.training import CodecTrainer
from quietbeam.reconstruction.errors import ArchiveError

from .volumes import foam

TINY = CraeSettings(width=4, latent_channels=8, batch_size=4, steps_per_epoch=5, crop_size=32, slices_per_epoch=4)
TOLERANCE = 1e-5
"""float32 convolutions of values of order 1; the rounding of the weights to float16 would show as 1e-3."""


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def trained(volume: np.ndarray, epochs: int = 2) -> CraeCodec:
    built = CraeCodec.for_volume(volume, TINY, seed=0)
    trainer = CodecTrainer(built, volume, TINY, seed=0)
    for epoch in range(epochs):
        trainer.train_epoch(epoch)
    return built


def test_parameter_counts_are_those_of_the_documented_table() -> None:
    assert parameters(CraeEncoder(64, 44)) == 203_374
    assert parameters(CraeDecoder(64, 44)) == 775_614


def test_paper_latents_are_17_percent_of_8_bit_pixels() -> None:
    with torch.no_grad():
        latents = CraeEncoder(64, 44)(torch.zeros(1, 1, 64, 96))
        assert latents.shape == (1, 44, 2, 3)
        assert CraeDecoder(64, 44)(latents).shape == (1, 1, 64, 96)
    assert 4 * latents.numel() / (64 * 96) == pytest.approx(0.172, abs=5e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 31, 33), (3, 64, 5), (1, 1, 100)])
def test_any_slice_size_goes_through(shape: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    built = trained(volume, epochs=1)
    approximated = built.decode(built.encode(volume), shape)
    assert approximated.shape == shape
    assert approximated.dtype == np.float32
    assert np.isfinite(approximated).all()


def test_a_constant_volume_is_approximated() -> None:
    volume = np.full((3, 40, 40), 7.5, np.float32)
    built = CraeCodec.for_volume(volume, TINY, seed=0)
    assert np.abs(built.decode(built.encode(volume), volume.shape) - 7.5).max() < 1


def test_stored_decoder_gives_what_the_encoder_side_gives() -> None:
    volume = foam((4, 50, 70), num_voids=10)
    built = trained(volume)
    bitstream = built.encode(volume)
    again = CraeCodec.from_bytes(built.to_bytes())
    np.testing.assert_array_equal(again.decode(bitstream, volume.shape), built.decode(bitstream, volume.shape))
    assert again.num_parameters == built.num_parameters
    assert again.to_bytes() == built.to_bytes()


def test_a_slice_decodes_the_same_in_any_chunk() -> None:
    volume = foam((4, 50, 70), num_voids=10)
    built = trained(volume)
    together = built.decode(built.encode(volume), volume.shape)
    alone = built.decode(built.encode(volume[2:3]), (1, 50, 70))
    np.testing.assert_allclose(alone[0], together[2], atol=TOLERANCE)


def test_encoding_with_a_stored_decoder_is_refused() -> None:
    volume = np.zeros((1, 32, 32), np.float32)
    stored = CraeCodec.from_bytes(CraeCodec.for_volume(volume, TINY, seed=0).to_bytes())
    with pytest.raises(ValueError, match="only decodes"):
        stored.encode(volume)


def test_equal_seeds_give_equal_weights_and_leave_torch_alone() -> None:
    volume = np.zeros((1, 32, 32), np.float32)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    states = [CraeCodec.for_volume(volume, TINY, seed).to_bytes() for seed in (3, 3, 4)]
    assert states[0] == states[1] != states[2]
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("edge", "width"), [(64, 8), (500, 32), (600, 64)])
def test_width_follows_the_size_of_the_volume(edge: int, width: int) -> None:
    volume = np.broadcast_to(np.float32(0), (edge, edge, edge))
    assert CraeCodec.for_volume(volume[:, :, :], CraeSettings(), seed=0).width == width


def test_a_damaged_state_raises() -> None:
    state = CraeCodec.for_volume(np.zeros((1, 32, 32), np.float32), TINY, seed=0).to_bytes()
    for damaged in (b"", state[:-1], state[:100], state.replace(b"layers.0.weight", b"layers.9.weight")):
        with pytest.raises(ArchiveError, match="decoder of codec crae is damaged"):
            CraeCodec.from_bytes(damaged)


def test_volume_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        CraeCodec.for_volume(np.full((2, 8, 8), np.nan, np.float32), TINY, seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_codec_trained_on_a_gpu_decodes_as_its_stored_decoder_does() -> None:
    volume = foam((6, 50, 70), num_voids=10)
    built = CraeCodec.for_volume(volume, TINY, seed=0)
    built.network.cuda()
    CodecTrainer(built, volume, TINY, seed=0).train_epoch(0)
    bitstream, stored = built.encode(volume), CraeCodec.from_bytes(built.to_bytes())
    np.testing.assert_array_equal(stored.decode(bitstream, volume.shape), built.decode(bitstream, volume.shape))


def test_unknown_codec_lists_the_known_ones() -> None:
    assert codec("crae") is CraeCodec
    assert "crae" in known_codecs()
    with pytest.raises(ValueError, match=r"codec must be one of .*crae.*, got 'craee'"):
        codec("craee")
