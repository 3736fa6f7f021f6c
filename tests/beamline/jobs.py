"""Small jobs for the tests of the whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from quietbeam.beamline.console import main
from quietbeam.beamline.settings import ReductionSettings, read_settings
from quietbeam.beamline.simulate import SimulateSettings, simulate_scan

SMALL = {
    "network.depth": 10,
    "training.epochs": 3,
    "training.steps_per_epoch": 6,
    "training.held_out_batches": 2,
    "pairs.crop_size": 32,
    "archive.codec": "crae2",
    "codec.epochs": 3,
    "codec.options.steps_per_epoch": 5,
    "archive.chunk_slices": 4,
    "compute.chunk_slices": 4,
    "compute.threads": 1,
}
"""A job of seconds: nothing is learnt, everything is done."""


def small_settings(**changes: object) -> ReductionSettings:
    """Settings of a small job, with changes named ``stage__name``."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return read_settings(options=SMALL | named)


def small_scan(path: Path, num_rows: int = 16, num_columns: int = 48, num_angles: int = 48, **settings: object) -> Path:
    """Write a simulated scan of some kilobytes."""
    shape = {"num_rows": num_rows, "num_columns": num_columns, "num_angles": num_angles}
    return simulate_scan(path, SimulateSettings.model_validate(shape | settings), overwrite=True)


def command(*arguments: object) -> list[str]:
    """The `quietbeam` command as a list."""
    start = "from quietbeam.beamline.console import main; main()"
    return [sys.executable, "-c", start, *map(str, arguments)]


def reduce_command(scan: Path, output: Path, *more: object) -> list[str]:
    """Reduce with the small settings."""
    sets = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    return command("reduce", scan, "-o", output, *sets, *more)


def run(arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300, **options)  # type: ignore[call-overload,no-any-return]


def answer(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the `quietbeam` command in this process: the same messages and exit code, without the seconds of a start."""
    said, complained, code = StringIO(), StringIO(), 0
    with (
        patch.object(sys, "argv", ["quietbeam", *map(str, arguments)]),
        patch.dict(os.environ, COLUMNS="200"),
        redirect_stdout(said),
        redirect_stderr(complained),
    ):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(arguments, code, said.getvalue(), complained.getvalue())


def results(output: Path) -> dict[str, str]:
    """What a run computed, without when and how fast: hashes of archive and network, numbers, report without times."""
    manifest = json.loads((output / "manifest.json").read_text())
    report = re.sub(r'<section id="times".*?</section>', "", (output / "report.html").read_text(), flags=re.DOTALL)
    files = {name: entry["sha256"] for name, entry in manifest["files"].items() if name != "report.html"}
    return files | {"report": report, "numbers": json.dumps(manifest["numbers"]), "key": manifest["key"]}
