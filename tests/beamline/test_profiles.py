"""Profiles: those that come with quietbeam, and those that a beamline lays beside them."""

import pytest

from quietbeam.beamline.jobs.profiles import (
    BUILT_IN,
    ProfileError,
    known_profiles,
    profile_options,
    profile_stem,
)
from quietbeam.beamline.settings import ReductionSettings, read_settings


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_profiles_are_settings(name):
    settings = read_settings(options=profile_options(name))
    assert (settings == ReductionSettings()) == (name == "default")


def test_fast_takes_less_than_strong():
    fast, strong = (read_settings(options=profile_options(name)).training.minutes for name in ("fast", "strong"))
    assert fast < ReductionSettings().training.minutes < strong


@pytest.fixture
def folder(tmp_path):
    """A beamline's own: default and fast changed, foam built on strong, plain on nothing."""
    files = {
        "default": "[rotation_axis]\ncolumn = 5.5\n[codec.options]\nsteps_per_epoch = 9",
        "fast": "[training]\nminutes = 1.0",
        "foam": 'extends = "strong"\n[training]\nminutes = 30.0',
        "plain": "[network]\ndepth = 7",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path


SITE = {"rotation_axis.column": 5.5, "codec.options.steps_per_epoch": 9}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("default", SITE),
        ("plain", SITE | {"network.depth": 7}),
        ("fast", SITE | BUILT_IN["fast"] | {"training.minutes": 1.0}),
        ("strong", SITE | BUILT_IN["strong"]),
        ("foam", SITE | BUILT_IN["strong"] | {"training.minutes": 30.0}),
    ],
)
def test_profiles_of_a_folder_extend_others(name, options, folder):
    assert profile_options(name, folder) == options


def test_profile_by_its_path(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "own.toml"
    elsewhere.write_text('extends = "plain"')
    assert profile_options(str(elsewhere), folder) == SITE | {"network.depth": 7}
    assert profile_options("plain.toml", folder) == SITE | {"network.depth": 7}
    assert (profile_stem(str(elsewhere)), profile_stem("fast")) == ("own", "fast")


def test_known_profiles(folder):
    assert known_profiles() == tuple(BUILT_IN)
    assert known_profiles(folder) == (*BUILT_IN, "foam", "plain")


def test_unknown_profile_lists_the_known_ones(folder):
    with pytest.raises(ProfileError, match=r"'fome'.*known are default, fast, strong, foam, plain; did you mean foam"):
        profile_options("fome", folder)
    with pytest.raises(ProfileError, match="no folder of profiles: known are default, fast, strong"):
        profile_options("foam")
    with pytest.raises(ProfileError, match="there is no file"):
        profile_options("/nowhere/foam.toml", folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("= 3", "not a TOML file"), ("extends = 3", "expected the name"), ('extends = "a"', "a extends b extends a")],
)
def test_profiles_that_cannot_be_read(text, reason, tmp_path):
    (tmp_path / "a.toml").write_text('extends = "b"')
    (tmp_path / "b.toml").write_text(text)
    with pytest.raises(ProfileError, match=reason):
        profile_options("a", tmp_path)
