"""Pools of Dask's workers: started on this machine, as SLURM jobs, or found at a scheduler that runs already."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster

from quietbeam.reconstruction.errors import ClusterError

from .certificates import certificates_in, new_security
from .cluster_log import environment_kept, logged_to
from .cluster_settings import ClusterSettings
from .dask_pool import DaskPool
from .slurm import PRELOAD, job_options, preview_script
from .worker_check import AT_WORK, WorkerCheck, written_tokens
from .worker_plan import WorkerPlan
from .worker_setup import LOG_VARIABLE

__all__ = ["connected_pool", "local_pool", "slurm_pool"]

NOTHING_HELD = {"target": False, "spill": False, "pause": False, "terminate": 0.95}
"""Workers hold no results. One that paused at much memory would wait for ever for memory that is only kept by an
allocator; one that takes too much is ended, and only its piece is lost."""


@contextmanager
def local_pool(settings: ClusterSettings, plan: WorkerPlan, log: Path) -> Iterator[DaskPool]:
    """Have workers on this machine, which end with this process.

    Parameters
    ----------
    settings : ClusterSettings
        Folders, dashboard, failures allowed.
    plan : WorkerPlan
        How many, and what each may take.
    log : Path
        Where Dask and the workers write.

    Yields
    ------
    DaskPool
        All workers are there.

    Raises
    ------
    ClusterError
        If they do not start.
    """
    security = new_security(tls=settings.tls)
    scheduler = {
        "host": "127.0.0.1",
        "protocol": _protocol(settings),
        "security": security,
        "dashboard": settings.dashboard is not None,
        "dashboard_address": settings.dashboard or "127.0.0.1:0",
    }
    workers = {
        number: {"cls": Nanny, "options": _nanny(settings, plan, number, log) | {"security": security}}
        for number in range(plan.num_workers)
    }
    with logged_to(log), environment_kept(), dask.config.set(_config(plan)):
        cluster = SpecCluster(
            workers=workers,
            scheduler={"cls": Scheduler, "options": scheduler},
            security=security,
            name="quietbeam",
        )
        with cluster, Client(cluster, set_as_default=False) as client:
            yield _pool(client, settings, plan.num_workers, WorkerCheck(client, {}), log, plan.threads)


def _nanny(settings: ClusterSettings, plan: WorkerPlan, number: int, log: Path) -> dict[str, Any]:
    return {
        "host": "127.0.0.1",
        "protocol": _protocol(settings),
        "nthreads": 1,
        "memory_limit": plan.memory,
        "local_directory": str(settings.spill) if settings.spill else None,
        "env": plan.environment(number) | {LOG_VARIABLE: str(log.resolve())},
        "preload": [PRELOAD],
        "dashboard": False,
    }


def _config(plan: WorkerPlan) -> dict[str, Any]:
    """Dask's own settings; the threads are set before a worker's interpreter starts, since libraries read them then."""
    threads = {name: value for name, value in plan.environment(0).items() if name.endswith("_THREADS")}
    return {
        **{f"distributed.worker.memory.{name}": share for name, share in NOTHING_HELD.items()},
        **{f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in threads.items()},
        "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "warning",
    }


def _protocol(settings: ClusterSettings) -> str:
    return "tls" if settings.tls else "tcp"


@contextmanager
def connected_pool(
    address: str, settings: ClusterSettings, folder: Path, log: Path, say: Callable[[str], None]
) -> Iterator[DaskPool]:
    """Use the workers of a scheduler that runs already.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT``, or ``tls://HOST:PORT`` with the certificates of Dask's configuration.
    settings : ClusterSettings
        Time to wait for a worker, failures allowed, scratch folder.
    folder : Path
        Of the series, which all workers must see.
    log : Path
        Where Dask writes here.
    say : callable
        Tells the user what is waited for.

    Yields
    ------
    DaskPool
        At least one worker is there.

    Raises
    ------
    ClusterError
        If there is no scheduler or no worker, or one that cannot do the work.
    """
    with logged_to(log), written_tokens(_shared(settings, folder)) as tokens:
        say(f"waiting for the Dask scheduler at {address}, up to {settings.wait_seconds:g} s")
        try:
            client = Client(address, timeout=settings.wait_seconds, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise ClusterError(f"{address}: no Dask scheduler answers there ({error}); see {log}") from error
        with client:
            yield _pool(client, settings, 1, WorkerCheck(client, tokens), log, None)


@contextmanager
def slurm_pool(settings: ClusterSettings, folder: Path, log: Path) -> Iterator[DaskPool]:
    """Have workers as SLURM jobs, which end with this process.

    Parameters
    ----------
    settings : ClusterSettings
        The ``[cluster]`` table.
    folder : Path
        Of the series, which all workers must see.
    log : Path
        Where Dask writes here; each job has a log of its own beside it.

    Yields
    ------
    DaskPool
        The jobs are submitted; workers come when SLURM starts them.

    Raises
    ------
    ClusterError
        If SLURM is not there, or refuses the job.
    """
    from dask_jobqueue.slurm import SLURMCluster

    options = job_options(settings, folder)
    _check_submission(preview_script(settings, folder))
    scheduler = {"dashboard": settings.dashboard is not None, "dashboard_address": settings.dashboard or "127.0.0.1:0"}
    with (
        logged_to(log),
        written_tokens(_shared(settings, folder)) as tokens,
        certificates_in(folder, tls=settings.tls) as security,
    ):
        cluster = SLURMCluster(
            **options,
            protocol=_protocol(settings) + "://",
            security=security,
            scheduler_options=scheduler,
            silence_logs=False,
        )
        with cluster, Client(cluster, set_as_default=False) as client:
            cluster.adapt(minimum_jobs=settings.jobs, maximum_jobs=settings.jobs)  # one that ends is replaced
            yield DaskPool(client, settings, WorkerCheck(client, tokens), log, settings.cores)


def _check_submission(script: str) -> None:
    """Let SLURM look at a job without taking it."""
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise ClusterError("sbatch is not found: give the command on a machine that jobs are submitted from")
    said = subprocess.run([sbatch, "--test-only"], input=script, capture_output=True, text=True, check=False)  # noqa: S603
    if said.returncode:
        raise ClusterError(
            f"SLURM refuses the job of the [cluster] table: {said.stderr.strip() or said.stdout.strip()}"
        )


def _shared(settings: ClusterSettings, folder: Path) -> list[Path]:
    return [folder, settings.scratch] if settings.scratch else [folder]


def _pool(
    client: Client, settings: ClusterSettings, num_workers: int, check: WorkerCheck, log: Path, threads: int | None
) -> DaskPool:
    """Wait for workers, and refuse any that cannot do the work."""
    try:
        client.wait_for_workers(num_workers, timeout=settings.wait_seconds)
    except TimeoutError as error:
        waited = f"{settings.wait_seconds:g} s (cluster.wait_seconds)"
        raise ClusterError(f"no worker came within {waited}; see {log}") from error
    except OSError as error:
        raise ClusterError(f"the Dask scheduler cannot be reached any more ({error}); see {log}") from error
    pool = DaskPool(client, settings, check, log, threads)
    if pool.unfit and not (pool.has_workers and set(pool.unfit.values()) == {AT_WORK}):
        said = "; ".join(f"worker {worker}: {complaint}" for worker, complaint in sorted(pool.unfit.items()))
        raise ClusterError(said)
    return pool
