import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.noise2inverse.network_inputs import NetworkInputs, context_indices, with_channel_axis

from .numbered_sections import Recorded, equal_shares, numbered

SCATTER = 0.02
"""Relative standard error of a variance from 5 x 96 x 96 independent pixels is 0.7 %; this is three of them."""
WHOLE = slice(None)


@given(st.integers(1, 12), st.integers(0, 6), st.data())
def test_context_is_mirrored_at_the_ends(num_slices, context, data):
    centre = data.draw(st.integers(0, num_slices - 1))
    padded = np.pad(np.arange(num_slices), context, mode="reflect" if num_slices > 1 else "edge")
    assert context_indices(centre, context, num_slices).tolist() == padded[centre : centre + 2 * context + 1].tolist()


def test_channels_of_the_data_come_first_then_slices_then_time_steps():
    sections = numbered(num_sections=3, num_channels=2)
    inputs = NetworkInputs(sections, equal_shares(3), context_slices=1, context_steps=1)
    assert (inputs.in_channels, inputs.out_channels) == (2 * 3 * 3, 2)
    seen = inputs.images((1,), 4, WHOLE, WHOLE)
    assert seen.dtype == np.float32
    expected = [10000 * c + 100 * z + t for t in (0, 1, 2) for z in (3, 4, 5) for c in (0, 1)]
    assert seen[:, 0, 0].tolist() == expected
    assert inputs.target((2,), 4, WHOLE, WHOLE)[:, 0, 0].tolist() == [402, 10402]


@pytest.mark.parametrize(("step", "steps"), [(0, (2, 1, 0, 1, 2)), (2, (0, 1, 2, 3, 2)), (3, (1, 2, 3, 2, 1))])
def test_time_steps_are_mirrored_at_the_ends(step, steps):
    inputs = NetworkInputs(numbered(), equal_shares(4), context_slices=0, context_steps=2)
    assert inputs.images((step,), 0, WHOLE, WHOLE)[:, 0, 0].tolist() == list(steps)


def test_angular_sections_keep_their_places_in_the_time_steps_around():
    inputs = NetworkInputs(
        numbered(num_sections=12), equal_shares(12), context_slices=0, context_steps=1, sections_per_step=4
    )
    assert inputs.input_steps((4, 5, 7)) == [(0, 1, 3), (4, 5, 7), (8, 9, 11)]
    np.testing.assert_allclose(inputs.images((4, 5, 7), 0, WHOLE, WHOLE)[:, 0, 0], np.array([4, 16, 28]) / 3, rtol=1e-6)
    assert inputs.input_steps((9,)) == [(5,), (9,), (5,)]


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.data())
def test_average_is_weighed_by_shares(counts, data):
    numbers = data.draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, unique=True))
    shares = np.array(counts) / sum(counts)
    inputs = NetworkInputs(numbered(1, len(counts)), shares, context_slices=0)
    expected = np.average(numbers, weights=np.array(counts)[numbers])
    for images in (inputs.images, inputs.target):
        assert images(numbers, 0, WHOLE, WHOLE)[0, 0, 0] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 2, 3), (3,)])
def test_noise_free_sections_give_the_signal_and_noise_has_the_variance_of_the_shares(numbers):
    """Section k of n_k projections has noise of variance 1 / n_k, so the average has 1 / sum n_k."""
    rng = np.random.default_rng(0)
    counts = np.array([10, 20, 30, 15])
    signal = rng.normal(size=(5, 1, 96, 96)).astype(np.float32)
    noise = (rng.normal(size=(5, 4, 96, 96)) / np.sqrt(counts)[:, None, None]).astype(np.float32)
    clean, noisy = (
        NetworkInputs(sections, counts / counts.sum(), context_slices=2).images(numbers, 2, WHOLE, WHOLE)
        for sections in (np.repeat(signal, 4, axis=1), signal + noise)
    )
    np.testing.assert_allclose(clean, signal[:, 0], rtol=1e-6, atol=1e-6)
    assert np.var(noisy - signal[:, 0]) == pytest.approx(1 / counts[list(numbers)].sum(), rel=SCATTER)


def test_four_axes_become_five_without_reading():
    sections = Recorded(numbered(num_channels=1)[:, :, 0])
    seen = with_channel_axis(sections)
    assert seen.shape == (7, 4, 1, 8, 8)
    assert not sections.keys
    assert seen[slice(2, 3), slice(1, 3)].shape == (1, 2, 1, 8, 8)
    assert seen[slice(2, 3), slice(1, 3), slice(1), slice(2), slice(3)].shape == (1, 2, 1, 2, 3)
    assert sections.keys[-1] == (slice(2, 3), slice(1, 3), slice(2), slice(3))
    assert with_channel_axis(seen) is seen
    with pytest.raises(ValueError, match=r"axes \(slice, section, \[channel,\] y, x\), got shape \(2, 3, 4\)"):
        with_channel_axis(np.zeros((2, 3, 4)))


def test_a_crop_of_a_large_file_reads_its_own_bytes_only(tmp_path):
    shape = (400, 4, 512, 512)  # 1.6 GB that take no disk
    sections = Recorded(np.lib.format.open_memmap(tmp_path / "sections.npy", "w+", np.float32, shape))
    inputs = NetworkInputs(sections, equal_shares(4), context_slices=2)
    rows, columns = slice(100, 228), slice(300, 364)
    inputs.images((0, 1, 3), 200, rows, columns)
    assert sections.num_bytes == 4 * 5 * 3 * 128 * 64
    assert {(key[0].start, key[0].stop) for key in sections.keys} == {(198, 203)}
    assert all(2 not in range(4)[key[1]] for key in sections.keys)
    inputs.target((2,), 200, rows, columns)
    assert sections.num_bytes == 4 * (5 * 3 + 1) * 128 * 64


@pytest.mark.parametrize("numbers", [(), (4,), (-1, 2)])
def test_sections_that_do_not_exist_are_refused(numbers):
    inputs = NetworkInputs(numbered(), equal_shares(4), context_slices=0)
    with pytest.raises(ValueError, match="need sections of 0 to 3, got"):
        inputs.images(numbers, 0, WHOLE, WHOLE)


def test_context_in_time_is_of_one_time_step():
    inputs = NetworkInputs(numbered(), equal_shares(4), context_slices=0, context_steps=1)
    with pytest.raises(ValueError, match=r"sections \(0, 2\) of time steps \(0, 2\): take strategy 1:X"):
        inputs.images((0, 2), 0, WHOLE, WHOLE)


@pytest.mark.parametrize(
    ("shares", "per_step", "message"),
    [
        ([0.5, 0.5], 1, "a positive share of each of 4 sections"),
        ([0.5, 0.5, 0, 0], 1, "a positive share of each of 4 sections"),
        ([0.25] * 4, 3, "4 sections are no whole time steps of 3 sections each"),
    ],
)
def test_sections_and_shares_must_fit(shares, per_step, message):
    with pytest.raises(ValueError, match=message):
        NetworkInputs(numbered(), np.array(shares), context_slices=0, sections_per_step=per_step)
