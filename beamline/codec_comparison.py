"""Codecs side by side on one volume: what they cost, how near they come, and which setting pays."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from quietbeam.compress.codec import known_codecs
from quietbeam.compress.rate_distortion import RatePoint, sweep
from quietbeam.compress.sweeps import CLASSICAL, LEARNED, LOSSLESS, sweep_settings
from quietbeam.compress.tradeoff import (
    Configuration,
    Tradeoff,
    configurations,
    draw_rates,
    draw_tradeoff,
    find_tradeoff,
)
from quietbeam.reconstruction.errors import QuietbeamError, ReductionError

from .atomic import write_atomically
from .volumes import open_volume

__all__ = [
    "choose_codecs",
    "compare_codecs",
    "find_best",
    "make_folder",
    "rate_table",
    "tradeoff_table",
    "write_rates",
    "write_tradeoff",
]

RATES, RATES_CSV, RATES_PICTURE = "rates.json", "rates.csv", "rates.png"
TRADEOFF, TRADEOFF_PICTURE = "tradeoff.json", "tradeoff.png"

Report = Callable[[str], None]

_FAILURES = (QuietbeamError, ValueError, RuntimeError, ArithmeticError, OSError)
"""What a codec and its library raise on a volume, or a setting, that they cannot take."""


def choose_codecs(names: Sequence[str], *, learned: bool = False) -> tuple[str, ...]:
    """Take the codecs asked for, or by default our own and the classical ones.

    Parameters
    ----------
    names : sequence of str
        Empty for the default.
    learned : bool
        Add those that are trained, which takes minutes each.

    Returns
    -------
    tuple of str
        Known names, each once.

    Raises
    ------
    ReductionError
        If there is no codec of a name.
    """
    if unknown := [name for name in names if name not in known_codecs()]:
        raise ReductionError(f"there is no codec {', '.join(unknown)}; known are {', '.join(known_codecs())}")
    chosen = tuple(names) or ("lattice", *CLASSICAL, *LOSSLESS)
    return tuple(dict.fromkeys(chosen + (LEARNED if learned else ())))


def compare_codecs(
    name: str,
    codecs: Sequence[str],
    *,
    slices: slice = slice(None),
    chunk_slices: int = 32,
    minutes: float | None = None,
    epochs: int | None = None,
    grid: bool = False,
    say: Report = lambda line: None,
) -> list[RatePoint]:
    """Measure codecs with several settings each on a volume; those that fail are told and left out.

    Parameters
    ----------
    name : str
        See `quietbeam.beamline.volumes.open_volume`.
    codecs : sequence of str
        Names in the table of codecs.
    slices : slice
        Which slices to take; they are held in memory.
    chunk_slices : int
        Slices that are coded together.
    minutes, epochs : float and int, optional
        Time, or epochs, to train each learned codec; not given: its source's epochs.
    grid : bool
        See `quietbeam.compress.sweeps.sweep_settings`.
    say : callable
        Told what goes on, a line at a time.

    Returns
    -------
    list of RatePoint
        In the order of the codecs.

    Raises
    ------
    ReductionError
        If the volume cannot be read, is constant or not finite, or if no codec is left.
    """
    volume = _read(name, slices)
    data_range = float(volume.max()) - float(volume.min())
    points: list[RatePoint] = []
    for codec in codecs:
        say(f"{codec} ...")
        try:
            settings = sweep_settings(codec, data_range, minutes=minutes, epochs=epochs, grid=grid)
            points += sweep(codec, settings, volume, chunk_slices=chunk_slices)
        except _FAILURES as error:
            say(f"{codec} left out: {error}")
    if not points:
        raise ReductionError(f"{name}: none of these codecs could be measured: {', '.join(codecs) or 'none given'}")
    return points


def _read(name: str, slices: slice) -> NDArray[np.float32]:
    """Read slices as float32; `ReductionError` if there is nothing to compare."""
    with open_volume(name) as opened, np.errstate(over="ignore"):
        volume = np.ascontiguousarray(opened[slices], np.float32)
    if not volume.size:
        raise ReductionError(f"{name}: no slices are left; choose other --slices")
    if count := volume.size - int(np.count_nonzero(np.isfinite(volume))):
        raise ReductionError(
            f"{name}: {count} of {volume.size} voxels are not finite as float32; choose other --slices"
        )
    if volume.min() == volume.max():
        raise ReductionError(f"{name}: constant, so there is nothing to compare; choose other --slices")
    return volume


def make_folder(folder: Path) -> None:
    """Make a folder for results, and those above it; `ReductionError` if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ReductionError(f"{folder}: a file is in the way of this folder; choose another -o") from None
    except OSError as error:
        raise ReductionError(f"{folder}: cannot be made ({error.strerror}); choose another -o") from None


def rate_table(points: Sequence[RatePoint]) -> Table:
    """Lay the points out as a table for the console."""
    table = Table(title="rate and distortion")
    heads = (
        "codec",
        "setting",
        "bits/voxel",
        "PSNR dB",
        "SSIM",
        "MS-SSIM",
        "MSLE",
        "max error",
        "enc MB/s",
        "dec MB/s",
    )
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number < 2 else "right", no_wrap=True)
    for point in points:
        numbers = (point.bits_per_voxel, point.psnr, point.ssim, point.ms_ssim, point.msle, point.largest_error)
        table.add_row(point.codec, point.setting, *map(_cell, (*numbers, point.encode_rate, point.decode_rate)))
    return table


def tradeoff_table(found: Tradeoff) -> Table:
    """Lay out the configurations that no other one beats, the chosen one marked."""
    table = Table(title="size against quality: what no other configuration beats")
    for head in ("configuration", "bits/voxel", "PSNR dB", ""):
        table.add_column(head, justify="left" if head in ("configuration", "") else "right")
    for each in found.front:
        marks = [mark for mark, one in (("trade-off point", found.nearest), ("knee", found.knee)) if one == each]
        table.add_row(each.name, _cell(each.size), _cell(each.quality), ", ".join(marks))
    return table


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def write_rates(points: Sequence[RatePoint], folder: Path) -> list[Path]:
    """Write the points as JSON and CSV, and the figure of rate against PSNR; give the files."""
    make_folder(folder)
    rows = [_finite(point) for point in points]
    text, picture = io.StringIO(newline=""), io.BytesIO()
    writer = csv.DictWriter(text, RatePoint._fields)
    writer.writeheader()
    writer.writerows(rows)
    draw_rates(points, picture)
    files = {RATES: json.dumps(rows, indent=1).encode(), RATES_CSV: text.getvalue().encode()}
    return _write(folder, files | {RATES_PICTURE: picture.getvalue()})


def write_tradeoff(points: Sequence[RatePoint], found: Tradeoff, folder: Path) -> list[Path]:
    """Write which configuration pays as JSON, and the figure of all; give the files."""
    make_folder(folder)
    picture = io.BytesIO()
    draw_tradeoff(_lossy(points), found.nearest, picture)
    front = [each._asdict() for each in found.front]
    content = {"trade_off_point": found.nearest._asdict(), "knee": found.knee._asdict(), "front": front}
    return _write(folder, {TRADEOFF: json.dumps(content, indent=1).encode(), TRADEOFF_PICTURE: picture.getvalue()})


def find_best(points: Sequence[RatePoint]) -> Tradeoff:
    """Find the trade-off point of measured codecs; `ReductionError` if there are none but lossless ones."""
    lossy = _lossy(points)
    if not lossy:
        raise ReductionError("a trade-off needs codecs that lose something: all of these are lossless or were left out")
    return find_tradeoff(lossy)


def _lossy(points: Sequence[RatePoint]) -> list[Configuration]:
    """Leave out lossless codecs, also where they round a volume to 16 bits and so have a finite PSNR."""
    return configurations(point for point in points if point.codec not in LOSSLESS)


def _finite(point: RatePoint) -> dict[str, object]:
    """Write no number where there is none: JSON has no infinity."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in point._asdict().items()
    }


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]
