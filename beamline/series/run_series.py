"""A series from what was found to its end: locked, planned, reduced, and accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from quietbeam.beamline.progress import JobProgress
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.reconstruction.errors import QuietbeamError, ReductionError

from .cluster_settings import ClusterSettings
from .find_scans import Findings, FoundScan
from .found_runs import put_run
from .ledger import Ledger, locked_series
from .scan_row import ScanRow
from .series_plan import plan_series
from .series_settings import absolute_settings

__all__ = ["Outcome", "run_series"]


@dataclass(frozen=True)
class Outcome:
    """How a command ended, by the names of its scans.

    Attributes
    ----------
    done, skipped : tuple of str
        Reduced now; done before.
    refused : dict of str to str
        Left as they are, since there is a result of other settings; with what to do.
    failed : dict of str to ScanRow
        Given up now, or before and nothing has changed since.
    """

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    refused: Mapping[str, str]
    failed: Mapping[str, ScanRow]


def run_series(
    findings: Findings,
    output: Path,
    settings: ReductionSettings,
    cluster: ClusterSettings,
    *,
    progress: JobProgress,
    scheduler: str | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
) -> Outcome:
    """Reduce what is left to do of a series.

    Where nothing is left, no cluster is started and nothing of Dask is imported.

    Parameters
    ----------
    findings : Findings
        The scans.
    output : Path
        Folder of the series.
    settings, cluster, progress, scheduler, overwrite
        See `quietbeam.beamline.reprocess.reprocess`.
    retry_failed : bool
        Try again what was refused before, although nothing has changed.

    Returns
    -------
    Outcome
        Of the scans that were found.

    Raises
    ------
    LockedError
        If another command is at work on this series.
    QuietbeamError
        If no workers can be had, or the disk cannot hold what is to be done.
    """
    output, settings = output.absolute(), absolute_settings(settings)
    with locked_series(output), Ledger(output, settings, retry_failed=retry_failed, overwrite=overwrite) as ledger:
        _check_names(findings, ledger)
        planned = plan_series([one for one in findings.scans if _is_ready(one, ledger)], ledger, settings)
        left = {one.found.name for one in planned if one.standing.what == "to do"}
        for one in planned:
            if one.found.name not in left:  # the row of one that is done is made anew where it was lost
                ledger.needs_work(one.found, one.settings)
        if left:
            from quietbeam.beamline.reprocess import reprocess

            reprocess(
                [one.found for one in planned if one.found.name not in ledger.refused],
                output,
                settings,
                cluster,
                ledger=ledger,
                progress=progress,
                scheduler=scheduler,
                overwrite=overwrite,
            )
        return _outcome(findings, ledger, left)


def _is_ready(found: FoundScan, ledger: Ledger) -> bool:
    """Tell whether there is a scan to open, with a run's reference put in its place; note why there is none."""
    problem = found.problem
    try:
        if not problem:
            put_run(found)
    except (QuietbeamError, OSError) as error:
        problem = str(error)
    if problem:
        ledger.refuse(replace(found, problem=problem))
    return not problem


def _check_names(findings: Findings, ledger: Ledger) -> None:
    """Refuse what another command has named while this one was looking for its scans."""
    for one in findings.scans:
        row = ledger.rows.get(one.name)
        if row is not None and row.source != one.source:
            raise ReductionError(
                f"{ledger.output}: {one.name} is now that of {row.source}, and was to be that of {one.source}: another "
                "command was at work meanwhile; give the command again"
            )


def _outcome(findings: Findings, ledger: Ledger, left: set[str]) -> Outcome:
    rows = {one.name: ledger.rows[one.name] for one in findings.scans if one.name not in ledger.refused}
    done = [name for name, row in rows.items() if row.state == "done"]
    return Outcome(
        done=tuple(name for name in done if name in left),
        skipped=tuple(name for name in done if name not in left),
        refused=dict(ledger.refused),
        failed={name: row for name, row in rows.items() if row.state != "done"},
    )
