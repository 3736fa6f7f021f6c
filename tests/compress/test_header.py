from __future__ import annotations

import math
import subprocess
import sys
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from quietbeam.compress.codec import CodecOptions, codec, known_codecs
from quietbeam.compress.crae import CraeSettings
from quietbeam.compress.header import ArchiveHeader, ArchiveSettings

FLOATS = [
    (model, name)
    for model in (ArchiveSettings, CraeSettings)
    for name, field in model.model_fields.items()
    if float in (field.annotation, *get_args(field.annotation))
]


def test_archive_settings_take_the_known_codecs() -> None:
    assert all(ArchiveSettings(codec=name).codec == name for name in known_codecs())


def test_unknown_codec_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValidationError, match=r"expected one of .*crae.*input_value='crea'"):
        ArchiveSettings.model_validate({"codec": "crea"})


def test_options_become_the_settings_of_the_codec() -> None:
    options = CodecOptions(minutes=3, options={"width": 8})
    assert options.for_codec(codec("crae")) == CraeSettings(minutes=3, width=8)
    assert CodecOptions(minutes=3, epochs=2).for_codec(codec("zfp")) == codec("zfp").settings_type()
    with pytest.raises(ValidationError, match="depth"):
        CodecOptions(options={"depth": 8}).for_codec(codec("crae"))


def test_a_codec_name_is_checked_without_torch() -> None:
    program = (
        "import sys; from quietbeam.compress.header import ArchiveSettings; ArchiveSettings(codec='crae');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_float_settings_are_found() -> None:
    assert {name for _, name in FLOATS} == {"max_error", "minutes", "rate_weight", "learning_rate"}


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize(("model", "name"), FLOATS)
def test_numbers_are_finite(model: type[BaseModel], name: str, value: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        model.model_validate({name: value})


@pytest.mark.parametrize(
    ("dtype", "max_error", "message"),
    [
        *(("float32", 0, "must be positive for float32"), ("uint8", 0.5, "must be a whole number for uint8, got 0.5")),
        *(
            ("int16", -1, "greater than or equal to 0"),
            ("float64", 1, "'float32', 'uint8', 'int8', 'uint16' or 'int16'"),
        ),
    ],
)
def test_error_and_type_fit_together(dtype: str, max_error: float, message: str) -> None:
    values = {"shape": (2, 3, 4), "dtype": dtype, "codec": None, "max_error": max_error, "chunk_slices": 1}
    with pytest.raises(ValidationError, match=message):
        ArchiveHeader.model_validate(values)


@pytest.mark.parametrize(("dtype", "num_bytes"), [("float32", 96), ("uint8", 24), ("int16", 48)])
def test_a_header_tells_the_size_of_the_volume(dtype: str, num_bytes: int) -> None:
    values = {"shape": (2, 3, 4), "dtype": dtype, "codec": None, "max_error": 1, "chunk_slices": 1}
    assert ArchiveHeader.model_validate(values).num_bytes == num_bytes
