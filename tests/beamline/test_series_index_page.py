"""What docs/reference/series-index.md says of columns, fields and formats is what the code has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args

from quietbeam.beamline.series.index_table import COLUMNS
from quietbeam.beamline.series.ledger import FORMAT
from quietbeam.beamline.series.policy import FORMAT as FORMAT_OF_FIRST
from quietbeam.beamline.series.pool import Failure
from quietbeam.beamline.series.scan_row import ScanRow, State, word_for

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "series-index.md").read_text()


def rows_below(heading: str) -> list[list[str]]:
    """Give the rows of the table below a heading, without the two of its head."""
    section = PAGE.partition(f"## `{heading}`\n")[2].partition("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]


def names_in(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


def test_the_columns_of_the_table() -> None:
    assert [name for row in rows_below("index.csv") for name in names_in(row[0])] == list(COLUMNS)


def test_states_and_words_for_failures() -> None:
    (state,) = [row[-1] for row in rows_below("index.csv") if row[0] == "`state`"]
    (failure,) = [row[-1] for row in rows_below("index.csv") if row[0] == "`failure`"]
    failures = [Failure("", code, "refused") for code in range(1, 9)] + [Failure(""), Failure("", kind="lost")]
    assert tuple(names_in(state)) == get_args(State)
    assert set(re.findall(r"`([\w ]+)`", failure)) == {word_for(one) for one in failures}


def test_the_fields_of_a_row() -> None:
    told = [name for row in rows_below("index.json") for name in names_in(row[0])]
    assert sorted(told) == sorted(field.name for field in dataclasses.fields(ScanRow))


def test_the_formats() -> None:
    assert f'"format": "{FORMAT}"' in PAGE
    assert f"| `format` | `{FORMAT_OF_FIRST}` |" in PAGE
