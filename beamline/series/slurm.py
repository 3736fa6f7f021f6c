"""Workers as SLURM jobs, through dask-jobqueue."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Any

from quietbeam.reconstruction.errors import ClusterError

from .cluster_settings import ClusterSettings

__all__ = ["job_options", "preview_script"]

PRELOAD = "quietbeam.beamline.series.worker_setup"
NO_DIRECTIVE = ("#SBATCH -t ", "#SBATCH -p ", "#SBATCH -A ")
ADDRESS = "ADDRESS"


def job_options(settings: ClusterSettings, folder: Path) -> dict[str, Any]:
    """Give dask-jobqueue's options of a job with one worker that makes one call at a time, on all its cores.

    Parameters
    ----------
    settings : ClusterSettings
        The ``[cluster]`` table.
    folder : Path
        Of the series; SLURM's logs go there.

    Returns
    -------
    dict
        Keywords of ``SLURMJob`` and ``SLURMCluster``; nothing is left to Dask's own configuration files.

    Raises
    ------
    ClusterError
        If a setting that SLURM needs is missing.
    """
    cores, memory = settings.cores, settings.memory_gib
    if cores is None or memory is None:
        missing = "cores" if cores is None else "memory_gib"
        raise ClusterError(f"cluster.{missing} is missing: --scheduler slurm needs the cores and memory_gib of a job")
    threads = settings.threads_per_worker or cores
    variables = [f"export {name}_NUM_THREADS={threads}" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")]
    return {
        "queue": settings.queue,
        "account": settings.account,
        "walltime": settings.walltime,
        "cores": 1,  # calls at a time
        "processes": 1,
        "job_cpu": cores,
        "memory": f"{math.ceil(memory * 1024)} MiB",
        "job_mem": f"{math.ceil(memory * 1024)}M",
        "job_name": "quietbeam",
        "python": shlex.quote(settings.python or sys.executable),
        "interface": settings.interface,
        "local_directory": shlex.quote(str(settings.spill)) if settings.spill else None,
        "log_directory": None,
        "job_extra_directives": _directives(settings, folder),
        "job_directives_skip": _left_out(settings),
        "job_script_prologue": [*variables, *settings.prologue],
        "worker_extra_args": ["--preload", PRELOAD],
        "death_timeout": 60,
        "nanny": True,
        "shebang": "#!/usr/bin/env bash",
        "config_name": "slurm",
    }


def _directives(settings: ClusterSettings, folder: Path) -> list[str]:
    log = str(folder.resolve() / "slurm-%j.log")
    gres = [f"--gres={settings.gres}"] if settings.gres else []
    return [f'--output="{log}"', *gres, *settings.job_extra]


def _left_out(settings: ClusterSettings) -> list[str]:
    """Options that Dask's configuration would put in where nothing was asked for, as 30 minutes of walltime."""
    given = {"-t": settings.walltime, "-p": settings.queue, "-A": settings.account}
    return [f"#SBATCH {option} " for option, value in given.items() if value is None]


def preview_script(settings: ClusterSettings, folder: Path) -> str:
    """Give the script of a job, with ADDRESS in place of the scheduler's.

    Parameters
    ----------
    settings, folder
        See `job_options`.

    Returns
    -------
    str
        For ``sbatch``.

    Raises
    ------
    ClusterError
        See `job_options`.
    """
    from dask_jobqueue.slurm import SLURMJob

    protocol = "tls" if settings.tls else "tcp"
    job = SLURMJob(scheduler=f"{protocol}://{ADDRESS}", name="quietbeam-0", **job_options(settings, folder))
    script: str = job.job_script()
    return script
