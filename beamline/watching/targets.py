"""What a person names to be submitted: a file, a run's documents, or a run by its uid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quietbeam.beamline.runs.loading import is_run_file, load_runs
from quietbeam.beamline.runs.reference import counted_frames, has_projections, run_uid
from quietbeam.reconstruction.errors import ScanError

from .intake import Choice, Done, Intake
from .plausible import check_plausible

__all__ = ["submit_target", "take_found"]

Reference = dict[str, Any]
ASKED = Choice("job", "asked for")
LATEST = "-1"


def submit_target(
    intake: Intake, target: str, tiled: Any = None, *, elsewhere: bool = False
) -> Iterator[tuple[str, Done]]:
    """Submit what a person named.

    Parameters
    ----------
    intake : Intake
        Where it goes.
    target : str
        Path of a scan, ``run.json``, ``.jsonl`` of documents; or the uid of a run that the queue or the catalogue
        knows, at least its first six characters; or ``-1``, the run that ended last, of the catalogue if there
        is one. A run that is still open is taken by its uid, as it is.
    tiled : tiled client, optional
        Container of runs.
    elsewhere : bool
        The target is the path of a scan on the worker's machine, which is not looked at here.

    Yields
    ------
    tuple of (str, Done)
        Name, and what was done.

    Raises
    ------
    ScanError
        If there is no such file or run, the file can be no scan, or the run has no projections.
    """
    path = Path(target)
    if elsewhere:
        if not path.is_absolute():
            raise ScanError(f"{target}: expected the whole path on the worker's machine, from the root")
        yield target, intake.take_file(path)
        return
    if path.exists():
        if not is_run_file(path):
            check_plausible(path)
            yield target, intake.take_file(path)
            return
        references = load_runs(path)
    elif "/" in target or path.suffix:
        raise ScanError(f"{target}: no such file; if it lies on the worker's machine, say --elsewhere")
    else:
        references = [_find(intake, target, tiled)]
    for reference in references:
        yield f"run {run_uid(reference)}", _take(intake, reference)


def take_found(intake: Intake, path: Path) -> Iterator[tuple[str, Done]]:
    """Take a file that was found: a scan, or the documents of runs.

    Parameters
    ----------
    intake : Intake
        Where it goes.
    path : Path
        From `quietbeam.beamline.watching.folder.FolderWatcher`.

    Yields
    ------
    tuple of (str, Done)
        Name, and what was done.

    Raises
    ------
    ScanError
        If its name says that it holds documents, and it does not.
    """
    if is_run_file(path):
        for reference in load_runs(path):
            yield f"run {run_uid(reference)}", intake.take_run(reference)
    else:
        yield str(path), intake.take_file(path)


def _take(intake: Intake, reference: Reference) -> Done:
    if not has_projections(reference):
        counts = ", ".join(f"{number} {role}" for role, number in counted_frames(reference).items())
        raise ScanError(f"run {run_uid(reference)}: no projections to reduce; it has {counts}")
    return intake.take_run(reference, lambda _: ASKED)


def _find(intake: Intake, which: str, tiled: Any) -> Reference:
    known = None if intake.queue.is_spool else intake.queue.queue().find_run(which)
    if tiled is None or (known and known["stop"] and which != LATEST):
        if known is None:
            raise ScanError(f"{_unknown(intake, which)}; --tiled URI asks a catalogue")
        return known
    from .tiled_runs import latest_uid, reference_of_run

    return reference_of_run(tiled, latest_uid(tiled) if which == LATEST else which)


def _unknown(intake: Intake, which: str) -> str:
    if intake.queue.is_spool:
        return f"{which}: no file, and {intake.queue.path} is a spool, which knows no runs"
    if which == LATEST:
        return f"{intake.queue.path}: the queue knows no run yet that ended"
    return f"{which}: neither a file nor a run that {intake.queue.path} knows"
