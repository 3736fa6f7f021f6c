"""Where a result comes from: its manifest, and the raw run if there was one."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from quietbeam.beamline.journal import stage_key
from quietbeam.beamline.manifest import read_manifest
from quietbeam.beamline.workspace import ARCHIVE, MANIFEST

__all__ = ["RUN", "Provenance", "read_provenance"]

RUN = "run.json"
"""Reference of the raw run, in the output folder of a job that came from one."""
_RUN_FORMAT = "quietbeam-run-1"


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from.

    Attributes
    ----------
    output : Path
        Its folder, absolute.
    manifest : dict
        From `read_manifest`.
    reference : dict or None
        Reference of the raw run, ``quietbeam-run-1``; None where a scan was named by its path.
    time : float
        When the manifest was written, seconds since 1970.
    """

    output: Path
    manifest: dict[str, Any]
    reference: dict[str, Any] | None
    time: float

    @property
    def archive(self) -> Path:
        """The archive."""
        return self.output / ARCHIVE

    @property
    def archive_sha256(self) -> str:
        """Hash of the archive, from the manifest."""
        return str(self.manifest["files"][ARCHIVE]["sha256"])

    @property
    def start(self) -> dict[str, Any]:
        """Start document of the raw run; empty where there was none."""
        return dict(self.reference["start"]) if self.reference else {}

    @property
    def raw_uid(self) -> str | None:
        """Unique id of the raw run."""
        return str(self.start["uid"]) if "uid" in self.start else None

    @property
    def scan_sha256(self) -> str | None:
        """Hash of all files of the scan."""
        return (self.manifest["input"].get("identity") or {}).get("sha256")

    @property
    def scan_path(self) -> str:
        """The scan as it was read."""
        return str(self.manifest["input"]["path"])

    @property
    def raw_files(self) -> tuple[str, ...]:
        """Files that hold the raw frames, as the run's documents name them, or the path of the scan."""
        streams = self.reference["streams"] if self.reference else []
        uris = [resource["uri"] for stream in streams for resource in stream["resources"]]
        return tuple(dict.fromkeys(unquote(urlsplit(uri).path) for uri in uris)) or (self.scan_path,)

    @property
    def sample(self) -> str:
        """Name of the sample."""
        named = self.start.get("sample_name") or self.start.get("sample")
        if isinstance(named, dict):
            named = named.get("name")
        return str(named or Path(self.scan_path).stem)

    @property
    def date(self) -> str:
        """When the manifest was written, ISO 8601 in UTC."""
        return datetime.fromtimestamp(self.time, UTC).isoformat(timespec="seconds")

    @cached_property
    def uid(self) -> str:
        """Unique id of the derived run: the same for the same raw run and the same result."""
        return str(uuid.uuid5(_namespace(self.raw_uid or self.scan_sha256 or self.scan_path), self.manifest["key"]))

    @cached_property
    def key(self) -> str:
        """Hash of all that the published files hold."""
        return stage_key("publish", self.manifest["key"], self.archive_sha256, self.start, self.raw_files)


def read_provenance(output: Path, reference: dict[str, Any] | None = None) -> Provenance:
    """Read where a finished result comes from.

    Parameters
    ----------
    output : Path
        Its folder.
    reference : dict, optional
        Reference of the raw run; by default that in ``run.json``, if it is there.

    Returns
    -------
    Provenance
        With an absolute path.

    Raises
    ------
    ArchiveError
        If the folder holds no finished result.
    """
    path = output.resolve() / MANIFEST
    manifest = read_manifest(path)
    return Provenance(path.parent, manifest, reference or _read_run(path.with_name(RUN)), path.stat().st_mtime)


def _read_run(path: Path) -> dict[str, Any] | None:
    try:
        run = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return run if isinstance(run, dict) and run.get("format") == _RUN_FORMAT else None


def _namespace(name: str) -> uuid.UUID:
    try:
        return uuid.UUID(name)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_URL, name)
