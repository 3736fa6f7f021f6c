import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quietbeam.reconstruction import axis_evidence
from quietbeam.reconstruction.axis_evidence import Evidence, evenly, mirror_evidence, opposite_pairs, wedge_evidence

from .axis_scans import WIDTH, foam, full_turn, half_turn, white_noise

EXACT = 1e-5
"""Of a correlation, in float32."""
PEAK = 0.05
"""Pixels, for data without noise: an edge blurred to pixels has no better place."""


def plain_correlation(front, back, column):
    """What the columns seen from both sides have in common, one by one."""
    width = front.shape[1]
    mirrored = np.rint(2 * column - np.arange(width)).astype(int)
    both = (mirrored >= 0) & (mirrored < width)
    return np.corrcoef(front[:, both].ravel(), back[:, mirrored[both]].ravel())[0, 1]


def test_correlation_of_all_columns_at_once_is_that_of_each():
    rng = np.random.default_rng(0)
    front, back = rng.normal(1, 2, (2, 5, 31)).astype(np.float32)
    correlation = axis_evidence._masked_correlation(front, back)
    for column in np.arange(2, 28.5, 0.5):
        assert correlation[int(2 * column)] == pytest.approx(plain_correlation(front, back, column), abs=EXACT)


@pytest.mark.parametrize("column", [30.0, 38.5])
def test_a_scan_that_mirrors_correlates_fully(column):
    """A full turn whose back half is the front half mirrored about a column, exactly."""
    width, theta = 64, full_turn(40)
    front = white_noise(2, 20, 200, seed=3)
    at = np.arange(width)
    shift = int(2 * column)
    sinograms = np.concatenate([front[..., 60 + at], front[..., 60 + shift - at]], axis=1)
    evidence = mirror_evidence(sinograms, theta)
    assert evidence.best() == pytest.approx(column, abs=PEAK)
    assert evidence.score(column) == pytest.approx(1, abs=0.05)  # the blur differs at the edges of the detector
    assert evidence.prominence(column) > 20


def test_the_weight_finds_the_peak_and_leaves_its_top():
    columns = np.arange(81) / 2
    correlation = np.clip(1 - ((columns - 20.1) / 5) ** 2, 0.01 * np.cos(columns), None)
    evidence = Evidence(columns, correlation, 1 + 0.1 * (columns - 20))
    assert columns[np.argmax(evidence._standing())] >= 21
    assert evidence.best() == pytest.approx(20.1, abs=1e-9)


@pytest.mark.parametrize("axis", [79.5, 70.3, 88.85])
def test_a_half_turn_continues_in_its_mirror_image(axis):
    evidence = wedge_evidence(foam(half_turn(), axis, noise=0), half_turn())
    best = evidence.best()
    assert best == pytest.approx(axis, abs=PEAK)
    assert evidence.score(best) > 0.6
    assert evidence.prominence(best) > 15
    assert evidence.uncertainty(best) < 0.2


def test_energy_outside_of_the_wedge_is_least_where_the_evidence_is_greatest():
    """The closed form against whole turns put together about each column."""
    theta, axis = half_turn(120), 79.5
    sinogram = foam(theta, axis, num_rows=1, noise=0)[0]
    evidence = wedge_evidence(sinogram[None], theta)

    def energy(column):
        mirrored = 2 * column - np.arange(WIDTH)
        below = np.array([np.interp(mirrored, np.arange(WIDTH), row, left=0, right=0) for row in sinogram])
        spectrum = np.abs(np.fft.fft2(np.concatenate([sinogram, below]))) ** 2
        harmonic, k = np.fft.fftfreq(240, 1 / 240)[:, None], 2 * np.pi * np.fft.fftfreq(WIDTH)
        return spectrum[np.abs(harmonic) > np.maximum(0.7 * WIDTH * np.abs(k), 3)].sum()

    columns = np.arange(74.5, 85, 0.5)
    least = columns[int(np.argmin([energy(column) for column in columns]))]
    assert least == axis
    assert evidence.best() == pytest.approx(axis, abs=2 * PEAK)


def test_little_noise_moves_a_peak_by_less_than_its_uncertainty():
    theta, axis = half_turn(), 74.2
    off = []
    for seed in range(6):
        evidence = wedge_evidence(foam(theta, axis, noise=0.05, seed=seed), theta)
        off.append(abs(evidence.best() - axis) / evidence.uncertainty(evidence.best()))
    assert max(off) < 2
    assert np.mean(off) > 0.01


def test_noise_stands_out_of_nothing():
    for seed in range(20):
        for turn in (1, 2):
            theta = np.arange(90) * turn * np.pi / 90
            evidence = mirror_evidence(white_noise(seed=seed), theta)
            assert evidence.prominence(evidence.best()) < 5
            assert evidence.score(evidence.best()) < 0.5


@pytest.mark.parametrize("evidence", [mirror_evidence, wedge_evidence])
@pytest.mark.parametrize("value", [0.0, 3.7])
def test_a_constant_tells_nothing(evidence, value):
    found = evidence(np.full((2, 30, 40), value, np.float32), half_turn(30))
    assert found.best() is None
    assert not found.correlation.any()
    assert found.prominence(20.0) == 0
    assert found.uncertainty(20.0) == np.inf


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 40)),
    turn=st.sampled_from([0.3, 1.0, 1.2, 2.0, 3.0]),
    data=st.data(),
)
def test_any_finite_scan_gives_finite_evidence(shape, turn, data):
    sinograms = data.draw(arrays(np.float32, shape, elements=st.floats(-100, 100, width=32)))
    theta = np.arange(shape[1]) * turn * np.pi / shape[1]
    for find in (mirror_evidence, wedge_evidence):
        evidence = find(sinograms, theta)
        assert np.isfinite(evidence.correlation).all()
        assert (np.abs(evidence.correlation) <= 1 + EXACT).all()
        best = evidence.best()
        assert best is None or 0 <= best <= shape[2] - 1


def test_inputs_are_left_alone():
    sinograms, theta = foam(full_turn(40), 79.5), full_turn(40)
    before = sinograms.copy()
    mirror_evidence(sinograms, theta)
    wedge_evidence(sinograms, theta)
    np.testing.assert_array_equal(sinograms, before)


def test_static_columns_are_filled_but_air_is_not():
    sinograms = white_noise(2, 60, 64)
    assert axis_evidence.fill_static_columns(sinograms) is sinograms
    spoilt = sinograms.copy()
    spoilt[1, :, 20:23] = 5
    spoilt[..., :12] = 0
    filled = axis_evidence.fill_static_columns(spoilt)
    np.testing.assert_allclose(filled[1, :, 21], (sinograms[1, :, 19] + sinograms[1, :, 23]) / 2, rtol=1e-5, atol=1e-6)
    filled[1, :, 20:23] = 5
    np.testing.assert_array_equal(filled, spoilt)


def test_evenly_keeps_both_ends():
    assert evenly(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert evenly(np.arange(3), 9).tolist() == [0, 1, 2]
    assert evenly(np.arange(3), 0).tolist() == [0]


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
