import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.reconstruction.angles import angular_weights, covers_full_turn, direction_order, unevenness


@pytest.mark.parametrize("turn", [np.pi, 2 * np.pi])
@pytest.mark.parametrize("count", [1, 7, 180])
def test_equal_steps_weigh_equally(turn, count):
    theta = -0.3 + np.arange(count) * turn / count
    np.testing.assert_allclose(angular_weights(theta), np.pi / count, rtol=1e-6)


def test_two_projections_of_one_direction_share_its_weight():
    theta = np.linspace(0, np.pi, 11)  # both ends of the half turn
    weights = angular_weights(theta)
    np.testing.assert_allclose(weights[[0, -1]], np.pi / 20, rtol=1e-6)
    np.testing.assert_allclose(weights[1:-1], np.pi / 10, rtol=1e-6)


@pytest.mark.parametrize("jitter", [0, 0.02])
@pytest.mark.parametrize("num_turns", [3, 5, 10])
@pytest.mark.parametrize("turn", [np.pi, 2 * np.pi])
def test_turns_share_the_weight_of_their_directions(turn, num_turns, jitter):
    """Encoder positions repeat to a fiftieth of a step, the beginning of the first turn among them."""
    step = turn / 60
    theta = np.arange(60 * num_turns) * step
    theta += jitter * step * np.random.default_rng(0).uniform(-1, 1, theta.size)
    weights = angular_weights(theta)
    assert weights.sum() == pytest.approx(np.pi)
    np.testing.assert_allclose(weights, np.pi / theta.size, rtol=4 * jitter + 1e-6)


def test_turns_with_a_missing_wedge_do_not_fill_it():
    once = np.linspace(0, np.pi / 2, 90)
    theta = np.concatenate([once, once + 1e-5, once - 1e-5])
    assert angular_weights(theta).sum() == pytest.approx(np.pi / 2, rel=0.05)


def test_two_missing_wedges_are_not_filled():
    """The pillars of a cell."""
    theta = np.concatenate([np.linspace(0, 1, 60), np.linspace(1.6, 2.6, 60)])
    assert angular_weights(theta).sum() == pytest.approx(2, rel=0.1)


def test_missing_wedge_is_not_given_to_its_neighbours():
    theta = np.linspace(0, np.pi / 2, 90)
    assert angular_weights(theta).max() < 3 * np.pi / 90


@given(st.lists(st.floats(-10, 10), min_size=20, max_size=60, unique=True))
def test_weights_are_positive_and_at_most_the_half_turn(theta):
    weights = angular_weights(np.array(theta))
    assert (weights >= 0).all()
    assert weights.sum() <= np.pi * (1 + 1e-9)


def test_order_is_by_direction():
    theta = np.deg2rad([0, 90, 180, 270, 45])
    assert direction_order(theta).tolist() == [0, 2, 4, 1, 3]


@pytest.mark.parametrize("count", [7, 8, 180, 361])
def test_full_period_shares_the_full_turn(count):
    """Counted modulo half a turn, opposite projections share a weight; modulo a full one, each has its own."""
    theta = 0.2 + np.arange(count) * 2 * np.pi / count
    np.testing.assert_allclose(angular_weights(theta, 2 * np.pi), 2 * angular_weights(theta), rtol=1e-6)
    assert angular_weights(theta, 2 * np.pi).sum() == pytest.approx(2 * np.pi)


def test_full_period_does_not_fill_the_other_half():
    theta = np.arange(180) * np.pi / 180
    assert angular_weights(theta, 2 * np.pi).sum() == pytest.approx(np.pi, rel=0.05)


def test_order_over_the_full_turn():
    theta = np.deg2rad([0, 90, 180, 270, 45, 360])
    assert direction_order(theta, 2 * np.pi).tolist() == [0, 5, 4, 1, 2, 3]


@pytest.mark.parametrize(
    ("degrees", "closed"),
    [
        (np.arange(360), True),
        (np.arange(0, 360, 30), True),  # wide steps are no wedge
        (np.arange(0, 1080, 111), True),  # turn after turn
        (np.arange(352), True),
        (np.arange(340), False),
        (np.arange(181), False),
    ],
)
def test_full_turn_is_told_from_half_a_turn(degrees, closed):
    assert covers_full_turn(np.deg2rad(degrees)) is closed


def test_unevenness():
    even = np.arange(90) * np.pi / 90
    assert unevenness(even) == pytest.approx(1)
    assert unevenness(np.concatenate([even, even + np.pi + 1e-6])) == pytest.approx(1)
    assert unevenness(np.random.default_rng(0).uniform(0, np.pi, 5000)) == pytest.approx(1.7, abs=0.05)
    pairs = np.concatenate([np.arange(0, 92, 4), np.arange(1, 92, 4)]) * np.pi / 92
    assert unevenness(pairs) == pytest.approx(1.25)  # gaps of 1 and 3 steps: (1 + 9) / 2 over 2 squared


@pytest.mark.parametrize("turn", [np.pi, 2 * np.pi])
def test_end_of_the_turn_is_its_beginning_whatever_the_rounding(turn):
    assert direction_order(np.array([0.5, turn - 1e-12, 3 * turn + 1e-12, 1.0]), turn).tolist() == [1, 2, 0, 3]


@pytest.mark.parametrize("faster", [5, 8])
def test_a_scan_of_two_speeds_misses_nothing(faster: int) -> None:
    slow = np.deg2rad(0.5 * np.arange(180))
    fast = np.deg2rad(np.arange(90, 180, 0.5 * faster))
    theta = np.concatenate([slow, fast])
    weights = angular_weights(theta)
    assert weights.sum() == pytest.approx(np.pi, rel=1e-3)
    assert weights[-3] == pytest.approx(np.deg2rad(0.5 * faster), rel=1e-3)


def test_a_wedge_split_by_one_projection_still_counts_as_missing() -> None:
    theta = np.deg2rad(np.r_[np.arange(0, 80), 110.0, np.arange(140, 180)])
    assert angular_weights(theta).sum() < np.deg2rad(180 - 60 + 20)
