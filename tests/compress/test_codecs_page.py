"""What docs/reference/codecs.md says of names, settings and defaults is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from quietbeam.compress.codec import CodecSettings, codec, known_codecs

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "codecs.md").read_text()


def cells(name: str) -> list[str]:
    """Give the row of a codec: name, kind, source, settings, parameters, needs."""
    found = re.findall(rf"^\| `{re.escape(name)}` \|(.*)\|$", PAGE, re.MULTILINE)
    assert found, f"codecs.md has no row for the codec {name}"
    return [name, *(cell.strip() for cell in found[0].split("|"))]


def own_settings(kind: type[BaseModel]) -> dict[str, str]:
    """Give the defaults that a codec does not share with all that `CodecTrainer` trains."""
    shared = CodecSettings.model_fields if issubclass(kind, CodecSettings) else {}
    return {
        name: str(field.default)
        for name, field in kind.model_fields.items()
        if name not in shared or shared[name].default != field.default
    }


@pytest.mark.parametrize("name", known_codecs())
def test_each_codec_has_a_row(name: str) -> None:
    assert len(cells(name)) == 6


@pytest.mark.parametrize("name", known_codecs())
def test_settings_and_extras_are_those_of_the_code(name: str) -> None:
    kind, row = codec(name), cells(name)
    assert dict(re.findall(r"`(\w+)` ([\w.]+)", row[3])) == own_settings(kind.settings_type)
    assert row[5] == ("`codecs`" if getattr(kind, "library", None) else "")


def test_the_settings_of_training_are_those_of_the_code() -> None:
    table = PAGE.partition("| setting | default |")[2].partition("\n\n")[0]
    found = dict(re.findall(r"^\| `(\w+)` \| ([\w.]+) \|", table, re.MULTILINE))
    assert found == {name: str(field.default) for name, field in CodecSettings.model_fields.items()}
