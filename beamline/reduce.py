"""One scan from the instrument's file to the finished output folder, in one go or step by step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from quietbeam.noise2inverse.distributed import Group, process_group
from quietbeam.reconstruction.errors import ReductionError

from .atomic import write_atomically
from .earlier_result import is_done, keep_apart, nothing_left_of_a_refusal
from .estimate import check_space
from .feasibility import choose_device
from .job import Job
from .manifest import write_manifest
from .network_training import dismiss, train_along
from .pieces import Elsewhere, Here, Pieces, PiecesWanted, PieceTask
from .pipeline import Reduction
from .progress import JobProgress, Silence
from .report import render_report
from .results import make_report, manifest_content
from .scan import Scan, open_scan
from .settings import ReductionSettings
from .workspace import REPORT, Workspace

__all__ = ["Finished", "ScanRequest", "Wanted", "advance", "reduce_scan", "reduce_together"]

LONGEST_STAGE = 7 * 86400.0
"""Seconds that a process waits for the others, which may be reconstructing; one that ends is noticed at once."""


@dataclass(frozen=True)
class ScanRequest:
    """What is to be reduced, and where to.

    Attributes
    ----------
    path : Path
        The scan; it is opened read-only.
    output : Path
        Folder for the results.
    settings : ReductionSettings
        All settings.
    overwrite : bool
        Replace the results of other settings or of another scan.
    """

    path: Path
    output: Path
    settings: ReductionSettings
    overwrite: bool = False

    @property
    def workspace(self) -> Workspace:
        """Output and scratch folder."""
        return Workspace(self.output, self.settings.compute.scratch)


@dataclass(frozen=True)
class Wanted:
    """Chunks of slices to be done before a reduction can go on.

    Attributes
    ----------
    stage : str
        ``reconstruct``, ``denoise`` or ``encode``.
    task : PieceTask
        Does a chunk, in any process that sees the scan, the output folder and the scratch folder.
    chunks : tuple of slice
        Those to be done, in any order; what each gives goes to `quietbeam.beamline.pieces.note_piece`.
    """

    stage: str
    task: PieceTask
    chunks: tuple[slice, ...]


@dataclass(frozen=True)
class Finished:
    """The result is there.

    Attributes
    ----------
    was_done : bool
        True if nothing had been left to do.
    """

    was_done: bool


def advance(request: ScanRequest, group: Group | None = None) -> Wanted | Finished:
    """Reduce a scan as far as chunks of slices are wanted that another process may do.

    What is on the disk is taken up, so each call may be made by another process. A scan takes four: up to its
    reconstruction, its training, its codec, its end.

    Parameters
    ----------
    request : ScanRequest
        The scan. The caller holds the lock of its workspace, over all calls and all chunks.
    group : Group, optional
        Processes that train together; this is the first of them. They wait for a call that trains.

    Returns
    -------
    Wanted or Finished
        What to do before the next call, or that there is none.

    Raises
    ------
    QuietbeamError
        If the scan or the settings are refused, or a stage cannot be done; what was done is kept for the next call.
    """
    scan = open_scan(request.path, request.settings.scan)
    keep_apart(scan, request.workspace)
    try:
        return Finished(not _reduce(scan, request, Elsewhere(), Silence(), group))
    except PiecesWanted as wanted:
        return Wanted(wanted.stage, wanted.task, tuple(wanted.chunks))


def reduce_scan(
    path: Path,
    output: Path,
    settings: ReductionSettings,
    *,
    progress: JobProgress,
    overwrite: bool = False,
    group: Group | None = None,
) -> bool:
    """Reduce a scan, or go on where an earlier call was stopped.

    Parameters
    ----------
    path : Path
        The scan; it is opened read-only.
    output : Path
        Folder for the results.
    settings : ReductionSettings
        All settings.
    progress : JobProgress
        Where to tell what happens.
    overwrite : bool
        Replace the results of other settings or of another scan.
    group : Group, optional
        Processes that train together; this is the first of them.

    Returns
    -------
    bool
        False if there was nothing left to do.

    Raises
    ------
    ScanError
        If the scan cannot be read as it is.
    ReductionError
        If a stage cannot be done; what was done is kept for the next call.
    """
    request = ScanRequest(path, output, settings, overwrite)
    scan = open_scan(path, settings.scan)
    keep_apart(scan, request.workspace)
    with request.workspace.locked():
        return _reduce(scan, request, Here(), progress, group)


def _reduce(scan: Scan, request: ScanRequest, pieces: Pieces, progress: JobProgress, group: Group | None) -> bool:
    """Do all that is left; tell whether that was anything."""
    workspace = request.workspace
    workspace.make_scratch()
    with nothing_left_of_a_refusal(workspace):
        job = Job(scan, request.settings, workspace, progress, pieces)
        if is_done(job, request.overwrite):
            workspace.clean()
            return False
        check_space(scan, request.settings, request.output)
        reduction = Reduction(job, group)
        reduction.run()
        with workspace.timed("report"), progress.stage("report", 1) as step:
            write_atomically(request.output / REPORT, render_report(make_report(reduction)).encode())
            step.advance()
        job.check_unchanged()
        write_manifest(request.output, manifest_content(reduction))
        workspace.clean()
    return True


def reduce_together(
    path: Path, output: Path, settings: ReductionSettings, *, progress: JobProgress, overwrite: bool = False
) -> bool | None:
    """Reduce a scan with the processes that torchrun started, or alone where it did not.

    Parameters
    ----------
    path, output, settings, progress, overwrite
        See `reduce_scan`.

    Returns
    -------
    bool or None
        See `reduce_scan`; None in the processes that only train along.
    """
    with process_group(choose_device(settings.compute.device), timeout_seconds=LONGEST_STAGE) as group:
        if group.size > settings.pairs.batch_size:
            _refuse_batch(group, settings.pairs.batch_size)
            return None
        if not group.is_first:
            train_along(group, torch.get_num_threads())
            return None
        done = reduce_scan(path, output, settings, progress=progress, overwrite=overwrite, group=group)
        if not done:
            dismiss(group)
        return done


def _refuse_batch(group: Group, batch_size: int) -> None:
    """Say that some processes would have nothing to learn from; the first one says it for all."""
    if group.is_first:
        raise ReductionError(
            f"pairs.batch_size must be at least the number of processes, {group.size}, got {batch_size}: set "
            f"pairs.batch_size={group.size} or a multiple, or start fewer processes"
        )
