import tracemalloc

import numpy as np
import pytest

from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.rotation_axis import AxisSettings, find_rotation_axis, opposite_pairs

AXIS_TOLERANCE = 0.5
"""Pixels."""


def sinograms(theta, axis, num_columns=160, num_rows=6, noise=0.02, seed=0):
    """A few discs in each row."""
    rng = np.random.default_rng(seed)
    s = np.arange(num_columns) - axis
    out = np.zeros((num_rows, theta.size, num_columns))
    for row in range(num_rows):
        for _ in range(8):
            x, y, radius = rng.uniform(-35, 35), rng.uniform(-35, 35), rng.uniform(3, 10)
            distance = s - (x * np.cos(theta) + y * np.sin(theta))[:, None]
            out[row] += 2 * np.sqrt(np.clip(radius**2 - distance**2, 0, None)) / 20
    return (out + noise * rng.normal(size=out.shape)).astype(np.float32)


@pytest.mark.parametrize("axis", [79.5, 70.2, 91.7])
@pytest.mark.parametrize("turn", [1, 2])
def test_axis_is_found(axis, turn):
    theta = np.arange(180) * turn * np.pi / 180
    found = find_rotation_axis(sinograms(theta, axis), theta)
    assert found.column == pytest.approx(axis, abs=AXIS_TOLERANCE)
    assert found.score > 0.8
    assert not found.caveats


def test_rings_do_not_draw_the_axis_of_a_full_turn():
    theta = np.arange(180) * 2 * np.pi / 180
    ringed = sinograms(theta, 74.3) + np.random.default_rng(1).normal(0, 1, (6, 1, 160)).astype(np.float32)
    assert find_rotation_axis(ringed, theta).column == pytest.approx(74.3, abs=AXIS_TOLERANCE)


def test_a_given_column_is_taken_and_scored():
    theta = np.arange(90) * np.pi / 90
    data = sinograms(theta, 79.5)
    right, wrong = (find_rotation_axis(data, theta, AxisSettings(column=c)) for c in (79.5, 60.0))
    assert (right.column, right.method) == (79.5, "given")
    assert right.score > wrong.score + 0.1
    with pytest.raises(ScanError, match=r"rotation_axis must lie in \[0, 160\), got 200"):
        find_rotation_axis(data, theta, AxisSettings(column=200))


def test_disagreement_is_told():
    theta = np.arange(90) * np.pi / 90
    noise = np.random.default_rng(2).normal(size=(4, 90, 160)).astype(np.float32)
    found = find_rotation_axis(noise, theta)
    assert "axis-methods-disagree" in [caveat.code for caveat in found.caveats]


@pytest.mark.parametrize(("column", "reach"), [(30.0, 30), (140.0, 19)])
def test_an_axis_near_the_edge_is_told(column, reach):
    theta = np.arange(90) * np.pi / 90
    found = find_rotation_axis(sinograms(theta, column), theta, AxisSettings(column=column))
    assert [caveat.code for caveat in found.caveats] == ["offset-axis"]
    assert f"beyond {reach} pixels from the axis" in found.caveats[0].message


def test_one_row_is_enough():
    theta = np.arange(180) * np.pi / 180
    assert find_rotation_axis(sinograms(theta, 81.0, num_rows=1), theta).column == pytest.approx(81, abs=1)


def test_opposite_pairs():
    full = np.arange(8) * np.pi / 4
    assert opposite_pairs(full).tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    half = np.arange(8) * np.pi / 8
    assert opposite_pairs(half).tolist() == [[0, 7]]


@pytest.mark.parametrize("seed", range(5))
def test_opposite_pairs_are_the_nearest(seed):
    """Against all distances at once, with repeated angles and more than one turn."""
    rng = np.random.default_rng(seed)
    theta = np.sort(np.append(rng.uniform(0, 9, 150), [1.0, 1.0, 1.0 + np.pi, 1.0 + np.pi]))
    distance = np.abs(theta[None, :] - theta[:, None] - np.pi)
    back = distance.argmin(axis=1)
    front = np.flatnonzero(distance.min(axis=1) <= 0.51 * (theta[-1] - theta[0]) / (theta.size - 1))
    np.testing.assert_array_equal(opposite_pairs(theta), np.stack([front, back[front]], axis=1))


def test_opposite_pairs_of_many_projections_fit_into_memory():
    theta = np.arange(60000) * 2 * np.pi / 60000
    tracemalloc.start()
    try:
        pairs = opposite_pairs(theta)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(pairs) in (30000, 30001)
    assert peak < 100 * theta.nbytes
