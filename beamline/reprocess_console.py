"""The command that reduces many scans."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from .cluster import ClusterSettings
    from .series.find_scans import Findings
    from .series.ledger import Ledger
    from .series.run_series import Outcome
    from .settings import ReductionSettings

__all__ = ["reprocess_app"]

USAGE, PARTIAL, INTERRUPTED = 2, 4, 130
MOST_LEFT_OUT = 10
"""Lines on what was left out, where nothing was found."""

reprocess_app = typer.Typer()


@reprocess_app.command()
def reprocess(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATHS", help="Scans, folders, patterns, @LIST.txt with one of these a line."),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the series.")] = ...,  # type: ignore[assignment]
    runs: Annotated[
        list[str] | None, typer.Option("--runs", metavar="UIDS", help="Uids of runs, with commas; may be repeated.")
    ] = None,
    tiled: Annotated[
        str | None,
        typer.Option("--tiled", metavar="URI", envvar=["QUIETBEAM_TILED", "TILED_URI"], help="Catalogue of runs."),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option("--query", metavar="KEY=VALUE", help="Runs of the catalogue with this; may be repeated."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with settings, as for reduce, and \\[cluster].")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="STAGE.NAME=VALUE", help="One setting; may be repeated.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="local, slurm, or tcp://HOST:PORT of Dask. [local]")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers on this machine. [as many as pay]")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each. [cores shared out]")] = None,
    scratch: Annotated[Path | None, typer.Option(help="Folder for volumes under way. [in OUTPUT]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and what it takes.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also scans that were refused, and have not changed.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results of other settings.")] = False,
) -> None:
    """Reduce many scans, each into a folder of its own, with an index of all.

    Example: `quietbeam reprocess 'raw/**/*.h5' -o results`. The same command goes on, and does what has come since.
    """
    options = {"cluster.workers": workers, "cluster.threads_per_worker": threads, "cluster.scratch": scratch}
    settings, cluster = _settings(config, sets, options)
    output = output.absolute()
    from .cluster import check_scheduler

    check_scheduler(scheduler)
    findings = _find(paths or [], _uids(runs), tiled, query or [], settings, output)
    if dry_run:
        from .series.ledger import Ledger

        _dry_run(findings, Ledger(output, settings, overwrite=overwrite), settings, cluster, scheduler)
    else:
        more = {"scheduler": scheduler, "retry_failed": retry_failed, "overwrite": overwrite}
        _report(_run(findings, output, settings, cluster, more), output)


def _settings(
    config: Path | None, sets: list[str] | None, options: Mapping[str, object]
) -> tuple[ReductionSettings, ClusterSettings]:
    from .series.series_settings import read_series_settings
    from .settings import SettingsError

    given = {name: value for name, value in options.items() if value is not None}
    try:
        return read_series_settings(config, sets or (), given)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from None


def _uids(runs: list[str] | None) -> list[str]:
    return [uid.strip() for text in runs or () for uid in text.split(",") if uid.strip()]


def _find(
    paths: list[str], uids: list[str], tiled: str | None, query: list[str], settings: ReductionSettings, output: Path
) -> Findings:
    from .series.find_scans import missing_paths
    from .series.find_series import find_series

    if not (paths or uids or query):
        raise typer.BadParameter("give scans, folders or patterns, or --runs UIDS, or --tiled URI --query KEY=VALUE")
    if query and not tiled:
        raise typer.BadParameter("--query searches a catalogue: name it with --tiled URI")
    missing = missing_paths(paths)
    if missing:
        raise typer.BadParameter(f"{'does' if len(missing) == 1 else 'do'} not exist: {', '.join(missing)}")
    findings = find_series(paths, uids, tiled, query, settings=settings.scan, output=output)
    if not findings.scans:
        looked = ", ".join([*paths, *query])
        reasons = "".join(f"\n  {one.path}: {one.why}" for one in findings.left_out[:MOST_LEFT_OUT])
        raise typer.BadParameter(f"no scans found in {looked}{reasons}")
    return findings


def _dry_run(
    findings: Findings, ledger: Ledger, settings: ReductionSettings, cluster: ClusterSettings, scheduler: str | None
) -> None:
    from .series.dry_run import describe_series

    for line in describe_series(findings, ledger, settings, cluster, scheduler=scheduler):
        typer.echo(line)


def _run(
    findings: Findings,
    output: Path,
    settings: ReductionSettings,
    cluster: ClusterSettings,
    options: Mapping[str, Any],
) -> Outcome:
    from .progress import console_progress
    from .series.run_series import run_series

    if findings.left_out:
        typer.echo(f"left out: {len(findings.left_out)}, as --dry-run tells")
    try:
        return run_series(findings, output, settings, cluster, progress=console_progress(), **options)
    except KeyboardInterrupt:
        typer.echo("\nstopped; the same command goes on from the last chunk or epoch of each scan", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _report(outcome: Outcome, output: Path) -> None:
    from .series.ledger import PAGE

    refused = f", {len(outcome.refused)} refused" if outcome.refused else ""
    typer.echo(
        f"{len(outcome.done)} done, {len(outcome.skipped)} were done before, {len(outcome.failed)} failed{refused}"
    )
    for name, why in outcome.refused.items():
        typer.echo(f"refused: {name}: {why}", err=True)
    for name, row in outcome.failed.items():
        typer.echo(f"failed: {name}: {row.failure or row.state}: {row.reason}", err=True)
    typer.echo(f"index: {(output / PAGE).resolve()}")
    if outcome.failed or outcome.refused:
        raise typer.Exit(PARTIAL)
