import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quietbeam.reconstruction.acquisition import Acquisition
from quietbeam.reconstruction.pairing import (
    MOST_HALVED,
    PairingSettings,
    SectionPair,
    check_pairs,
    pair_sections,
    pair_time_steps,
    plan_pairs,
)
from quietbeam.reconstruction.scan_patterns import golden_scan, interlaced_scan, static_scan
from quietbeam.reconstruction.sections import SectionSettings


@st.composite
def scans(draw):
    """Static and dynamic scans of uneven counts, a fifth of their projections bad."""
    steps = draw(st.integers(1, 5))
    counts = draw(st.lists(st.integers(40, 70), min_size=steps, max_size=steps))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    time_step = np.repeat(np.arange(steps), counts)
    good = rng.uniform(size=time_step.size) > 0.2
    return Acquisition.from_angles(rng.uniform(0, 2 * np.pi, time_step.size), time_step=time_step, good=good)


def projections(pairing, numbers):
    return set(np.concatenate([pairing.sections[number] for number in numbers]).tolist())


def assert_conditions_hold(scan, pairing):
    """Check the conditions by sets of projections, without the bookkeeping of sections."""
    times = np.zeros(scan.num_projections, int)
    for inputs, targets in pairing.pairs:
        assert not projections(pairing, inputs) & projections(pairing, targets)
        times[list(projections(pairing, targets))] += 1
    assert len(set(times[scan.good])) == 1
    assert times[scan.good][0] > 0
    assert not times[~scan.good].any()


@given(scans(), st.integers(2, 5), st.sampled_from(["X:1", "1:X", "symmetric"]))
def test_angular_pairs_hold_the_conditions(scan, num_sections, strategy):
    pairing = plan_pairs(scan, SectionSettings(num_sections=num_sections), PairingSettings(strategy=strategy))
    if strategy != "symmetric":
        assert len(pairing.pairs) == num_sections * scan.num_time_steps
    assert_conditions_hold(scan, pairing)
    for inputs, targets in pairing.pairs:  # all of one time step, and together all of it
        both = projections(pairing, inputs + targets)
        assert both == set(scan.projections_of(scan.time_step[min(both)]).tolist())


@given(st.integers(2, 40), st.integers(2, 6))
def test_time_pairs_hold_the_conditions(num_steps, group_size):
    assume(group_size <= num_steps)
    scan = golden_scan(5 * num_steps, 5)
    pairing = plan_pairs(scan, pairing=PairingSettings(group_size=group_size))
    assert_conditions_hold(scan, pairing)
    assert [pair.inputs for pair in pairing.pairs] == [(step,) for step in range(num_steps)]


def test_strategies():
    assert pair_sections([range(3)]) == [((1, 2), (0,)), ((0, 2), (1,)), ((0, 1), (2,))]
    assert pair_sections([range(3)], "1:X") == [((0,), (1, 2)), ((1,), (0, 2)), ((2,), (0, 1))]
    assert pair_sections([(0, 1), (2, 3)]) == [((1,), (0,)), ((0,), (1,)), ((3,), (2,)), ((2,), (3,))]


def test_round_robin_over_a_frame_of_subscans():
    """Each subscan predicts the others of its frame, whose angles lie between its own."""
    scan = interlaced_scan(8, 4, num_frames=2)
    pairing = plan_pairs(scan, pairing=PairingSettings(strategy="1:X", group_size=4))
    assert pairing.pairs[:2] == [((0,), (1, 2, 3)), ((1,), (0, 2, 3))]
    assert pairing.pairs[5] == ((5,), (4, 6, 7))
    assert_conditions_hold(scan, pairing)


@given(st.integers(2, 40), st.integers(2, 9), st.integers(0, 3))
def test_time_steps_seen_as_context_are_no_targets(num_steps, group_size, context):
    assume(2 * context + 2 <= group_size <= num_steps)
    scan = golden_scan(5 * num_steps, 5)
    pairing = plan_pairs(scan, pairing=PairingSettings(group_size=group_size), context_steps=context)
    assert_conditions_hold(scan, pairing)
    (num_targets,) = {len(pair.targets) for pair in pairing.pairs}
    assert num_targets >= group_size - 2 * context - 1
    for (step,), targets in pairing.pairs:
        assert all(context < abs(step - target) < 2 * group_size for target in targets)


def test_context_in_time_leaves_angular_pairs_as_they_are():
    scan = golden_scan(200, 50)
    assert (
        plan_pairs(scan, context_steps=2).pairs == plan_pairs(scan).pairs == pair_sections(np.arange(16).reshape(4, 4))
    )


def test_context_in_time_needs_single_steps_and_room():
    scan = golden_scan(200, 50)
    with pytest.raises(ValueError, match=r"strategy X:1 averages time steps.*context_steps=1.*take strategy 1:X"):
        plan_pairs(scan, pairing=PairingSettings(strategy="X:1", group_size=4), context_steps=1)
    with pytest.raises(ValueError, match=r"at least 6 time steps .* context_steps=2, got 4: make the groups larger"):
        plan_pairs(scan, pairing=PairingSettings(group_size=4), context_steps=2)


@given(st.integers(2, 7))
def test_symmetric_pairs_are_all_halves(num_sections):
    pairs = pair_sections([range(num_sections)], "symmetric")
    half = num_sections // 2
    assert len(set(pairs)) == len(pairs) == math.comb(num_sections, half) * (1 + num_sections % 2)
    for inputs, targets in pairs:
        assert sorted(inputs + targets) == list(range(num_sections))
        assert abs(len(inputs) - len(targets)) == num_sections % 2
        assert SectionPair(targets, inputs) in pairs
    times = np.bincount([target for pair in pairs for target in pair.targets])
    assert len(set(times.tolist())) == 1


def test_symmetric_pairs_of_two_and_four():
    assert pair_sections([(0, 1)], "symmetric") == [((0,), (1,)), ((1,), (0,))]
    assert len(pair_sections([range(4)], "symmetric")) == 6
    with pytest.raises(ValueError, match=f"{MOST_HALVED + 1} sections have too many halves, at most {MOST_HALVED}"):
        pair_sections([range(MOST_HALVED + 1)], "symmetric")


def test_groups_of_two_sizes_share_out_their_targets():
    scan = interlaced_scan(8, 4, subscans_per_step=1, num_frames=1)
    scan = dataclasses.replace(scan, time_step=np.repeat(np.arange(5), [8, 8, 8, 4, 4]))
    pairing = plan_pairs(scan, pairing=PairingSettings(group_size=2))
    assert_conditions_hold(scan, pairing)
    assert pairing.pairs[2:] == [((2,), (3,)), ((3,), (4,)), ((4,), (2,))]
    assert_conditions_hold(scan, plan_pairs(scan, pairing=PairingSettings(strategy="X:1", group_size=2)))
    with pytest.raises(
        ValueError, match=r"section 0 \(projection 0, ...\) is a target 1 times, section 2 3 times: .*X:1"
    ):
        plan_pairs(scan, pairing=PairingSettings(strategy="symmetric", group_size=2))


def test_a_larger_group_takes_its_nearest_steps():
    assert pair_time_steps([range(2), range(2, 7)])[2:4] == [((2,), (3,)), ((3,), (4,))]
    assert pair_time_steps([range(3), range(3, 8)])[3:5] == [((3,), (4, 7)), ((4,), (3, 5))]


def test_channels_do_not_change_the_sections():
    one, many = (Acquisition.from_angles(static_scan(50).theta, num_channels=count) for count in (1, 40))
    np.testing.assert_equal(plan_pairs(one).sections, plan_pairs(many).sections)


SECTIONS = [np.array([0, 3]), np.array([1, 4]), np.array([2, 5])]
PAIRS = pair_sections([range(3)])


def test_sound_pairs_pass():
    check_pairs(PAIRS, SECTIONS, 6)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([*PAIRS[:2], SectionPair((0, 2), (2,))], "section 2 is input and target of pair 2.* noise of projection 2"),
        (PAIRS[:2], "section 2 is never a target, so that projection 2 is left out"),
        ([], "section 0 is never a target"),
        ([*PAIRS, PAIRS[1]], r"section 0 \(projection 0, ...\) is a target 1 times, section 1 2 times"),
        ([SectionPair((), (0,)), *PAIRS[1:]], "pair 0 needs an input and a target section"),
        ([*PAIRS[:2], SectionPair((0, 3), (2,))], "pair 2 names section 3; there are sections 0 to 2"),
        ([*PAIRS[:2], SectionPair((0, 0), (2,))], r"pair 2 names a section twice in its input, \(0, 0\)"),
        ([*PAIRS[:2], SectionPair((0,), (2, 2))], "pair 2 names a section twice in its target"),
    ],
)
def test_broken_pairs_are_named(pairs, message):
    with pytest.raises(ValueError, match=message):
        check_pairs(pairs, SECTIONS, 6)


def test_projection_in_two_sections_is_found():
    with pytest.raises(ValueError, match="projection 3 is in 2"):
        check_pairs(PAIRS, [*SECTIONS[:2], np.array([2, 3, 5])], 6)


def test_section_without_partner():
    with pytest.raises(ValueError, match=r"two sections or more to be paired, got \(2,\)"):
        pair_sections([(0, 1), (2,)])


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(50, 90))
def test_any_leak_is_found(seed, num_sections, num_angles):
    """Copy one projection from a section to another: in whatever pair the two meet, its noise would be learned."""
    pairing = plan_pairs(static_scan(num_angles), SectionSettings(num_sections=num_sections))
    rng = np.random.default_rng(seed)
    source, drain = rng.choice(num_sections, 2, replace=False)
    leaked = rng.choice(pairing.sections[source])
    pairing.sections[drain] = np.append(pairing.sections[drain], leaked)
    with pytest.raises(ValueError, match=f"projection {leaked} is in 2"):
        check_pairs(pairing.pairs, pairing.sections, num_angles)
