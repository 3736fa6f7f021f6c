"""What a series does with each scan: `quietbeam.beamline.reduce.advance`, with what a worker may take."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quietbeam.beamline.pieces import note_piece
from quietbeam.beamline.reduce import Finished, ScanRequest, Wanted, advance
from quietbeam.beamline.settings import ReductionSettings

from .conductor import ScanWork
from .find_scans import FoundScan
from .series_settings import absolute_settings

__all__ = ["Advance", "Requests", "reduction_work"]


@dataclass(frozen=True)
class Requests:
    """Makes the requests of a series.

    Attributes
    ----------
    output : Path
        Folder of the series.
    threads : int or None
        Of each worker, where the settings name none.
    memory_gib : float or None
        What a job may count on, where the settings name nothing.
    scratch : Path or None
        Folder of the volumes under way, where the settings name none.
    overwrite : bool
        Replace results of other settings.
    """

    output: Path
    threads: int | None = None
    memory_gib: float | None = None
    scratch: Path | None = None
    overwrite: bool = False

    def __call__(self, found: FoundScan, settings: ReductionSettings) -> ScanRequest:
        """Give the request of a scan, with no path that counts from this folder; what is changed enters no key."""
        compute = settings.compute
        given = {
            "threads": compute.threads or self.threads,
            "memory_gib": compute.memory_gib or self.memory_gib,
            "scratch": compute.scratch or self.scratch,
        }
        settings = absolute_settings(settings.model_copy(update={"compute": compute.model_copy(update=given)}))
        return ScanRequest(found.path.absolute(), self.output.absolute() / found.name, settings, self.overwrite)


@dataclass(frozen=True)
class Advance:
    """Takes a scan forward in the process that calls it.

    Attributes
    ----------
    training_processes : int
        Processes that train together, started here by torchrun.
    """

    training_processes: int = 1

    def __call__(self, request: ScanRequest, after: str | None) -> Wanted | Finished:
        """Take a scan forward, `after` the pieces of a stage were done."""
        if self.training_processes > 1 and self._may_train(request, after):
            from .training_job import train_together

            train_together(request, self.training_processes)
        return advance(request)

    def _may_train(self, request: ScanRequest, after: str | None) -> bool:
        """Tell whether the next thing may be the training: after the reconstruction, also by an earlier command."""
        if request.settings.training.epochs == 0:
            return False
        return after == "reconstruct" or (after is None and request.workspace.journal_path("reconstruct").exists())


def reduction_work(requests: Requests, training_processes: int) -> ScanWork:
    """Give what a conductor does with each scan.

    Parameters
    ----------
    requests : Requests
        See there.
    training_processes : int
        See `Advance`.

    Returns
    -------
    ScanWork
        Reduces scans.
    """
    return ScanWork(requests, Advance(training_processes), _locked, _note)


def _locked(request: ScanRequest) -> AbstractContextManager[None]:
    return request.workspace.locked()


def _note(request: ScanRequest, stage: str, chunk: slice, record: dict[str, Any]) -> None:
    note_piece(request.output, stage, chunk, record, scratch=request.settings.compute.scratch)
