"""What lies in the output folder before a reduction begins: the same result, another one, or the scan itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quietbeam.reconstruction.errors import ArchiveError, QuietbeamError, ReductionError

from .atomic import file_sha256
from .job import Job
from .journal import stage_key
from .manifest import FILES, OPTIONAL_FILES, read_manifest, what_is_missing
from .scan import Scan, file_signature
from .settings import ReductionSettings
from .workspace import ARCHIVE, MANIFEST, METRICS, PIECES, PREVIEW, SCRATCH_FILES, Workspace

__all__ = ["is_done", "keep_apart", "missing_decoder", "nothing_left_of_a_refusal"]

_BEFORE_ANY_STAGE = {"identity.json", "times.jsonl"}
"""What is put into the scratch folder to tell whether the result is there."""


def keep_apart(scan: Scan, workspace: Workspace) -> None:
    """Refuse to put anything in the place of raw data, or among the frames of a folder.

    Parameters
    ----------
    scan : Scan
        The measurement.
    workspace : Workspace
        Where results and scratch files are to go; neither needs to be there.

    Raises
    ------
    ReductionError
        With the setting to change.
    """
    raw, output, scratch = (path.resolve() for path in (scan.path, workspace.output, workspace.scratch))
    files = {output / name for name in (*FILES, *OPTIONAL_FILES, MANIFEST, METRICS, PREVIEW)}
    files |= {scratch / name for name in SCRATCH_FILES}
    folders = {scratch / name for name in PIECES}
    sources = {source.resolve() for source in scan.sources}
    among_frames = raw.is_dir() and any(place == raw or raw in place.parents for place in (output, scratch))
    if among_frames or any(source in files or folders & set(source.parents) for source in sources):
        raise ReductionError(
            f"{workspace.output}: the scan {scan.path} lies there itself; choose another -o, or another compute.scratch"
        )


@contextmanager
def nothing_left_of_a_refusal(workspace: Workspace) -> Iterator[None]:
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


def is_done(job: Job, overwrite: bool) -> bool:
    """Tell whether the result is there; refuse to replace another one unasked.

    Parameters
    ----------
    job : Job
        The reduction.
    overwrite : bool
        Replace another result, and look at the content of the files, not only at their sizes.

    Returns
    -------
    bool
        True if nothing is left to do.

    Raises
    ------
    ReductionError
        If there is another result, or a manifest that cannot be read, and it is not to be replaced.
    """
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
        intact = _is_intact(path.parent, manifest["files"], by_content=overwrite)
        return intact and not missing_decoder(path.parent, job.settings)
    if not overwrite:
        raise ReductionError(
            f"{path.parent}: holds the results of another scan or of other settings; "
            "choose another -o, or say --overwrite"
        )
    return False


def missing_decoder(output: Path, settings: ReductionSettings) -> str:
    """Tell what the archive of a result lacks to be decoded, where its decoder is in another file.

    Parameters
    ----------
    output : Path
        Folder of the result, whose files are there.
    settings : ReductionSettings
        With the folder of shared decoders, if one is named.

    Returns
    -------
    str
        Empty if the archive holds its decoder, or that is found and whole.
    """
    if settings.archive.embed:
        return ""
    from quietbeam.compress.archive import open_archive

    folders = [settings.archive.decoders] if settings.archive.decoders else []
    try:
        with open_archive(output / ARCHIVE, cache_bytes=0, decoders=folders) as archive:
            if archive.shares_decoder:
                archive.read_part("codec")
    except (QuietbeamError, OSError) as error:
        return str(error)
    return ""


def _is_intact(output: Path, files: dict[str, Any], *, by_content: bool) -> bool:
    """Tell whether the files of a result are there with their sizes, and where asked their content."""
    if what_is_missing(output, files):
        return False
    return not by_content or all(file_sha256(output / name) == entry["sha256"] for name, entry in files.items())


def _reuse_identity(job: Job, identity: Any) -> None:
    """Take the scan's hashes from an earlier run when its files have not changed since."""
    signature = file_signature(job.scan)
    if isinstance(identity, dict) and identity.get("signature") == signature:
        job.workspace.record("identity", stage_key("identity", signature)).store(identity)
