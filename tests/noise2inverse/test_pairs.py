import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.noise2inverse.network_inputs import context_indices
from quietbeam.noise2inverse.pairs import Crop, Pairs, PairSettings, held_out_group, mirror_and_turn
from quietbeam.reconstruction.pairing import SectionPair, pair_sections, pair_time_steps
from quietbeam.reconstruction.reconstructors import circle

from .numbered_sections import Recorded, equal_shares, numbered

# Sections, sections of a time step, pairs and settings of the modes of Noise2Inverse.
STATIC_2D = (4, 1, None, {"context_slices": 0})
STATIC = (4, 1, None, {})
SYMMETRIC = (4, 1, pair_sections([range(4)], "symmetric"), {"context_slices": 1})
DYNAMIC = (8, 1, pair_time_steps([range(4), range(4, 8)]), {"context_slices": 1})
DYNAMIC_IN_CONTEXT = (
    8,
    1,
    pair_time_steps([range(8)], context_steps=1),
    {"context_slices": 1, "context_steps": 1},
)
ANGULAR_IN_CONTEXT = (12, 4, pair_sections(np.arange(12).reshape(3, 4)), {"context_slices": 1, "context_steps": 1})
MODES = {
    "static 2D": STATIC_2D,
    "static": STATIC,
    "symmetric": SYMMETRIC,
    "dynamic": DYNAMIC,
    "dynamic in context": DYNAMIC_IN_CONTEXT,
    "angular in context": ANGULAR_IN_CONTEXT,
}


def make(mode, num_slices=32, num_channels=1, record=False, size=40, **settings):
    num_sections, per_step, pairs, more = MODES[mode]
    sections = numbered(num_slices, num_sections, num_channels, size)
    return Pairs(
        Recorded(sections) if record else sections,
        equal_shares(num_sections),
        PairSettings(**{"crop_size": 16, "batch_size": 8} | more | settings),
        pairs=pairs,
        sections_per_step=per_step,
    )


def slices_read(recorded):
    return {index for key in recorded.keys for index in range(recorded.shape[0])[key[0]]}


def sections_read(key, recorded):
    return set(range(recorded.shape[1])[key[1]])


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_no_training_crop_reads_a_held_out_slice(mode, num_channels):
    pairs = make(mode, num_channels=num_channels, record=True)
    assert len(pairs.held_out_slices) == 2
    assert pairs.held_out_pair is None
    pairs.sections.keys.clear()
    rng = np.random.default_rng(0)
    for _ in range(40):
        pairs.training_batch(rng)
    assert slices_read(pairs.sections) == set(range(32)) - set(pairs.held_out_slices)
    targets = {crop.centre for _ in range(40) for crop in pairs.draw_held_out(rng)}
    assert targets == set(pairs.held_out_slices)


@pytest.mark.parametrize("mode", MODES)
def test_inputs_and_target_of_a_crop_share_no_section(mode):
    pairs = make(mode, record=True, batch_size=1)
    recorded, rng = pairs.sections, np.random.default_rng(0)
    for _ in range(60):
        (crop,) = pairs.draw_training(rng)
        recorded.keys.clear()
        inputs, targets = pairs.read([crop])
        wanted = set(pairs.pairs[crop.pair].targets)
        as_target = [key for key in recorded.keys if sections_read(key, recorded) & wanted]
        as_input = [key for key in recorded.keys if not sections_read(key, recorded) & wanted]
        assert set.union(*(sections_read(key, recorded) for key in as_target)) == wanted
        assert {(key[0].start, key[0].stop) for key in as_target} == {(crop.centre, crop.centre + 1)}
        assert as_input
        assert inputs.shape[1] == pairs.in_channels
        assert targets.shape[1] == 1


@pytest.mark.parametrize("mode", MODES)
def test_every_pair_is_drawn_equally_often(mode):
    pairs = make(mode, batch_size=24)
    rng = np.random.default_rng(0)
    times = np.bincount([crop.pair for _ in range(300) for crop in pairs.draw_training(rng)])
    assert len(times) == len(pairs.pairs)
    if 24 % len(pairs.pairs) == 0:
        assert len(set(times.tolist())) == 1
    else:
        np.testing.assert_allclose(times, times.mean(), rtol=0.1)  # 5 standard deviations of the crops left over


def test_single_crops_are_of_all_pairs_alike():
    pairs, rng = make("symmetric", batch_size=1), np.random.default_rng(0)
    times = np.bincount([pairs.draw_training(rng)[0].pair for _ in range(6000)], minlength=6)
    assert ((times - 1000) ** 2 / 1000).sum() < 25.7  # chi-square of 5 degrees of freedom, 1e-4


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("num_slices", [1, 2, 7])
def test_input_is_the_average_of_the_other_sections(num_slices, num_channels):
    """In a volume of few slices, where the last section is held out."""
    pairs = make("static", num_slices, num_channels)
    assert (pairs.held_out_pair, len(pairs.held_out_slices)) == (3, 0)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(20):
        inputs, targets = pairs.training_batch(rng)
        assert inputs.shape == (8, 5 * num_channels, 16, 16)
        assert targets.shape == (8, num_channels, 16, 16)
        for crop, target in zip(inputs, targets, strict=True):
            centre, section = divmod(int(target[0, 0, 0]), 100)
            seen.add(section)
            others = np.mean([k for k in range(4) if k != section])
            indices = context_indices(centre, 2, num_slices)
            expected = 10000 * np.arange(num_channels) + 100 * indices[:, None] + others
            np.testing.assert_allclose(crop[:, 0, 0], expected.ravel(), rtol=1e-5)
            assert (target[:, 0, 0] // 10000).tolist() == list(range(num_channels))
    assert seen == {0, 1, 2}
    _, targets = pairs.held_out_batch(rng)
    assert set(np.unique(targets % 100)) == {3}


@given(st.integers(1, 400), st.integers(0, 5), st.one_of(st.none(), st.integers(1, 20)))
def test_held_out_group_is_in_the_middle_and_leaves_slices(num_slices, context, count):
    settings = PairSettings(context_slices=context, held_out_slices=count)
    if count is not None and count + 2 * context >= num_slices:
        with pytest.raises(ValueError, match=f"held_out_slices={count} .*at least {count + 2 * context + 1} slices"):
            held_out_group(num_slices, settings)
        return
    group = held_out_group(num_slices, settings)
    if count is None and num_slices < 8 + 4 * context:
        assert not group
        return
    assert len(group) == (count or max(num_slices // 16, 1))
    assert abs(group.start - (num_slices - group.stop)) <= 1
    assert num_slices - len(group) - 2 * context >= (1 if count else 7)


def test_few_slices_are_held_out_where_asked_for():
    pairs = make("static", 6, held_out_slices=1, record=True)
    pairs.sections.keys.clear()
    rng = np.random.default_rng(0)
    for _ in range(10):
        pairs.training_batch(rng)
    assert pairs.held_out_slices == range(2, 3)
    assert slices_read(pairs.sections) == {3, 4, 5}


def test_processes_draw_the_same_and_read_their_parts():
    pairs = make("static", augment=True)
    crops = pairs.draw_training(np.random.default_rng(4))
    assert crops == pairs.draw_training(np.random.default_rng(4))
    assert crops != pairs.draw_training(np.random.default_rng(5))
    inputs, targets = pairs.read(crops)
    parts = [pairs.read(crops[part]) for part in (slice(0, 3), slice(3, 3), slice(3, 8))]
    np.testing.assert_array_equal(inputs, np.concatenate([part[0] for part in parts]))
    np.testing.assert_array_equal(targets, np.concatenate([part[1] for part in parts]))
    again = pairs.training_batch(np.random.default_rng(4))
    np.testing.assert_array_equal(inputs, again[0])


def test_symmetries_are_the_eight_of_the_square():
    image = np.arange(9).reshape(3, 3)
    found = {mirror_and_turn(image, symmetry).tobytes() for symmetry in range(8)}
    assert found == {turned.tobytes() for k in range(4) for turned in (np.rot90(image, k), np.rot90(image.T, k))}


def test_input_and_target_are_mirrored_and_turned_alike():
    signal = np.random.default_rng(0).normal(size=(20, 1, 24, 24)).astype(np.float32)
    settings = PairSettings(context_slices=0, crop_size=16, batch_size=64, augment=True)
    pairs = Pairs(np.repeat(signal, 3, axis=1), equal_shares(3), settings)
    crops = pairs.draw_training(np.random.default_rng(0))
    assert {crop.symmetry for crop in crops} == set(range(8))
    inputs, targets = pairs.read(crops)
    np.testing.assert_allclose(inputs, targets, rtol=1e-6)
    for crop, target in zip(crops, targets, strict=True):
        plain = signal[crop.centre, 0, crop.rows, crop.columns]
        np.testing.assert_allclose(target[0], mirror_and_turn(plain, crop.symmetry), rtol=1e-6)
    assert {crop.symmetry for crop in pairs.draw_held_out(np.random.default_rng(0))} == {0}


def test_oblong_slices_taken_whole_are_mirrored_only():
    sections = np.zeros((20, 2, 24, 40), np.float32)
    pairs = Pairs(sections, equal_shares(2), PairSettings(crop_size=64, batch_size=50, augment=True))
    crops = pairs.draw_training(np.random.default_rng(0))
    assert {crop.symmetry for crop in crops} == set(range(4))
    assert pairs.read(crops)[1].shape == (50, 1, 24, 40)


@pytest.mark.parametrize(("inside", "least"), [(True, 0.4), (False, 0.0)])
def test_crops_of_a_circle_hold_data(inside, least):
    """A crop whose middle is in the circle has half of its area there, less what the circle bends away."""
    mask = circle(256) > 0
    sections = np.ones((20, 2, 256, 256), np.float32) * (mask if inside else 1)
    pairs = Pairs(sections, equal_shares(2), PairSettings(context_slices=0, crop_size=32, batch_size=500))
    shares = [mask[crop.rows, crop.columns].mean() for crop in pairs.draw_training(np.random.default_rng(0))]
    assert (min(shares) > least) == inside
    assert min(shares) < 0.6


def crops_of(sections):
    pairs = Pairs(sections, equal_shares(2), PairSettings(context_slices=0, crop_size=32, batch_size=500))
    return pairs.draw_training(np.random.default_rng(0))


@pytest.mark.parametrize("blank", [range(1), range(19, 20), [*range(8), *range(12, 20)]])
def test_blank_slices_do_not_make_a_circle_of_full_ones(blank):
    sections = np.ones((20, 2, 256, 256), np.float32)
    sections[list(blank)] = 0
    assert min(np.hypot(c.rows.start - 112, c.columns.start - 112) for c in crops_of(sections)) < 20
    assert max(np.hypot(c.rows.start - 112, c.columns.start - 112) for c in crops_of(sections)) > 130


def test_small_slices_are_taken_whole():
    pairs = make("static", size=20, crop_size=64)
    assert pairs.training_batch(np.random.default_rng(0))[0].shape[-2:] == (20, 20)


def test_a_crop_is_whole_by_default():
    assert Crop(0, 1, slice(2), slice(3)).symmetry == 0


@pytest.mark.parametrize(
    ("pairs", "settings", "message"),
    [
        ([SectionPair((0, 1), (1, 2))], {}, r"section 1 is target of pair 0 and seen in its input \(0, 1\)"),
        ([SectionPair((1,), (2, 3))], {"context_steps": 1}, r"section 2 is target .*context_steps=1"),
        ([SectionPair((0,), (4,))], {}, "need sections of 0 to 3, got"),
        ([SectionPair((0,), ())], {}, "need sections of 0 to 3, got"),
        (None, {"context_steps": 1}, "take strategy 1:X"),
        ([], {}, "0 pairs of 20 slices leave nothing"),
    ],
)
def test_unsound_pairs_are_refused(pairs, settings, message):
    with pytest.raises(ValueError, match=message):
        Pairs(numbered(20), equal_shares(4), PairSettings(**settings), pairs=pairs)


def test_one_pair_needs_slices_to_hold_out():
    one = [SectionPair((0,), (1,))]
    with pytest.raises(ValueError, match="1 pairs of 5 slices leave nothing to train on"):
        Pairs(numbered(5, 2), equal_shares(2), pairs=one)
    assert Pairs(numbered(20, 2), equal_shares(2), pairs=one).held_out_pair is None


@pytest.mark.parametrize(("strategy", "count"), [("X:1", 4), ("1:X", 4), ("symmetric", 6)])
def test_sections_are_paired_by_the_strategy_of_the_settings(strategy, count):
    pairs = Pairs(np.zeros((1, 4, 16, 16), np.float32), np.full(4, 0.25), PairSettings(strategy=strategy))
    assert pairs.pairs == pair_sections([range(4)], strategy)
    assert len(pairs.pairs) == count


def test_sections_of_a_time_step_are_paired_with_one_another():
    pairs = Pairs(np.zeros((1, 6, 16, 16), np.float32), np.full(6, 1 / 6), sections_per_step=3)
    assert pairs.pairs == pair_sections([range(3), range(3, 6)])
