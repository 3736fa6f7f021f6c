from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from quietbeam.compress.codec import codec
from quietbeam.compress.lattice_codec import LatticeCodec, LatticeSettings
from quietbeam.reconstruction.errors import ArchiveError
from quietbeam.reconstruction.quality import psnr

from .volumes import foam

VOLUME = (3 * foam((24, 48, 56), num_voids=30) - 7).astype(np.float32)
BESIDE_TARGET = 0.3
"""dB that the step found may miss."""
ROUNDING = 1e-6
"""Of float32, in values of about 7."""


def test_the_table_knows_it() -> None:
    assert codec("lattice") is LatticeCodec
    assert LatticeCodec.name == "lattice"


@pytest.mark.parametrize("target", [36.0, 44.0, 60.0])
def test_it_keeps_its_signal_to_noise_ratio(target: float) -> None:
    fitted = LatticeCodec.fit(VOLUME, LatticeSettings(psnr=target))
    decoded = fitted.decode(fitted.encode(VOLUME), VOLUME.shape)
    assert decoded.dtype == np.float32
    assert psnr(VOLUME, decoded) == pytest.approx(target, abs=BESIDE_TARGET)


def test_the_ratio_is_48_unless_given() -> None:
    fitted = LatticeCodec.fit(VOLUME)
    assert psnr(VOLUME, fitted.decode(fitted.encode(VOLUME), VOLUME.shape)) == pytest.approx(48, abs=BESIDE_TARGET)


@pytest.mark.parametrize("max_error", [0.3, 0.01, 1e-4])
def test_no_voxel_is_off_by_more_than_max_error(max_error: float) -> None:
    fitted = LatticeCodec.fit(VOLUME, LatticeSettings(max_error=max_error))
    error = np.abs(fitted.decode(fitted.encode(VOLUME), VOLUME.shape).astype(np.float64) - VOLUME).max()
    assert max_error / 2 < error <= max_error + ROUNDING


def test_a_bitstream_needs_no_state() -> None:
    bitstream = LatticeCodec.fit(VOLUME, LatticeSettings(step=0.2)).encode(VOLUME[:5])
    other = LatticeCodec(123.0, 4.0, bounded=True)
    again = LatticeCodec.fit(VOLUME, LatticeSettings(step=0.2))
    np.testing.assert_array_equal(other.decode(bitstream, (5, 48, 56)), again.decode(bitstream, (5, 48, 56)))


def test_the_state_encodes_more_of_the_volume() -> None:
    fitted = LatticeCodec.fit(VOLUME)
    again = LatticeCodec.from_bytes(fitted.to_bytes())
    assert again.encode(VOLUME[:3]) == fitted.encode(VOLUME[:3])
    assert len(fitted.to_bytes()) < 200


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 40), (2, 5, 3)])
@pytest.mark.parametrize("scale", [1.0, 0.0, 1e30])
def test_any_shape_and_constants(shape: tuple[int, int, int], scale: float) -> None:
    volume = (scale * np.random.default_rng(0).random(shape)).astype(np.float32)
    fitted = LatticeCodec.fit(volume)
    decoded = fitted.decode(fitted.encode(volume), shape)
    assert np.abs(decoded.astype(np.float64) - volume).max() <= 0.1 * scale


@pytest.mark.parametrize("damaged", [b"", b"{}", b'{"bounded":false,"offset":0,"step":-1}'])
def test_a_damaged_state_is_noticed(damaged: bytes) -> None:
    with pytest.raises(ArchiveError, match="state of codec lattice is damaged"):
        LatticeCodec.from_bytes(damaged)


def test_damaged_bitstreams_are_noticed() -> None:
    bitstream = LatticeCodec.fit(VOLUME).encode(VOLUME)
    for damaged in (b"", bitstream[:10], bitstream[:-1], bitstream + b"\0", b"\xff" * 16 + bitstream[16:]):
        with pytest.raises(ArchiveError, match="damaged"):
            LatticeCodec(0.0, 1.0, bounded=False).decode(damaged, VOLUME.shape)


def test_one_quality_is_given() -> None:
    with pytest.raises(ValidationError, match="got psnr and step"):
        LatticeSettings(psnr=40, step=0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    volume = np.full((2, 3, 4), value, np.float32)
    with pytest.raises(ValueError, match="must be finite"):
        LatticeCodec.fit(volume)
    with pytest.raises(ValueError, match="must be finite, got 24 voxels"):
        LatticeCodec(0.0, 1.0, bounded=False).encode(volume)


def test_a_range_that_the_integers_cannot_hold_is_refused() -> None:
    volume = np.zeros((4, 8, 8), np.float32)
    volume[1, 2, 3] = 1e4
    codec = LatticeCodec.fit(volume, LatticeSettings(max_error=1e-3))
    decoded = codec.decode(codec.encode(volume), volume.shape)
    # Half a last place of 1e4 comes on top: what comes back is float32.
    assert np.abs(decoded.astype(np.float64) - volume).max() <= 1e-3 + np.spacing(np.float32(1e4)) / 2
    narrow = LatticeCodec.fit(volume, LatticeSettings(max_error=1e-4))
    with pytest.raises(ValueError, match=r"it may at most .*: give a larger max_error"):
        narrow.encode(volume)
