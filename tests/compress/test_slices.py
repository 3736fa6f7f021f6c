from __future__ import annotations

import numpy as np
import pytest
import torch

from quietbeam.compress.slices import decode_slices, enlarged, mean_and_std, sample_slices


@pytest.mark.parametrize(("num_slices", "picked"), [(1, [0]), (5, [0, 1, 2, 3, 4]), (31, range(0, 31, 2))])
def test_at_most_16_slices_are_looked_at_evenly_spaced(num_slices: int, picked: list[int]) -> None:
    volume = np.random.default_rng(0).random((num_slices, 3, 2), np.float32)
    np.testing.assert_array_equal(sample_slices(volume), volume[picked])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_slices_that_are_not_finite_are_refused(wrong: float) -> None:
    volume = np.zeros((2, 3, 3), np.float32)
    volume[1, 2, 2] = wrong
    with pytest.raises(ValueError, match="the volume must be finite to be encoded, got nan or inf"):
        sample_slices(volume)


def test_mean_and_deviation_are_those_of_all_voxels_and_1_for_a_constant() -> None:
    planes = np.random.default_rng(0).normal(1000, 3, (4, 20, 30)).astype(np.float32)
    wide = planes.astype(np.float64)
    assert mean_and_std(planes) == pytest.approx((wide.mean(), wide.std()), rel=1e-12)
    assert mean_and_std(planes, np.float32) == (np.float32(wide.mean()), np.float32(wide.std()))
    assert mean_and_std(np.full((2, 3, 3), 5, np.float32)) == (5, 1)


def test_edges_are_repeated_to_whole_tiles_and_cut_off_again() -> None:
    chunk = np.arange(2 * 3 * 5).reshape(2, 3, 5).astype(np.float32)
    large = enlarged(chunk, 4)
    assert large.shape == (2, 4, 8)
    np.testing.assert_array_equal(large[:, 3], np.pad(chunk[:, 2], [(0, 0), (0, 3)], mode="edge"))
    latents = [torch.from_numpy(plane)[None, None].double() * 2**12 for plane in large]
    np.testing.assert_array_equal(decode_slices(lambda values: values, latents, chunk.shape, 2.0, 1.0), 2 * chunk + 1)
