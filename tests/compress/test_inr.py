from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quietbeam.compress.bitstream import varint
from quietbeam.compress.codec import codec
from quietbeam.compress.inr import InrCodec, InrSettings, downsample, parameter_count
from quietbeam.compress.integer_tensors import integer_tensors, tensors_to_bytes
from quietbeam.compress.siren import VALUE_BITS, Siren, in_turns
from quietbeam.compress.super_resolution import SuperResolution
from quietbeam.reconstruction.errors import ArchiveError

from .volumes import foam

TINY = InrSettings(width=12, channels=4, patch_size=8, epochs=3)
FOURIER = 1e-12
"""float64 transforms of values of order 1."""
PINNED = "343ad887781be507d47caa5247b549c0de0fb9afeb20fe028b182baca5732062"
STATE = bytes([2, 4, 12, 16, 0])
"""Factor, channels, width, patch size, no shared operator."""


def numbered(network: torch.nn.Module) -> bytes:
    """Store a network whose weights follow from whole numbers, the same on every machine."""
    state = network.state_dict()
    for number, (name, tensor) in enumerate(state.items()):
        places = torch.arange(tensor.numel()).reshape(tensor.shape)
        state[name] = ((places * places * (2 * number + 7919) + number) % 251 - 125).float() / 1024
    network.load_state_dict(state)
    return tensors_to_bytes(integer_tensors(network, fraction_bits=VALUE_BITS, weight_bits=12))


def numbered_bitstream() -> bytes:
    networks = [numbered(in_turns(Siren(12))), numbered(SuperResolution(4, 2))]
    return np.array([-1, 2], "<f4").tobytes() + b"".join(varint(len(network)) + network for network in networks)


@pytest.mark.parametrize("channels", [4, 8, 16])
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("width", range(30, 231, 20))
def test_parameters_are_those_of_the_formula(width: int, channels: int, factor: int) -> None:
    with torch.device("meta"):
        networks = torch.nn.ModuleList([Siren(width), SuperResolution(channels, factor)])
    assert sum(parameter.numel() for parameter in networks.parameters()) == parameter_count(width, channels, factor)


def test_the_smallest_networks_of_the_source_have_6348_parameters() -> None:
    assert parameter_count(width=30, channels=4, downsampling=2) == 6348


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_wave_below_the_limit_is_sampled_at_the_centres_of_blocks(factor: int) -> None:
    def wave(shape: tuple[int, int, int], step: int) -> np.ndarray:
        z, y, x = (2 * np.pi * (step * np.arange(size) + (step - 1) / 2) / (size * step) for size in shape)
        return 3 + np.cos(z + 0.3)[:, None, None] * np.sin(y)[:, None] + np.cos(x)

    large = wave((4 * factor, 3 * factor, 5 * factor), 1)
    np.testing.assert_allclose(downsample(large, factor), wave((4, 3, 5), factor), atol=FOURIER)


def test_downsampling_keeps_the_mean_and_is_linear() -> None:
    first, second = np.random.default_rng(0).standard_normal((2, 8, 8, 16))
    assert downsample(first, 4).mean() == pytest.approx(first.mean(), abs=FOURIER)
    combined = downsample(2 * first - second, 4)
    np.testing.assert_allclose(combined, 2 * downsample(first, 4) - downsample(second, 4), atol=FOURIER)


def test_downsampling_an_odd_edge_is_refused() -> None:
    with pytest.raises(ValueError, match="must be multiples of 2"):
        downsample(np.zeros((4, 5, 4)), 2)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 9, 5), (8, 8, 17)])
def test_any_size_goes_through_and_the_stored_codec_decodes_the_same(shape: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    built = InrCodec.fit(volume, TINY)
    bitstream = built.encode(volume)
    decoded = built.decode(bitstream, shape)
    assert (decoded.shape, decoded.dtype) == (shape, np.float32)
    assert volume.min() <= decoded.min() <= decoded.max() <= volume.max()
    np.testing.assert_array_equal(InrCodec.from_bytes(built.to_bytes()).decode(bitstream, shape), decoded)


def test_a_trained_patch_is_close() -> None:
    volume = 5 + foam((12, 12, 12), num_voids=1)
    longer = {"patch_size": 12, "epochs": 100, "learning_rate": 5e-3, "sampled_voxels": 200}
    built = InrCodec.fit(volume, TINY.model_copy(update=longer))
    error = built.decode(built.encode(volume), volume.shape) - volume
    assert np.sqrt(np.mean(np.square(error))) < 0.3 * volume.std()


def test_equal_seeds_give_equal_bytes_and_leave_torch_alone() -> None:
    volume = foam((8, 8, 8), num_voids=1)
    before = torch.random.get_rng_state()
    first, second, other = (InrCodec.fit(volume, TINY, seed=seed).encode(volume) for seed in (0, 0, 1))
    assert first == second != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_patch_is_coded_the_same_in_any_chunk() -> None:
    volume = foam((16, 8, 8), num_voids=2)
    built = InrCodec.fit(volume, TINY)
    assert built.encode(volume) == built.encode(volume[:8]) + built.encode(volume[8:])


def test_a_shared_operator_is_stored_once() -> None:
    volume = foam((16, 8, 8), num_voids=2)
    own = InrCodec.fit(volume, TINY)
    shared = InrCodec.fit(volume, TINY.model_copy(update={"shared_operator": True}))
    bitstream = shared.encode(volume)
    assert 2 * len(bitstream) < len(own.encode(volume))
    assert len(shared.to_bytes()) > len(own.to_bytes()) + 1000
    assert shared.num_parameters == own.num_parameters - (parameter_count(12, 4, 2) - (2 * 12**2 + 7 * 12 + 1))
    decoded = InrCodec.from_bytes(shared.to_bytes()).decode(bitstream, volume.shape)
    np.testing.assert_array_equal(decoded, shared.decode(bitstream, volume.shape))


@pytest.mark.parametrize("shared", [False, True])
def test_a_constant_volume_takes_eight_bytes_and_is_exact(shared: bool) -> None:
    volume = np.full((4, 5, 6), 7.1, np.float32)
    built = InrCodec.fit(volume, TINY.model_copy(update={"shared_operator": shared}))
    bitstream = built.encode(volume)
    assert len(bitstream) == 8
    np.testing.assert_array_equal(built.decode(bitstream, volume.shape), volume)


def test_decoding_gives_the_pinned_voxels_with_any_number_of_threads() -> None:
    num_threads = torch.get_num_threads()
    digests = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        decoded = InrCodec.from_bytes(STATE).decode(numbered_bitstream(), (11, 16, 13))
        digests.append(sha256(decoded.astype("<f4").tobytes()).hexdigest())
    torch.set_num_threads(num_threads)
    assert np.mean((decoded > -1) & (decoded < 2)) > 0.9
    assert decoded.std() > 0.05
    assert digests == [PINNED, PINNED]


def test_values_beyond_the_extremes_are_limited_to_them() -> None:
    networks: list[torch.nn.Module] = [in_turns(Siren(12)), SuperResolution(4, 2)]
    for parameter in (parameter for network in networks for parameter in network.parameters()):
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(networks[0].get_parameter("6.bias"), 3)
    parts = [tensors_to_bytes(integer_tensors(network, fraction_bits=VALUE_BITS)) for network in networks]
    bitstream = np.array([-1, 2], "<f4").tobytes() + b"".join(varint(len(part)) + part for part in parts)
    decoded = InrCodec.from_bytes(STATE).decode(bitstream, (2, 3, 4))
    np.testing.assert_array_equal(decoded, np.full((2, 3, 4), 2, np.float32))


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=30, deadline=None)
def test_a_damaged_byte_raises_or_keeps_the_shape(place: int, change: int) -> None:
    damaged = bytearray(numbered_bitstream())
    damaged[place % len(damaged)] ^= change
    try:
        decoded = InrCodec.from_bytes(STATE).decode(bytes(damaged), (4, 5, 6))
    except ArchiveError:
        return
    assert decoded.shape == (4, 5, 6)
    assert np.isfinite(decoded).all()


def test_missing_or_added_bytes_raise() -> None:
    bitstream, stored = numbered_bitstream(), InrCodec.from_bytes(STATE)
    for damaged in (b"", bitstream[:7], bitstream[:30], bitstream[:-9], bitstream + b"\0"):
        with pytest.raises(ArchiveError):
            stored.decode(damaged, (4, 5, 6))
    swapped = np.array([2, -1], "<f4").tobytes() + bitstream[8:]
    with pytest.raises(ArchiveError, match="has voxels from"):
        stored.decode(swapped, (4, 5, 6))


@pytest.mark.parametrize(
    "state", [b"", STATE[:-1], STATE + b"\0", bytes([3, *STATE[1:]]), bytes([*STATE[:4], 1]), bytes([*STATE[:4], 7])]
)
def test_a_damaged_state_raises(state: bytes) -> None:
    with pytest.raises(ArchiveError, match="decoder of codec inr"):
        InrCodec.from_bytes(state)


def test_a_damaged_shared_operator_raises() -> None:
    state = bytes([*STATE[:4], 1]) + numbered(SuperResolution(4, 2))
    assert InrCodec.from_bytes(state).to_bytes() == state
    with pytest.raises(ArchiveError):
        InrCodec.from_bytes(state[:500])


def test_encoding_with_a_stored_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="only decodes"):
        InrCodec.from_bytes(STATE).encode(np.zeros((1, 2, 3), np.float32))


def test_the_table_of_codecs_knows_it() -> None:
    assert codec("inr") is InrCodec
