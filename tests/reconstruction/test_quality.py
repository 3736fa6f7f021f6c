import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.reconstruction.quality import SMALLEST_SIDE, ms_ssim, msle, psnr, ssim

MEASURES = [psnr, ssim, ms_ssim, msle]
PERFECT = {psnr: math.inf, ssim: 1.0, ms_ssim: 1.0, msle: 0.0}
SINGLE_PRECISION = 1e-6
"""The reference of MS-SSIM weighs with a window in single precision."""
SCATTER = 0.1
"""Decibel by which a measured variance of some ten thousand values is off."""


def waves(height=176, width=192):
    y, x = np.mgrid[:height, :width] / 10.0
    return np.sin(x) * np.cos(0.7 * y) + 0.5 * np.sin(5 * x + 3 * y), x, y


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_slices_are_perfect(measure, dtype):
    truth = waves()[0].astype(dtype)
    assert measure(truth, truth) == PERFECT[measure]
    assert measure(np.stack([truth, 3 * truth]), np.stack([truth, 3 * truth])) == PERFECT[measure]


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_do_not_change_with_the_unit(measure):
    """1/m instead of 1/pixel, in single precision and far from 0: variances are differences of large squares."""
    truth, x, y = waves()
    image = truth + 0.2 * np.sin(7 * x * y)
    scale = 1e4**2 if measure is msle else 1
    metric = measure((1e4 * (truth + 10)).astype(np.float32), (1e4 * (image + 10)).astype(np.float32))
    assert metric == pytest.approx(scale * measure(truth + 10, image + 10), rel=1e-4)


def test_psnr_of_a_known_error():
    truth = np.linspace(0, 10, 1000)
    assert psnr(truth, truth + 0.1) == pytest.approx(40)
    assert psnr(truth, truth + 0.1, data_range=1) == pytest.approx(20)


@given(sigma=st.floats(0.01, 10), span=st.floats(0.1, 100))
def test_psnr_of_known_noise(sigma, span):
    truth = span * np.linspace(-1, 1, 40_000) / 2
    noise = sigma * np.random.default_rng(0).normal(size=truth.shape)
    assert psnr(truth, truth + noise) == pytest.approx(20 * math.log10(span / sigma), abs=SCATTER)


@given(level=st.floats(-5, 5), shift=st.floats(-5, 5))
def test_ssim_of_two_constants_compares_the_means(level, shift):
    truth, image = np.full((11, 12), level), np.full((11, 12), level + shift)
    c1 = 0.01**2
    expected = (2 * level * (level + shift) + c1) / (level**2 + (level + shift) ** 2 + c1)
    assert ssim(truth, image, data_range=1) == pytest.approx(expected, abs=1e-9)
    coarsest = max(expected, 0) ** 0.1333
    large, shifted = np.full((161, 170), level), np.full((161, 170), level + shift)
    assert ms_ssim(large, shifted, data_range=1) == pytest.approx(coarsest, abs=1e-6)


def test_ssim_of_one_window_by_hand():
    """Slices of 11 x 11 pixels have one window: the formula with weighted moments, written out."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 11, 11))
    gauss = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    w = np.outer(gauss, gauss) / gauss.sum() ** 2
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, c = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
    c1, c2 = (0.01 * 4) ** 2, (0.03 * 4) ** 2
    expected = (2 * mx * my + c1) * (2 * c + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(x, y, data_range=4) == pytest.approx(expected, rel=1e-9)


def test_ms_ssim_is_that_of_its_reference():
    """Values of pytorch-msssim 1.0.0 in double precision; its sides must be multiples of 16, else it pads with 0."""
    truth, x, y = waves()
    images = {
        0.9574576318055746: 0.8 * truth + 0.2 * np.sin(9 * x * y / 7),
        0.9743555261743623: truth + 0.3 * np.sin(40 * x) + 0.1 * np.cos(31 * y),
        0.3471198187796464: np.sin(x + 1) * np.cos(0.7 * y),
    }
    for value, image in images.items():
        assert ms_ssim(truth, image) == pytest.approx(value, abs=SINGLE_PRECISION)
    assert ms_ssim(truth, -truth) == 0


def test_ms_ssim_of_odd_sides_is_near_that_of_even_ones():
    truth, x, _ = waves()
    image = np.sin(x + 1)
    values = [ms_ssim(truth[:side, :side], image[:side, :side], data_range=3) for side in (161, 163, 175, 176)]
    assert np.ptp(values) < 0.01


def test_measures_of_slices_are_the_mean_of_each():
    rng = np.random.default_rng(2)
    truth, x, _ = waves()
    stack = np.stack([truth, truth[::-1], x])
    images = stack + 0.1 * rng.normal(size=stack.shape)
    for measure in (ssim, ms_ssim):
        each = [measure(a, b, data_range=2) for a, b in zip(stack, images, strict=True)]
        assert measure(stack, images, data_range=2) == pytest.approx(np.mean(each))
    each = [msle(a, b) for a, b in zip(stack, images, strict=True)]
    assert msle(stack, images) == pytest.approx(np.mean(each))


def test_msle_of_one_changed_pixel():
    """The Laplacian of one pixel of height d is -4 d there and d at four neighbours: 20 d^2 in all.

    On the border the mirrored pixel takes one of them back: -3 d and three times d.
    """
    truth = waves(9, 10)[0]
    for place, square in (((4, 4), 20), ((0, 4), 12), ((0, 0), 6)):
        image = truth.copy()
        image[place] += 0.5
        assert msle(truth, image) == pytest.approx(square * 0.5**2 / 90)


def test_msle_sees_edges_and_no_shift_or_slope():
    truth, x, _ = waves()
    assert msle(truth, truth + 7) == pytest.approx(0, abs=1e-24)
    assert msle(truth, truth + x) == pytest.approx(0.1**2 * 2 / 192)  # only the mirrored border bends a slope
    blurred = (truth + np.roll(truth, 1, axis=1)) / 2
    assert msle(truth, blurred) > 10 * msle(truth, truth + (blurred - truth).std())


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_refuse_what_they_cannot_compare(measure):
    truth = waves()[0]
    with pytest.raises(ValueError, match=r"one shape, got \(176, 192\) and \(175, 192\)"):
        measure(truth, truth[1:])
    for hole in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            measure(truth, np.where(truth > 1, hole, truth))
    if measure is not msle:
        with pytest.raises(ValueError, match="data_range must be positive, got 0"):
            measure(np.ones_like(truth), truth)


@pytest.mark.parametrize(("measure", "smallest"), [(ssim, 11), (ms_ssim, SMALLEST_SIDE)])
def test_small_slices_name_the_smallest(measure, smallest):
    assert np.isfinite(measure(*waves(smallest, smallest)[:2]))
    for shape in ((smallest - 1, 300), (300, smallest - 1)):
        with pytest.raises(ValueError, match=f"sides of {smallest} pixels or more, got shape"):
            measure(*waves(*shape)[:2])
