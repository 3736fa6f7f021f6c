import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.noise2inverse.pairs import Pairs, PairSettings, context_indices


@given(st.integers(1, 12), st.integers(0, 6), st.data())
def test_context_is_mirrored_at_the_ends(num_slices, context, data):
    centre = data.draw(st.integers(0, num_slices - 1))
    padded = np.pad(np.arange(num_slices), context, mode="reflect" if num_slices > 1 else "edge")
    assert context_indices(centre, context, num_slices).tolist() == padded[centre : centre + 2 * context + 1].tolist()


def numbered(num_slices=7, num_sections=4, size=40):
    """Sections whose value tells slice (hundreds) and section (units)."""
    values = 100 * np.arange(num_slices)[:, None] + np.arange(num_sections)[None]
    return np.broadcast_to(values[..., None, None], (num_slices, num_sections, size, size)).astype(np.float32)


@pytest.mark.parametrize("num_slices", [1, 2, 7])
def test_input_is_the_average_of_the_other_sections(num_slices):
    shares = np.array([0.25, 0.25, 0.25, 0.25], np.float32)
    pairs = Pairs(numbered(num_slices), shares, PairSettings(context_slices=2, crop_size=16, batch_size=8))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        inputs, targets = pairs.training_batch(rng)
        assert inputs.shape == (8, 5, 16, 16)
        assert targets.shape == (8, 1, 16, 16)
        for crop, target in zip(inputs, targets, strict=True):
            centre, section = divmod(int(target[0, 0, 0]), 100)
            seen.add(section)
            others = [k for k in range(4) if k != section]
            expected = 100 * context_indices(centre, 2, num_slices) + np.mean(others)
            np.testing.assert_allclose(crop[:, 0, 0], expected, rtol=1e-5)
    assert seen == {0, 1, 2}  # the last one is held out


def test_held_out_pair_has_the_last_section_as_target():
    pairs = Pairs(numbered(), np.full(4, 0.25, np.float32), PairSettings(crop_size=16))
    _, targets = pairs.held_out_batch(np.random.default_rng(0))
    assert set(np.unique(targets % 100)) == {3}


def test_average_is_weighed_by_the_projections_of_each_section():
    pairs = Pairs(numbered(1, 3), np.array([0.5, 0.2, 0.3], np.float32), PairSettings(context_slices=0, crop_size=16))
    inputs, _ = pairs.held_out_batch(np.random.default_rng(0))
    assert inputs[0, 0, 0, 0] == pytest.approx(0.2 / 0.7)


def test_small_slices_are_taken_whole():
    pairs = Pairs(numbered(size=20), np.full(4, 0.25, np.float32), PairSettings(crop_size=64))
    assert pairs.training_batch(np.random.default_rng(0))[0].shape[-2:] == (20, 20)
