from __future__ import annotations

import csv
import json
import os
import time
from io import StringIO

import pytest

from quietbeam.beamline.series.index_table import COLUMNS, render_table
from quietbeam.beamline.series.ledger import FORMAT, INDEX, PAGE, TABLE, Ledger, locked_series, read_index
from quietbeam.beamline.series.pool import Failure
from quietbeam.beamline.series.scan_row import ScanRow, word_for
from quietbeam.beamline.series.standing import OTHER_SETTINGS
from quietbeam.reconstruction.errors import LockedError, ReductionError

from .jobs import small_settings
from .series_results import finish, found_scan, scan_file

SETTINGS = small_settings()
BAD_DATA = Failure("the beam was off", 3, "refused")
LONGEST_WAIT = 20.0
"""Seconds until what was put off is written, on a busy machine."""
STABLE_COLUMNS = (
    "name,source,state,failure,exit_code,reason,started_utc,finished_utc,seconds,seconds_identify,seconds_screen,"
    "seconds_rotation_axis,seconds_reconstruct,seconds_train,seconds_denoise,seconds_fit_codec,seconds_encode,"
    "seconds_archive,seconds_report,seconds_other,num_slices,num_rows,num_columns,raw_bytes,volume_bytes,archive_bytes,"
    "bits_per_voxel,psnr_db,max_error,largest_error,noise,unit,pixel_size_m,resolution_before_pixels,"
    "resolution_after_pixels,warnings,network,network_fit,archive,report"
)


@pytest.fixture
def found(tmp_path):
    return found_scan(scan_file(tmp_path / "raw" / "a.h5"))


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def standing(output, found, settings=SETTINGS, **options):
    return Ledger(output, settings, **options).standing(found, settings)


def fail(output, found, failure=BAD_DATA, settings=SETTINGS):
    output.mkdir(exist_ok=True)
    with Ledger(output, settings) as ledger:
        assert ledger.needs_work(found, settings)
        ledger.waiting(found)
        ledger.begin(found, settings)
        ledger.failed(found.name, failure)


class TestDone:
    def test_without_a_result(self, output, found):
        assert standing(output, found) == ("to do", "no result yet")

    def test_nothing_is_opened_or_hashed(self, output, found):
        finish(output / "a", found.path, SETTINGS)
        assert standing(output, found).what == "done"
        stat = found.path.stat()
        found.path.write_bytes(bytes(stat.st_size))  # the content has gone, what can be seen from outside has not
        os.utime(found.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert standing(output, found).what == "done"

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda found, folder: os.utime(found.path), "files of the scan have changed"),
            (lambda found, folder: found.path.unlink(), "does not exist"),
            (lambda found, folder: (folder / "denoised.h5").unlink(), "denoised.h5 of the result is missing"),
            (lambda found, folder: (folder / "report.html").write_text(""), "report.html of the result is not whole"),
            (lambda found, folder: (folder / "manifest.json").write_text("{"), "cannot be read as a manifest"),
        ],
    )
    def test_what_has_changed_is_to_be_done(self, output, found, change, why):
        finish(output / "a", found.path, SETTINGS)
        change(found, output / "a")
        assert standing(output, found).what == "to do"
        assert why in standing(output, found).why

    def test_settings_count_if_they_change_the_result(self, output, found):
        finish(output / "a", found.path, SETTINGS)
        assert standing(output, found, small_settings(compute__chunk_slices=2)).what == "done"
        other = small_settings(network__depth=11)
        assert standing(output, found, other) == ("refused", OTHER_SETTINGS)
        assert standing(output, found, other, overwrite=True).what == "to do"

    def test_angles_from_another_file_of_equal_name_are_looked_at(self, output, found, tmp_path):
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
        angles = "\n".join(str(22.5 * number) for number in range(8))
        (tmp_path / "one" / "angles.txt").write_text(angles)
        (tmp_path / "other" / "angles.txt").write_text(angles.replace("22.5", "22.6"))
        one, other = (small_settings(scan__angles=str(tmp_path / name / "angles.txt")) for name in ("one", "other"))
        finish(output / "a", found.path, one)
        assert standing(output, found, one).what == "done"
        assert standing(output, found, other).what == "to do"

    def test_row_is_read_from_the_result(self, output, found):
        finish(output / "a", found.path, SETTINGS)
        with Ledger(output, SETTINGS) as ledger:
            assert not ledger.needs_work(found, SETTINGS)
        row = read_index(output)["a"]
        assert (row.state, row.shape, row.network) == ("done", (11, 20, 24), "own")
        assert row.raw_bytes == found.path.stat().st_size
        assert row.archive_bytes == (output / "a" / "denoised.h5").stat().st_size
        assert (row.seconds, row.noise, row.unit, row.warnings) == (3.0, 2.5, "1/m", ("few-angles",))
        assert row.finished == (output / "a" / "manifest.json").stat().st_mtime

    def test_a_network_of_another_scan_is_named(self, output, found):
        fit = {"network": {"name": "foam"}, "lost": 0.031}
        network = output / "first" / "network.safetensors"
        network.parent.mkdir(parents=True)
        network.write_bytes(b"a network")
        settings = small_settings(training__epochs=0, warm_start__network=network)
        finish(output / "a", found.path, settings, fit=fit)
        row = read_index(output)["a"]
        assert (row.network, row.fit) == ("of first", "loses 3.1 % of what its own would gain")


class TestFailed:
    def test_refused_scans_rest_until_something_changes(self, output, found):
        fail(output, found)
        assert standing(output, found) == ("failed before", "the beam was off")
        assert standing(output, found, retry_failed=True).what == "to do"
        assert standing(output, found, small_settings(network__depth=11)).what == "to do"
        os.utime(found.path)
        assert "files have changed" in standing(output, found).why

    def test_a_scan_that_cannot_be_opened_rests_until_something_comes_beside_it(self, output, found):
        found.path.write_bytes(found.path.read_bytes()[:3000])
        fail(output, found)
        assert standing(output, found).what == "failed before"
        (found.path.parent / "frames.h5").touch()
        assert standing(output, found).what == "to do"

    def test_a_result_of_other_settings_stays_a_result_also_where_that_is_seen_late(self, output, found):
        finish(output / "a", found.path, small_settings(network__depth=11))
        with Ledger(output, SETTINGS) as ledger:
            ledger.waiting(found)
            ledger.begin(found, SETTINGS)
            ledger.failed("a", Failure("holds the results of other settings", 1, "refused"))
        assert ledger.refused == {"a": OTHER_SETTINGS}
        assert read_index(output)["a"].state == "done"
        (output / "a" / "manifest.json").unlink()
        assert standing(output, found).what == "to do"

    @pytest.mark.parametrize(
        ("failure", "word"),
        [
            (Failure("KeyError: 1"), "crash"),
            (Failure("the worker died 4 times", 1, "lost"), "worker lost"),
            (Failure("needs 3 GiB", 5, "refused", may_pass=True), "no space"),
            (Failure("still being written", 3, "refused", may_pass=True), "bad data"),
            (Failure("another process is at work", 6, "refused"), "locked"),
        ],
    )
    def test_what_may_pass_is_tried_again(self, output, found, failure, word):
        fail(output, found, failure)
        row = read_index(output)["a"]
        assert (row.failure, row.reason, row.exit_code) == (word, failure.reason, failure.exit_code)
        assert word_for(failure) == word
        assert standing(output, found).what == "to do"
        assert "may have passed" in standing(output, found).why


class TestFiles:
    def test_all_three_are_written_and_rows_of_earlier_commands_stay(self, output, found, tmp_path):
        fail(output, found)
        other = found_scan(scan_file(tmp_path / "raw" / "b.h5", seed=1))
        with Ledger(output, SETTINGS) as ledger:
            ledger.waiting(other)
            assert ledger.names == {found.source: "a", other.source: "b"}
        content = json.loads((output / INDEX).read_text())
        assert content["format"] == FORMAT
        assert [row["name"] for row in content["scans"]] == ["a", "b"]
        assert [row["name"] for row in csv.DictReader(StringIO((output / TABLE).read_text()))] == ["a", "b"]
        assert "the beam was off" in (output / PAGE).read_text()

    def test_a_lost_index_is_made_anew_from_the_results(self, output, found):
        finish(output / "a", found.path, SETTINGS)
        with Ledger(output, SETTINGS) as ledger:
            ledger.waiting(found)
            ledger.begin(found, SETTINGS)
            ledger.done("a")
        before = read_index(output)["a"]
        (output / INDEX).unlink()
        rebuilt = read_index(output)["a"]
        times = {"started": before.started, "finished": before.finished}
        assert rebuilt.to_json() | times == before.to_json()

    def test_what_was_stopped_is_not_running(self, output, found):
        output.mkdir()
        ledger = Ledger(output, SETTINGS)
        ledger.begin(found, SETTINGS)
        ledger.flush()  # and then the process is killed
        assert read_index(output)["a"].state == "running"
        with Ledger(output, SETTINGS):
            pass
        assert read_index(output)["a"].state == "waiting"

    def test_many_events_are_few_writes_and_the_last_one_is_written(self, output, found):
        output.mkdir()
        ledger = Ledger(output, SETTINGS)
        ledger.begin(found, SETTINGS)
        files = set()
        for done in range(1, 301):
            ledger.progress("a", "denoise", done, 300)
            files |= {(output / INDEX).stat().st_mtime_ns} if (output / INDEX).exists() else set()
            time.sleep(0.001)
        assert len(files) <= 2  # at once, and perhaps once more after two seconds
        deadline = time.monotonic() + LONGEST_WAIT
        while (row := read_index(output).get("a")) is None or row.stage_done < 300:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_one_command_at_a_time(self, output):
        with locked_series(output), pytest.raises(LockedError, match="another command"), locked_series(output):
            pass

    @pytest.mark.parametrize("content", ["", "[]", '{"format": "x", "scans": []}', '{"format": "quietbeam-series-1"}'])
    def test_another_file_in_the_place_of_the_index(self, output, content):
        output.mkdir()
        (output / INDEX).write_text(content)
        with pytest.raises(ReductionError, match=r"index\.json: cannot be read"):
            read_index(output)

    @pytest.mark.parametrize("change", [{"state": "fine"}, {"seconds": "long"}, {"shape": 3}, {"name": None}])
    def test_rows_are_checked(self, change):
        with pytest.raises(ValueError, match="validation error"):
            ScanRow.list_from_json([ScanRow("a", "b").to_json() | change])


class TestTable:
    def test_columns_are_stable(self):
        assert ",".join(COLUMNS) == STABLE_COLUMNS

    def test_texts_survive(self):
        reason = 'line 1\nline 2, with "quotes"; Möhre'
        row = ScanRow("a", "/b,c", "failed", reason, stages={"train": 2.0, "publish": 1.0}, seconds=3.0)
        text = render_table([row, ScanRow("b", "c")])
        assert text.count("\r\n") == 3
        (read, _) = csv.DictReader(StringIO(text, newline=""))
        assert (read["reason"], read["source"], read["psnr_db"]) == (reason, "/b,c", "")
        assert (read["seconds_train"], read["seconds_other"], read["seconds_denoise"]) == ("2.0", "1.0", "")
