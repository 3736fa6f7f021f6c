"""What a scan or an archive is, and what a reduction would do with it, in lines to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from quietbeam.compress.archive import is_archive, open_archive
from quietbeam.noise2inverse.pairs import held_out_group
from quietbeam.reconstruction.acquisition import Acquisition
from quietbeam.reconstruction.angles import covers_full_turn

from .estimate import Estimate, estimate, num_passes
from .estimating.machine_rates import Rates, cached_rates, measured_rates
from .feasibility import check_feasible
from .geometry import split
from .held_out import name_held_out
from .scan import Scan, open_scan
from .settings import ReductionSettings
from .sinograms import SinogramSettings, phase_caveats
from .warm_start import foresee_start
from .workspace import ARCHIVE

__all__ = ["describe_estimate", "describe_path", "describe_plan", "describe_scan", "say_plan"]

SHOWN_SHARE = 0.05
"""Of the time, from which a stage is named."""


def describe_path(path: Path) -> Iterator[str]:
    """Describe a scan, an archive, or an output folder.

    Parameters
    ----------
    path : Path
        File or folder.

    Yields
    ------
    str
        Lines.
    """
    archive = path / ARCHIVE if (path / ARCHIVE).exists() else path
    if is_archive(archive):
        yield from _describe_archive(archive)
    else:
        yield from describe_scan(open_scan(path))


def describe_scan(scan: Scan) -> Iterator[str]:
    """Describe a scan; see `describe_path`."""
    first, last = np.rad2deg(scan.theta[[0, -1]])
    yield f"scan        {scan.path}"
    yield f"layout      {scan.layout}"
    yield f"sample      {scan.name}"
    yield f"projections {scan.num_projections} of {scan.num_rows} rows x {scan.num_columns} columns, {scan.dtype}"
    yield f"angles      {first:.3f} to {last:.3f} degrees"
    yield f"flats       {scan.num_flats}, darks {scan.num_darks}"
    yield f"instrument  {scan.instrument or 'not known'}"
    known = {"pixel size": (scan.pixel_size, "m"), "energy": (scan.energy, "keV"), "distance": (scan.distance, "m")}
    for name, (value, unit) in known.items():
        yield f"{name:<11} {'not known' if value is None else f'{value:g} {unit}'}"
    for decision in scan.decisions:
        yield f"{decision.name}: {decision.value}  ({decision.reason})"
    for caveat in scan.caveats:
        yield f"warning [{caveat.code}]: {caveat.message}"


def _describe_archive(path: Path) -> Iterator[str]:
    with open_archive(path) as archive:
        header = archive.header
        yield f"archive     {path}"
        yield f"sample      {header.metadata.get('name') or 'not known'}"
        size, unit = " x ".join(map(str, archive.shape)), header.metadata.get("unit")
        yield f"volume      {size} (slice, y, x), {header.dtype}" + (f", {unit}" if unit else "")
        yield f"codec       {header.codec or 'residual coder alone'}, chunks of {header.chunk_slices} slices"
        yield f"size        {archive.num_bytes} bytes, {archive.bits_per_voxel:.3f} bits per voxel"
        yield f"max error   {header.max_error:.4g} at every voxel"
        if version := header.metadata.get("version"):
            yield f"made by     quietbeam {version}"
        for name, value, reason in _rows(header.metadata.get("decisions"), 3):
            yield f"{name}: {value}  ({reason})"
        for code, message in _rows(header.metadata.get("caveats"), 2):
            yield f"warning [{code}]: {message}"


def _rows(rows: object, length: int) -> list[list[str]]:
    """Take the rows of a table in an archive's metadata that are as quietbeam writes them."""
    return [row for row in rows if isinstance(row, list) and len(row) == length] if isinstance(rows, list) else []


def describe_plan(
    path: Path, settings: ReductionSettings, rates_of: Callable[[Scan, ReductionSettings], Rates | None] = cached_rates
) -> Iterator[str]:
    """Describe what a reduction would do, and take.

    Parameters
    ----------
    path : Path
        The scan.
    settings : ReductionSettings
        All settings.
    rates_of : callable
        Gives the speed of this machine, or None where it is not known: `cached_rates`, or `measured_rates`, which may
        take its time.

    Yields
    ------
    str
        Lines.
    """
    scan = open_scan(path, settings.scan)
    yield from describe_scan(scan)
    check_feasible(scan, settings)
    for caveat in phase_caveats(scan, SinogramSettings.of(settings)):
        yield f"warning [{caveat.code}]: {caveat.message}"
    sections = split(scan, Acquisition.from_angles(scan.theta), settings)
    counts = " or ".join(map(str, sorted({len(section) for section in sections})))
    yield f"sections    {len(sections)}, of {counts} projections"
    wider = ", wider if it is a half-acquisition" if covers_full_turn(scan.theta) else ""
    yield f"reconstruct {settings.reconstruction.method}, {scan.num_rows} slices of {scan.num_columns}^2 voxels{wider}"
    yield from _describe_network(scan, settings)
    yield from _describe_start(scan, settings)
    yield f"archive     codec {settings.archive.codec}, chunks of {settings.archive.chunk_slices} slices"
    yield from describe_estimate(estimate(scan, settings, rates=rates_of(scan, settings)))


def say_plan(path: Path, settings: ReductionSettings, say: Callable[[str], object]) -> None:
    """Say what `describe_plan` tells, line by line, and measure the speed of this machine where it is not known.

    Parameters
    ----------
    path : Path
        The scan.
    settings : ReductionSettings
        All settings.
    say : callable
        Takes a line.
    """
    for line in describe_plan(path, settings, measured_rates):
        say(line)


def describe_estimate(needed: Estimate) -> Iterator[str]:
    """Describe what a reduction takes.

    Parameters
    ----------
    needed : Estimate
        Of `quietbeam.beamline.estimate.estimate`.

    Yields
    ------
    str
        Memory, disk, time, and the stages that take a twentieth of the time or more.
    """
    gib = 2**30
    yield f"memory      about {needed.memory / gib:.2f} GiB"
    yield f"disk        about {needed.disk / gib:.2f} GiB while it runs, about {needed.output / gib:.3f} GiB at the end"
    yield f"time        {_describe_time(needed.seconds)}; {needed.origin}"
    long = {stage: took for stage, took in needed.stages.items() if took > SHOWN_SHARE * needed.seconds}
    yield f"            {', '.join(f'{stage} {_describe_length(took)}' for stage, took in long.items())}"


def _describe_network(scan: Scan, settings: ReductionSettings) -> Iterator[str]:
    training, context = settings.training, settings.pairs.context_slices
    length = f"{training.minutes:g} minutes" if training.epochs is None else f"{training.epochs} epochs"
    held_out = name_held_out(held_out_group(scan.num_rows, settings.pairs))
    what = f"MS-D network, depth {settings.network.depth}, {2 * context + 1} slices seen"
    yield f"apply       {what}, as it is" if training.epochs == 0 else f"train       {what}, {length}"
    if changed := _changed(settings):
        yield f"chosen      {', '.join(changed)}"
    yield f"held out    {held_out}"
    if (passes := num_passes(settings)) > 1:
        kept = ", their disagreement kept" if settings.inference.disagreement else ""
        yield f"denoise     {passes} times, averaged{kept}"
    else:
        yield "denoise     once, all sections together"


def _describe_start(scan: Scan, settings: ReductionSettings) -> Iterator[str]:
    start, caveats = foresee_start(scan, settings)
    yield f"start       {start.value}  ({start.reason})"
    for caveat in caveats:
        yield f"warning [{caveat.code}]: {caveat.message}"


def _changed(settings: ReductionSettings) -> list[str]:
    """Name the choices of training that are not the defaults."""
    defaults = type(settings)()
    names = ("pairs.strategy", "pairs.augment", "training.schedule", "training.patience")
    values = {name: value for name in names if (value := _setting(settings, name)) != _setting(defaults, name)}
    return [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()]


def _setting(settings: ReductionSettings, name: str) -> object:
    stage, _, last = name.partition(".")
    return getattr(getattr(settings, stage), last)


def _describe_time(seconds: float) -> str:
    return "under a minute" if seconds < 60 else f"about {_describe_length(seconds)}"


def _describe_length(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
