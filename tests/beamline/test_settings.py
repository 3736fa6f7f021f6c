import pytest

from quietbeam.beamline.settings import ReductionSettings, SettingsError, read_settings


def test_order_of_precedence(tmp_path):
    config = tmp_path / "reduce.toml"
    config.write_text("[training]\nminutes = 3\nseed = 7\n[pairs]\ncontext_slices = 1\n")
    settings = read_settings(config, ["training.minutes=5", "scan.name_of=x"][:1], {"pairs.context_slices": 0})
    assert settings.training.minutes == 5
    assert settings.training.seed == 7
    assert settings.pairs.context_slices == 0
    assert settings.network.depth == 100


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("reconstruction.method=fbp", "method", "fbp"),
        ("reconstruction.circle=false", "circle", False),
        ('reconstruction.filter = "hann"', "filter", "hann"),
    ],
)
def test_values_are_read_as_toml_and_text_needs_no_quotes(override, name, value):
    assert getattr(read_settings(overrides=[override]).reconstruction, name) == value


def test_none_takes_a_value_back(tmp_path):
    config = tmp_path / "reduce.toml"
    config.write_text("[archive]\nmax_error = 0.5\n")
    assert read_settings(config, ["archive.max_error=none"]).archive.max_error is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.minuts=5", r"there is no setting training\.minuts; did you mean training\.minutes\?"),
        ("trainin.minutes=5", r"there is no setting trainin"),
        ("training.minutes=-1", r"training\.minutes: Input should be greater than 0, got -1"),
        ("training.minutes=long", r"training\.minutes: .*got 'long'"),
        ("minutes=5", r"expected --set STAGE\.NAME=VALUE"),
        ("training", r"expected --set STAGE\.NAME=VALUE"),
        ("training.minutes.x=1", r"training\.minutes: "),
        ("warm_start.registry=", r"^--set: warm_start\.registry: expected a name, or leave it out, got ''$"),
        ("warm_start.network=' '", r"warm_start\.network: expected a name, or leave it out, got ' '$"),
        ("scan.instrument=", r"scan\.instrument: expected a name, or leave it out, got ''$"),
    ],
)
def test_a_wrong_setting_is_named(override, message):
    with pytest.raises(SettingsError, match=message):
        read_settings(overrides=[override])


@pytest.mark.parametrize("content", ["not toml at all", "\xff", "[training\n"])
def test_a_broken_file_is_named(tmp_path, content):
    config = tmp_path / "reduce.toml"
    config.write_text(content, encoding="latin-1")
    with pytest.raises(SettingsError, match=r"reduce\.toml: not a TOML file"):
        read_settings(config)
    with pytest.raises(SettingsError, match=r"absent\.toml: cannot be read"):
        read_settings(tmp_path / "absent.toml")


def test_settings_survive_json():
    settings = ReductionSettings()
    assert ReductionSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_every_setting_has_a_description():
    for stage in ReductionSettings.model_fields.values():
        for name, field in type(stage.default).model_fields.items():
            assert field.description, f"{stage}.{name}"


def test_none_is_a_word_where_a_setting_takes_it_and_nothing_elsewhere():
    settings = read_settings(overrides=["stripes.method=none", "archive.max_error=none", "rotation_axis.column=None"])
    assert settings.stripes.method == "none"
    assert settings.archive.max_error is None
    assert settings.rotation_axis.column is None
