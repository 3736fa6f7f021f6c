from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from quietbeam.reconstruction.filters import (
    BUTTERWORTH_CUTOFF,
    BUTTERWORTH_ORDER,
    FilterName,
    filter_rows,
    padded_length,
    ramp_filter,
)

LENGTH = 4096
RAMP = 2 / (np.pi**2 * LENGTH)
"""The sum of the kernel beyond the row: all that the ramp has at frequency 0, where its samples have nothing."""


@pytest.mark.parametrize("length", [16, 15, LENGTH])
def test_ramp_is_the_transform_of_its_kernel(length: int) -> None:
    kernel = np.fft.irfft(ramp_filter(length), n=length)
    n = np.minimum(np.arange(length), length - np.arange(length))
    assert kernel[0] == pytest.approx(0.25)
    np.testing.assert_allclose(kernel[n % 2 == 1], -1 / (np.pi * n[n % 2 == 1]) ** 2, atol=1e-12)
    np.testing.assert_allclose(kernel[(n % 2 == 0) & (n > 0)], 0, atol=1e-12)


def test_ramp_rises_with_frequency_and_keeps_the_mean_that_samples_lose() -> None:
    ramp = ramp_filter(LENGTH)
    np.testing.assert_allclose(ramp[1:], np.fft.rfftfreq(LENGTH)[1:], atol=1.01 * RAMP)
    assert ramp[0] == pytest.approx(RAMP, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "half", "end"),
    [
        ("ram-lak", 1.0, 1.0),
        ("shepp-logan", np.sinc(0.25), 2 / np.pi),
        ("cosine", np.sqrt(0.5), 0.0),
        ("hann", 0.5, 0.0),
        ("butterworth", 0.5, 1 / 17),
    ],
)
def test_window_at_zero_half_and_all_of_the_frequency(name: FilterName, half: float, end: float) -> None:
    window = ramp_filter(LENGTH, name) / ramp_filter(LENGTH)
    np.testing.assert_allclose(window[[0, LENGTH // 4, LENGTH // 2]], [1, half, end], atol=1e-12)
    assert (np.diff(window) <= 1e-12).all()


def test_butterworth_falls_with_its_order() -> None:
    window = ramp_filter(LENGTH, "butterworth") / ramp_filter(LENGTH)
    frequency = np.fft.rfftfreq(LENGTH)
    loss = 1 / window[1:] - 1
    slope = np.diff(np.log(loss)) / np.diff(np.log(frequency[1:]))
    np.testing.assert_allclose(slope[100:], 2 * BUTTERWORTH_ORDER, rtol=1e-6)
    assert np.interp(BUTTERWORTH_CUTOFF, frequency, window) == pytest.approx(0.5)


def test_unknown_window_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match=f"must be one of {', '.join(get_args(FilterName))}, got 'hamming'"):
        ramp_filter(16, "hamming")  # type: ignore[arg-type]


@pytest.mark.parametrize("num_columns", [1, 2, 31, 32, 37])
def test_filtered_rows_are_the_convolution_without_wrap_around(num_columns: int) -> None:
    rows = np.random.default_rng(0).normal(size=(2, 3, num_columns)).astype(np.float32)
    length = padded_length(num_columns)
    assert length % 2 == 0
    filtered = np.fft.irfft(filter_rows(rows, "ram-lak", num_threads=2), n=length)[..., :num_columns]
    n = np.arange(1 - num_columns, num_columns)
    kernel = np.where(n % 2 == 0, 0.25 * (n == 0), -1 / (np.pi * np.where(n == 0, 1, n)) ** 2)
    expected = [np.convolve(row, kernel)[num_columns - 1 : 2 * num_columns - 1] for row in rows.reshape(6, -1)]
    np.testing.assert_allclose(filtered.reshape(6, -1), expected, atol=1e-6)
