"""`quietbeam verify` as a person and a script use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .finished_result import finished_result
from .jobs import answer

FIELDS = {"path", "unit", "kind", "ok", "message", "bytes", "seconds"}


@pytest.fixture
def series(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        finished_result(tmp_path / "series" / name)
    return tmp_path / "series"


def test_json_gives_a_line_for_each_unit_and_a_summary(series: Path) -> None:
    (series / "b" / "report.html").write_text("rep0rt")
    done = answer("verify", series, "--json")
    *units, summary = map(json.loads, done.stdout.splitlines())
    assert all(unit.keys() == FIELDS for unit in units)
    bad = [unit for unit in units if unit["ok"] is not True]
    assert [(Path(unit["path"]).name, unit["unit"], unit["kind"], unit["ok"]) for unit in bad] == [
        ("b", "report.html", "file", False)
    ]
    assert (done.returncode, summary["exit_code"], summary["kind"]) == (7, 7, "summary")
    assert (summary["results"], summary["units"], summary["damaged"]) == (2, len(units), 1)
    assert summary["bytes"] == sum(unit["bytes"] for unit in units)


def test_people_read_faults_and_one_line_for_each_result(series: Path) -> None:
    (series / "b" / "report.html").unlink()
    lines = answer("verify", series).stdout.splitlines()
    assert f"{series / 'a'}: verified" in lines
    assert lines.index("DAMAGED  report.html: missing") < lines.index(f"{series / 'b'}: damaged")
    assert len(lines) == 4
    assert lines[-1].startswith("2 results: ")
    assert lines[-1].endswith("; 1 damaged, 0 could not be checked")
    alone = answer("verify", series / "a").stdout.splitlines()
    assert "ok       report.html: 6 bytes, hash as written" in alone
    assert alone[-2:] == ["ok       3 chunks decoded", f"{series / 'a'}: verified"]


def test_names_of_files_cannot_write_to_the_terminal(series: Path) -> None:
    (series / "a" / "x\x1b[2J\udcff").touch()
    assert r"not checked: x\x1b[2J\udcff" in answer("verify", series / "a").stdout
    assert json.loads(answer("verify", series / "a", "--json").stdout.splitlines()[1])["kind"] == "foreign"


def test_exit_codes_tell_what_was_not_checked(series: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    done = answer("verify", series, "--max-duration", "0s", "--state", state)
    assert done.returncode == 4
    assert "the time ran out before all was checked" in done.stdout
    assert json.loads(state.read_text())["format"] == "quietbeam-verify-state-1"
    done = answer("verify", series, "--raw")
    assert done.returncode == 4
    assert "UNKNOWN  the scan: the manifest does not tell which files the scan had" in done.stdout
    assert f"{series / 'a'}: not all was checked" in done.stdout
    assert [answer("verify", series, "--subset", f"{part}/2").returncode for part in (1, 2)] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--subset", "3/2"], "the part of a subset must lie in [1, 2]"),
        (["--max-duration", "soon"], "expected a duration such as 90s"),
        (["--jobs", "0"], "--jobs"),
        (["absent"], "absent does not exist"),
    ],
)
def test_what_cannot_be_meant_is_refused(series: Path, arguments: list[str], message: str) -> None:
    done = answer("verify", series, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not done.stdout
