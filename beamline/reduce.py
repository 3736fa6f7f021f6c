"""One scan from the instrument's file to the finished output folder."""

from __future__ import annotations

from pathlib import Path

from quietbeam.reconstruction.errors import ReductionError

from .atomic import write_atomically
from .estimate import check_space
from .journal import stage_key
from .manifest import write_manifest
from .pipeline import Reduction, file_signature
from .progress import JobProgress
from .report import render_report
from .results import make_report
from .scan import Scan, open_scan
from .settings import ReductionSettings
from .workspace import MANIFEST, REPORT, Workspace

__all__ = ["describe", "reduce_scan"]


def reduce_scan(
    path: Path, output: Path, settings: ReductionSettings, *, progress: JobProgress, overwrite: bool = False
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
    _keep_apart(path, output)
    workspace = Workspace(output)
    with workspace.locked():
        reduction = Reduction(scan, settings, workspace, progress)
        _reuse_identity(reduction)
        if _is_done(reduction, overwrite):
            workspace.clean()
            return False
        check_space(scan, settings, output)
        reduction.run()
        with workspace.timed("report"), progress.stage("report", 1) as step:
            write_atomically(output / REPORT, render_report(make_report(reduction)).encode())
            step.advance()
        write_manifest(reduction)
        workspace.clean()
    return True


def _keep_apart(path: Path, output: Path) -> None:
    """Refuse to put results among the raw data of a TIFF series, or in the place of the scan."""
    raw, results = path.resolve(), output.resolve()
    if results == raw or (raw.is_dir() and raw in results.parents):
        raise ReductionError(f"{output}: lies in the scan itself, {path}; choose another -o")


def _reuse_identity(reduction: Reduction) -> None:
    """Take the scan's hashes from an earlier run when its files have not changed since."""
    manifest = reduction.workspace.manifest()
    signature = file_signature(reduction.scan)
    if manifest and manifest.get("input", {}).get("signature") == signature:
        reduction.workspace.record("identity", stage_key("identity", signature)).store(manifest["input"]["identity"])


def _is_done(reduction: Reduction, overwrite: bool) -> bool:
    workspace = reduction.workspace
    manifest = workspace.manifest()
    if manifest is None:
        return False
    if manifest.get("key") == reduction.keys.result and all(
        (workspace.output / name).exists() for name in manifest["files"]
    ):
        return True
    if manifest.get("key") != reduction.keys.result and not overwrite:
        workspace.clean()
        raise ReductionError(
            f"{workspace.output}: holds the results of another scan or of other settings; "
            "choose another -o, or say --overwrite"
        )
    (workspace.output / MANIFEST).unlink()
    return False


def describe(scan: Scan) -> str:
    """Say in one line what a scan is."""
    size = f"{scan.num_projections} projections of {scan.num_rows} x {scan.num_columns} pixels"
    return f"{scan.path}: {scan.layout}, {size}, {scan.dtype}"
