"""Scans, runs and finished results of a series, made without reducing anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from quietbeam.beamline.manifest import read_manifest, write_manifest
from quietbeam.beamline.scan import file_signature, open_scan, scan_identity
from quietbeam.beamline.series.find_scans import FoundScan
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.beamline.stage_keys import StageKeys
from quietbeam.beamline.workspace import MANIFEST

from .finished_result import finished_result

__all__ = ["finish", "found_scan", "reference", "scan_file"]


def scan_file(path: Path, seed: int = 0) -> Path:
    """Write a scan of noise that can be opened."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for name, number, level in (("data", 8, 500), ("data_white", 2, 1000), ("data_dark", 2, 10)):
            file[f"exchange/{name}"] = rng.poisson(level, (number, 4, 16)).astype(np.uint16)
        file["exchange/theta"] = np.arange(0, 180, 22.5)
    return path


def found_scan(path: Path, name: str | None = None) -> FoundScan:
    return FoundScan(name or path.stem, path, str(path.resolve()))


def finish(output: Path, scan: Path, settings: ReductionSettings, **changes: Any) -> Path:
    """Put into a folder what a reduction of a scan leaves, so far as it is looked at; the volume is noise."""
    finished_result(output)
    opened = open_scan(scan, settings.scan)
    identity = scan_identity(opened) | {"signature": file_signature(opened)}
    content = read_manifest(output / MANIFEST) | {
        "key": StageKeys.of(identity["sha256"], settings).result,
        "input": {"path": str(scan.resolve()), "layout": opened.layout, "identity": identity},
        "settings": settings.model_dump(mode="json"),
        "caveats": [{"code": "few-angles", "message": "few"}],
        **changes,
    }
    for added_when_written in ("format", "files"):
        del content[added_when_written]
    write_manifest(output, json.loads(json.dumps(content)))
    return output


def reference(uid: str, *, projections: int = 5, calibration: bool = True, **start: Any) -> dict[str, Any]:
    """Make the reference of a run whose files are nowhere."""
    counts = {"primary": projections} | ({"flat": 2, "dark": 2} if calibration else {})
    return {
        "format": "quietbeam-run-1",
        "start": {"uid": uid, "time": 1.7e9, "plan_name": "tomo_scan", "tomo": {}} | start,
        "stop": {"exit_status": "success", "time": 1.7e9 + 60},
        "streams": [_stream(name, number) for name, number in counts.items() if number],
    }


def _stream(name: str, number: int) -> dict[str, Any]:
    resource = {
        "data_key": "det",
        "uri": f"file://localhost/nowhere/{name}.h5",
        "mimetype": "application/x-hdf5",
        "parameters": {"dataset": "/data"},
        "ranges": [[0, number, 1]],
    }
    return {
        "uid": f"{name}-descriptor",
        "name": name,
        "time": 1.7e9,
        "data_keys": {"det": {"shape": [1, 4, 6], "dtype": "array", "external": "STREAM:"}},
        "seq_nums": list(range(1, number + 1)),
        "times": [1.7e9 + second for second in range(number)],
        "columns": {},
        "resources": [resource],
    }
