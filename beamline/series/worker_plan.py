"""How many workers this machine carries for a series, and what each of them may take."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from .cluster_settings import ClusterSettings

__all__ = ["MachineFacts", "WorkerPlan", "machine_facts", "memory_of_job", "plan_workers"]

GIB = 2**30
USABLE_MEMORY = 0.9
"""Share of the free memory that the workers are given; the rest is for this process and for others."""
JOB_SHARE = 0.75
"""What a job counts on, of its worker's limit: Dask ends a worker at 0.95 of it, and allocators keep what was freed."""
CGROUP_LIMITS = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of a container or a job of a batch system, second and first version."""


class MachineFacts(NamedTuple):
    """What there is to share out.

    Attributes
    ----------
    cores : int
        That this process may use.
    free_memory : int
        Bytes.
    gpus : tuple of str
        As CUDA_VISIBLE_DEVICES names them.
    """

    cores: int
    free_memory: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerPlan:
    """The workers of this machine.

    Attributes
    ----------
    num_workers : int
        Processes, each of which makes one call at a time; 1: no process but this one.
    threads : int
        Of each.
    memory : int
        Limit of each, bytes.
    gpus : tuple of str
        Of each, as CUDA_VISIBLE_DEVICES names them; empty where there are none.
    reason : str
        What the number came from.
    """

    num_workers: int
    threads: int
    memory: int
    gpus: tuple[str, ...]
    reason: str

    def environment(self, worker: int) -> dict[str, str]:
        """Give the variables of a worker: its threads for every library, and its GPUs."""
        names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
        variables = {f"{name}_NUM_THREADS": str(self.threads) for name in names}
        return variables | ({"CUDA_VISIBLE_DEVICES": self.gpus[worker]} if self.gpus else {})


def plan_workers(facts: MachineFacts, num_scans: int, needed_memory: int, settings: ClusterSettings) -> WorkerPlan:
    """Share out a machine: as many workers as are asked for, or as there are scans, cores, memory and GPUs for.

    Parameters
    ----------
    facts : MachineFacts
        The machine.
    num_scans : int
        Scans to be done.
    needed_memory : int
        Bytes that the largest scan takes.
    settings : ClusterSettings
        What the user asks for; that goes before everything.

    Returns
    -------
    WorkerPlan
        At least one worker, also where memory is short: whether it is enough is for the scan to say.
    """
    usable = int(USABLE_MEMORY * facts.free_memory)
    shares = _shares(facts.gpus, settings.training_processes)
    count, reason = _count(facts._replace(gpus=shares), num_scans, usable, needed_memory, settings)
    threads = settings.threads_per_worker or max(1, facts.cores // count)
    memory = int(settings.memory_gib * GIB) if settings.memory_gib else usable // count
    # Where more workers than GPUs were asked for, they share them.
    gpus = tuple(shares[worker % len(shares)] for worker in range(count)) if shares else ()
    return WorkerPlan(count, threads, memory, gpus, reason)


def _shares(gpus: tuple[str, ...], size: int) -> tuple[str, ...]:
    """Share GPUs out: so many each as processes train together; what is left over is not used."""
    size = min(size, len(gpus)) or 1
    return tuple(",".join(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size))


def _count(
    facts: MachineFacts, num_scans: int, usable: int, needed_memory: int, settings: ClusterSettings
) -> tuple[int, str]:
    if settings.workers:
        return settings.workers, "asked for"
    each = int(settings.memory_gib * GIB) if settings.memory_gib else math.ceil(needed_memory / JOB_SHARE)
    most = {
        "scans": max(1, num_scans),
        "cores": max(1, facts.cores // (settings.threads_per_worker or 1)),
        "memory": max(1, usable // max(1, each)),
    }
    if facts.gpus:
        most["GPUs"] = len(facts.gpus)
    reason = min(most, key=lambda name: most[name])
    return most[reason], f"as many as there are {reason} for"


def memory_of_job(limit: int) -> float:
    """Give what a job in a worker of this limit (bytes) counts on, GiB."""
    return JOB_SHARE * limit / GIB


def machine_facts(device: str = "auto") -> MachineFacts:
    """Look at this machine.

    Parameters
    ----------
    device : str
        compute.device; GPUs are counted unless it is cpu.

    Returns
    -------
    MachineFacts
        Cores that this process may run on; free memory, no more than its control group may take.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return MachineFacts(cores, _free_memory(), () if device == "cpu" else _gpus())


def _free_memory() -> int:
    free = int(psutil.virtual_memory().available)
    for limit in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
            free = min(free, int(limit.read_text()))
    return free


def _gpus() -> tuple[str, ...]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = [name.strip() for name in visible.split(",")] if visible else [str(number) for number in range(count)]
    return tuple(names[:count])
