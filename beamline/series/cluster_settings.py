"""The settings of where a series is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = ["ClusterSettings"]


def _check_line(text: str) -> str:
    if not text or any(ord(character) < 32 for character in text):
        raise ValueError("expected one line of text")
    return text


def _check_word(text: str) -> str:
    if not text or not all(character.isalnum() or character in "._-,:/@=+%[]" for character in text):
        raise ValueError("expected letters, digits and . _ - , : / @ = + % [ ], with no space")
    return text


Line = Annotated[str, AfterValidator(_check_line)]
Word = Annotated[str, AfterValidator(_check_word)]


class ClusterSettings(BaseModel):
    """Where a series is computed and with how much: the ``[cluster]`` table of the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int | None = Field(
        None, ge=1, description="Workers on this machine; None: as many as there are scans, cores, memory or GPUs for."
    )
    threads_per_worker: int | None = Field(
        None, ge=1, description="Threads of each worker; None: the cores divided by the workers."
    )
    memory_gib: float | None = Field(
        None, gt=0, description="Memory of each worker, GiB; None: its share of what is free. On SLURM it is asked for."
    )
    scratch: Path | None = Field(
        None,
        description="Folder that all workers see, for volumes under way; None: work, in each scan's output folder.",
    )
    spill: Path | None = Field(None, description="Folder for Dask's own files, on each worker; None: Dask's choice.")
    training_processes: int = Field(
        1, ge=1, description="Processes that train a network together, started by torchrun on the worker's machine."
    )
    allowed_failures: int = Field(
        3, ge=0, description="How often a piece of work may lose its worker and be tried again, before its scan fails."
    )
    dashboard: str | None = Field(None, description="Address of Dask's dashboard, as 127.0.0.1:8787; None: none.")
    wait_seconds: float = Field(120.0, gt=0, description="Time to wait for the first worker of a given scheduler.")
    lost_seconds: float = Field(
        60.0, gt=0, description="Time after which a scheduler that does not answer any more is given up."
    )
    jobs: int = Field(1, ge=1, description="SLURM: jobs, each with one worker.")
    queue: Word | None = Field(None, description="SLURM: partition; None: the site's default.")
    account: Word | None = Field(None, description="SLURM: account; None: the user's default.")
    gres: Word | None = Field(None, description="SLURM: generic resources of a job, as gpu:1.")
    walltime: Word | None = Field(None, description="SLURM: longest time of a job, as 12:00:00; None: the site's.")
    cores: int | None = Field(None, ge=1, description="SLURM: cores of a job; needed there.")
    job_extra: tuple[Line, ...] = Field((), description="SLURM: more options of sbatch, as --constraint=fast.")
    prologue: tuple[Line, ...] = Field((), description="SLURM: lines of shell that run before the worker starts.")
    interface: Word | None = Field(None, description="SLURM: network interface that workers reach this machine by.")
    python: Line | None = Field(None, description="SLURM: interpreter of the workers; None: this one's path.")
    tls: bool = Field(True, description="SLURM: only workers with this run's certificate may speak to the scheduler.")
