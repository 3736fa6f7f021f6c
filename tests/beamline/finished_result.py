"""The output folder of a reduction, written without reducing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietbeam.beamline.manifest import write_manifest
from quietbeam.beamline.workspace import ARCHIVE, NETWORK, REPORT
from quietbeam.compress.archive import ArchiveHeader, encode_chunk, write_archive

MAX_ERROR = 0.01
PIXEL_SIZE = 1.5e-6
CHUNK_SLICES = 4
KEY = "0123456789abcdef0123456789abcdef"
SHA256 = "5" * 64
RAW_UID = "1a2b3c4d-0000-4000-8000-123456789abc"


def finished_result(
    output: Path, *, shape: tuple[int, int, int] = (11, 20, 24), seed: int = 0, dtype: str = "float32", key: str = KEY
) -> Path:
    """Write archive and manifest of a volume of noise, and two files in the place of network and report."""
    output.mkdir(parents=True, exist_ok=True)
    volume = (20 * np.random.default_rng(seed).normal(size=shape)).astype(dtype)
    write_volume_archive(output / ARCHIVE, volume)
    (output / NETWORK).write_bytes(b"network")
    (output / REPORT).write_bytes(b"report")
    write_manifest(output, manifest_of(key))
    return output


def write_volume_archive(path: Path, volume: NDArray[Any]) -> None:
    """Put a volume into an archive of chunks of four slices."""
    error = MAX_ERROR if volume.dtype.kind == "f" else 0
    header = ArchiveHeader(
        shape=volume.shape,
        dtype=str(volume.dtype),
        codec=None,
        max_error=error,
        chunk_slices=CHUNK_SLICES,
        metadata={"unit": "1/m", "pixel_size": PIXEL_SIZE},
    )
    starts = range(0, len(volume), CHUNK_SLICES)
    write_archive(path, [encode_chunk(None, volume[i : i + CHUNK_SLICES], error) for i in starts], header, b"")


def manifest_of(key: str) -> dict[str, Any]:
    """What a reduction says of itself, in the form that `quietbeam.beamline.results.manifest_content` gives."""
    return {
        "key": key,
        "input": {"path": "/data/scan 1.h5", "layout": "dxchange", "identity": {"sha256": SHA256, "files": []}},
        "settings": {"training": {"epochs": 3, "minutes": None}, "archive": {"codec": "lattice"}},
        "decisions": [],
        "caveats": [{"name": "a", "text": "b"}],
        "numbers": {"psnr": None, "noise": 2.5, "bits_per_voxel": 3.25, "max_error": 0.01, "largest_error": 0.009},
        "rotation_axis": 23.5,
        "history": [{"loss": 1.0, "held_out": 0.5}, {"loss": 0.9, "held_out": 0.25}],
        "seconds": {"reconstruct": 2.0, "fit codec": 1.0},
        "versions": {"quietbeam": "0.1.0", "astra-toolbox": "2.3"},
        "python": "3.11.0",
    }


def raw_run() -> dict[str, Any]:
    """Reference of the raw run that the result comes from."""
    start = {
        "uid": RAW_UID,
        "time": 1.7e9,
        "scan_id": 123,
        "plan_name": "tomo_fly_scan",
        "data_session": "pass-7",
        "proposal": {"id": 7, "title": "Foam"},
        "cycle": "2026-1",
        "sample_name": "foam 3",
        "tomo": {"mode": "fly"},
    }
    resource = {
        "data_key": "det",
        "uri": "file://localhost/data/raw%201.h5",
        "mimetype": "application/x-hdf5",
        "parameters": {},
        "ranges": [[0, 61, 1]],
    }
    streams = [{"uid": "d", "name": "primary", "resources": [resource, resource]}]
    return {"format": "quietbeam-run-1", "start": start, "stop": None, "streams": streams}
