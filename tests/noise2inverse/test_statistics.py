import numpy as np
import pytest

from quietbeam.noise2inverse.statistics import section_statistics


def test_statistics():
    rng = np.random.default_rng(0)
    mean, std = section_statistics(rng.normal(5, 2, (4, 1, 50, 50)).astype(np.float32))
    assert (mean.shape, std.shape) == ((1,), (1,))
    assert (mean[0], std[0]) == pytest.approx((5, 2), abs=0.05)
    channels = np.stack([rng.normal(i, 10**i, (4, 1, 50, 50)) for i in range(3)], axis=2).astype(np.float32)
    mean, std = section_statistics(channels)
    assert std == pytest.approx([1, 10, 100], rel=0.05)
    assert mean == pytest.approx([0, 1, 2], abs=5)


@pytest.mark.parametrize("value", [0, 3, 1e6, 0.1])
def test_a_constant_volume_has_the_deviation_1(value):
    mean, std = section_statistics(np.full((2, 2, 4, 4), value, np.float32))
    assert (mean[0], std[0]) == pytest.approx((value, 1))
