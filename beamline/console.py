"""The `quietbeam` command: parse, call one function, report. Heavy imports wait for the command that needs them."""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quietbeam.reconstruction.errors import QuietbeamError

from .embed_console import embed_app
from .queue_console import queue_app
from .reprocess_console import reprocess_app
from .verify_console import verify_app

if TYPE_CHECKING:
    from rich.table import Table

    from quietbeam.compress.rate_distortion import RatePoint

    from .settings import ReductionSettings
    from .simulate import SimulateSettings

__all__ = ["app", "main"]

FAILED, USAGE, NO_SPACE, INTERRUPTED = 1, 2, 5, 130
"""Exit codes; those of quietbeam's own errors are in `quietbeam.reconstruction.errors`."""

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
app.add_typer(verify_app)
app.add_typer(embed_app)
app.add_typer(queue_app)
app.add_typer(reprocess_app)

ScanPath = Annotated[
    Path,
    typer.Argument(
        metavar="SCAN", help="DXchange or NXtomo file, folder of TIFF files, or bluesky run (.json, .jsonl)."
    ),
]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="STAGE.NAME=VALUE", help="One setting; may be repeated.")
]
Flats = Annotated[Path | None, typer.Option(help="Flats: TIFF file or folder, or FILE.h5:/PATH.")]
Darks = Annotated[Path | None, typer.Option(help="Darks: likewise.")]
Angles = Annotated[str | None, typer.Option(help="Text file of angles, or START:STOP in degrees.")]
AngleLines = Annotated[str | None, typer.Option(help="FIRST:STOP, lines of the angles file to use.")]
Normalised = Annotated[bool, typer.Option("--normalised", help="Data are line integrals already.")]
VolumeName = Annotated[
    str, typer.Argument(metavar="VOLUME", help="Volume: .npy, TIFF, archive, FILE.h5 or FILE.h5:/PATH.")
]
Codecs = Annotated[
    list[str] | None,
    typer.Option("--codec", help="Codec to measure; may be repeated. [lattice, classical and lossless ones]"),
]
ChunkSlices = Annotated[int, typer.Option(min=1, help="Slices that are coded together.")]
Minutes = Annotated[float | None, typer.Option(min=0.01, help="Time to train each learned codec. [its epochs]")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs to train. [the source's]")]
Result = Annotated[Path, typer.Argument(metavar="OUT", exists=True, help="Output folder, or archive file.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"quietbeam {importlib.metadata.version('quietbeam')}")
        raise typer.Exit


@app.callback()
def quietbeam(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Denoised volumes and small, verified archives out of synchrotron tomography scans."""


@app.command()
def reduce(
    scan: ScanPath,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Output folder. [SCAN_reduced, here]")] = None,
    config: Config = None,
    sets: Sets = None,
    flats: Flats = None,
    darks: Darks = None,
    angles: Angles = None,
    angle_lines: AngleLines = None,
    normalised: Normalised = False,
    rotation_axis: Annotated[float | None, typer.Option(help="Column of the axis, pixels from 0.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time to train the denoiser.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and what it takes.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results of other settings in OUT.")] = False,
) -> None:
    """Reduce one scan to a denoised volume in a verified archive, with a report.

    Example: `quietbeam reduce scan.h5 -o results --minutes 5`. The same command goes on after a crash.
    """
    options = _scan_options(flats, darks, angles, angle_lines, normalised)
    options |= {"rotation_axis.column": rotation_axis, "training.minutes": minutes}
    settings = _settings(config, sets, options)
    if dry_run:
        _dry_run(scan, settings)
    else:
        _reduce(scan, output or Path(f"{scan.resolve().stem}_reduced"), settings, overwrite)


@app.command()
def axis(
    scan: ScanPath,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="PNG. [SCAN_axis.png, here]")] = None,
    row: Annotated[int | None, typer.Option(help="Detector row to show. [the middle one]")] = None,
    columns: Annotated[str | None, typer.Option(help="START:STOP:STEP, axes to show. [5 pixels about]")] = None,
    region: Annotated[str | None, typer.Option(help="ROW:STOP,COLUMN:STOP, part of the slice to show.")] = None,
    config: Config = None,
    sets: Sets = None,
    flats: Flats = None,
    darks: Darks = None,
    angles: Angles = None,
    angle_lines: AngleLines = None,
    normalised: Normalised = False,
) -> None:
    """Find the rotation axis of a scan, and draw one slice about columns around it, to choose by eye."""
    from .axis_search import parse_columns, print_search, search_axis
    from .axis_sheet import check_sheet_path, parse_region, write_axis_sheet

    settings = _settings(config, sets, _scan_options(flats, darks, angles, angle_lines, normalised))
    box = parse_region(region) if region else None
    output = output or Path(f"{scan.resolve().stem}_axis.png")
    check_sheet_path(output)
    search = search_axis(scan, settings, row=row, columns=parse_columns(columns) if columns else None)
    print_search(search)
    write_axis_sheet(output, search, box)
    typer.echo(f"pictures: {output}")


@app.command()
def extract(
    result: Result,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to make; a folder for TIFF and Zarr.")],
    slices: Annotated[str | None, typer.Option(help="For example 10:20, or 7. [all]")] = None,
    file_format: Annotated[
        str | None, typer.Option("-f", "--format", help="tiff, h5, npy or zarr. [by the name]")
    ] = None,
) -> None:
    """Decode slices of an archive into TIFF, HDF5, NumPy or OME-Zarr files."""
    from .export import FORMATS, format_of
    from .export import extract as extract_slices

    file_format = file_format or format_of(output)
    if file_format not in FORMATS:
        raise typer.BadParameter(f"format must be one of {', '.join(FORMATS)}, got {file_format}")
    typer.echo(f"wrote {extract_slices(_archive(result), output, slices, file_format)}")


@app.command()
def inspect(path: Annotated[Path, typer.Argument(metavar="PATH", help="Scan, output folder or archive.")]) -> None:
    """Say what a scan or an archive holds."""
    from .inspect import describe_path

    typer.echo("\n".join(describe_path(path)))


@app.command()
def simulate(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Scan to write.")],
    rows: Annotated[int | None, typer.Option(min=1, help="Detector rows.")] = None,
    columns: Annotated[int | None, typer.Option(min=8, help="Detector columns.")] = None,
    angles: Annotated[int | None, typer.Option(min=2, help="Projections.")] = None,
    turn: Annotated[float | None, typer.Option(help="Degrees that they cover. [180; 360 for half-acquisition]")] = None,
    axis_offset: Annotated[float | None, typer.Option(help="Pixels from the middle to the rotation axis.")] = None,
    half_acquisition: Annotated[
        bool, typer.Option("--half-acquisition", help="Let the sample reach the edge further from the axis.")
    ] = False,
    photons: Annotated[float | None, typer.Option(help="Photons per pixel and frame in the open beam.")] = None,
    flats_after: Annotated[
        int | None,
        typer.Option(
            min=0, help="Flats after the projections; their time is lost, unless as many as before or --layout NXtomo."
        ),
    ] = None,
    drift: Annotated[float | None, typer.Option(help="Change of the beam during the scan, relative.")] = None,
    layout: Annotated[str | None, typer.Option(help="DXchange or NXtomo. [DXchange]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of sample and noise.")] = None,
) -> None:
    """Write a simulated scan of a foam, and the true volume beside it."""
    from .simulate import simulate_scan, truth_path

    turn = 360 if turn is None and half_acquisition else turn
    options: dict[str, object] = {"num_rows": rows, "num_columns": columns, "num_angles": angles, "angle_range": turn}
    options |= {"axis_offset": axis_offset, "half_acquisition": half_acquisition, "layout": layout, "seed": seed}
    noise = {"num_photons": photons, "num_flats_after": flats_after, "beam_drift": drift}
    simulate_scan(path, _simulate_settings(_given(options) | {"noise": _given(noise)}))
    typer.echo(f"wrote {path} and {truth_path(path)}")


@app.command()
def score(
    result: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="True volume, .npy.")],
) -> None:
    """Measure a result, and plain reconstructions of its scan, against a known truth."""
    from .score import score_against_truth

    decibels = score_against_truth(result, truth)
    for name, value in decibels.items():
        gain = "" if name == "archive" else f"  (the archive is {decibels['archive'] - value:+.2f} dB)"
        typer.echo(f"{name:<8} PSNR {value:6.2f} dB{gain}")


@app.command()
def compare(
    volume: VolumeName,
    codecs: Codecs = None,
    learned: Annotated[bool, typer.Option("--learned", help="Also train the learned codecs.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for rates.json, .csv, .png.")] = None,
    slices: Annotated[str | None, typer.Option(help="For example 0:64. [all]")] = None,
    chunk_slices: ChunkSlices = 32,
    minutes: Minutes = None,
    epochs: Epochs = None,
) -> None:
    """Measure codecs on a volume: bits per voxel against PSNR, SSIM, MS-SSIM, MSLE, largest error and MB/s."""
    from . import codec_comparison as comparison

    chosen = comparison.choose_codecs(codecs or (), learned=learned)
    points = _compare_codecs(volume, chosen, output, slices, chunk_slices=chunk_slices, minutes=minutes, epochs=epochs)
    _print(comparison.rate_table(points))
    for file in comparison.write_rates(points, output) if output else ():
        typer.echo(f"wrote {file}")


@app.command()
def tradeoff(
    volume: VolumeName,
    codecs: Codecs = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for tradeoff.json and .png.")] = None,
    slices: Annotated[str | None, typer.Option(help="For example 0:64. [all]")] = None,
    chunk_slices: ChunkSlices = 32,
    minutes: Minutes = None,
    epochs: Epochs = None,
) -> None:
    """Find the codec and setting where more bits no longer buy quality in proportion; --codec inr: its networks'."""
    from . import codec_comparison as comparison

    chosen = comparison.choose_codecs(codecs or ())
    points = _compare_codecs(
        volume, chosen, output, slices, chunk_slices=chunk_slices, minutes=minutes, epochs=epochs, grid=True
    )
    found = comparison.find_best(points)
    _print(comparison.tradeoff_table(found))
    typer.echo(f"trade-off point: {found.nearest.name}  ({found.nearest.size:.4g} bits/voxel)")
    for file in comparison.write_tradeoff(points, found, output) if output else ():
        typer.echo(f"wrote {file}")


@app.command("convert-network")
def convert_network(
    source: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Network of quietbeam, msd_pytorch or msdnet.")
    ],
    target: Annotated[Path, typer.Argument(help="File to make: .safetensors, .torch or .h5.")],
    dilations: Annotated[
        str | None, typer.Option(help="Dilations of a .torch file, such as 1,2,4,8. [1 to 10]")
    ] = None,
    padding: Annotated[str | None, typer.Option(help="New borders: symmetric or reflect. [as in SOURCE]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace TARGET if it is there.")] = False,
) -> None:
    """Convert a trained network between quietbeam, msd_pytorch and msdnet. Nothing in SOURCE is run."""
    from . import networks

    converted = networks.convert_network(
        source,
        target,
        dilations=None if dilations is None else networks.parse_dilations(dilations),
        padding=None if padding is None else networks.parse_padding(padding),
        overwrite=overwrite,
    )
    typer.echo(f"wrote {target}: {networks.describe_network(*converted)}")


@app.command()
def settings(
    config: Config = None,
    sets: Sets = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema instead.")] = False,
) -> None:
    """Print all settings as they would be used, as JSON."""
    import json

    from .settings import ReductionSettings

    content = ReductionSettings.model_json_schema() if schema else _settings(config, sets, {}).model_dump(mode="json")
    typer.echo(json.dumps(content, indent=1))


def _scan_options(
    flats: Path | None, darks: Path | None, angles: str | None, angle_lines: str | None, normalised: bool
) -> dict[str, object]:
    return {
        "scan.flats": flats,
        "scan.darks": darks,
        "scan.angles": angles,
        "scan.angle_lines": angle_lines,
        "scan.normalised": "attenuation" if normalised else None,
    }


def _settings(config: Path | None, sets: list[str] | None, options: dict[str, object]) -> ReductionSettings:
    from .settings import SettingsError, read_settings

    try:
        return read_settings(config, sets or (), _given(options))
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from None


def _simulate_settings(options: dict[str, object]) -> SimulateSettings:
    from pydantic import ValidationError

    from .simulate import SimulateSettings

    try:
        return SimulateSettings.model_validate(options)
    except ValidationError as error:
        lines = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise typer.BadParameter("; ".join(lines)) from None


def _given(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _compare_codecs(
    volume: str,
    codecs: tuple[str, ...],
    output: Path | None,
    slices: str | None,
    *,
    chunk_slices: int,
    minutes: float | None,
    epochs: int | None,
    grid: bool = False,
) -> list[RatePoint]:
    """Measure codecs once it is clear that the slices are there and the folder can be made."""
    from .codec_comparison import compare_codecs, make_folder
    from .export import parse_slices
    from .volumes import open_volume

    with open_volume(volume) as opened:
        taken = parse_slices(slices, opened.shape[0])
    if output:
        make_folder(output)
    return compare_codecs(
        volume,
        codecs,
        slices=taken,
        chunk_slices=chunk_slices,
        minutes=minutes,
        epochs=epochs,
        grid=grid,
        say=lambda line: typer.echo(line, err=True),
    )


def _print(table: Table) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _reduce(scan: Path, output: Path, settings: ReductionSettings, overwrite: bool) -> None:
    from .progress import console_progress
    from .reduce import reduce_together
    from .workspace import REPORT

    try:
        done = reduce_together(scan, output, settings, progress=console_progress(), overwrite=overwrite)
    except KeyboardInterrupt:
        typer.echo("\nstopped; the same command goes on from the last chunk or epoch", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if done is None:  # another process keeps the result
        return
    if not done:
        typer.echo("nothing left to do: the same scan was reduced with the same settings")
    typer.echo(f"report: {(output / REPORT).resolve()}")


def _dry_run(path: Path, settings: ReductionSettings) -> None:
    from .inspect import say_plan

    say_plan(path, settings, typer.echo)


def _archive(result: Path) -> Path:
    from .workspace import ARCHIVE

    return result / ARCHIVE if result.is_dir() else result


def main() -> None:
    """Run the command; every error that a user can meet ends in one line and an exit code."""
    try:
        app()
    except QuietbeamError as error:
        _fail(str(error), error.exit_code)
    except (ValueError, FileExistsError) as error:
        _fail(str(error), USAGE)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        _fail(f"{error.filename or 'disk'}: {error.strerror or error}", NO_SPACE if full else FAILED)
    except MemoryError:
        _fail("out of memory; lower compute.chunk_slices, compute.tile_size or archive.chunk_slices", NO_SPACE)


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)
