"""Submissions for the tests of the queue, and other processes that use it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from quietbeam.beamline.jobs.request import Submission
from quietbeam.beamline.jobs.submission import submission_of_run

LEASE = 10.0
SIZE_OF_A_REFERENCE = 4000


class Clock:
    """Time that passes when told."""

    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


def reference(
    uid: str, *, num_frames: int = 10, stopped: bool = True, size: int = 0, time: float = 100.0
) -> dict[str, Any]:
    """A run reference as the collector makes it, `size` bytes larger than it needs to be."""
    resource = {"data_key": "det", "uri": "file://localhost/x.h5", "mimetype": "application/x-hdf5", "parameters": {}}
    stream = {
        "uid": f"{uid}-primary",
        "name": "primary",
        "data_keys": {},
        "seq_nums": [],
        "times": [],
        "columns": {},
        "resources": [resource | {"ranges": [[0, num_frames, 1]]}],
    }
    return {
        "format": "quietbeam-run-1",
        "start": {"uid": uid, "time": time, "scan_id": 7, "sample": "x" * size},
        "stop": {"exit_status": "success"} if stopped else None,
        "streams": [stream],
    }


def run_submission(uid: str, **options: Any) -> Submission:
    """A submission of a small run."""
    return submission_of_run(reference(uid), **options)


def python(script: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start another process with the arguments in sys.argv; its output is a pipe, its input too."""
    command = [*prefix, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )


def output(process: subprocess.Popen[str], timeout: float = 30) -> str:
    """What it wrote, once it has ended well."""
    out, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return out


def use_own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the user's state folder and temporary folder here."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "temporary").mkdir()
