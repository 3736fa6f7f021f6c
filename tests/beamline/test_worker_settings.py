"""Settings of a worker: read from TOML, checked before the first job."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from quietbeam.beamline.jobs.worker_settings import WorkerSettings, WorkerSettingsError, read_worker_settings

TEXT = """
output = "/results"
devices = ["cuda:0", "cuda:1"]
path_map = [["/detector", "/mnt/detector"]]
[publish]
formats = ["nxtomoproc", "zarr"]
"""


def test_settings_from_a_file(tmp_path):
    (tmp_path / "worker.toml").write_text(TEXT)
    settings = read_worker_settings(tmp_path / "worker.toml")
    assert settings.devices == ("cuda:0", "cuda:1")
    assert settings.path_map == (("/detector", "/mnt/detector"),)
    assert settings.publish.formats == ("nxtomoproc", "zarr")
    assert settings == WorkerSettings.model_validate(settings.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "output is missing"),
        ("output = '/r'\nlease = 3", "no setting lease; did you mean lease_seconds"),
        ("output = '/r'\n[publish]\nformat = 3", "no setting publish.format; did you mean publish.formats"),
        ("output = '/r'\nlease_seconds = 0", "lease_seconds: .* got 0"),
        ("output = '/r'\ndevices = ['gpu']", "expected auto, cpu or cuda:NUMBER, got 'gpu'"),
        ("output = '/r'\ndevices = []", "devices"),
        ("output = '/r'\ndevices = ['auto', 'auto']", "name each device"),
        ("output", "not a TOML file"),
    ],
)
def test_wrong_settings_are_named(text, reason, tmp_path):
    (tmp_path / "worker.toml").write_text(text)
    with pytest.raises(WorkerSettingsError, match=f"worker.toml: .*{reason}"):
        read_worker_settings(tmp_path / "worker.toml")


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(WorkerSettingsError, match="cannot be read"):
        read_worker_settings(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "name", ["../{uid8}", "/abs/{uid8}", "", "{uid8.__class__}", "{uid8!r}", "{0}", "{a[b]}", "{uid8"]
)
def test_template_leads_nowhere_else_and_runs_nothing(name):
    with pytest.raises(ValidationError):
        WorkerSettings(output="/r", name=name)


def test_worker_imports_nothing_heavy():
    """What could crash, or takes seconds and memory, is loaded into the jobs' own processes only."""
    text = "import sys, quietbeam.beamline.jobs.worker; sys.exit(bool({'torch', 'numba', 'h5py'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", text]).returncode == 0
