from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import finufft
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quietbeam.reconstruction.angles import angular_weights
from quietbeam.reconstruction.filters import filter_rows, padded_length
from quietbeam.reconstruction.gridrec import GridrecPlan, gridrec
from quietbeam.reconstruction.polar_grid import BATCH
from quietbeam.reconstruction.reconstructors import circle
from quietbeam.reconstruction.sections import section_shares, split_angles

GRIDDING = 5e-3
"""Error of a kernel of width 4 on a grid 1.25 times as fine, root mean square over the circle; of noise, which has all
frequencies alike, over its own. What is smooth errs less."""
ROUNDING = 1e-5
"""Differences of float32 sums taken in another order, over the largest value."""


def noise(num_rows: int, num_angles: int, num_columns: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((num_rows, num_angles, num_columns)).astype(np.float32)


def half_turn(num_angles: int) -> NDArray[np.float64]:
    return np.pi * np.arange(num_angles) / num_angles


def reference(sinogram: NDArray[np.float32], theta: NDArray[np.float64], axis: float) -> NDArray[np.float64]:
    """Sum over all rays by a non-uniform transform of nearly double precision."""
    size = sinogram.shape[-1]
    length = padded_length(size)
    half = filter_rows(sinogram, "ram-lak").astype(np.complex128)
    half[:, -1] = 0
    spectrum = np.concatenate([half, half[:, -2:0:-1].conj()], axis=1)
    omega = 2 * np.pi * np.fft.fftfreq(length)
    offset = size // 2 - (size - 1) / 2
    x, y = np.outer(np.cos(theta), omega), -np.outer(np.sin(theta), omega)
    samples = spectrum * np.exp(1j * (omega * axis + offset * (x + y))) * angular_weights(theta)[:, None] / length
    image = finufft.nufft2d1(y.ravel(), x.ravel(), samples.ravel(), (size, size), eps=1e-9, isign=1, nthreads=1)
    return np.asarray(image.real)


def gridding_error(image: NDArray[np.float32], right: NDArray[np.float64]) -> float:
    inside = circle(len(right)) > 0
    return float(np.sqrt(np.mean((image - right)[inside] ** 2) / np.mean(right[inside] ** 2)))


def largest(difference: NDArray[np.floating[Any]], values: NDArray[np.floating[Any]]) -> float:
    return float(np.abs(difference).max() / np.abs(values).max())


@pytest.mark.parametrize("num_columns", [2, 9, 64, 65, 130])
@pytest.mark.parametrize("axis", [0.5, 0.31])
def test_slices_are_the_sum_over_all_rays(num_columns: int, axis: float) -> None:
    column = axis * (num_columns - 1)
    sinograms, theta = noise(3, 50, num_columns), half_turn(50) - 0.7
    slices = gridrec(sinograms, theta, column)
    for sinogram, image in zip(sinograms, slices, strict=True):
        right = reference(sinogram, theta, column)
        assert gridding_error(image, right) < GRIDDING


def test_slices_are_the_sum_over_all_rays_for_any_angles() -> None:
    theta = np.random.default_rng(1).uniform(-10, 10, 61)
    sinograms = noise(1, 61, 48)
    right = reference(sinograms[0], theta, 20.2)
    assert gridding_error(gridrec(sinograms, theta, 20.2)[0], right) < GRIDDING


@pytest.mark.parametrize("num_columns", [16, 33])
@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_a_single_line_along_an_axis_of_the_grid_is_right(num_columns: int, quarter: int) -> None:
    sinograms, theta = noise(1, 1, num_columns), np.array([quarter * np.pi / 2])
    right = reference(sinograms[0], theta, 6.6)
    assert gridding_error(gridrec(sinograms, theta, 6.6)[0], right) < GRIDDING


@settings(max_examples=25, deadline=None)
@given(num_columns=st.integers(1, 40), num_angles=st.integers(1, 40), num_rows=st.integers(1, 20), seed=st.integers(0))
def test_every_size_gives_finite_slices_that_rows_alone_give_too(
    num_columns: int, num_angles: int, num_rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    theta, axis = rng.uniform(0, 2 * np.pi, num_angles), rng.uniform(0, num_columns)
    sinograms = rng.standard_normal((num_rows, num_angles, num_columns)).astype(np.float32)
    slices = gridrec(sinograms, theta, axis)
    assert slices.shape == (num_rows, num_columns, num_columns)
    assert np.isfinite(slices).all()
    row = int(rng.integers(num_rows))
    np.testing.assert_allclose(
        gridrec(sinograms[row : row + 1], theta, axis)[0], slices[row], atol=ROUNDING * np.abs(slices).max(), rtol=0
    )


def test_no_rows_give_no_slices() -> None:
    assert gridrec(noise(0, 10, 12), half_turn(10), 5.5).shape == (0, 12, 12)


def test_number_of_threads_changes_nothing() -> None:
    sinograms, theta = noise(3 * BATCH + 1, 30, 24), half_turn(30)
    np.testing.assert_array_equal(
        gridrec(sinograms, theta, 11.0, num_threads=3), gridrec(sinograms, theta, 11.0, num_threads=1)
    )


def test_plan_gives_the_same_again_and_leaves_its_input_alone() -> None:
    sinograms, theta = noise(2, 30, 24), half_turn(30)
    kept = sinograms.copy()
    plan = GridrecPlan(theta, 24, 10.3)
    first = plan.reconstruct(sinograms)
    plan.reconstruct(noise(BATCH, 30, 24, seed=9))
    np.testing.assert_array_equal(plan.reconstruct(sinograms), first)
    np.testing.assert_array_equal(sinograms, kept)


def test_sections_are_what_their_projections_alone_give() -> None:
    sinograms, theta = noise(BATCH + 2, 41, 33), half_turn(41)
    sections = split_angles(theta, 3)
    together = GridrecPlan(theta, 33, 15.2).reconstruct_sections(sinograms, sections, num_threads=2)
    for index, section in enumerate(sections):
        alone = gridrec(np.ascontiguousarray(sinograms[:, section]), theta[section], 15.2)
        np.testing.assert_allclose(together[:, index], alone, atol=ROUNDING * np.abs(alone).max(), rtol=0)


def test_mean_of_the_sections_is_the_full_reconstruction() -> None:
    sinograms, theta = noise(2, 80, 40), half_turn(80)
    sections = split_angles(theta, 4)
    plan = GridrecPlan(theta, 40, 19.0)
    mean = np.einsum("k,skyx->syx", section_shares(sections), plan.reconstruct_sections(sinograms, sections))
    full = plan.reconstruct(sinograms)
    assert largest(mean - full, full) < ROUNDING


def test_given_weights_take_the_place_of_the_angles_own() -> None:
    sinograms, theta = noise(1, 20, 16), half_turn(20)
    double = gridrec(sinograms, theta, 7.5, weights=np.full(20, 2 * np.pi / 20))
    np.testing.assert_allclose(double, 2 * gridrec(sinograms, theta, 7.5), rtol=1e-5, atol=1e-6)


def test_sections_take_the_weights_given_for_each() -> None:
    sinograms, theta = noise(1, 20, 16), half_turn(20)
    sections = split_angles(theta, 2)
    plan = GridrecPlan(theta, 16, 7.5)
    weights = [np.full(10, 2 * np.pi / 10), np.zeros(10)]
    weighted = plan.reconstruct_sections(sinograms, sections, weights=weights)[0]
    plain = plan.reconstruct_sections(sinograms, sections)[0]
    np.testing.assert_allclose(weighted[0], 2 * plain[0], rtol=1e-5, atol=1e-6)
    assert not weighted[1].any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_before_it_becomes_an_index(wrong: float) -> None:
    theta = half_turn(20)
    with pytest.raises(ValueError, match=r"theta must hold 20 finite angles, .* with 19 finite"):
        GridrecPlan(np.where(theta == theta[3], wrong, theta), 16, 7.5)
    with pytest.raises(ValueError, match=r"rotation_axis must lie in \[0, 16\)"):
        GridrecPlan(theta, 16, wrong)
    with pytest.raises(ValueError, match="weights must hold 20 finite numbers"):
        gridrec(noise(1, 20, 16), theta, 7.5, weights=np.full(20, wrong))


def test_weights_and_sections_that_do_not_fit_are_refused() -> None:
    sinograms, plan = noise(1, 20, 16), GridrecPlan(half_turn(20), 16, 7.5)
    with pytest.raises(ValueError, match=r"weights must hold 20 finite numbers .* got shape \(19,\)"):
        gridrec(sinograms, half_turn(20), 7.5, weights=np.ones(19))
    with pytest.raises(ValueError, match="section 1 must list projections 0 to 19, got 4 to 20"):
        plan.reconstruct_sections(sinograms, [np.arange(4), np.arange(4, 21)])
    with pytest.raises(ValueError, match="at least one section, got none"):
        plan.reconstruct_sections(sinograms, [])
    with pytest.raises(ValueError, match="section 0 must list at least one projection"):
        plan.reconstruct_sections(sinograms, [np.arange(0)])


def test_a_plan_serves_several_threads_at_once() -> None:
    sinograms, theta = noise(2, 30, 24), half_turn(30)
    plan = GridrecPlan(theta, 24, 10.3)
    right = plan.reconstruct(sinograms)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: plan.reconstruct(sinograms), range(40)):
            np.testing.assert_array_equal(found, right)


def test_sinograms_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(row, 20, 16\), got \(1, 20, 15\)"):
        GridrecPlan(half_turn(20), 16, 7.5).reconstruct(noise(1, 20, 15))
