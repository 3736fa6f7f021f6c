import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.reconstruction.angles import angular_gaps, unevenness
from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.scan_patterns import golden_scan, interlaced_scan, static_scan, steps_of_turns


def test_static_scan_does_not_measure_its_end():
    np.testing.assert_allclose(static_scan(4, turn=np.pi, start=0.1).theta, 0.1 + np.arange(4) * np.pi / 4)


def test_interlaced_scan_reverses_bits():
    """Offsets of the eight subscans as in the figure of the paper: 0 4 2 6 1 5 3 7."""
    scan = interlaced_scan(2, 8)
    first = scan.theta[::2] - np.arange(8) * np.pi
    np.testing.assert_allclose(first / (np.pi / 16), [0, 4, 2, 6, 1, 5, 3, 7], atol=1e-9)
    np.testing.assert_allclose(np.diff(scan.theta)[::2], np.pi / 2)
    assert scan.time_step.tolist() == np.repeat(np.arange(8), 2).tolist()


@given(st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 3), st.sampled_from([np.pi, 2 * np.pi]))
def test_frames_are_evenly_filled_and_the_stage_never_turns_back(angles, subscans, frames, turn):
    scan = interlaced_scan(angles, subscans, num_frames=frames, turn=turn)
    assert (np.diff(scan.theta) > 0).all()
    per_frame = angles * subscans
    for frame in range(frames):
        _, gaps = angular_gaps(scan.theta[frame * per_frame : (frame + 1) * per_frame], turn)
        np.testing.assert_allclose(gaps, turn / per_frame, atol=1e-7)


@pytest.mark.parametrize("group", [1, 2, 4, 8])
def test_groups_of_a_power_of_two_subscans_are_even(group):
    scan = interlaced_scan(15, 8)
    for start in range(0, 8, group):
        inside = (scan.time_step >= start) & (scan.time_step < start + group)
        assert unevenness(scan.theta[inside]) == pytest.approx(1, abs=1e-6)


def test_several_subscans_make_a_time_step():
    scan = interlaced_scan(5, 8, num_frames=2, subscans_per_step=4)
    assert scan.num_time_steps == 4
    assert (np.bincount(scan.time_step) == 20).all()


@given(st.integers(2, 400), st.integers(0, 50))
def test_any_run_of_a_golden_scan_has_gaps_of_at_most_three_lengths(count, first):
    """The three-distance theorem; the longest is the sum of the other two."""
    _, gaps = angular_gaps(golden_scan(first + count, 1).theta[first:])
    lengths = np.sort(gaps)
    distinct = lengths[np.append(True, np.diff(lengths) > 1e-6)]
    assert len(distinct) <= 3
    assert distinct[-1] / distinct[0] < 2.7


def test_golden_scan_steps_by_111_degrees():
    scan = golden_scan(100, 30)
    np.testing.assert_allclose(np.rad2deg(np.diff(scan.theta)), 111.246, atol=1e-3)
    assert np.bincount(scan.time_step).tolist() == [30, 30, 40]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("jitter", [0, 0.02])
def test_turns_of_a_rotating_stage_are_time_steps(sign, wrapped, jitter):
    step = np.pi / 50
    theta = 0.3 + sign * np.arange(150) * step + jitter * step * np.random.default_rng(0).uniform(-1, 1, 150)
    theta[0] -= sign * jitter * step  # so that no later beginning of a turn is nearer than a turn
    steps = steps_of_turns(theta % (2 * np.pi) if wrapped else theta)
    expected = np.arange(150) // 50
    assert (steps != expected).sum() <= (2 if jitter else 0)
    assert steps.max() == 2


def test_rest_after_the_last_turn_belongs_to_it():
    assert np.bincount(steps_of_turns(np.arange(121) * np.pi / 50)).tolist() == [50, 71]
    assert np.bincount(steps_of_turns(np.arange(31) * np.pi / 50)).tolist() == [31]
    assert steps_of_turns(np.array([0.5])).tolist() == [0]


def test_stage_that_turns_back_has_no_turns():
    there = np.arange(100) * np.pi / 100
    with pytest.raises(ScanError, match="turns back about projection 199"):
        steps_of_turns(np.concatenate([there, there[::-1]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: interlaced_scan(9, 6), "power of two, got 6"),
        (lambda: interlaced_scan(9, 0), "power of two, got 0"),
        (lambda: interlaced_scan(9, 4, subscans_per_step=3), "must divide the 4 subscans, got 3"),
        (lambda: golden_scan(20, 21), r"projections_per_step must lie in \[1, 20\], got 21"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
