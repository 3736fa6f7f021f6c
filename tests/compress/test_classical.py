from __future__ import annotations

import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietbeam.compress.classical import ValueRange, join_planes, optional_library, split_planes
from quietbeam.compress.codec import codec, known_codecs
from quietbeam.reconstruction.errors import ArchiveError, ReductionError

from .volumes import foam

LIBRARIES = {
    "jpeg": "imagecodecs",
    "jpeg2000": "imagecodecs",
    "jpeg2000z": "imagecodecs",
    "jpegxl": "imagecodecs",
    "jpegxl-lossless": "imagecodecs",
    "htj2k": "imagecodecs",
    "hevc": "av",
    "zfp": None,
    "sz3": None,
    "sperr": None,
    "bitshuffle-zstd": None,
    "blosc2": None,
}
LARGEST_ERROR = 0.35
"""Of the range, for noise at the default settings, which are about 40 dB; a slice at the wrong place is off by 1."""
CONSTANT_ERROR = 1e-2
"""A range of 0 counts as 1: a constant comes back within about 40 dB of that, even by JPEG 2000 in tiny slices."""


@pytest.fixture(params=sorted(LIBRARIES))
def name(request: pytest.FixtureRequest) -> str:
    if library := LIBRARIES[request.param]:
        pytest.importorskip(library)
    return str(request.param)


def test_all_are_in_the_table() -> None:
    assert set(LIBRARIES) <= set(known_codecs())


def test_each_finds_its_library(name: str) -> None:
    assert codec(name).library == LIBRARIES[name]  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 100), (2, 31, 33), (3, 70, 9), (5, 2, 3), (17, 8, 8)])
def test_any_shape_goes_through_a_codec_from_its_bytes(name: str, shape: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(0).random(shape, np.float32)
    fitted = codec(name).fit(volume)
    decoded = codec(name).from_bytes(fitted.to_bytes()).decode(fitted.encode(volume), shape)
    assert decoded.shape == shape
    assert decoded.dtype == np.float32
    assert np.abs(decoded - volume).max() < LARGEST_ERROR


@pytest.mark.parametrize("value", [0.0, -7.5, 1e6])
def test_a_constant_volume_comes_back(name: str, value: float) -> None:
    volume = np.full((3, 40, 40), value, np.float32)
    fitted = codec(name).fit(volume)
    assert np.abs(fitted.decode(fitted.encode(volume), volume.shape) - volume).max() <= CONSTANT_ERROR


def test_a_slice_stays_at_its_place(name: str) -> None:
    volume = np.zeros((6, 40, 48), np.float32)
    volume += np.arange(6, dtype=np.float32)[:, None, None] / 5
    fitted = codec(name).fit(volume)
    decoded = fitted.decode(fitted.encode(volume), volume.shape)
    np.testing.assert_array_equal(np.rint(5 * decoded.mean((1, 2))), np.arange(6))


def test_equal_volumes_give_equal_bytes(name: str) -> None:
    volume = foam((4, 50, 70), num_voids=10)
    first, second = (codec(name).fit(volume) for _ in range(2))
    assert first.to_bytes() == second.to_bytes()
    assert first.encode(volume) == second.encode(volume)


def test_the_given_chunk_is_not_changed(name: str) -> None:
    volume = foam((4, 50, 70), num_voids=10)
    given = volume.copy()
    codec(name).fit(volume).encode(volume)
    np.testing.assert_array_equal(volume, given)


def test_values_outside_the_range_are_no_fault(name: str) -> None:
    volume = foam((4, 50, 70), num_voids=10)
    fitted = codec(name).fit(volume)
    assert fitted.decode(fitted.encode(3 * volume - 1), volume.shape).shape == volume.shape


def test_damaged_bytes_raise(name: str) -> None:
    volume = foam((2, 40, 48), num_voids=5)
    fitted = codec(name).fit(volume)
    good = fitted.encode(volume)
    rng = np.random.default_rng(0)
    for length in (0, 3, 4, *rng.integers(5, len(good), 20)):
        with pytest.raises(ArchiveError, match="damaged or cut short"):
            fitted.decode(good[:length], volume.shape)
    for place in rng.integers(0, 8 * len(good), 100):
        flipped = bytearray(good)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(ArchiveError, match="does not match its checksum"):
            fitted.decode(bytes(flipped), volume.shape)


def test_a_chunk_of_another_shape_raises(name: str) -> None:
    volume = foam((2, 40, 48), num_voids=5)
    fitted = codec(name).fit(volume)
    bitstream = fitted.encode(volume)
    for shape in ((3, 40, 48), (2, 96, 96)):
        with pytest.raises(ArchiveError, match="does not match its checksum"):
            fitted.decode(bitstream, shape)


def test_a_damaged_state_raises(name: str) -> None:
    state = codec(name).fit(foam((2, 20, 20), num_voids=2)).to_bytes()
    for damaged in (
        b"",
        state[:-1],
        b"[]",
        state.replace(b"low", b"lew"),
        state.replace(b'"settings":{', b'"settings":{"depth":3,'),
    ):
        with pytest.raises(ArchiveError, match=f"state of codec {name} is damaged"):
            codec(name).from_bytes(damaged)


def test_a_volume_with_nan_or_inf_is_refused(name: str) -> None:
    volume = np.zeros((20, 4, 4), np.float32)
    for value in (np.nan, np.inf, -np.inf):
        volume[19, 1, 2] = value
        with pytest.raises(ValueError, match="must be finite"):
            codec(name).fit(volume)


def test_unknown_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="depth"):
        codec(name).settings_type.model_validate({"depth": 8})


def test_a_missing_library_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(ReductionError, match=r"needs the library no_such_module: pip install 'quietbeam\[codecs\]'"):
        optional_library("no_such_module")


def test_only_the_codecs_that_need_a_library_fail_without_it() -> None:
    program = """
import sys
sys.modules["imagecodecs"] = sys.modules["av"] = None
import numpy as np
from quietbeam.compress.codec import codec
from quietbeam.reconstruction.errors import ReductionError
for name in sys.argv[1:]:
    try:
        codec(name).fit(np.zeros((1, 8, 8), np.float32))
    except ReductionError:
        print(name)
"""
    run = subprocess.run([sys.executable, "-c", program, *LIBRARIES], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [name for name, library in LIBRARIES.items() if library]


@settings(max_examples=50, deadline=None)
@given(
    low=st.floats(-1e6, 1e6),
    span=st.floats(1e-3, 1e6),
    num_bits=st.sampled_from([8, 12, 16]),
    seed=st.integers(0, 99),
)
def test_integers_stand_for_values_within_half_a_step(low: float, span: float, num_bits: int, seed: int) -> None:
    values = (low + span * np.random.default_rng(seed).random((3, 4, 5))).astype(np.float32)
    found = ValueRange.of(values)
    step = found.step(num_bits)
    integers = found.to_integers(values, step, num_bits)
    assert integers.max() < 2**num_bits
    rounding = 2 * np.spacing(np.abs(values).max())
    assert np.abs(found.to_values(integers, step) - values).max() <= step / 2 + rounding


def test_whole_numbers_are_seen_over_all_slices() -> None:
    volume = np.zeros((40, 2, 2), np.float32)
    volume[0, 0, 0], volume[39, 1, 1] = -5, 65530
    assert ValueRange.of(volume) == ValueRange(low=-5, high=65530, whole=True)
    volume[39, 1, 1] = 65531
    assert not ValueRange.of(volume).whole
    volume[39, 1, 1] = 0.5
    assert not ValueRange.of(volume).whole


def test_planes_are_joined_and_split() -> None:
    planes = [b"", b"a", bytes(300)]
    joined = join_planes(planes)
    assert list(split_planes(joined, 3)) == planes
    with pytest.raises(ArchiveError, match="ends after"):
        list(split_planes(joined[:-1], 3))


def test_the_checksum_is_the_documented_one() -> None:
    volume = foam((2, 20, 20), num_voids=2)
    bitstream = codec("sz3").fit(volume).encode(volume)
    shape = np.array(volume.shape, "<u4").tobytes()
    assert bitstream[:4] == zlib.crc32(shape + bitstream[4:]).to_bytes(4, "little")
