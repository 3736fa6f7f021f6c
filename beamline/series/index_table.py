"""The table of a series as comma-separated values, after RFC 4180, for spreadsheets and programs."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from io import StringIO

from quietbeam.beamline import workspace
from quietbeam.beamline.workspace import ARCHIVE, REPORT

from .scan_row import ScanRow

__all__ = ["COLUMNS", "STAGES", "render_table"]

STAGES = tuple(stage for stage in workspace.STAGES if stage not in workspace.SIDE_STAGES)
"""Stages with a column of their own; the time of all others is in that of ``other``."""
Value = str | int | float | None


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _result(name: str) -> Callable[[ScanRow], Value]:
    return lambda row: f"{row.name}/{name}" if row.state == "done" else None


def _size(axis: int) -> Callable[[ScanRow], Value]:
    return lambda row: row.shape[axis] if row.shape else None


def _seconds_of(stage: str) -> Callable[[ScanRow], Value]:
    return lambda row: row.stages.get(stage)


def _other_seconds(row: ScanRow) -> Value:
    return sum(seconds for stage, seconds in row.stages.items() if stage not in STAGES) if row.stages else None


COLUMNS: dict[str, Callable[[ScanRow], Value]] = {
    "name": lambda row: row.name,
    "source": lambda row: row.source,
    "state": lambda row: row.state,
    "failure": lambda row: row.failure,
    "exit_code": lambda row: row.exit_code,
    "reason": lambda row: row.reason,
    "started_utc": lambda row: _time(row.started),
    "finished_utc": lambda row: _time(row.finished),
    "seconds": lambda row: row.seconds,
    **{f"seconds_{stage.replace(' ', '_')}": _seconds_of(stage) for stage in STAGES},
    "seconds_other": _other_seconds,
    "num_slices": _size(0),
    "num_rows": _size(1),
    "num_columns": _size(2),
    "raw_bytes": lambda row: row.raw_bytes,
    "volume_bytes": lambda row: row.volume_bytes,
    "archive_bytes": lambda row: row.archive_bytes,
    "bits_per_voxel": lambda row: row.bits_per_voxel,
    "psnr_db": lambda row: row.psnr,
    "max_error": lambda row: row.max_error,
    "largest_error": lambda row: row.largest_error,
    "noise": lambda row: row.noise,
    "unit": lambda row: row.unit,
    "pixel_size_m": lambda row: row.pixel_size,
    "resolution_before_pixels": lambda row: row.resolution_before,
    "resolution_after_pixels": lambda row: row.resolution_after,
    "warnings": lambda row: " ".join(row.warnings),
    "network": lambda row: row.network,
    "network_fit": lambda row: row.fit,
    "archive": _result(ARCHIVE),
    "report": _result(REPORT),
}
"""Name of each column, and its value; times are ISO 8601 in UTC, paths begin at the folder of the table. ``max_error``,
``largest_error`` and ``noise`` are in ``unit``. What is not known is empty. Later versions add columns at the end."""


def render_table(rows: Iterable[ScanRow]) -> str:
    """Write the table.

    Parameters
    ----------
    rows : iterable of ScanRow
        One for each line.

    Returns
    -------
    str
        Lines that end with CR LF, the first with the names of the columns.
    """
    buffer = StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow("" if (value := get(row)) is None else value for get in COLUMNS.values())
    return buffer.getvalue()
