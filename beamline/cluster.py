"""Where a series of scans is computed: in this process, in several here, on any Dask scheduler, or on SLURM."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from quietbeam.reconstruction.errors import ClusterError

from .series.cluster_settings import ClusterSettings
from .series.pool import InProcess, Pool
from .series.worker_plan import WorkerPlan

__all__ = ["ClusterSettings", "check_scheduler", "job_script", "needs_dask", "open_pool"]

LOG = "cluster.log"
"""In the folder of the series: what Dask and its workers say."""


def check_scheduler(scheduler: str | None) -> str | None:
    """Give the scheduler as it is used: None for this machine.

    Parameters
    ----------
    scheduler : str or None
        None, ``local``, ``slurm``, ``tcp://HOST:PORT`` or ``tls://HOST:PORT``.

    Returns
    -------
    str or None
        None, ``slurm`` or an address.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    if scheduler in (None, "local"):
        return None
    if scheduler == "slurm" or scheduler.startswith(("tcp://", "tls://")):
        return scheduler
    raise ValueError(f"--scheduler: expected local, slurm, tcp://HOST:PORT or tls://HOST:PORT, got {scheduler!r}")


def needs_dask(scheduler: str | None, plan: WorkerPlan) -> bool:
    """Tell whether other processes than this one are to be had."""
    return check_scheduler(scheduler) is not None or plan.num_workers > 1


@contextmanager
def open_pool(
    scheduler: str | None,
    settings: ClusterSettings,
    plan: WorkerPlan,
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Pool]:
    """Have workers while the block runs.

    Parameters
    ----------
    scheduler : str or None
        See `check_scheduler`.
    settings : ClusterSettings
        Where and with how much.
    plan : WorkerPlan
        The workers of this machine, where they are local; one of them is this process itself.
    folder : Path
        Of the series, there; all workers must see it. Dask's log is written into it.
    say : callable
        Tells the user what is waited for.

    Yields
    ------
    Pool
        What calls are made with.

    Raises
    ------
    ClusterError
        If Dask is not installed, no worker comes, or one does not fit.
    """
    if not needs_dask(scheduler, plan):
        memory = plan.memory if settings.memory_gib else None
        yield InProcess(settings.threads_per_worker, memory)
        return
    _require("distributed", "dask_jobqueue" if scheduler == "slurm" else "dask")
    from .series.dask_pools import connected_pool, local_pool, slurm_pool

    where = check_scheduler(scheduler)
    if where is None:
        opened = local_pool(settings, plan, folder / LOG)
    elif where == "slurm":
        opened = slurm_pool(settings, folder, folder / LOG)
    else:
        opened = connected_pool(where, settings, folder, folder / LOG, say)
    with opened as pool:
        yield pool


def job_script(settings: ClusterSettings, folder: Path) -> str:
    """Give the script of a SLURM job of a series, without submitting it or starting anything.

    Parameters
    ----------
    settings : ClusterSettings
        The ``[cluster]`` table.
    folder : Path
        Of the series.

    Returns
    -------
    str
        With ADDRESS in place of the scheduler's address, which is not known before.

    Raises
    ------
    ClusterError
        If a setting is missing, or dask-jobqueue is.
    """
    _require("distributed", "dask_jobqueue")
    from .series.slurm import preview_script

    return preview_script(settings, folder)


def _require(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ClusterError(
                f"{package.replace('_', '-')} is not installed, and more than one worker was asked for: "
                "pip install 'quietbeam[cluster]', or set cluster.workers=1 to work in this process alone"
            )
