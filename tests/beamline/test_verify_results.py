"""Checking results: what is found, how the work is shared out and taken up again, and that nothing is touched."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from quietbeam.beamline.series.scan_row import ScanRow
from quietbeam.beamline.verifying.folder import find_results
from quietbeam.beamline.verifying.request import Summary, VerifyRequest, parse_duration
from quietbeam.beamline.verifying.results import check_units
from quietbeam.beamline.verifying.run import verify_results
from quietbeam.beamline.verifying.units import Subset, UnitCheck, plan_units
from quietbeam.compress.archive import open_archive
from quietbeam.reconstruction.errors import QuietbeamError

from .finished_result import finished_result

GOLDEN = Path(__file__).parents[1] / "compress" / "archives" / "v2"
SHARED = {"chunk", "preview"}
"""Kinds of units that each belong to one part of a subset; so does the archive's file as a whole."""
NUM_FLIPS = 40


class Told:
    """Keeps what a run tells, and lets its time run out after some units."""

    def __init__(self, seconds_after: dict[int, float] | None = None) -> None:
        self.checks: list[UnitCheck] = []
        self.ends: list[tuple[str, bool]] = []
        self._seconds_after = seconds_after or {}

    def begin(self, path: Path, num_units: int) -> None:
        pass

    def checked(self, check: UnitCheck) -> None:
        self.checks.append(check)
        time.sleep(self._seconds_after.get(len(self.checks), 0))

    def end(self, path: Path, complete: bool) -> None:
        self.ends.append((path.name, complete))


def verify(*targets: Path, told: Told | None = None, **options: object) -> tuple[Summary, list[UnitCheck]]:
    told = told or Told()
    return verify_results(VerifyRequest(tuple(map(str, targets)), **options), told), told.checks


def faults(path: Path, **options: object) -> dict[str, str]:
    """Unit and message of all that is damaged."""
    return {check.unit: check.message for check in verify(path, **options)[1] if check.ok is False}


def replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def flipped(data: bytes, place: int = -1) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return finished_result(tmp_path / "result")


@pytest.mark.parametrize("num_parts", [2, 3, 7])
def test_the_parts_of_a_subset_share_out_every_chunk_evenly(tmp_path: Path, num_parts: int) -> None:
    path = finished_result(tmp_path / "tall", shape=(4 * 25, 8, 8))
    subsets = [Subset(part, num_parts) for part in range(1, num_parts + 1)]
    parts = [plan_units(path, subset).units for subset in subsets]
    whole = Counter(plan_units(path).units)
    together = Counter(unit for part in parts for unit in part)
    shared = {unit for unit in whole if unit.kind in SHARED or (unit.name == "denoised.h5" and unit.kind == "file")}
    assert len(shared) == 25 + 2
    assert all(together[unit] == (1 if unit in shared else num_parts) for unit in whole)
    assert together.keys() == whole.keys()
    counts = [len(shared & set(part)) for part in parts]
    assert max(counts) - min(counts) <= 1


def test_every_flipped_byte_is_found_by_one_of_the_parts(result: Path) -> None:
    archive = result / "denoised.h5"
    content = archive.read_bytes()
    places = np.random.default_rng(0).choice(len(content), NUM_FLIPS, replace=False)
    for place in places:
        archive.write_bytes(flipped(content, place))
        codes = [verify(result, subset=Subset(part, 3))[0].exit_code for part in (1, 2, 3)]
        assert 7 in codes, place
        assert set(codes) <= {0, 7}


def test_the_smallest_damaged_unit_is_named(result: Path) -> None:
    assert verify(result)[0].exit_code == 0
    archive = result / "denoised.h5"
    with open_archive(archive) as opened:
        payload = opened.read_part("chunk000001")
    replace(archive, payload, flipped(payload))
    found = faults(result)
    assert found.keys() == {"denoised.h5", "denoised.h5: chunk 1 (slices 4 to 7)"}
    assert "sha256 differs" in found["denoised.h5"]
    assert faults(archive).keys() == {"denoised.h5: chunk 1 (slices 4 to 7)"}


def test_what_is_missing_cut_or_foreign_is_told_apart(result: Path) -> None:
    (result / "notes.txt").write_text("by a person")
    summary, checks = verify(result)
    assert summary.exit_code == 0
    assert [check.message for check in checks if check.kind == "foreign"] == [
        "1 that the manifest does not list, not checked: notes.txt"
    ]
    (result / "report.html").unlink()
    (result / "network.safetensors").write_bytes(b"other")
    assert faults(result) == {"report.html": "missing", "network.safetensors": "5 bytes, expected 7"}
    content = (result / "denoised.h5").read_bytes()
    (result / "denoised.h5").write_bytes(content[:-100])
    assert {"denoised.h5", "denoised.h5: header and index"} <= faults(result, subset=Subset(1, 5)).keys()
    (result / "denoised.h5").unlink()
    assert faults(result, subset=Subset(2, 5))["denoised.h5"] == "missing"


def test_an_archive_without_its_manifest_is_a_fault_and_its_chunks_are_checked_nevertheless(result: Path) -> None:
    for damage in ("", "{", None):
        (result / "manifest.json").write_text(damage) if damage is not None else (result / "manifest.json").unlink()
        summary, checks = verify(result.parent)
        assert summary.exit_code == 7
        assert [check.kind for check in checks if check.ok is False] == ["manifest"]
        assert sum(check.kind == "chunk" for check in checks) == 3


def test_chunks_whose_decoder_is_damaged_are_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "crae2.h5"
    path.write_bytes((GOLDEN / "crae2.h5").read_bytes())
    with open_archive(path) as opened:
        decoder = opened.read_part("codec")
    replace(path, decoder, flipped(decoder))
    summary, checks = verify(path)
    assert summary.exit_code == 7
    states = {check.kind: check.ok for check in checks}
    assert states == {"archive": True, "decoder": False, "chunk": None, "preview": True}
    assert all("stored bytes are whole" in check.message for check in checks if check.kind == "chunk")


def test_a_decoder_that_lies_elsewhere_is_the_unit_that_is_missing(tmp_path: Path) -> None:
    source = next((GOLDEN.parent / "v3").glob("*.h5"))
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    summary, checks = verify(path)
    assert summary.exit_code == 7
    damaged = [check for check in checks if check.ok is False]
    assert [check.kind for check in damaged] == ["decoder"]
    assert {check.ok for check in checks if check.kind == "chunk"} == {None}
    assert ".decoder is missing; looked in" in damaged[0].message
    chunks = {check.message for check in checks if check.kind == "chunk"}
    assert chunks == {"its stored bytes are whole; needs the decoder, which is missing or damaged"}
    assert verify(source)[0].exit_code == 0


def test_a_result_that_a_series_calls_done_is_missed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        finished_result(tmp_path / name)
    rows = {name: ScanRow(name=name, source=name, state="done") for name in ("a", "b")}
    rows["c"] = ScanRow(name="c", source="c", state="failed")
    index = {"format": "quietbeam-series-1", "written": "", "scans": [row.to_json() for row in rows.values()]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert verify(tmp_path)[0].exit_code == 0
    shutil.rmtree(tmp_path / "b")
    summary, checks = verify(tmp_path)
    assert summary.exit_code == 7
    missing = [check for check in checks if check.ok is False]
    assert [(check.path, check.kind) for check in missing] == [(str(tmp_path / "b"), "path")]
    assert "index.json says it is done" in missing[0].message


def name_scan_files(result: Path, *files: Path) -> None:
    """Let the manifest say that the result was made of these files."""
    manifest = json.loads((result / "manifest.json").read_text())
    contents = [path.read_bytes() for path in files]
    entries = [
        {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in zip(files, contents, strict=True)
    ]
    signature = [[str(path), len(content), 0] for path, content in zip(files, contents, strict=True)]
    manifest["input"]["identity"] = {"sha256": "0", "files": entries, "signature": signature}
    (result / "manifest.json").write_text(json.dumps(manifest))


def test_raw_data_are_checked_only_where_asked_for(result: Path, tmp_path: Path) -> None:
    raw = tmp_path / "scan.h5"
    assert verify(result, raw=True)[0].exit_code == 4  # the manifest names no files
    raw.write_bytes(b"counts")
    name_scan_files(result, raw)
    assert verify(result, raw=True)[0].exit_code == 0
    raw.write_bytes(b"Counts")
    assert verify(result)[0].exit_code == 0
    found = faults(result, raw=True)
    assert list(found) == [str(raw)]
    assert found[str(raw)].startswith("is not what was reduced: the content has changed")
    raw.unlink()
    summary, checks = verify(result, raw=True)
    assert (summary.exit_code, summary.unchecked) == (4, 1)
    assert checks[-1][1:5] == (str(raw), "raw", None, "is not there any more")


def test_results_are_found_at_any_depth_and_links_are_not_followed(tmp_path: Path) -> None:
    for name in ("b", "a/x/y", ".hidden/c"):
        finished_result(tmp_path / name)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b" / "work").mkdir()
    names = {path.relative_to(tmp_path).as_posix() for path, *_ in find_results([str(tmp_path)])}
    assert names == {"b", "a/x/y"}
    pattern = [str(tmp_path / "a" / "**" / "denoised.h5")]
    assert {path.name for path, *_ in find_results(pattern)} == {"denoised.h5"}
    with pytest.raises(ValueError, match="matches nothing"):
        verify(tmp_path / "*.nothing")
    (tmp_path / "empty").mkdir()
    assert "no manifest here" in faults(tmp_path / "empty")[""]


def peak_of_finding(folder: Path) -> tuple[int, int]:
    tracemalloc.start()
    try:
        return sum(1 for _ in find_results([str(folder)])), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_finding_takes_no_more_memory_for_ten_times_as_many_results(tmp_path: Path) -> None:
    peaks = {}
    for count in (200, 2000):
        for number in range(count):
            folder = tmp_path / str(count) / f"{number:05d}"
            folder.mkdir(parents=True)
            (folder / "manifest.json").touch()
        found, peaks[count] = peak_of_finding(tmp_path / str(count))
        assert found == count
    slack = 20_000
    """Bytes, a tenth of what a list of 1,800 more paths would take."""
    assert peaks[2000] < peaks[200] + slack


def test_a_run_that_was_cut_short_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    for name in ("a", "b"):
        finished_result(tmp_path / "series" / name)
    state, limit = tmp_path / "state.json", 0.3
    num_units = len(plan_units(tmp_path / "series" / "a").units)
    told = Told({num_units + 3: limit})
    summary, first = verify(tmp_path / "series", told=told, state=state, max_seconds=limit)
    assert (summary.exit_code, summary.complete, len(first)) == (4, False, num_units + 3)
    assert told.ends == [("a", True), ("b", False)]
    summary, second = verify(tmp_path / "series", state=state, told=(again := Told({num_units - 3: 0.01})))
    assert again.ends[0][0] == "b"
    assert [check[:3] for check in second[: num_units - 3]] == [
        (check.path.replace("/a", "/b"), check.unit, check.kind) for check in verify(tmp_path / "series" / "a")[1][3:]
    ]
    assert summary.exit_code == 0
    assert len(second) == 2 * num_units - 3


def test_a_state_orders_by_age_and_is_not_trusted_for_damage(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    for name in ("a", "b", "c"):
        finished_result(tmp_path / "series" / name)
    verify(tmp_path / "series" / "a", state=state)
    summary, _ = verify(tmp_path / "series" / "c", state=state)
    assert summary.oldest == pytest.approx(time.time(), abs=60)
    (tmp_path / "series" / "a" / "report.html").unlink()
    summary, _ = verify(tmp_path / "series", state=state, told=(told := Told()))
    assert [name for name, _ in told.ends] == ["b", "a", "c"]
    assert summary.exit_code == 7
    other, _ = verify(tmp_path / "series", state=state, subset=Subset(1, 2), max_seconds=0)
    assert (other.exit_code, other.oldest) == (4, None)


@pytest.mark.parametrize("change", ["added", "removed"])
def test_no_unit_is_skipped_when_files_come_or_go_between_runs(tmp_path: Path, change: str) -> None:
    result, state, limit = finished_result(tmp_path / "result"), tmp_path / "state.json", 0.2
    foreign = result / "notes.txt"
    if change == "removed":
        foreign.touch()
    verify(result, told=Told({5: limit}), state=state, max_seconds=limit)
    foreign.unlink() if change == "removed" else foreign.touch()
    _, checks = verify(result, state=state)
    assert len(checks) == len(plan_units(result).units)


@pytest.mark.parametrize("jobs", [1, 2])
def test_with_a_state_each_call_gets_further_however_short_its_time(tmp_path: Path, jobs: int) -> None:
    result, state = finished_result(tmp_path / "result"), tmp_path / "state.json"
    firsts = [verify(result, state=state, max_seconds=0, jobs=jobs) for _ in range(3)]
    assert [check.unit for _, (check,) in firsts] == [check.unit for check in verify(result)[1][:3]]
    assert {summary.exit_code for summary, _ in firsts} == {4}


def test_a_result_that_was_replaced_is_checked_from_the_start(tmp_path: Path) -> None:
    result, state, limit = tmp_path / "result", tmp_path / "state.json", 0.2
    finished_result(result)
    verify(result, told=Told({5: limit}), state=state, max_seconds=limit)
    finished_result(result, seed=1)
    _, checks = verify(result, state=state)
    assert len(checks) == len(plan_units(result).units)


@pytest.mark.parametrize("content", ["", "[]", '{"format": "other", "subsets": {}}'])
def test_a_file_that_is_no_state_is_refused_and_kept(result: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(QuietbeamError, match=r"state\.json"):
        verify(result, state=path)
    assert path.read_text() == content


def test_several_processes_find_the_same_in_the_same_order(tmp_path: Path) -> None:
    tall = finished_result(tmp_path / "tall", shape=(4 * 20, 8, 8))
    content = (tall / "denoised.h5").read_bytes()
    (tall / "denoised.h5").write_bytes(flipped(content, len(content) // 2))
    small = finished_result(tmp_path / "small")
    before = dict(os.environ)
    here, there = (verify(tall, small, jobs=jobs) for jobs in (1, 2))
    assert os.environ == before
    assert [check[:-1] for check in there[1]] == [check[:-1] for check in here[1]]
    assert here[0].exit_code == there[0].exit_code == 7
    assert verify(tall, small, jobs=2, max_seconds=0)[0].exit_code == 4


def snapshot(folder: Path) -> list[tuple[str, int, int, bytes]]:
    stats = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    return [
        (str(path), stat.st_mtime_ns, stat.st_ctime_ns, path.read_bytes() if path.is_file() else b"")
        for path, stat in [(folder, folder.stat()), *stats]
    ]


def test_nothing_is_written_into_a_result(result: Path, tmp_path: Path) -> None:
    content = (result / "denoised.h5").read_bytes()
    (result / "denoised.h5").write_bytes(flipped(content, 3000))
    before = snapshot(result)
    verify(result, raw=True, state=tmp_path / "state.json")
    assert snapshot(result) == before


def test_a_file_that_may_not_be_read_is_unknown_not_damaged(result: Path) -> None:
    (result / "report.html").chmod(0)
    if os.access(result / "report.html", os.R_OK):
        pytest.skip("this user may read everything")
    summary, checks = verify(result)
    assert (summary.exit_code, summary.unchecked) == (4, 1)
    assert [check.unit for check in checks if check.ok is None] == ["report.html"]


def test_units_of_an_archive_that_changed_meanwhile_are_damaged(result: Path) -> None:
    units = plan_units(result).units
    (result / "denoised.h5").write_bytes(b"no archive any more")
    kinds = {check.kind for check in check_units(result, units) if check.ok is False}
    assert kinds == {"file", "archive", "decoder", "chunk", "preview"}


def test_subsets_and_durations_are_read_or_refused() -> None:
    assert Subset.parse("2/7") == (2, 7)
    for text in ("0/7", "8/7", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(ValueError, match="subset"):
            Subset.parse(text)
    assert [parse_duration(text) for text in ("90s", "10m", "2h", "1d", "1.5 h")] == [90, 600, 7200, 86400, 5400]
    for text in ("", "2", "h", "-1h", "1w", "1h30m"):
        with pytest.raises(ValueError, match="expected a duration"):
            parse_duration(text)
