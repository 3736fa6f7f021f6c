from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietbeam.compress.codec import codec
from quietbeam.compress.wavelet_codec import GROWTH, across_slices, back_across_slices
from quietbeam.reconstruction.quality import psnr

from .volumes import foam

ROUNDING = 1e-12
"""Of float64, for values of order 1."""
NOISE_GAIN = 0.15
"""Of the variance: 1.034 in each of three steps of the 9/7 wavelet, and the mirrored ends."""
BELOW_TARGET = 1.5
"""dB that the slices may miss: JPEG 2000 misses up to 1, the bands along z are not quite orthonormal."""


@settings(max_examples=60, deadline=None)
@given(num_slices=st.integers(1, 70), seed=st.integers(0, 99))
def test_the_transform_is_undone(num_slices: int, seed: int) -> None:
    slices = np.random.default_rng(seed).standard_normal((num_slices, 2, 3))
    np.testing.assert_allclose(back_across_slices(across_slices(slices)), slices, atol=ROUNDING)


def test_equal_slices_leave_nothing_in_the_high_bands() -> None:
    planes = across_slices(np.ones((64, 1, 1)))
    np.testing.assert_allclose(planes[8:], 0, atol=ROUNDING)
    np.testing.assert_allclose(planes[:8], 2**1.5, rtol=1e-6)


def test_a_straight_line_leaves_nothing_in_the_high_bands_away_from_the_ends() -> None:
    planes = across_slices(np.arange(64.0)[:, None, None])
    np.testing.assert_allclose(planes[34:62], 0, atol=1e-10)


def test_white_noise_keeps_its_variance_in_each_band() -> None:
    planes = across_slices(np.random.default_rng(0).standard_normal((128, 60, 60)))
    for band in (planes[:16], planes[16:32], planes[32:64], planes[64:]):
        assert band.var() == pytest.approx(1, abs=NOISE_GAIN)


@pytest.mark.parametrize("num_slices", [*range(1, 40), 64, 299, 1024])
def test_no_coefficient_outgrows_its_16_bits(num_slices: int) -> None:
    rows = across_slices(np.eye(num_slices)[:, :, None])[:, :, 0]
    assert np.abs(rows).sum(axis=1).max() < GROWTH


@pytest.mark.parametrize("target", [32.0, 44.0, 56.0])
@pytest.mark.parametrize("num_slices", [1, 7, 32])
def test_the_signal_to_noise_ratio_is_kept(target: float, num_slices: int) -> None:
    pytest.importorskip("imagecodecs")
    volume = foam((num_slices, 64, 80), num_voids=20)
    fitted = codec("jpeg2000z").fit(volume, codec("jpeg2000z").settings_type(psnr=target))
    assert psnr(volume, fitted.decode(fitted.encode(volume), volume.shape)) > target - BELOW_TARGET


def test_bits_grow_with_the_ratio_and_undercut_slices_alone() -> None:
    pytest.importorskip("imagecodecs")
    volume = foam((32, 64, 80), num_voids=20, noise=0.001)

    def size(name: str, target: float) -> int:
        return len(codec(name).fit(volume, codec(name).settings_type(psnr=target)).encode(volume))

    sizes = [size("jpeg2000z", target) for target in (30, 40, 50)]
    assert sizes == sorted(set(sizes))
    assert size("jpeg2000z", 40) < 0.8 * size("jpeg2000", 40)
