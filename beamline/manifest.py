"""The manifest: what a run left, with the hash of each file, and what it was made from. It is written last."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any, NamedTuple

from quietbeam.compress.archive import verify_archive
from quietbeam.reconstruction.errors import ArchiveError

from .atomic import file_sha256, write_atomically
from .pipeline import Reduction, file_signature
from .results import as_json, numbers
from .workspace import ARCHIVE, MANIFEST, NETWORK, REPORT

__all__ = ["FORMAT", "Check", "verify_output", "write_manifest"]

FORMAT = "quietbeam-manifest-1"
_LIBRARIES = ("algotom", "astra-toolbox", "finufft", "h5py", "numpy", "scipy", "torch")


class Check(NamedTuple):
    """What `verify_output` found.

    Attributes
    ----------
    checked : list of str
        One line for each file that is well.
    damaged : list of str
        One line for each fault, naming the smallest unit that is damaged.
    """

    checked: list[str]
    damaged: list[str]


def write_manifest(reduction: Reduction) -> None:
    """Write the manifest of a finished reduction.

    Parameters
    ----------
    reduction : Reduction
        With archive, network and report in place.
    """
    output = reduction.workspace.output
    content = {
        "format": FORMAT,
        "key": reduction.keys.result,
        "files": {name: _entry(output / name) for name in (ARCHIVE, NETWORK, REPORT)},
        "input": {
            "path": str(reduction.scan.path.resolve()),
            "layout": reduction.scan.layout,
            "identity": reduction.identity,
            "signature": file_signature(reduction.scan),
        },
        "settings": reduction.settings.model_dump(mode="json"),
        "decisions": [decision._asdict() for decision in reduction.decisions],
        "caveats": [caveat._asdict() for caveat in reduction.caveats],
        "numbers": as_json(numbers(reduction)),
        "rotation_axis": reduction.axis.column,
        "history": reduction.history,
        "seconds": reduction.workspace.times(),
        "versions": {name: importlib.metadata.version(name) for name in ("quietbeam", *_LIBRARIES)},
        "python": platform.python_version(),
    }
    write_atomically(output / MANIFEST, json.dumps(content, indent=1).encode() + b"\n")


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def verify_output(path: Path) -> Check:
    """Check the files of an output folder against its manifest, and decode its archive; or check an archive alone.

    Parameters
    ----------
    path : Path
        Output folder, or archive file.

    Returns
    -------
    Check
        Nothing is repaired.

    Raises
    ------
    ArchiveError
        If there is nothing to check.
    """
    if path.is_file():
        return _check_archive(path)
    manifest = _read_manifest(path / MANIFEST)
    check = Check([], [])
    for name, entry in manifest["files"].items():
        fault = _fault(path / name, entry)
        (check.damaged if fault else check.checked).append(fault or f"{name}: {entry['bytes']} bytes, hash as written")
    archive = _check_archive(path / ARCHIVE) if (path / ARCHIVE).exists() else Check([], [])
    return Check(check.checked + archive.checked, check.damaged + archive.damaged)


def _check_archive(path: Path) -> Check:
    found = verify_archive(path)
    if not found.ok:
        return Check([], [f"{path.name}: {fault}" for fault in found.damaged])
    return Check([f"{path.name}: {found.num_chunks} chunks decoded"], [])


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text())
        entries = manifest["files"].items()
        expected = all({"bytes", "sha256"} <= entry.keys() and Path(name).name == name for name, entry in entries)
    except FileNotFoundError:
        raise ArchiveError(f"{path}: no manifest here; the run has not finished, or this is no output folder") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{path}: damaged, cannot be read as a manifest ({error!r})") from error
    if not expected or manifest.get("format") != FORMAT:
        raise ArchiveError(f"{path}: expected a manifest of format {FORMAT}, got {manifest.get('format')!r}")
    return dict(manifest)


def _fault(path: Path, entry: dict[str, Any]) -> str | None:
    if not path.is_file():
        return f"{path.name}: missing"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{path.name}: {size} bytes, expected {entry['bytes']}"
    return None if file_sha256(path) == entry["sha256"] else f"{path.name}: the content has changed (sha256 differs)"
