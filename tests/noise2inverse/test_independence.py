import numpy as np
import pytest

from quietbeam.noise2inverse.independence import CORRELATED, independence_caveats
from quietbeam.reconstruction.foam import foam_phantom
from quietbeam.reconstruction.pairing import pair_sections
from quietbeam.reconstruction.phantom import project_foam
from quietbeam.reconstruction.reconstructors import reconstruct
from quietbeam.reconstruction.sections import split_angles

NUM_COLUMNS, NUM_ROWS = 96, 6
SHOWN = 0.3
"""Half of the projections shared gives a correlation of 0.5; what signal takes off leaves this at the least."""


@pytest.fixture(scope="module", params=[96, 384], ids=["few angles", "many angles"])
def foam(request):
    """Angles, and exact line integrals (row, angle, column) of a foam."""
    theta = np.arange(request.param) * np.pi / request.param
    projections = project_foam(foam_phantom(300, seed=1, min_radius=0.03), theta, NUM_ROWS, NUM_COLUMNS)
    return theta, np.moveaxis(projections, 0, 1) * (1.2 / projections.max())


def sections_of(foam, counts, parts):
    theta, lines = foam
    rng = np.random.default_rng(0)
    noisy = lines if counts is None else -np.log(np.maximum(rng.poisson(counts * np.exp(-lines)), 1) / counts)
    slices = [reconstruct(noisy[:, p].astype(np.float32), theta[p], (NUM_COLUMNS - 1) / 2) for p in parts]
    return np.stack(slices, axis=1)


@pytest.mark.parametrize("num_slices", [NUM_ROWS, 1])
@pytest.mark.parametrize("num_sections", [2, 4])
@pytest.mark.parametrize("counts", [30, 300, 3000, 30000, None])
def test_sections_of_different_projections_are_independent(foam, counts, num_sections, num_slices):
    sections = sections_of(foam, counts, split_angles(foam[0], num_sections))
    assert independence_caveats(sections[:num_slices]) == []


@pytest.mark.parametrize("num_sections", [2, 4])
@pytest.mark.parametrize("counts", [30, 300, 3000])
def test_sections_that_share_half_of_their_projections_are_named(foam, counts, num_sections):
    parts = split_angles(foam[0], num_sections)
    parts[-1] = np.sort(np.concatenate([parts[0][::2], parts[-1][1::2]]))
    (caveat,) = independence_caveats(sections_of(foam, counts, parts))
    assert caveat.code == "correlated-sections"
    assert f"the noise of sections 0 and {num_sections - 1} correlates 0." in caveat.message
    assert float(caveat.message.split("correlates ")[1].split(";")[0]) == pytest.approx(0.5, abs=0.5 - SHOWN)


def test_of_single_slices_the_odd_pair_is_named():
    sections = noise(1, 4)
    sections[:, 3] = (sections[:, 1] + sections[:, 3]) / np.sqrt(2)
    (caveat,) = independence_caveats(sections)
    assert "sections 1 and 3 correlates 0.7" in caveat.message


def noise(num_slices=6, num_sections=4, num_channels=1, size=64):
    shape = (num_slices, num_sections, num_channels, size, size)
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def test_all_that_correlate_are_counted():
    sections = noise() + 2 * noise(num_sections=1)
    (caveat,) = independence_caveats(sections)
    assert f"and of 5 more pairs of sections above {CORRELATED:g}" in caveat.message


@pytest.mark.parametrize("factor", [1, -0.3, 7.7])
@pytest.mark.parametrize("num_channels", [1, 9])
def test_equal_sections_are_refused(factor, num_channels):
    sections = noise(num_channels=num_channels)
    sections[4, 2] = np.float32(factor) * sections[4, 0]
    with pytest.raises(ValueError, match=r"sections 0 and 2 have the same reconstruction.* would learn the noise"):
        independence_caveats(sections)


def test_sections_that_nearly_agree_are_not_called_equal():
    sections = np.repeat(noise(num_sections=1), 2, axis=1)
    sections[:, 1] += 1e-3 * noise(num_sections=2)[:, 1]
    (caveat,) = independence_caveats(sections)
    assert caveat.code == "correlated-sections"


def test_only_sections_that_meet_in_a_pair_are_compared():
    sections = noise()
    sections[:, 2] = sections[:, 0]
    assert independence_caveats(sections, pair_sections([(0, 1), (2, 3)])) == []
    with pytest.raises(ValueError, match="sections 0 and 2"):
        independence_caveats(sections, pair_sections([(0, 2), (1, 3)]))


@pytest.mark.parametrize("value", [0, 3.5])
@pytest.mark.parametrize("shape", [(1, 2, 16, 16), (5, 3, 2, 33, 20)])
def test_constant_volumes_say_nothing(value, shape):
    assert independence_caveats(np.full(shape, value, np.float32)) == []


def test_a_constant_slice_does_not_hide_the_others():
    sections = noise()
    sections[:4] = 0
    sections[5, 3] = 2 * sections[5, 1]
    with pytest.raises(ValueError, match="sections 1 and 3"):
        independence_caveats(sections)
