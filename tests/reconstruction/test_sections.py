import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.reconstruction.acquisition import Acquisition
from quietbeam.reconstruction.angles import covers_full_turn
from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.scan_patterns import golden_scan, interlaced_scan, static_scan
from quietbeam.reconstruction.sections import (
    angular_sections,
    check_sections,
    evenness_caveats,
    section_shares,
    split_angles,
    time_groups,
    time_sections,
)

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
    [
        ([[0, 1], [1, 2]], "exactly one section; projection 1 is in 2"),
        ([[0], [2]], "exactly one section; projection 1 is in 0"),
        ([], "projection 0 is in 0"),
        ([[0, 1], [2, 3]], "numbered 0 to 2; a section has projection 3"),
        ([[0, 1], [2, -1]], "a section has projection -1"),
    ],
)
def test_broken_sections_are_named(sections, message):
    with pytest.raises(ValueError, match=message):
        check_sections([np.array(section) for section in sections], 3)


def test_bad_projection_in_a_section_is_named():
    good = np.array([True, True, False])
    check_sections([np.array([0]), np.array([1])], 3, good=good)
    with pytest.raises(ValueError, match="a bad one must be in none; projection 2 is in 1"):
        check_sections([np.array([0]), np.array([1, 2])], 3, good=good)


@given(st.integers(2, 6), st.integers(40, 120), st.floats(0, 0.3), st.integers(0, 9))
def test_bad_projections_are_left_out(num_sections, num_angles, share_of_bad, seed):
    good = np.random.default_rng(seed).uniform(size=num_angles) >= share_of_bad
    theta = np.arange(num_angles) * np.pi / num_angles
    sections = split_angles(theta, num_sections, good=good)
    assert sorted(np.concatenate(sections).tolist()) == np.flatnonzero(good).tolist()
    sizes = [len(section) for section in sections]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_angles", [120, 121])
@pytest.mark.parametrize("num_sections", [2, 3, 4])
def test_each_section_of_a_half_acquisition_goes_round_the_full_turn(num_sections, num_angles):
    theta = np.arange(num_angles) * 2 * np.pi / num_angles
    scan = Acquisition.from_angles(theta, half_acquisition=True)
    for section in angular_sections(scan, num_sections):
        assert covers_full_turn(theta[section])
        assert np.diff(theta[section]).max() <= 1.01 * num_sections * 2 * np.pi / num_angles


def test_ordinary_sections_of_a_full_turn_need_not_go_round():
    """Which is why a half-acquisition is dealt out modulo the full turn."""
    theta = np.arange(120) * 2 * np.pi / 120
    assert not covers_full_turn(theta[split_angles(theta, 4)[0]])


def test_each_time_step_is_split_on_its_own():
    scan = interlaced_scan(20, 4)
    sections = angular_sections(scan, 3)
    assert len(sections) == 12
    for number, section in enumerate(sections):
        assert (scan.time_step[section] == number // 3).all()


def test_time_steps_are_sections():
    good = np.ones(80, bool)
    good[25] = False
    scan = Acquisition.from_angles(interlaced_scan(20, 4).theta, time_step=np.arange(80) // 20, good=good)
    sections = time_sections(scan)
    assert [len(section) for section in sections] == [20, 19, 20, 20]
    assert 25 not in sections[1]


@pytest.mark.parametrize(
    ("scan", "message"),
    [
        (static_scan(40), "one time step has no sections in time"),
        (golden_scan(40, 3), "time step 0 has 3 good projections, a section needs 4"),
    ],
)
def test_time_that_gives_no_sections(scan, message):
    with pytest.raises(ValueError, match=message):
        time_sections(scan)


@given(st.integers(2, 60), st.integers(2, 12))
def test_time_groups_are_consecutive_and_complete(num_time_steps, group_size):
    if group_size > num_time_steps:
        with pytest.raises(ValueError, match=f"2 to {num_time_steps} time steps, .* got {group_size}"):
            time_groups(num_time_steps, group_size)
        return
    groups = time_groups(num_time_steps, group_size)
    assert np.concatenate(groups).tolist() == list(range(num_time_steps))
    assert all(len(group) == group_size for group in groups[:-1])
    assert group_size <= len(groups[-1]) < 2 * group_size


def test_group_of_one_has_no_partner():
    with pytest.raises(ValueError, match="must have 2 to 8 time steps"):
        time_groups(8, 1)


def test_interleaved_interlaced_and_golden_parts_are_even():
    for num_angles in (360, 361):
        scan = static_scan(num_angles)
        assert evenness_caveats(scan, angular_sections(scan, 4)) == ()
    for scan in (interlaced_scan(21, 8), golden_scan(400, 50)):
        assert evenness_caveats(scan, time_sections(scan)) == ()
        groups = [np.flatnonzero(np.isin(scan.time_step, group)) for group in time_groups(scan.num_time_steps, 3)]
        assert evenness_caveats(scan, groups) == ()


def test_halves_of_a_scan_are_no_even_sections():
    scan = static_scan(180)
    (caveat,) = evenness_caveats(scan, [np.arange(0, 180, 2), np.arange(90, 180)])
    assert caveat.code == "uneven-angles"
    assert "1 of 2 parts" in caveat.message
    assert "those of part 1" in caveat.message


def test_subscans_that_only_creep_on_are_uneven():
    """Two neighbouring subscans of eight in plain order: gaps of 1 and 7 steps, (1 + 49) / 2 over 4 squared."""
    theta = np.arange(160) * np.pi / 160
    creeping = np.concatenate([theta[offset::8] for offset in range(8)])
    (caveat,) = evenness_caveats(Acquisition.from_angles(creeping), [np.arange(40)])
    assert "part 0 1.6 times" in caveat.message


def test_wedge_that_the_whole_scan_lacks_is_not_blamed_on_its_sections():
    scan = Acquisition.from_angles(np.arange(200) * np.pi / 360)
    assert evenness_caveats(scan, angular_sections(scan, 4)) == ()
