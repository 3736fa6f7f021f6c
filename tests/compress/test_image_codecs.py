from __future__ import annotations

import numpy as np
import pytest

from quietbeam.compress.codec import codec
from quietbeam.reconstruction.quality import psnr

from .volumes import foam

pytest.importorskip("imagecodecs")

VOLUME = foam((3, 96, 112), num_voids=40)
BELOW_TARGET = 1.0
"""dB that JPEG 2000 may miss: its estimate of the error is that of the wavelet's coefficients."""

GROWING = [
    ("jpeg", [{"quality": quality} for quality in (30, 60, 90, 100)]),
    ("jpeg2000", [{"psnr": target} for target in (30, 40, 50, 60)]),
    ("jpegxl", [{"distance": distance} for distance in (8, 2, 0.5, 0.05)]),
]


@pytest.mark.parametrize(("name", "settings"), GROWING)
def test_bits_and_quality_grow(name: str, settings: list[dict[str, float]]) -> None:
    sizes, qualities = [], []
    for each in settings:
        fitted = codec(name).fit(VOLUME, codec(name).settings_type.model_validate(each))
        bitstream = fitted.encode(VOLUME)
        sizes.append(len(bitstream))
        qualities.append(psnr(VOLUME, fitted.decode(bitstream, VOLUME.shape)))
    assert sizes == sorted(set(sizes))
    assert qualities == sorted(set(qualities))


@pytest.mark.parametrize("target", [30.0, 45.0, 60.0])
def test_jpeg2000_keeps_its_signal_to_noise_ratio(target: float) -> None:
    fitted = codec("jpeg2000").fit(VOLUME, codec("jpeg2000").settings_type(psnr=target))
    assert psnr(VOLUME, fitted.decode(fitted.encode(VOLUME), VOLUME.shape)) > target - BELOW_TARGET


def test_jpeg2000_takes_its_ratio_over_the_range_of_the_volume() -> None:
    settings = codec("jpeg2000").settings_type(psnr=40)
    fitted = codec("jpeg2000").fit(np.concatenate([VOLUME, 100 * VOLUME]), settings)
    assert len(fitted.encode(VOLUME)) < len(codec("jpeg2000").fit(VOLUME, settings).encode(VOLUME)) / 3


def test_jpeg_at_best_quality_is_rounding_to_8_bits() -> None:
    fitted = codec("jpeg").fit(VOLUME, codec("jpeg").settings_type(quality=100))
    steps = np.abs(fitted.decode(fitted.encode(VOLUME), VOLUME.shape) - VOLUME) * 255 / np.ptp(VOLUME)
    # Half a step of the pixels, and the rounding of 64 coefficients to whole ones, rarely more than 1.5 together.
    assert np.quantile(steps, 0.99) < 1.5
    assert steps.max() > 0.4


def test_a_slice_alone_decodes_as_in_the_chunk() -> None:
    for name in ("jpeg", "jpeg2000", "jpegxl"):
        fitted = codec(name).fit(VOLUME)
        together = fitted.decode(fitted.encode(VOLUME), VOLUME.shape)
        alone = fitted.decode(fitted.encode(VOLUME[1:2]), (1, *VOLUME.shape[1:]))
        np.testing.assert_array_equal(alone[0], together[1])
