import numpy as np
import pytest

from quietbeam.beamline.held_out import HeldOut, caveats_of_denoising, contrast


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.repeat(rng.normal(size=(4, 16, 16)), 4, axis=1), 4, axis=2)
    noisy, target = (truth + rng.normal(0, 1, truth.shape) for _ in range(2))
    return truth, noisy, target


def codes(*images):
    return [caveat.code for caveat in caveats_of_denoising(HeldOut(*images))]


def test_a_perfect_denoiser_raises_no_doubt(sample):
    truth, noisy, target = sample
    assert codes(noisy, truth, target) == []
    assert contrast(HeldOut(noisy, truth, target)) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_changed_contrast_is_told_and_measured(sample, factor):
    truth, noisy, target = sample
    assert "contrast-changed" in codes(noisy, factor * truth, target)
    assert contrast(HeldOut(noisy, factor * truth, target)) == pytest.approx(factor, rel=0.03)


def test_an_answer_worse_than_the_question_is_told(sample):
    truth, noisy, target = sample
    assert "denoising-does-not-help" in codes(noisy, np.roll(truth, 9, axis=1), target)
    assert "denoising-does-not-help" in codes(noisy, noisy, target)


def test_constant_answers_have_no_contrast(sample):
    _, noisy, target = sample
    assert contrast(HeldOut(noisy, np.zeros_like(noisy), target)) == 0
    assert "contrast-changed" in codes(noisy, np.zeros_like(noisy), target)
