"""What a series would do, and take, in lines to read."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from quietbeam.beamline.cluster import check_scheduler, job_script
from quietbeam.beamline.estimate import Estimate, estimate
from quietbeam.beamline.estimating.machine_rates import Rates, cached_rates, measured_rates
from quietbeam.beamline.readable import readable_bytes, readable_duration
from quietbeam.beamline.scan import Scan, open_scan
from quietbeam.beamline.series.series_estimate import check_series_space, series_estimate
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.reconstruction.errors import QuietbeamError

from .cluster_settings import ClusterSettings
from .find_scans import Findings, FoundScan
from .found_runs import RUN_FILE, put_run
from .ledger import Ledger
from .series_plan import PlannedScan, plan_series
from .slurm import job_options
from .standing import What
from .worker_plan import WorkerPlan, machine_facts, plan_workers

__all__ = ["describe_series"]


@dataclass(frozen=True)
class _Told:
    """A scan that is to be done: opened, or why it cannot be."""

    planned: PlannedScan
    scan: Scan | None
    problem: str = ""


def describe_series(
    findings: Findings,
    ledger: Ledger,
    settings: ReductionSettings,
    cluster: ClusterSettings,
    *,
    scheduler: str | None = None,
    measure: Callable[[Scan, ReductionSettings], Rates] = measured_rates,
) -> Iterator[str]:
    """Describe a series before it is begun.

    Parameters
    ----------
    findings : Findings
        Its scans, and what was left out.
    ledger : Ledger
        What is known of them.
    settings : ReductionSettings
        Of all scans.
    cluster : ClusterSettings
        Where it is computed.
    scheduler : str, optional
        See `quietbeam.beamline.reprocess.reprocess`.
    measure : callable
        Tells how fast this machine is; called once, with the widest scan.

    Yields
    ------
    str
        Lines.

    Raises
    ------
    SpaceError
        If the disk cannot hold it, after all is said.
    ClusterError
        If a setting that SLURM needs is missing, before anything is said.
    """
    if check_scheduler(scheduler) == "slurm":
        job_options(cluster, ledger.output)
    planned = plan_series([one for one in findings.scans if not one.problem], ledger, settings)
    told = [_open(one) for one in planned if one.standing.what == "to do"]
    if any(one.scan is not None and not cached_rates(one.scan, one.planned.settings) for one in told):
        yield "measuring this machine, once for such scans and settings: some 20 s"
    rates = _rates(told, measure)
    estimates = {one.planned.found.name: _estimate(one, rates) for one in told}
    yield from _describe_scans(planned, told, estimates, ledger)
    yield from (f"{'no scan':<14}{one.name}: {one.problem}" for one in findings.scans if one.problem)
    yield from (f"{'left out':<14}{one.path}: {one.why}" for one in findings.left_out)
    counts = Counter(one.standing.what for one in planned)
    words = ", ".join(f"{counts[what]} {what}" for what in get_args(What) if counts[what] or what != "refused")
    yield f"{_count(len(findings.scans), 'scan')}: {words}; left out: {len(findings.left_out)}"
    known = [one for one in estimates.values() if one is not None]
    if known:
        yield from _describe_whole(
            known, ledger.output, settings, cluster, scheduler, measured=rates is not None and rates.measured
        )


def _open(planned: PlannedScan) -> _Told:
    try:
        return _Told(planned, _open_scan(planned.found, planned.settings))
    except (QuietbeamError, OSError, ValueError) as error:
        return _Told(planned, None, str(error))


def _open_scan(found: FoundScan, settings: ReductionSettings) -> Scan:
    """Open a scan; a run's reference is put elsewhere, since nothing is written into the folder of the series."""
    at_once = settings.scan.model_copy(update={"wait_seconds": 0.0})
    if found.run is None:
        return open_scan(found.path, at_once)
    with tempfile.TemporaryDirectory(prefix="quietbeam-") as folder:
        elsewhere = replace(found, path=Path(folder) / RUN_FILE)
        put_run(elsewhere)
        return open_scan(elsewhere.path, at_once)


def _rates(told: Sequence[_Told], measure: Callable[[Scan, ReductionSettings], Rates]) -> Rates | None:
    """Measure this machine with the widest scan, once; the work of the others is told from their shapes."""
    opened = [(one.scan, one.planned.settings) for one in told if one.scan is not None]
    if not opened:
        return None
    scan, settings = max(opened, key=lambda one: one[0].num_projections * one[0].num_columns)
    try:
        return measure(scan, settings)
    except QuietbeamError:  # settings that cannot be carried out; the scan itself will say so
        return None


def _estimate(told: _Told, rates: Rates | None) -> Estimate | None:
    if told.scan is None:
        return None
    settings = told.planned.settings
    return estimate(told.scan, settings, rates=cached_rates(told.scan, settings) or rates)


def _describe_scans(
    planned: Sequence[PlannedScan],
    told: Sequence[_Told],
    estimates: dict[str, Estimate | None],
    ledger: Ledger,
) -> Iterator[str]:
    opened = {one.planned.found.name: one for one in told}
    for one in planned:
        name = one.found.name
        if one.standing.what == "refused":
            yield f"{'refused':<14}{name}: {one.standing.why}"
        elif one.standing.what != "to do":
            row = ledger.rows.get(name)
            why = f" ({row.failure}: {one.standing.why})" if row and one.standing.why else ""
            yield f"{one.standing.what:<14}{name}{why}"
        elif opened[name].scan is None:
            yield f"{'to do':<14}{name}: will fail: {opened[name].problem}"
        else:
            yield f"{'to do':<14}{name}: {_describe(opened[name].scan, estimates[name])}; {one.standing.why}"


def _describe(scan: Scan | None, told: Estimate | None) -> str:
    if scan is None or told is None:
        return ""
    shape = f"{scan.num_projections} projections of {scan.num_rows} x {scan.num_columns}"
    return (
        f"{shape}, about {readable_duration(told.seconds)}, memory {readable_bytes(told.memory)}, disk "
        f"{readable_bytes(told.disk)}, results {readable_bytes(told.output)}"
    )


def _describe_whole(
    estimates: Sequence[Estimate],
    output: Path,
    settings: ReductionSettings,
    cluster: ClusterSettings,
    scheduler: str | None,
    *,
    measured: bool,
) -> Iterator[str]:
    where = check_scheduler(scheduler)
    plan = plan_workers(
        machine_facts(settings.compute.device), len(estimates), max(one.memory for one in estimates), cluster
    )
    num_workers, text = _workers(where, cluster, plan)
    whole = series_estimate(estimates, num_workers, settings.training.reuse)
    yield f"workers       {text}"
    yield f"time          about {readable_duration(whole.seconds)}" + ("" if measured else ", roughly guessed")
    yield f"memory        about {readable_bytes(whole.memory_per_worker)} for each worker"
    peak, end = readable_bytes(whole.disk_peak), readable_bytes(whole.output)
    yield f"disk          about {peak} while it runs, {end} at the end"
    if where == "slurm":
        yield from ("job script:", *job_script(cluster, output).splitlines())
    check_series_space(whole, output, scratch=cluster.scratch)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _workers(where: str | None, cluster: ClusterSettings, plan: WorkerPlan) -> tuple[int, str]:
    if where is None:
        threads = _count(plan.threads, "thread")
        return plan.num_workers, f"{plan.num_workers} on this machine, {threads} each ({plan.reason})"
    if where == "slurm":
        return cluster.jobs, f"{_count(cluster.jobs, 'job')} of SLURM, a worker each"
    number = cluster.workers or 1
    return number, f"those of {where}; the time is told for {number}"
