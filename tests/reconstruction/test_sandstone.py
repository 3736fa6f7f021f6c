"""The sandstone: shares of its minerals, structure of the asked size, the same for the same seed."""

import numpy as np
import pytest

from quietbeam.reconstruction.sandstone import MINERALS, sandstone_phantom

SHARE = 0.02
"""Of the voxels inside: the fields have some hundred independent grains in this volume."""


@pytest.fixture(scope="module")
def rock():
    return sandstone_phantom(64, 160, seed=0)


def inside(volume):
    squares = (np.arange(volume.shape[1]) - (volume.shape[1] - 1) / 2) ** 2
    return volume[:, squares[:, None] + squares < (0.4 * volume.shape[1]) ** 2]


def test_pores_have_their_share(rock):
    assert np.mean(inside(rock) < 0.5 * MINERALS[1]) == pytest.approx(0.16, abs=SHARE)


def test_values_lie_between_pore_and_oxide(rock):
    assert rock.dtype == np.float32
    assert rock.min() == pytest.approx(MINERALS[0], abs=1e-6)
    assert MINERALS[3] < rock.max() <= MINERALS[4] * (1 + 1e-6)
    assert np.median(inside(rock)) == pytest.approx(MINERALS[2], abs=1e-3)


def test_outside_the_core_is_nothing(rock):
    assert not rock[:, :4, :4].any()


def test_the_seed_makes_the_rock(rock):
    np.testing.assert_array_equal(sandstone_phantom(64, 160, seed=0), rock)
    assert not np.array_equal(sandstone_phantom(64, 160, seed=1), rock)


def test_no_voxel_is_refused():
    with pytest.raises(ValueError, match=r"must be positive, got 0 and 5"):
        sandstone_phantom(0, 5, seed=0)
