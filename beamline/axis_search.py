"""The rotation axis of a scan: found from the middle rows, and swept in one of them for a person to judge."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, RenderableType
from rich.table import Table

from quietbeam.reconstruction.axis_sweep import AxisSweep, sweep_rotation_axis
from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.half_acquisition import joins_opposite
from quietbeam.reconstruction.reconstructors import ReconstructionSettings
from quietbeam.reconstruction.rotation_axis import RotationAxis, find_rotation_axis

from .bad_projections import find_bad_projections
from .chunks import middle_rows
from .scan import Scan, open_scan
from .settings import ReductionSettings, SettingsError
from .sinograms import SinogramSettings, clean_sinograms

__all__ = ["AxisSearch", "describe_search", "find_axis", "parse_columns", "print_search", "search_axis"]

REACH, STEP = 5.0, 0.5
"""Pixels to either side of the found column that are swept, and between two pictures."""
MOST_PICTURES = 120
"""On one sheet; more are too small to judge."""
ALIKE = 1.0
"""Pixels from the column found, or its spread, within which that of the sharpest slice is as good."""
DECIMALS = 3
"""Of a swept column: what is printed is what was used."""


class AxisSearch(NamedTuple):
    """What was found and swept.

    Attributes
    ----------
    scan : Scan
        The measurement, without bad projections.
    axis : RotationAxis
        What the methods say.
    row : int
        Detector row that was swept.
    sweep : AxisSweep
        Its slices.
    """

    scan: Scan
    axis: RotationAxis
    row: int
    sweep: AxisSweep


def find_axis(scan: Scan, settings: ReductionSettings) -> RotationAxis:
    """Find the rotation axis of a scan from rows in the middle of the detector.

    Parameters
    ----------
    scan : Scan
        The measurement, without bad projections.
    settings : ReductionSettings
        All settings.

    Returns
    -------
    RotationAxis
        Column, score, candidates, caveats.
    """
    raw = SinogramSettings.of(settings).for_axis()
    threads = settings.compute.threads or 1
    parts = [clean_sinograms(scan, rows, raw, num_threads=threads)[0] for rows in middle_rows(scan, settings)]
    return find_rotation_axis(np.concatenate(parts), scan.theta, settings.rotation_axis)


def search_axis(
    path: Path, settings: ReductionSettings, *, row: int | None = None, columns: NDArray[np.float64] | None = None
) -> AxisSearch:
    """Find the rotation axis of a scan, and reconstruct one row about some columns.

    Parameters
    ----------
    path : Path
        The scan.
    settings : ReductionSettings
        All settings; the slices are made as the reduction makes them.
    row : int, optional
        Detector row to sweep; the middle one if not given.
    columns : float64, shape (column,), optional
        Columns to sweep, ascending; `REACH` pixels to either side of the column found if not given.

    Returns
    -------
    AxisSearch
        What was found, and the slices.

    Raises
    ------
    ScanError
        If the scan has no such row or columns, or cannot be read.
    """
    scan = open_scan(path, settings.scan)
    scan = scan.without(*find_bad_projections(scan))
    row = scan.num_rows // 2 if row is None else row
    if not 0 <= row < scan.num_rows:
        raise ScanError(f"{path}: the row to sweep must lie in [0, {scan.num_rows}), got {row}")
    axis = find_axis(scan, settings)
    columns = _around(axis.column, scan.num_columns) if columns is None else columns
    if columns[0] < 0 or columns[-1] > scan.num_columns - 1:
        swept = f"{columns[0]:g} to {columns[-1]:g}"
        raise ScanError(f"{path}: columns to sweep must lie in [0, {scan.num_columns - 1}], got {swept}")
    options = _as_reduced(scan, axis, columns, settings.reconstruction)
    sinogram = clean_sinograms(scan, slice(row, row + 1), SinogramSettings.of(settings))[0][0]
    return AxisSearch(scan, axis, row, sweep_rotation_axis(sinogram, scan.theta, columns, options))


def parse_columns(text: str) -> NDArray[np.float64]:
    """Read ``START:STOP:STEP``, without the stop as ranges are.

    Parameters
    ----------
    text : str
        For example ``290:302:0.5``.

    Returns
    -------
    float64, shape (column,)
        Ascending columns in pixels, to `DECIMALS` places.

    Raises
    ------
    SettingsError
        If it is no such range, or one of more pictures than fit on a sheet.
    """
    number = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*"
    match = re.fullmatch(f"{number}:{number}:{number}", text)
    start, stop, step = map(float, match.groups()) if match else (0.0, 0.0, 0.0)
    if not (start < stop and step >= 10**-DECIMALS):
        raise SettingsError(f"--columns expects START:STOP:STEP in pixels, for example 290:302:0.5, got {text!r}")
    count = int(np.ceil((stop - start) / step - 1e-9))
    if count > MOST_PICTURES:
        raise SettingsError(f"--columns {text} makes {count} pictures, at most {MOST_PICTURES} fit: widen the step")
    return np.round(start + step * np.arange(count), DECIMALS)


def describe_search(search: AxisSearch) -> Iterator[RenderableType]:
    """Tell what was found.

    Parameters
    ----------
    search : AxisSearch
        Of `search_axis`.

    Yields
    ------
    rich.console.RenderableType
        A table of all answers, the one that was taken, what to set to take it or another, and caveats.
    """
    axis, sweep = search.axis, search.sweep
    table = Table("method", "column", "correlation", "", title=f"rotation axis of {search.scan.name}")
    table.columns[1].justify = table.columns[2].justify = "right"
    for name, (column, score) in axis.candidates.items():
        taken = "taken" if name == axis.method else "agrees" if name in axis.support else ""
        table.add_row(name, f"{column:.2f}", f"{score:.3f}", taken)
    sharpest = f"{sweep.best:.2f}" if _is_inside(sweep) else "not within"
    table.add_row("sharpest slice", sharpest, "", f"row {search.row}")
    yield table
    yield f"axis        {axis.column:.2f} +- {axis.spread:.2f} px, by {axis.method}; prominence {axis.prominence:.1f}"
    yield f"to take it  --set rotation_axis.column={axis.column:.2f}"
    apart = abs(sweep.best - axis.column)
    if _is_inside(sweep) and apart <= max(axis.spread, ALIKE):
        yield f"            --set rotation_axis.column={sweep.best:.2f}  (sharpest slice)"
    elif _is_inside(sweep):
        yield f"            the sharpest slice disagrees by {apart:.1f} px"
    for caveat in (*search.scan.caveats, *axis.caveats):
        yield f"warning [{caveat.code}]: {caveat.message}"


def print_search(search: AxisSearch) -> None:
    """Print what `describe_search` tells."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for part in describe_search(search):
        console.print(part)


def _is_inside(sweep: AxisSweep) -> bool:
    """Whether the sharpest slice has a less sharp one on either side."""
    return bool(sweep.columns[0] < sweep.best < sweep.columns[-1])


def _as_reduced(
    scan: Scan, axis: RotationAxis, columns: NDArray[np.float64], settings: ReconstructionSettings
) -> ReconstructionSettings:
    """Join opposite projections where a reduction about the axis found would; columns elsewhere decide themselves."""
    if not columns[0] <= axis.column <= columns[-1]:
        return settings
    asked, width = settings.half_acquisition, scan.num_columns
    joined = joins_opposite(asked, scan.theta, axis.column, width, sees_beyond=axis.sees_beyond)
    return settings.model_copy(update={"half_acquisition": joined})


def _around(column: float, num_columns: int) -> NDArray[np.float64]:
    """Columns about one, as far as the detector goes; itself among them, to the hundredth."""
    steps = STEP * np.arange(-round(REACH / STEP), round(REACH / STEP) + 1)
    columns = np.round(round(column, 2) + steps, DECIMALS)
    return columns[(columns >= 0) & (columns <= num_columns - 1)]
