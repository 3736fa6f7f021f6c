"""`quietbeam reprocess`: what it finds, says and ends with; how it computes is tested elsewhere."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from quietbeam.beamline.estimating.machine_rates import Rates
from quietbeam.beamline.progress import Silence
from quietbeam.beamline.series.cluster_settings import ClusterSettings
from quietbeam.beamline.series.dry_run import describe_series
from quietbeam.beamline.series.find_scans import Findings, FoundScan, find_scans
from quietbeam.beamline.series.ledger import Ledger, locked_series, read_index
from quietbeam.beamline.series.run_series import run_series
from quietbeam.beamline.series.series_settings import read_series_settings
from quietbeam.beamline.settings import SettingsError
from quietbeam.reconstruction.errors import SpaceError

from .jobs import SMALL, answer, small_scan, small_settings
from .series_results import finish, found_scan, reference, scan_file

SETS = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
SETTINGS = small_settings()
LONGEST_START = 5.0
"""Seconds of processor time of a command that finds nothing to do among 24 scans."""
SCRIPT = """
import sys
from quietbeam.beamline.console import main
try:
    main()
except SystemExit as end:
    code = end.code
print("imported:", sorted({"distributed", "dask"} & sys.modules.keys()))
sys.exit(code)
"""


def reprocess(*arguments):
    return answer("reprocess", *arguments, *SETS, "--workers", 1)


@pytest.fixture
def raw(tmp_path):
    """A scan, and one that was cut off."""
    scan = scan_file(tmp_path / "raw" / "a.h5")
    (tmp_path / "raw" / "cut.h5").write_bytes(scan.read_bytes()[:3000])
    (tmp_path / "raw" / "runs.jsonl").write_text("")
    return tmp_path / "raw"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


class TestSettings:
    def test_one_file_holds_both(self, tmp_path):
        config = tmp_path / "reduce.toml"
        config.write_text("[training]\nepochs = 3\n[cluster]\nqueue = 'gpu'\nworkers = 2\n")
        settings, cluster = read_series_settings(config, ["cluster.cores=8"], {"cluster.workers": 3})
        assert settings.training.epochs == 3
        assert (cluster.queue, cluster.workers, cluster.cores) == ("gpu", 3, 8)

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("cluster.worker=2", "no setting cluster.worker; did you mean cluster.workers"),
            ("cluster.workers=0", "cluster.workers: .*greater than or equal to 1, got 0"),
            ("training.epoch=2", "no setting training.epoch; did you mean training.epochs"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_place(self, tmp_path, override, message):
        config = tmp_path / "reduce.toml"
        config.write_text("[training]\nminutes = 3\n")
        with pytest.raises(SettingsError, match=f"^--set: .*{message}"):
            read_series_settings(config, [override])
        config.write_text("[training]\nepoch = 3\n")
        with pytest.raises(SettingsError, match=r"reduce.toml: there is no setting training.epoch"):
            read_series_settings(config, ["training.epochs=2"])

    def test_no_path_counts_from_the_present_folder(self):
        names = [
            "scan.flats",
            "scan.darks",
            "warm_start.network",
            "codec.trained",
            "archive.decoders",
            "compute.scratch",
        ]
        settings, cluster = read_series_settings(None, [f"{name}=here" for name in [*names, "cluster.scratch"]])
        tables = settings.model_dump()
        paths = [tables[stage][name] for stage, name in (name.split(".") for name in names)]
        assert [*paths, cluster.scratch] == [Path.cwd() / "here"] * 7


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "give scans, folders or patterns"),
            (["--query", "a=b"], "--query searches a catalogue"),
            (["--tiled", "http://127.0.0.1:1", "--query", "a"], "KEY=VALUE"),
            (["*.none"], "no scans found in \\*.none"),
            (["none.h5", "*.none", "gone"], "do not exist: none.h5, gone"),
            (["x.h5", "--set", "cluster.worker=2"], "did you mean"),
        ],
    )
    def test_told_with_exit_code_2(self, tmp_path, monkeypatch, output, arguments, message):
        monkeypatch.chdir(tmp_path)
        ended = reprocess(*arguments, "-o", output)
        assert ended.returncode == 2
        assert re.search(message, " ".join(ended.stderr.replace("│", " ").split()))
        assert not output.exists()

    def test_slurm_without_its_settings_is_refused_before_the_listing(self, raw, output):
        ended = reprocess(raw, "-o", output, "--scheduler", "slurm", "--dry-run")
        assert ended.returncode == 1
        assert ended.stdout == ""
        assert "cluster.cores is missing" in ended.stderr

    def test_another_command_at_work(self, raw, output):
        with locked_series(output):
            ended = reprocess(raw, "-o", output)
        assert ended.returncode == 6
        assert "another command is at work" in ended.stderr


class TestWhatIsDone:
    def test_done_before_and_damaged(self, raw, output):
        finish(output / "a", raw / "a.h5", SETTINGS)
        (raw / "list.txt").write_text(f"{raw}\n{raw / 'none.h5'}\n{raw / ('long' * 100)}\n")
        first = reprocess(f"@{raw / 'list.txt'}", "-o", output)
        assert first.returncode == 4
        assert "0 done, 1 were done before, 3 failed" in first.stdout
        assert "left out: 1" in first.stdout
        assert "failed: cut: bad data: " in first.stderr
        assert "failed: none: bad data: " in first.stderr
        assert "cannot be looked at (File name too long)" in first.stderr
        states = {name: row.state for name, row in read_index(output).items() if not name.startswith("long")}
        assert states == {"a": "done", "cut": "failed", "none": "failed"}
        again = reprocess(raw, "-o", output)
        assert again.returncode == 4
        assert "0 done, 1 were done before, 1 failed" in again.stdout
        assert read_index(output)["none"].state == "failed"  # of an earlier command

    def test_a_run_that_cannot_be_put_in_its_place_ends_none_but_itself(self, raw, output):
        finish(output / "a", raw / "a.h5", SETTINGS)
        (output / "scan-1").write_text("a file in the way")
        run = FoundScan("scan-1", output / "scan-1" / "run.json", "run 1", reference("1"))
        findings = Findings((found_scan(raw / "a.h5"), run))
        outcome = run_series(findings, output, SETTINGS, ClusterSettings(workers=1), progress=Silence())
        assert outcome.skipped == ("a",)
        assert "a file is in the way" in outcome.failed["scan-1"].reason

    def test_without_failures(self, raw, output):
        finish(output / "a", raw / "a.h5", SETTINGS)
        ended = reprocess(raw / "a.h5", "-o", output)
        assert ended.returncode == 0, ended.stderr
        assert "index.html" in ended.stdout

    def test_results_of_other_settings_are_not_replaced_unasked(self, raw, output):
        finish(output / "a", raw / "a.h5", small_settings(network__depth=11))
        ended = reprocess(raw / "a.h5", "-o", output, "--workers", 2)
        assert ended.returncode == 4
        assert "0 done, 0 were done before, 0 failed, 1 refused" in ended.stdout
        assert "refused: a: holds a result of other settings; say --overwrite, or choose another -o" in ended.stderr
        assert read_index(output)["a"].state == "done"
        assert not (output / "cluster.log").exists()
        dry = reprocess(raw / "a.h5", "-o", output, "--dry-run").stdout.splitlines()
        assert dry[0].startswith("refused       a: holds a result of other settings")
        assert dry[1] == "1 scan: 0 to do, 0 done, 0 failed before, 1 refused; left out: 0"

    def test_a_scan_is_reduced_and_accounted_for(self, tmp_path, output):
        scan = small_scan(tmp_path / "raw" / "foam.h5")
        ended = reprocess(scan.parent, "-o", output)
        assert ended.returncode == 0, ended.stderr
        (row,) = csv.DictReader(StringIO((output / "index.csv").read_text()))
        numbers = json.loads((output / "foam" / "manifest.json").read_text())["numbers"]
        assert row["state"] == "done"
        assert float(row["bits_per_voxel"]) == numbers["bits_per_voxel"]
        assert (row["num_slices"], row["num_columns"]) == ("16", "48")
        assert {"resolution_before_pixels", "resolution_after_pixels"} <= numbers.keys()
        assert "data:image/png" in (output / "index.html").read_text()
        assert "0 done, 1 were done before, 0 failed" in reprocess(scan.parent, "-o", output).stdout

    def test_scans_that_share_a_decoder_are_done_as_long_as_it_is_there(self, tmp_path, output):
        for name in "ab":
            small_scan(tmp_path / "raw" / f"{name}.h5", num_rows=8)
        sets = ["codec.reuse=first", "archive.embed=false", "archive.keep_latents=always"]
        arguments = [tmp_path / "raw", "-o", output, *(word for one in sets for word in ("--set", one))]
        assert "2 done, 0 were done before, 0 failed" in reprocess(*arguments).stdout
        assert "0 done, 2 were done before, 0 failed" in reprocess(*arguments).stdout
        (decoder,) = (output / "decoders").iterdir()
        decoder.unlink()
        assert "2 done, 0 were done before, 0 failed" in reprocess(*arguments).stdout
        assert decoder.exists()

    def test_nothing_to_do_is_quick_and_starts_no_cluster(self, tmp_path, output):
        raw = tmp_path / "raw"
        for number in range(24):
            scan = scan_file(raw / f"{number}.h5", seed=number)
            if number < 21:
                finish(output / str(number), scan, SETTINGS)
            else:
                scan.write_bytes(scan.read_bytes()[:3000])
        assert reprocess(raw, "-o", output).returncode == 4
        command = [sys.executable, "-c", SCRIPT, "reprocess", str(raw), "-o", str(output), *SETS]
        before = os.times()
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        used = os.times()
        assert ended.returncode == 4, ended.stderr
        assert "0 done, 21 were done before, 3 failed" in ended.stdout
        assert "imported: []" in ended.stdout
        assert used.children_user + used.children_system - before.children_user - before.children_system < LONGEST_START


class TestDryRun:
    def test_nothing_is_written(self, raw, output):
        finish(output / "a", raw / "a.h5", SETTINGS)
        before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
        ended = reprocess(raw, "-o", output, "--dry-run")
        assert ended.returncode == 0, ended.stderr
        lines = ended.stdout.splitlines()
        assert lines[0].startswith("done          a")
        assert lines[1].startswith("to do         cut: will fail: ")
        assert lines[2].startswith("left out      ")
        assert lines[3] == "2 scans: 1 to do, 1 done, 0 failed before; left out: 1"
        assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before

    def test_estimates_workers_and_job_script(self, raw, output):
        cluster = ClusterSettings(queue="gpu", cores=4, memory_gib=16, jobs=3, walltime="02:00:00")
        lines = describe(raw, output, cluster, "slurm")
        assert lines[0].startswith("measuring this machine")
        assert "8 projections of 4 x 16, about " in lines[1]
        assert "workers       3 jobs of SLURM, a worker each" in lines
        assert any(line.startswith("time          about ") and line.endswith("roughly guessed") for line in lines)
        assert any(line.startswith("disk          about ") for line in lines)
        assert "#SBATCH -p gpu" in lines
        assert not output.exists()

    def test_a_disk_that_is_too_small_is_told_with_numbers(self, raw, output):
        with pytest.raises(SpaceError, match=r"needs .* GiB of disk, .* GiB are free"):
            describe(raw, output, ClusterSettings(workers=1), rates=Rates(bytes_per_voxel=1e15))


def describe(raw, output, cluster, scheduler=None, rates=None):
    """Describe a series without measuring this machine."""
    findings = find_scans([str(raw)], output=output)
    lines = describe_series(
        findings,
        Ledger(output, SETTINGS),
        SETTINGS,
        cluster,
        scheduler=scheduler,
        measure=lambda scan, settings: rates or Rates(),
    )
    return list(lines)
