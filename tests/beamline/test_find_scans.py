from __future__ import annotations

import json
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.beamline.cluster import LOG
from quietbeam.beamline.recording import ScanSettings
from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.series.find_scans import find_scans
from quietbeam.beamline.series.find_series import find_series
from quietbeam.beamline.series.found_runs import find_runs, parse_query, put_run, search_runs, stored_run
from quietbeam.beamline.series.ledger import PAGE, TABLE, Ledger
from quietbeam.beamline.series.policy import SERIES
from quietbeam.beamline.series.scan_names import RESERVED, name_scans, safe_name
from quietbeam.beamline.watching.folder import WatchError
from quietbeam.compress.shared_decoder import DECODERS
from quietbeam.reconstruction.errors import ScanError

from .finished_result import finished_result
from .hook_documents import documents
from .series_results import found_scan, reference, scan_file

UIDS = [f"{number}{number}aaaaaa-0000-4000-8000-000000000000" for number in range(1, 6)]


def names(findings):
    return [one.name for one in findings.scans]


def reasons(findings, below):
    return {str(one.path.relative_to(below)): one.why for one in findings.left_out}


@pytest.fixture
def raw(tmp_path):
    """A folder as it is found after a beamtime."""
    raw = tmp_path / "raw"
    scan = scan_file(raw / "day1" / "a.h5")
    scan_file(raw / "day2" / "a.nxs", seed=1)
    (raw / "day1" / "cut.h5").write_bytes(scan.read_bytes()[:3000])
    (raw / "day1" / "empty.hdf5").touch()
    np.save(raw / "day1" / "a_truth.npy", np.zeros(3))
    (raw / "notes.txt").write_text("nothing")
    (raw / "package.json").write_text("{}")
    with h5py.File(raw / "day1" / "flats.h5", "w") as file:
        file["frames"] = np.ones((2, 4, 16))
    scan_file(raw / ".trash" / "b.h5")
    for folder in ("tiff", "tiff/flats", "one"):
        (raw / folder).mkdir()
        for number in range(1 if folder == "one" else 3):
            tifffile.imwrite(raw / folder / f"image_{number}.tif", np.ones((4, 16), np.uint16))
    finished_result(raw / "reduced")
    (raw / "reduced" / "published").mkdir()
    scan_file(raw / "reduced" / "published" / "volume.nxs")
    return raw


class TestFolders:
    def test_scans_are_taken_and_the_rest_is_told(self, raw, tmp_path):
        found = find_scans([str(raw)], output=tmp_path / "out")
        assert names(found) == ["day1_a", "day1_cut", "day1_empty", "day2_a", "tiff"]
        told = reasons(found, raw)
        assert told.keys() == {"day1/flats.h5", "reduced", "reduced/denoised.h5", "tiff/flats"}
        assert "no projections" in told["day1/flats.h5"]
        assert "archive of quietbeam" in told["reduced/denoised.h5"]
        assert open_scan(found.scans[0].path).num_projections == 8

    def test_results_of_this_series_are_no_scans(self, raw):
        found = find_scans([str(raw)], output=raw / "day2")
        assert not any("day2" in one.source for one in found.scans)

    def test_an_earlier_series_is_passed_over(self, raw, tmp_path):
        with Ledger(raw / "day1") as ledger:
            ledger.waiting(found_scan(raw / "day1" / "a.h5"))
        found = find_scans([str(raw)], output=tmp_path / "out")
        assert not any("day1" in one.source for one in found.scans)

    def test_links_to_folders_are_told_and_those_to_files_taken_once(self, raw, tmp_path):
        (raw / "loop").symlink_to(raw)
        scan_file(tmp_path / "other" / "far.h5", seed=2)
        (raw / "away").symlink_to(tmp_path / "other")
        (raw / "chosen.h5").symlink_to(raw / "day1" / "a.h5")
        found = find_scans([str(raw)], output=tmp_path / "out")
        assert len(found.scans) == 5
        assert "link" in reasons(found, raw)["loop"]
        assert names(find_scans([str(raw / "loop" / "day2")], output=tmp_path / "out")) == ["a"]

    def test_a_folder_that_may_not_be_read_is_an_error(self, raw, tmp_path):
        with pytest.raises(ScanError, match="cannot be read"):
            find_scans([f"@{raw}/none.txt"], output=tmp_path / "out")

    def test_nothing_is_there(self, tmp_path):
        found = find_scans([str(tmp_path)], output=tmp_path / "out")
        assert found.scans == ()
        assert "no HDF5 file" in found.left_out[0].why


class TestPatternsAndLists:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("raw/day1/*.h5", ["a", "cut"]),
            ("raw/**/a.*", ["day1_a", "day2_a"]),
            ("raw/day?", ["day1_a", "day1_cut", "day1_empty", "day2_a"]),
            ("raw/**/*", ["day1_a", "day1_cut", "day1_empty", "day2_a", "tiff"]),
            ("raw/**", ["day1_a", "day1_cut", "day1_empty", "day2_a", "tiff"]),
            ("raw/tiff/*.tif", []),
            ("raw/.trash/*.h5", ["b"]),
            ("raw/[n]one*", []),
        ],
    )
    def test_patterns(self, raw, tmp_path, monkeypatch, pattern, expected):
        monkeypatch.chdir(tmp_path)
        assert names(find_scans([pattern], output=tmp_path / "out")) == expected

    def test_what_is_named_is_never_dropped(self, raw, tmp_path):
        targets = [str(raw / name) for name in ("day1/flats.h5", "day1/cut.h5", "none.h5", "day1/../day1/a.h5")]
        found = find_scans([*targets, *targets], output=tmp_path / "out")
        assert names(found) == ["a", "cut", "flats", "none"]
        stray = find_scans([str(raw), str(tmp_path / "elsewhere" / "x.h5")], output=tmp_path / "out")
        assert names(stray)[-1] == "x"  # and changes no name of the others
        assert names(stray)[:-1] == names(find_scans([str(raw)], output=tmp_path / "out"))

    def test_lists(self, raw, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "list.txt").write_text("# of monday\n\nraw/day1/a.h5\n raw/day2 \n")
        assert names(find_scans(["@list.txt"], output=tmp_path / "out")) == ["day1_a", "day2_a"]

    def test_what_is_known_is_not_looked_at_again(self, raw, tmp_path):
        flats = raw / "day1" / "flats.h5"
        found = find_scans([str(raw / "day1")], output=tmp_path / "out", taken={str(flats): "of old"})
        assert {one.source: one.name for one in found.scans}[str(flats)] == "of old"


class TestNames:
    def test_scans_that_come_later_change_no_name(self, raw, tmp_path):
        first = find_scans([str(raw / "day2")], output=tmp_path / "out")
        taken = {one.source: one.name for one in first.scans}
        assert list(taken.values()) == ["a"]
        later = find_scans([str(raw / "day1"), str(raw / "day2")], output=tmp_path / "out", taken=taken)
        assert {one.source: one.name for one in later.scans}.items() >= taken.items()
        alone = find_scans([str(raw / "day1" / "a.h5")], output=tmp_path / "out", taken=taken)
        assert names(alone) == ["day1_a"]
        clash = find_scans([str(raw / "day1" / "a.h5")], output=tmp_path / "out", taken=taken | {"x": "day1_A"})
        assert re.fullmatch("day1_a-[0-9a-f]{8}", clash.scans[0].name)

    @pytest.mark.parametrize("own", [TABLE, PAGE, SERIES, LOG, DECODERS])
    def test_files_of_the_series_keep_their_names(self, own):
        assert own in RESERVED
        (name,) = name_scans({"source": f"{own.upper()}.h5"}, {}).values()
        assert re.fullmatch(rf"{re.escape(own)}-[0-9a-f]{{8}}", name, re.IGNORECASE)

    @given(st.lists(st.text(max_size=200), unique=True, max_size=12), st.randoms())
    def test_no_two_share_a_folder_whatever_they_are_called(self, stems, random):
        wanted = {f"source {number}": stem for number, stem in enumerate(stems)}
        named = name_scans(wanted, {})
        folded = {name.casefold() for name in named.values()}
        assert len(folded) == len(wanted)
        assert not folded & RESERVED
        for name in named.values():
            assert len(os.fsencode(name)) <= 200
            assert name == Path(name).name
            assert not name.startswith((".", "-"))
        shuffled = list(wanted.items())
        random.shuffle(shuffled)
        assert name_scans(dict(shuffled), {}) == named
        some = dict(shuffled[: len(shuffled) // 2])
        assert {**name_scans(wanted, name_scans(some, {}))}.items() >= name_scans(some, {}).items()

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("day 1/Möhre #3.h5", "day_1_Möhre_3"),
            ("../x.nxs", "x"),
            ("a.b.hdf5", "a.b"),
            ("...", "scan"),
            ("-rf.h5", "rf"),
            ("bad \udcff byte.h5", "bad_byte"),
        ],
    )
    def test_safe_names(self, text, name):
        assert safe_name(text) == name


class TestRuns:
    @pytest.fixture
    def get(self):
        runs = {
            UIDS[0]: reference(UIDS[0], scan_id=7),
            UIDS[1]: reference(UIDS[1], calibration=False, tomo={"dark_flat_uid": UIDS[2]}),
            UIDS[2]: reference(UIDS[2], projections=0),
            UIDS[3]: reference(UIDS[3], purpose="analysis"),
        }

        def get(uid):
            if uid not in runs:
                raise ScanError(f"no run {uid}")
            return runs[uid]

        return get

    def test_darks_and_flats_are_put_beside(self, get, tmp_path):
        found = find_runs(UIDS[:2], get, output=tmp_path)
        assert names(found) == ["run-22aaaaaa", "scan-7-11aaaaaa"]
        one = found.scans[0]
        assert not stored_run(one)
        put_run(one)
        assert stored_run(one)
        assert json.loads((tmp_path / "run-22aaaaaa" / "run.json").read_text())["dark_flat"]["start"]["uid"] == UIDS[2]

    def test_what_was_named_is_told_and_what_was_met_left_out(self, get, tmp_path):
        asked = find_runs(UIDS, get, output=tmp_path)
        problems = {one.source: one.problem for one in asked.scans if one.problem}
        assert problems.keys() == {f"run {UIDS[2]}", f"run {UIDS[4]}"}
        assert "no projections" in problems[f"run {UIDS[2]}"]
        met = find_runs(UIDS[:4], get, output=tmp_path, asked=False)
        assert [one.source for one in met.scans] == [f"run {UIDS[1]}", f"run {UIDS[0]}"]
        assert [str(one.path) for one in met.left_out] == [f"run {UIDS[2]}", f"run {UIDS[3]}"]

    def test_runs_of_one_file_are_scans_of_their_own(self, tmp_path):
        runs = [list(documents(scan_id=number)) for number in (7, 8)]
        (tmp_path / "raw").mkdir()
        lines = "".join(json.dumps([name, document]) + "\n" for run in runs for name, document in run)
        (tmp_path / "raw" / "both.jsonl").write_text(lines)
        found = find_series([str(tmp_path / "raw")], settings=ScanSettings(), output=tmp_path / "out")
        assert [one.source for one in found.scans] == [f"run {run[0][1]['uid']}" for run in runs]
        assert [one.name[:7] for one in found.scans] == ["scan-7-", "scan-8-"]
        chosen = find_series(
            [str(tmp_path / "raw")], settings=ScanSettings(entry=runs[0][0][1]["uid"]), output=tmp_path / "out"
        )
        assert names(chosen) == ["both"]

    def test_documents_without_projections_are_left_out(self, tmp_path):
        lines = [json.dumps(list(entry)) for entry in documents(streams=("dark", "flat"))]
        (tmp_path / "calibration.jsonl").write_text("\n".join(lines) + "\n")
        found = find_series([str(tmp_path)], settings=ScanSettings(), output=tmp_path / "out")
        assert reasons(found, tmp_path) == {"calibration.jsonl": "holds runs without projections"}

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("plan_name=tomo_scan", ("start.plan_name", "tomo_scan")),
            ("scan_id=7", ("start.scan_id", 7)),
            ('sample="7"', ("start.sample", "7")),
            ("stop.exit_status = success", ("stop.exit_status", "success")),
            ("tomo.mode=[x]", ("start.tomo.mode", "[x]")),
        ],
    )
    def test_conditions(self, text, expected):
        assert parse_query([text]) == [expected]

    @pytest.mark.parametrize("text", ["plan_name", "=x", "x="])
    def test_no_condition(self, text):
        with pytest.raises(ValueError, match="KEY=VALUE"):
            parse_query([text])

    def test_search_in_a_catalogue(self, tiled):
        catalogue = tiled.client.create_container("runs-to-reprocess")
        for uid, start in ((UIDS[0], {"scan_id": 7, "sample": "foam"}), (UIDS[1], {"scan_id": 8, "sample": "foam"})):
            catalogue.create_container(uid, metadata={"start": {"uid": uid, **start}})
        assert search_runs(catalogue, parse_query(["sample=foam"])) == UIDS[:2]
        assert search_runs(catalogue, parse_query(["sample=foam", "scan_id=8"])) == [UIDS[1]]
        assert search_runs(catalogue, parse_query(["sample=wood"])) == []

    def test_a_run_that_the_catalogue_does_not_have(self, tiled, tmp_path, monkeypatch):
        monkeypatch.setenv("TILED_API_KEY", tiled.api_key)
        found = find_series([], [UIDS[4]], tiled.uri, settings=ScanSettings(), output=tmp_path / "out")
        assert "no run begins with" in found.scans[0].problem

    def test_a_catalogue_that_does_not_answer(self, tmp_path):
        with pytest.raises(WatchError, match="no answer"):
            find_series([], tiled="http://127.0.0.1:1", query=["a=b"], settings=ScanSettings(), output=tmp_path / "out")
