"""One scan from the instrument's file to the finished output folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from quietbeam.noise2inverse.distributed import Group, process_group
from quietbeam.reconstruction.errors import ArchiveError, QuietbeamError, ReductionError

from .atomic import file_sha256, write_atomically
from .estimate import check_space
from .feasibility import choose_device
from .job import Job
from .journal import stage_key
from .manifest import FILES, OPTIONAL_FILES, read_manifest, write_manifest
from .network_training import dismiss, train_along
from .pipeline import Reduction
from .progress import JobProgress
from .report import render_report
from .results import make_report, manifest_content
from .scan import Scan, file_signature, open_scan
from .settings import ReductionSettings
from .workspace import MANIFEST, METRICS, PREVIEW, REPORT, SCRATCH_FILES, Workspace

__all__ = ["reduce_scan", "reduce_together"]

LONGEST_STAGE = 7 * 86400.0
"""Seconds that a process waits for the others, which may be reconstructing; one that ends is noticed at once."""
_BEFORE_ANY_STAGE = {"identity.json", "times.jsonl"}
"""What is put into the scratch folder to tell whether the result is there."""


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
    scan = open_scan(path, settings.scan)
    _keep_apart(scan, output)
    workspace = Workspace(output)
    with workspace.locked(), _nothing_left_of_a_refusal(workspace):
        job = Job(scan, settings, workspace, progress)
        if _is_done(job, overwrite):
            workspace.clean()
            return False
        check_space(scan, settings, output)
        reduction = Reduction(job, group)
        reduction.run()
        with workspace.timed("report"), progress.stage("report", 1) as step:
            write_atomically(output / REPORT, render_report(make_report(reduction)).encode())
            step.advance()
        job.check_unchanged()
        write_manifest(output, manifest_content(reduction))
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


def _keep_apart(scan: Scan, output: Path) -> None:
    """Refuse to put results in the place of raw data, or among the frames of a folder."""
    workspace, raw = Workspace(output.resolve()), scan.path.resolve()
    ours = {workspace.output / name for name in (*FILES, *OPTIONAL_FILES, MANIFEST, METRICS, PREVIEW)}
    ours |= {workspace.scratch / name for name in SCRATCH_FILES}
    among_frames = raw.is_dir() and (workspace.output == raw or raw in workspace.output.parents)
    if among_frames or ours & {source.resolve() for source in scan.sources}:
        raise ReductionError(f"{output}: the scan {scan.path} lies there itself; choose another -o")


@contextmanager
def _nothing_left_of_a_refusal(workspace: Workspace) -> Iterator[None]:
    """Take the scan's hashes away again where a command is refused beside a result; what a stopped job left stays."""
    there = set(workspace.scratch.glob("*"))
    try:
        yield
    except QuietbeamError:
        new = set(workspace.scratch.glob("*")) - there
        if (workspace.output / MANIFEST).exists() and {path.name for path in new} <= _BEFORE_ANY_STAGE:
            for path in new:
                path.unlink()
        raise


def _is_done(job: Job, overwrite: bool) -> bool:
    """Tell whether the result is there; refuse to replace another one unasked."""
    path = job.workspace.output / MANIFEST
    if not path.exists():
        return False
    try:
        manifest = read_manifest(path)
    except ArchiveError as error:
        if overwrite:
            return False
        raise ReductionError(f"{error}; choose another -o, or say --overwrite") from error
    _reuse_identity(job, manifest["input"].get("identity"))
    if manifest["key"] == job.keys.result:
        return _is_intact(path.parent, manifest["files"], by_content=overwrite)
    if not overwrite:
        raise ReductionError(
            f"{path.parent}: holds the results of another scan or of other settings; "
            "choose another -o, or say --overwrite"
        )
    return False


def _is_intact(output: Path, files: dict[str, Any], *, by_content: bool) -> bool:
    """Tell whether the files of a result are there with their sizes, and where asked their content."""
    paths = {name: output / name for name in files}
    if not all(path.is_file() and path.stat().st_size == files[name]["bytes"] for name, path in paths.items()):
        return False
    return not by_content or all(file_sha256(path) == files[name]["sha256"] for name, path in paths.items())


def _reuse_identity(job: Job, identity: Any) -> None:
    """Take the scan's hashes from an earlier run when its files have not changed since."""
    signature = file_signature(job.scan)
    if isinstance(identity, dict) and identity.get("signature") == signature:
        job.workspace.record("identity", stage_key("identity", signature)).store(identity)
