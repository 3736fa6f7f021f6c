from __future__ import annotations

import numpy as np
import pytest
import torch

from quietbeam.compress.autoencoder import AeCodec, CnnCodec, DcaeCodec
from quietbeam.compress.codec import codec
from quietbeam.compress.latent_codec import LatentCodec
from quietbeam.reconstruction.errors import ArchiveError

from .volumes import foam

TINY = {"width": 4, "batch_size": 2, "steps_per_epoch": 3, "crop_size": 64, "slices_per_epoch": 4, "epochs": 1}
KINDS = {"ae": AeCodec, "cnn": CnnCodec, "dcae": DcaeCodec}


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest) -> LatentCodec:
    kind = KINDS[request.param]
    return kind.fit(foam((3, 50, 70), num_voids=10), kind.settings_type(**TINY))


@pytest.mark.parametrize(
    ("name", "latent_channels", "in_encoder", "in_decoder"),
    [
        ("ae", 16, 32_897 + 8_257 + 1_040, 1_089 + 8_321 + 33_024),
        ("cnn", 16, 321 + 18_497 + 9_232, 16_449 + 32_801 + 513),
        ("dcae", 32, 321 + 27_746 + 92_354 + 110_786 + 18_464, 92_354 + 139_458 + 51_298 + 16_417 + 513),
    ],
)
def test_parameter_counts_are_those_of_the_documented_tables(
    name: str, latent_channels: int, in_encoder: int, in_decoder: int
) -> None:
    kind = KINDS[name]
    volume = np.zeros((1, 16, 16), np.float32)
    built = kind.for_volume(volume, kind.settings_type(), seed=0)
    assert parameters(built.network["encoder"]) == in_encoder
    assert built.num_parameters == parameters(built.network["decoder"]) == in_decoder
    latents = built.network["encoder"](torch.zeros(1, 1, 256, 256))
    assert latents.shape == (1, latent_channels, 256 // kind.architecture.stride, 256 // kind.architecture.stride)
    assert built.network["decoder"](latents).shape == (1, 1, 256, 256)


@pytest.mark.parametrize("name", KINDS)
def test_defaults_are_those_of_the_source(name: str) -> None:
    assert codec(name) is KINDS[name]
    settings = KINDS[name].settings_type()
    assert (settings.batch_size, settings.crop_size) == (4, 256)
    assert (settings.training_share, settings.validation_share) == (0.6, 0.2)


def test_all_activations_are_prelus() -> None:
    for kind in KINDS.values():
        for part in (kind.architecture.encoder(4, 4), kind.architecture.decoder(4, 4)):
            kinds = {type(module).__name__ for module in part.modules()}
            assert "PReLU" in kinds
            assert kinds <= {"Sequential", "Residual", "Conv2d", "ConvTranspose2d", "PReLU", "PixelShuffle"}


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 31, 33), (1, 64, 5)])
def test_any_slice_size_goes_through(trained: LatentCodec, shape: tuple[int, int, int]) -> None:
    chunk = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    approximated = trained.decode(trained.encode(chunk), shape)
    assert approximated.shape == shape
    assert approximated.dtype == np.float32
    assert np.isfinite(approximated).all()


def test_stored_decoder_gives_the_same_bits(trained: LatentCodec) -> None:
    volume = foam((3, 50, 70), num_voids=10)
    bitstream, state = trained.encode(volume), trained.to_bytes()
    again = type(trained).from_bytes(state)
    np.testing.assert_array_equal(again.decode(bitstream, volume.shape), trained.decode(bitstream, volume.shape))
    assert again.to_bytes() == state
    assert trained.bytes_per_voxel == pytest.approx(len(state) / volume.size)


def test_the_number_of_threads_changes_no_bit(trained: LatentCodec) -> None:
    volume = foam((1, 80, 90), num_voids=10)
    bitstream, threads = trained.encode(volume), torch.get_num_threads()
    decoded = []
    for number in (1, 2):
        torch.set_num_threads(number)
        decoded.append(trained.decode(bitstream, volume.shape))
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(*decoded)


def test_a_damaged_state_raises(trained: LatentCodec) -> None:
    state = trained.to_bytes()
    for damaged in (b"", state[:9], state[:30], state[:-1], b"\xff\x03" + state[1:]):
        with pytest.raises(ArchiveError):
            type(trained).from_bytes(damaged)


def test_a_damaged_bitstream_raises_or_gives_the_right_shape(trained: LatentCodec) -> None:
    volume = foam((2, 50, 70), num_voids=10)
    bitstream = trained.encode(volume)
    with pytest.raises(ArchiveError):
        trained.decode(b"", volume.shape)
    for place in range(0, len(bitstream), 1 + len(bitstream) // 20):
        damaged = bitstream[:place] + bytes([bitstream[place] ^ 0x55]) + bitstream[place + 1 :]
        try:
            assert trained.decode(damaged, volume.shape).shape == volume.shape
        except ArchiveError:
            continue


def test_more_latents_than_pixels_are_refused() -> None:
    volume = np.zeros((1, 16, 16), np.float32)
    with pytest.raises(ValueError, match="latent_channels of codec cnn must be at most 64, got 65"):
        CnnCodec.for_volume(volume, CnnCodec.settings_type(latent_channels=65), seed=0)


def test_training_lowers_the_error() -> None:
    volume = foam((6, 64, 64), num_voids=20)
    codecs = [CnnCodec.fit(volume, CnnCodec.settings_type(**{**TINY, "epochs": epochs})) for epochs in (1, 25)]
    errors = [np.square(built.decode(built.encode(volume), volume.shape) - volume).mean() for built in codecs]
    assert errors[1] < 0.7 * errors[0]
