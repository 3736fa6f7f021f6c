import numpy as np
import pytest

from quietbeam.noise2inverse.statistics import section_statistics

NUM_VALUES = 4 * 50 * 50
"""Of a channel of the random volumes."""
STANDARD_ERRORS = 5
"""By how many a mean or deviation may miss that of the distribution."""


def test_statistics():
    rng = np.random.default_rng(0)
    mean, std = section_statistics(rng.normal(5, 2, (4, 1, 50, 50)).astype(np.float32))
    assert (mean.shape, std.shape) == ((1,), (1,))
    assert (mean[0], std[0]) == pytest.approx((5, 2), abs=0.05)


def test_each_channel_has_its_own():
    rng, wanted, deviations = np.random.default_rng(0), np.array([5.0, -70.0, 900.0]), np.array([1.0, 10.0, 100.0])
    channels = np.stack([rng.normal(m, s, (4, 1, 50, 50)) for m, s in zip(wanted, deviations, strict=True)], axis=2)
    mean, std = section_statistics(channels.astype(np.float32))
    assert std == pytest.approx(deviations, rel=STANDARD_ERRORS / np.sqrt(2 * NUM_VALUES))
    assert np.abs((mean - wanted) / deviations).max() < STANDARD_ERRORS / np.sqrt(NUM_VALUES)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_place(value):
    sections = np.ones((3, 2, 8, 8), np.float32)
    sections[1, :, 2, 3] = value, -value
    sections[1, 1, 5, 5] = value
    with pytest.raises(ValueError, match=r"slice 1 has 3 values that are not finite, the first in section 0.* leave"):
        section_statistics(sections)


@pytest.mark.parametrize("value", [0, 3, 1e6, 0.1])
def test_a_constant_volume_has_the_deviation_1(value):
    mean, std = section_statistics(np.full((2, 2, 4, 4), value, np.float32))
    assert (mean[0], std[0]) == pytest.approx((value, 1))
