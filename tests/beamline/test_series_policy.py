"""Which scan of a series is first, and what the others take over from it: the same whenever it is asked."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from quietbeam.beamline.series.policy import SERIES, SeriesPolicy
from quietbeam.noise2inverse.checkpoint import network_bytes
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.reconstruction.errors import ReductionError

from .jobs import small_settings

NAMES = ["a", "b", "c", "d"]
FIRST = small_settings(training__reuse="first", training__compare_every=2)


def done(output, name, seed=0):
    """Leave what a scan that is done leaves for others."""
    model = MSD(5, 1, NetworkSettings(depth=2), generator=torch.Generator().manual_seed(seed))
    (output / name).mkdir(parents=True, exist_ok=True)
    (output / name / "network.safetensors").write_bytes(network_bytes(model, {}))
    return output / name


def asked(policy, names=NAMES):
    return [policy.settings_for(index, name) for index, name in enumerate(names)]


def followers(output, names=NAMES, settings=FIRST):
    """A series whose first scan is done."""
    policy = SeriesPolicy(output, settings, names)
    policy.finished(names[0], done(output, names[0]))
    return policy


def test_each_scan_for_itself_waits_for_none_and_leaves_nothing(tmp_path):
    policy = SeriesPolicy(tmp_path, small_settings(), NAMES)
    assert asked(policy) == [small_settings()] * 4
    policy.finished("a", done(tmp_path, "a"))
    assert not (tmp_path / SERIES).exists()


def test_the_others_wait_for_the_first_and_then_apply_its_network(tmp_path):
    policy = SeriesPolicy(tmp_path, FIRST, NAMES)
    assert asked(policy) == [FIRST, None, None, None]
    policy.finished("a", done(tmp_path, "a"))
    first, *others = asked(policy)
    assert first == FIRST
    for settings in others:
        assert settings.training.epochs == 0
        assert settings.training.compare_epochs == FIRST.training.epochs, "what it would have trained for by itself"
        assert settings.warm_start.network == tmp_path / "a" / "network.safetensors"
        assert settings.model_copy(update={"training": None, "warm_start": None}) == FIRST.model_copy(
            update={"training": None, "warm_start": None}
        )


def test_where_the_first_fails_the_next_is_first_and_stays_it(tmp_path):
    policy = SeriesPolicy(tmp_path, FIRST, NAMES)
    policy.failed("a")
    assert asked(policy)[1:] == [FIRST, None, None]
    policy.finished("b", done(tmp_path, "b"))
    again = SeriesPolicy(tmp_path, FIRST, NAMES)  # the scan that had failed is whole now
    assert asked(again) == [None, FIRST, None, None]
    again.finished("b", tmp_path / "b")
    assert asked(again)[0].warm_start.network == tmp_path / "b" / "network.safetensors"
    policy = SeriesPolicy(tmp_path / "none", FIRST, ["a"])
    policy.failed("a")
    assert policy.settings_for(0, "a") is None


def test_the_same_again_and_with_more_scans_gives_the_same_settings(tmp_path):
    before = asked(followers(tmp_path))
    content = (tmp_path / SERIES).read_bytes()
    again = followers(tmp_path)
    assert asked(again) == before
    assert (tmp_path / SERIES).read_bytes() == content
    more = SeriesPolicy(tmp_path, FIRST, ["0", *NAMES])  # sorted before all others, and yet not first
    assert more.settings_for(0, "0") is None
    more.finished("a", tmp_path / "a")
    assert asked(more, ["0", *NAMES])[1:] == before
    assert json.loads((tmp_path / SERIES).read_text())["order"] == [*NAMES, "0"]


def test_a_first_scan_that_is_not_asked_for_or_not_readable_any_more_still_serves(tmp_path):
    before = asked(followers(tmp_path))[1:]
    assert asked(SeriesPolicy(tmp_path, FIRST, NAMES[1:]), NAMES[1:]) == before
    gone = SeriesPolicy(tmp_path, FIRST, NAMES)
    gone.failed("a")
    assert asked(gone)[1:] == before


def test_a_first_scan_of_other_settings_or_with_another_network_does_not_serve(tmp_path):
    followers(tmp_path)
    other = small_settings(training__reuse="first", sections__num_sections=3)
    assert asked(SeriesPolicy(tmp_path, other, NAMES[1:]), NAMES[1:]) == [other, None, None]
    done(tmp_path, "a", seed=1)
    assert asked(SeriesPolicy(tmp_path, FIRST, NAMES[1:]), NAMES[1:]) == [FIRST, None, None]


def test_a_look_leaves_nothing(tmp_path):
    policy = SeriesPolicy(tmp_path, FIRST, NAMES, keep=False)
    policy.finished("a", done(tmp_path, "a"))
    assert policy.settings_for(1, "b").training.epochs == 0
    assert not (tmp_path / SERIES).exists()


def test_with_a_registry_the_first_goes_before_and_all_have_the_same_settings(tmp_path):
    settings = small_settings(training__reuse="registry", training__compare_every=None, warm_start__registry=tmp_path)
    policy = SeriesPolicy(tmp_path, settings, NAMES)
    assert asked(policy) == [settings, None, None, None]
    policy.finished("a", done(tmp_path, "a"))
    assert asked(policy) == [settings] * 4


def test_a_codec_of_the_first_is_taken_over_too(tmp_path):
    settings = small_settings(codec__reuse="first")
    policy = SeriesPolicy(tmp_path, settings, NAMES)
    assert asked(policy) == [settings, None, None, None]
    (done(tmp_path, "a") / "codec.safetensors").write_bytes(b"packed")
    policy.finished("a", tmp_path / "a")
    assert policy.settings_for(1, "b").codec.trained == tmp_path / "a" / "codec.safetensors"
    assert policy.settings_for(1, "b").training == settings.training


@examples(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 5))
def test_the_sample_that_is_compared_is_the_same_however_scans_are_added(tmp_path_factory, batches, every):
    output, settings = tmp_path_factory.mktemp("out"), small_settings(training__reuse="first")
    settings = settings.model_copy(update={"training": settings.training.model_copy(update={"compare_every": every})})
    names, compared = [], {}
    for batch in batches:
        names += [f"scan {len(names) + k}" for k in range(batch)]
        policy = followers(output, names, settings)
        for name, given_settings in zip(names[1:], asked(policy, names)[1:], strict=True):
            assert compared.setdefault(name, given_settings.training.compare) == given_settings.training.compare
    assert [compared[name] for name in names[1:]] == [k % every == 0 for k in range(len(names) - 1)]


@pytest.mark.parametrize("content", ["", "{}", '{"format": "other"}', '{"format": "quietbeam-first-1", "order": 3}'])
def test_a_file_that_is_damaged_is_refused_and_named(tmp_path, content):
    (tmp_path / SERIES).write_text(content)
    with pytest.raises(ReductionError, match=r"series\.json: cannot be read .*remove it"):
        SeriesPolicy(tmp_path, FIRST, NAMES)
