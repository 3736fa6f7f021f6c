"""What is kept of each scan of a series: one row, read back from the result itself where that is whole."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from quietbeam.beamline.manifest import read_manifest
from quietbeam.beamline.workspace import ARCHIVE, MANIFEST, NETWORK
from quietbeam.compress.archive import open_archive

from .pool import Failure

__all__ = ["ScanRow", "State", "row_of_result", "word_for"]

State = Literal["waiting", "running", "done", "failed"]
_WORDS = {2: "wrong settings", 3: "bad data", 5: "no space", 6: "locked", 7: "damaged archive"}
"""What an exit code of a refusal means."""
_KINDS = {"crashed": "crash", "lost": "worker lost"}


@dataclass(frozen=True)
class ScanRow:
    """One scan of a series.

    Attributes
    ----------
    name, source : str
        See `quietbeam.beamline.series.find_scans.FoundScan`.
    state : {'waiting', 'running', 'done', 'failed'}
        How it stands.
    reason, failure : str
        Why it failed, and one word for that.
    exit_code : int or None
        That `quietbeam reduce` would have ended with.
    may_pass : bool
        Whether it is tried again by the next command, although nothing has changed.
    started, finished : float or None
        Seconds of the epoch.
    seconds : float or None
        Of work, over all commands.
    stages : dict of str to float
        Seconds of each stage.
    shape : tuple of int
        Slices, rows, columns; empty if not known.
    raw_bytes, volume_bytes, archive_bytes : int or None
        Files of the scan; the volume as float32; the archive.
    bits_per_voxel, psnr, max_error, largest_error, noise : float or None
        As in the manifest; `psnr` in decibel, None where the archive is exact too; the errors and the noise in `unit`.
    unit : str
        Of the volume's values.
    pixel_size : float or None
        Metres.
    resolution_before, resolution_after : float or None
        Period at which the ring correlation falls below the threshold, pixels; None where it does not.
    warnings : tuple of str
        Their codes.
    network : str
        ``own``, or the scan or file that it is of.
    fit : str
        How that network fits, where it was compared.
    stage, stage_done, stage_total
        What is being done, and how many slices of it.
    settings_key : str
        Hash of the settings of a scan that failed.
    signature : list
        Names, sizes and times of change of its files.
    """

    name: str
    source: str
    state: State = "waiting"
    reason: str = ""
    failure: str = ""
    exit_code: int | None = None
    may_pass: bool = False
    started: float | None = None
    finished: float | None = None
    seconds: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    raw_bytes: int | None = None
    volume_bytes: int | None = None
    archive_bytes: int | None = None
    bits_per_voxel: float | None = None
    psnr: float | None = None
    max_error: float | None = None
    largest_error: float | None = None
    noise: float | None = None
    unit: str = ""
    pixel_size: float | None = None
    resolution_before: float | None = None
    resolution_after: float | None = None
    warnings: tuple[str, ...] = ()
    network: str = ""
    fit: str = ""
    stage: str = ""
    stage_done: int = 0
    stage_total: int = 0
    settings_key: str = ""
    signature: tuple[Any, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the row as JSON holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def list_from_json(cls, value: Any) -> list[ScanRow]:
        """Take rows out of JSON; fields of a later version are left out.

        Raises
        ------
        ValueError
            If they are none.
        """
        return TypeAdapter(list[ScanRow]).validate_python(value)

    def failed(self, failure: Failure, finished: float) -> ScanRow:
        """Give the row of the scan after it failed."""
        return dataclasses.replace(
            self,
            state="failed",
            reason=failure.reason,
            failure=word_for(failure),
            exit_code=failure.exit_code,
            may_pass=failure.kind != "refused" or failure.may_pass or failure.exit_code in (5, 6),
            finished=finished,
            stage="",
        )


def word_for(failure: Failure) -> str:
    """Give one word for a kind of failure: bad data, no space, crash, ..."""
    return _KINDS.get(failure.kind) or _WORDS.get(failure.exit_code, "refused")


def row_of_result(
    output: Path, name: str, source: str, *, started: float | None = None, finished: float | None = None
) -> ScanRow:
    """Read the row of a scan that is done from its manifest and archive.

    Parameters
    ----------
    output : Path
        Folder of the scan.
    name, source : str
        See `ScanRow`.
    started, finished : float, optional
        Seconds of the epoch; taken from the manifest's file where not given.

    Returns
    -------
    ScanRow
        Of state done.

    Raises
    ------
    ArchiveError
        If the manifest or the archive is damaged.
    """
    manifest = read_manifest(output / MANIFEST)
    finished = finished or (output / MANIFEST).stat().st_mtime
    numbers, stages = manifest["numbers"], dict(manifest.get("seconds") or {})
    seconds = float(sum(stages.values()))
    identity = manifest["input"].get("identity") or {}
    with open_archive(output / ARCHIVE, cache_bytes=0) as archive:
        shape, metadata = archive.shape, dict[str, Any](archive.header.metadata)
    return ScanRow(
        name=name,
        source=source,
        state="done",
        started=started or finished - seconds,
        finished=finished,
        seconds=seconds,
        stages=stages,
        shape=shape,
        raw_bytes=sum(file["bytes"] for file in identity.get("files") or ()),
        volume_bytes=4 * math.prod(shape),
        archive_bytes=manifest["files"][ARCHIVE]["bytes"],
        **{name: numbers.get(name) for name in ("bits_per_voxel", "psnr", "max_error", "largest_error", "noise")},
        unit=str(metadata.get("unit") or ""),
        pixel_size=metadata.get("pixel_size"),
        resolution_before=numbers.get("resolution_before_pixels"),
        resolution_after=numbers.get("resolution_after_pixels"),
        warnings=tuple(dict.fromkeys(caveat.get("code", "") for caveat in manifest.get("caveats") or ())),
        network=_network(manifest["settings"], manifest.get("fit")),
        fit=_fit(manifest.get("fit")),
    )


def _network(settings: Mapping[str, Any], fit: Any) -> str:
    """Name the scan whose network was applied as it is; of a series, by the folder that the network lies in."""
    if not isinstance(fit, dict):
        return "own"
    path = Path(str((settings.get("warm_start") or {}).get("network") or ""))
    origin = fit.get("network") or {}
    return f"of {path.parent.name if path.name == NETWORK else origin.get('name') or 'another scan'}"


def _fit(fit: Any) -> str:
    """Say how a network that was taken over does beside one that the scan trained itself, where that was tried."""
    lost = fit.get("lost") if isinstance(fit, dict) else None
    return f"loses {100 * lost:.1f} % of what its own would gain" if isinstance(lost, int | float) else ""
