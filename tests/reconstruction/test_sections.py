import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.sections import check_sections, section_shares, split_angles

SECTIONS_MEAN = 1e-4
"""Largest difference, over the standard deviation, of the sections' average from the full reconstruction."""


@given(st.integers(2, 9), st.integers(40, 200), st.booleans())
def test_sections_are_disjoint_and_complete(num_sections, num_angles, full_turn):
    theta = np.arange(num_angles) * (2 if full_turn else 1) * np.pi / num_angles
    sections = split_angles(theta, num_sections)
    assert sorted(np.concatenate(sections).tolist()) == list(range(num_angles))
    sizes = [len(section) for section in sections]
    assert max(sizes) - min(sizes) <= 1
    np.testing.assert_allclose(section_shares(sections).sum(), 1, rtol=1e-6)


def test_half_turn_is_interleaved():
    sections = split_angles(np.arange(12) * np.pi / 12, 3)
    assert [section.tolist() for section in sections] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_full_turn_puts_opposite_projections_into_different_sections():
    theta = np.arange(120) * 2 * np.pi / 120
    for section in split_angles(theta, 4):
        assert not set(section) & set((section + 60) % 120)


def test_average_of_sections_is_the_full_reconstruction():
    rng = np.random.default_rng(0)
    theta = np.arange(64) * np.pi / 64
    sinograms = rng.normal(size=(2, 64, 48)).astype(np.float32)
    full = gridrec(sinograms, theta, 23.1)
    parts = [gridrec(sinograms[:, part], theta[part], 23.1) for part in split_angles(theta, 4)]
    assert np.abs(np.mean(parts, axis=0) - full).max() < SECTIONS_MEAN * full.std()


def test_too_few_projections():
    with pytest.raises(ValueError, match="4 sections need at least 16 projections, got 10"):
        split_angles(np.linspace(0, 3, 10), 4)


@pytest.mark.parametrize(
    ("sections", "message"),
    [([[0, 1], [1, 2]], "projection 1 is in 2"), ([[0], [2]], "projection 1 is in 0")],
)
def test_broken_sections_are_named(sections, message):
    with pytest.raises(ValueError, match=message):
        check_sections([np.array(section) for section in sections], 3)
