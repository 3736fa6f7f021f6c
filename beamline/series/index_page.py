"""The page of a series: one table of all its scans, that holds its pictures and asks for nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, get_args
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from quietbeam.beamline.readable import readable_bytes, readable_duration, readable_number
from quietbeam.beamline.workspace import ARCHIVE

from .scan_row import ScanRow, State

__all__ = ["render_index"]

HERE = Path(__file__).parent


class _Figure(NamedTuple):
    """A number at the top of the page."""

    name: str
    value: str
    more: str = ""


@dataclass(frozen=True)
class _Cell:
    """What stands in a cell, and what it is sorted by: a number or text; empty ones come last."""

    text: str = ""
    sort: float | str = ""
    right: bool = False
    is_state: bool = False
    codes: tuple[str, ...] = ()
    href: str = ""


@dataclass(frozen=True)
class _Column:
    heading: str
    cell: Callable[[ScanRow], _Cell]
    right: bool = False


def render_index(
    rows: Sequence[ScanRow], *, title: str, written: str, thumbnails: Mapping[str, str] | None = None
) -> str:
    """Write the page of a series.

    Parameters
    ----------
    rows : sequence of ScanRow
        The scans, in the order of the page as it is opened. Every text in them is escaped.
    title : str
        Name of the series.
    written : str
        When; stands at the top.
    thumbnails : mapping of str to str, optional
        Name to ``data:`` address.

    Returns
    -------
    str
        One HTML page, which can be encoded as UTF-8 whatever names the rows hold.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = (HERE / "index.js").read_text(encoding="utf-8")
    page = environment.get_template("index.html.j2").render(
        rows=rows,
        title=title,
        written=written,
        version=importlib.metadata.version("quietbeam"),
        figures=_figures(rows),
        states=get_args(State),
        columns=_COLUMNS,
        cells=lambda row: [column.cell(row) for column in _COLUMNS],
        link=_link,
        thumbnails=thumbnails or {},
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    # a file name that is not valid UTF-8 reaches Python as lone surrogates, which no encoder takes
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _link(row: ScanRow, file: str) -> str:
    """Give the address of a file of a scan, below the folder of the page whatever the name is."""
    return f"./{quote(row.name, safe='', errors='surrogateescape')}/{file}"


def _figures(rows: Sequence[ScanRow]) -> list[_Figure]:
    count = {state: sum(row.state == state for row in rows) for state in get_args(State)}
    raw, volume, archive = (_sum(rows, name) for name in ("raw_bytes", "volume_bytes", "archive_bytes"))
    seconds = _sum(rows, "seconds")
    figures = [_Figure(state.capitalize(), str(number)) for state, number in count.items() if number or state == "done"]
    if archive:
        figures += [
            _Figure("Raw data", readable_bytes(raw), "of the scans that are done"),
            _Figure("Volumes", readable_bytes(volume), "as float32"),
            _Figure("Archives", readable_bytes(archive), f"{volume / archive:.1f} × smaller than the volumes"),
            _Figure("Saved", readable_bytes(max(volume - archive, 0)), "archives in place of volumes"),
            _Figure("Work", readable_duration(seconds), f"{readable_duration(seconds / count['done'])} a scan"),
        ]
    return figures


def _sum(rows: Sequence[ScanRow], name: str) -> float:
    return float(sum(getattr(row, name) or 0 for row in rows if row.state == "done"))


def _number(get: Callable[[ScanRow], float | None], write: Callable[[float], str]) -> Callable[[ScanRow], _Cell]:
    def cell(row: ScanRow) -> _Cell:
        value = get(row)
        return _Cell(right=True) if value is None else _Cell(write(value), value, right=True)

    return cell


def _state(row: ScanRow) -> _Cell:
    told = row.failure
    if row.state == "running" and row.stage:
        told = f"{row.stage}, {row.stage_done} of {row.stage_total}"
    return _Cell(told, f"{row.state} {told}", is_state=True)


def _shape(row: ScanRow) -> _Cell:
    voxels = 1
    for size in row.shape:
        voxels *= size
    return _Cell(" × ".join(map(str, row.shape)), voxels if row.shape else "", right=True)


def _archive(row: ScanRow) -> _Cell:
    if row.state != "done" or row.archive_bytes is None:
        return _Cell()
    return _Cell(readable_bytes(row.archive_bytes), row.archive_bytes, href=_link(row, ARCHIVE))


def _resolution(row: ScanRow) -> _Cell:
    if row.state != "done":
        return _Cell(right=True)
    before, after = (_period(value) for value in (row.resolution_before, row.resolution_after))
    return _Cell(f"{before} → {after}", row.resolution_after or "", right=True)


def _period(pixels: float | None) -> str:
    return "·" if pixels is None else f"{pixels:.3g}"


def _network(row: ScanRow) -> _Cell:
    return _Cell(f"{row.network}; {row.fit}" if row.fit else row.network, row.network)


def _finished(row: ScanRow) -> _Cell:
    if row.finished is None:
        return _Cell()
    return _Cell(datetime.fromtimestamp(row.finished, UTC).strftime("%Y-%m-%d %H:%M"), row.finished, right=True)


_COLUMNS = (
    _Column("Scan", lambda row: _Cell(row.name, row.name)),
    _Column("State", _state),
    _Column("Volume", _shape, right=True),
    _Column("Raw", _number(lambda row: row.raw_bytes, readable_bytes), right=True),
    _Column("Archive", _archive, right=True),
    _Column("Bits per voxel", _number(lambda row: row.bits_per_voxel, lambda value: f"{value:.2f}"), right=True),
    _Column("PSNR, dB", _number(lambda row: row.psnr, lambda value: f"{value:.1f}"), right=True),
    _Column("Largest error", _number(lambda row: row.largest_error, readable_number), right=True),
    _Column("Noise", _number(lambda row: row.noise, readable_number), right=True),
    _Column("Resolution", _resolution, right=True),
    _Column("Warnings", lambda row: _Cell(sort=len(row.warnings) or "", codes=row.warnings)),
    _Column("Network", _network),
    _Column("Time", _number(lambda row: row.seconds, readable_duration), right=True),
    _Column("Ended, UTC", _finished, right=True),
)
