"""Many scans reduced with the same settings, on one machine or many: what `quietbeam reprocess` does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from quietbeam.reconstruction.errors import QuietbeamError

from .cluster import LOG, ClusterSettings, check_scheduler, open_pool
from .progress import JobProgress, Step
from .series.find_scans import FoundScan
from .series.pool import Failure, Pool
from .series.worker_plan import machine_facts, memory_of_job, plan_workers
from .settings import ReductionSettings

if TYPE_CHECKING:
    from .estimate import Estimate
    from .series.ledger import Ledger
    from .series.policy import SeriesPolicy

__all__ = ["Summary", "reprocess"]


@dataclass
class Summary:
    """How a series went, by the scans' names.

    Attributes
    ----------
    done : list of str
        Reduced by this call.
    skipped : list of str
        There was nothing left to do.
    failed : dict of str to Failure
        Given up now.
    failed_before : dict of str to str
        Given up by an earlier command for a reason that lies in the scan, and not tried again.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    failed_before: dict[str, str] = field(default_factory=dict)


def reprocess(
    found: Sequence[FoundScan],
    output: Path,
    settings: ReductionSettings,
    cluster: ClusterSettings,
    *,
    ledger: Ledger,
    progress: JobProgress,
    scheduler: str | None = None,
    overwrite: bool = False,
) -> Summary:
    """Reduce all scans that need it, each into a folder of its name below `output`.

    Parameters
    ----------
    found : sequence of FoundScan
        The scans, in the order in which they are begun; none has a problem, and the references of runs are in place.
    output : Path
        Folder of the series, locked by the caller.
    settings : ReductionSettings
        Of all scans; a policy may change them for some, as where one network serves all.
    cluster : ClusterSettings
        Where and with how much it is computed.
    ledger : Ledger
        Asked which scans need work, and told of every step.
    progress : JobProgress
        Where to tell one line for each scan that ends.
    scheduler : str, optional
        None or ``local``, ``tcp://HOST:PORT``, ``tls://HOST:PORT``, or ``slurm``.
    overwrite : bool
        Replace results of other settings.

    Returns
    -------
    Summary
        A scan that fails ends none but itself.

    Raises
    ------
    SpaceError
        If the disk cannot hold the results; nothing was computed then.
    ClusterError
        If no workers can be had, or they are lost; what was done is kept, and the same call goes on.
    """
    check_scheduler(scheduler)
    from .series.policy import SeriesPolicy

    summary = Summary()
    policy = SeriesPolicy(output, settings, [scan.name for scan in found])
    todo = _sort_out(found, policy, ledger, summary)
    if todo:
        told = _estimates(todo, settings)
        _check_space(todo, told, output, settings.compute.scratch or cluster.scratch)
        memory = max((one.memory for one in told), default=0)
        plan = plan_workers(machine_facts(settings.compute.device), len(todo), memory, cluster)
        with (
            open_pool(scheduler, cluster, plan, output, progress.say) as pool,
            progress.stage("scans", len(todo)) as bar,
        ):
            teller = _Teller(ledger, progress, bar, summary, output / LOG)
            _conduct(todo, pool, teller, policy, output=output, cluster=cluster, overwrite=overwrite)
    return summary


def _sort_out(
    found: Sequence[FoundScan], policy: SeriesPolicy, ledger: Ledger, summary: Summary
) -> list[tuple[int, FoundScan]]:
    """Find the scans to be done, and take note of the others; one that waits for a first scan is to be done."""
    todo: list[tuple[int, FoundScan]] = []
    unknown = list(enumerate(found))
    is_known = True
    while is_known:  # as long as what is known of one tells more of others
        is_known = False
        for index, scan in list(unknown):
            settings = policy.settings_for(index, scan.name)
            if settings is None:
                continue
            unknown.remove((index, scan))
            if ledger.needs_work(scan, settings):
                todo.append((index, scan))
            else:
                _take_note(scan, policy, ledger, summary)
                is_known = True
    for _, scan in (*todo, *unknown):
        ledger.waiting(scan)
    return sorted((*todo, *unknown), key=lambda entry: entry[0])


def _take_note(scan: FoundScan, policy: SeriesPolicy, ledger: Ledger, summary: Summary) -> None:
    """Take note of a scan that needs nothing."""
    row = ledger.rows[scan.name]
    if row.state == "failed":
        policy.failed(scan.name)
        summary.failed_before[scan.name] = row.reason
    else:
        policy.finished(scan.name, ledger.output / scan.name)
        summary.skipped.append(scan.name)


def _estimates(todo: Sequence[tuple[int, FoundScan]], settings: ReductionSettings) -> list[Estimate]:
    """Estimate each scan that can be opened; why one cannot is told when its turn comes."""
    from .estimate import estimate
    from .estimating.machine_rates import Rates
    from .scan import open_scan

    at_once = settings.scan.model_copy(update={"wait_seconds": 0.0})
    told = []
    for _, scan in todo:
        with contextlib.suppress(QuietbeamError, OSError, ValueError):
            told.append(estimate(open_scan(scan.path, at_once), settings, rates=Rates()))
    return told


def _check_space(
    todo: Sequence[tuple[int, FoundScan]], told: Sequence[Estimate], output: Path, scratch: Path | None
) -> None:
    """Refuse a series whose results do not fit on the disk, with one scan at a time under way."""
    from .estimating.disk_space import DiskNeed, blocks_below, refuse_full_disks
    from .workspace import Workspace

    held = sum(blocks_below(Workspace(output / scan.name, scratch).scratch) for _, scan in todo)
    largest = max((one.scratch for one in told), default=0)
    needs = [DiskNeed(output, sum(one.output for one in told)), DiskNeed(scratch or output, max(largest, held), held)]
    refuse_full_disks("the series", needs, "free some, choose another folder, or name fewer scans")


def _conduct(
    todo: Sequence[tuple[int, FoundScan]],
    pool: Pool,
    teller: _Teller,
    policy: SeriesPolicy,
    *,
    output: Path,
    cluster: ClusterSettings,
    overwrite: bool,
) -> None:
    from .series.conductor import Conductor
    from .series.disk_room import DiskRoom
    from .series.scan_work import Requests, reduction_work

    threads = cluster.threads_per_worker or pool.threads
    memory = memory_of_job(pool.memory) if pool.memory else None
    requests = Requests(output, threads, memory, cluster.scratch, overwrite)
    work = reduction_work(requests, cluster.training_processes)
    Conductor(pool, work, sink=teller, policy=policy, space=DiskRoom(output, cluster.scratch)).run(todo)


class _Teller:
    """Tells the ledger of each step, and the user of each scan that ends."""

    def __init__(self, ledger: Ledger, progress: JobProgress, bar: Step, summary: Summary, log: Path) -> None:
        self.ledger, self.telling, self.bar, self.summary, self.log = ledger, progress, bar, summary, log
        self._began: dict[str, float] = {}

    def begin(self, found: FoundScan, settings: ReductionSettings) -> None:
        self._began[found.name] = time.monotonic()
        self.ledger.begin(found, settings)

    def progress(self, name: str, stage: str, done: int, total: int) -> None:
        self.ledger.progress(name, stage, done, total)

    def done(self, name: str) -> None:
        self.ledger.done(name)  # before the summary: where it cannot be noted, the scan is told as failed
        self.summary.done.append(name)
        self._tell(f"{name}: done in {time.monotonic() - self._began[name]:.1f} s")

    def failed(self, name: str, failure: Failure) -> None:
        self.summary.failed[name] = failure
        self._tell(f"{name}: failed: {failure.reason}")
        if failure.trace:
            with contextlib.suppress(OSError), self.log.open("a") as log:
                log.write(f"{name}: {failure.trace}\n")
        self.ledger.failed(name, failure)

    def _tell(self, text: str) -> None:
        self.telling.say(text)
        self.bar.advance(1)
