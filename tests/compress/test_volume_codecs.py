from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from quietbeam.compress.codec import codec
from quietbeam.compress.volume_codecs import SperrSettings
from quietbeam.reconstruction.quality import psnr

from .volumes import foam

VOLUME = foam((12, 40, 56), num_voids=20)
ROUNDING = 1.001
"""Of the promised error: SPERR's filter keeps the logarithm of the tolerance in 32 bits, float32 rounds the values."""
BELOW_TARGET = 0.5
"""dB that SPERR may miss."""


@pytest.mark.parametrize("name", ["zfp", "sz3", "sperr"])
@pytest.mark.parametrize("max_error", [0.1, 0.01, 0.0001])
def test_no_voxel_is_off_by_more_than_promised(name: str, max_error: float) -> None:
    fitted = codec(name).fit(VOLUME, codec(name).settings_type(max_error=max_error))
    error = np.abs(fitted.decode(fitted.encode(VOLUME), VOLUME.shape) - VOLUME).max()
    assert max_error / 20 < error <= max_error * ROUNDING


@pytest.mark.parametrize("name", ["zfp", "sz3", "sperr"])
def test_bits_grow_as_the_error_shrinks(name: str) -> None:
    kind = codec(name)
    sizes = [len(kind.fit(VOLUME, kind.settings_type(max_error=error)).encode(VOLUME)) for error in (0.1, 0.01, 0.001)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("name", ["zfp", "sz3"])
def test_the_error_is_a_thousandth_of_the_range_unless_given(name: str) -> None:
    for scale in (1, 1000):
        volume = (scale * VOLUME).astype(np.float32)
        fitted = codec(name).fit(volume)
        error = np.abs(fitted.decode(fitted.encode(volume), volume.shape) - volume).max()
        assert error <= 1e-3 * np.ptp(volume) * ROUNDING


@pytest.mark.parametrize("target", [30.0, 44.0, 60.0])
def test_sperr_keeps_its_signal_to_noise_ratio(target: float) -> None:
    fitted = codec("sperr").fit(VOLUME, SperrSettings(psnr=target))
    found = psnr(VOLUME, fitted.decode(fitted.encode(VOLUME), VOLUME.shape))
    assert found > target - BELOW_TARGET


def test_sperr_takes_its_ratio_over_the_range_of_the_volume() -> None:
    faint = (VOLUME / 10).astype(np.float32)
    of_both = codec("sperr").fit(np.concatenate([VOLUME, faint]), SperrSettings(psnr=50))
    alone = codec("sperr").fit(faint, SperrSettings(psnr=30))
    assert len(of_both.encode(faint)) == pytest.approx(len(alone.encode(faint)), rel=0.02)


def test_sperr_takes_the_axes_in_the_right_order() -> None:
    # With z taken for x, a chunk costs more than its slices one by one.
    fitted = codec("sperr").fit(VOLUME, SperrSettings(psnr=40))
    assert len(fitted.encode(VOLUME)) < 0.7 * sum(len(fitted.encode(plane[None])) for plane in VOLUME)


def test_sperr_takes_one_measure_of_quality() -> None:
    with pytest.raises(ValidationError, match="psnr or max_error, got both"):
        SperrSettings(psnr=40, max_error=0.1)
