"""All scans that a command names: paths, runs, and a search in a catalogue, each scan once and under one name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from quietbeam.beamline.recording import ScanSettings
from quietbeam.beamline.runs.loading import load_runs
from quietbeam.beamline.runs.reference import has_projections, run_uid
from quietbeam.reconstruction.errors import QueueError, ScanError

from .find_scans import Findings, find_scans, merge
from .found_runs import GetRun, find_runs, parse_query, search_runs
from .ledger import read_index

__all__ = ["find_series"]


def find_series(
    paths: Sequence[str],
    uids: Sequence[str] = (),
    tiled: str | None = None,
    query: Sequence[str] = (),
    *,
    settings: ScanSettings,
    output: Path,
) -> Findings:
    """Find the scans of a series; those that its index knows keep their names.

    Parameters
    ----------
    paths : sequence of str
        See `quietbeam.beamline.series.find_scans.find_scans`.
    uids : sequence of str
        Of runs, in the catalogue, or in this user's queue where none is given.
    tiled : str, optional
        Catalogue, see `quietbeam.beamline.watching.tiled_runs.connected`.
    query : sequence of str
        ``KEY=VALUE``, all of which hold for the runs that are wanted; none searches nothing.
    settings : ScanSettings
        What the user knows of the scans.
    output : Path
        Folder of the series.

    Returns
    -------
    Findings
        Each scan once.

    Raises
    ------
    QuietbeamError
        If a list, a folder, the queue or the catalogue cannot be read.
    ValueError
        If a condition is not of its form.
    """
    conditions = parse_query(query)
    taken = {row.source: row.name for row in read_index(output).values()}
    findings = _runs_apart(find_scans(paths, settings, output=output, taken=taken), settings, output, taken)
    if uids or conditions:
        taken |= {one.source: one.name for each in findings for one in each.scans}
        with _runs(tiled) as (client, get):
            if uids:
                findings.append(find_runs(uids, get, output=output, taken=taken))
                taken |= {one.source: one.name for one in findings[-1].scans}
            if conditions:
                found = search_runs(client, conditions)
                findings.append(find_runs(found, get, output=output, taken=taken, asked=False))
    return merge(findings)


def _runs_apart(found: Findings, settings: ScanSettings, output: Path, taken: dict[str, str]) -> list[Findings]:
    """Take the runs of a file of documents as scans of their own, where it holds several and none was chosen."""
    files: dict[Path, dict[str, dict[str, Any]]] = {}
    for one in found.scans:
        runs = _runs_of(one.path) if one.path.suffix.lower() == ".jsonl" and settings.entry is None else {}
        if sum(map(has_projections, runs.values())) > 1:
            files[one.path] = runs
    findings = [Findings(tuple(one for one in found.scans if one.path not in files), found.left_out)]
    for runs in files.values():
        names = taken | {one.source: one.name for each in findings for one in each.scans}
        wanted = [uid for uid, reference in runs.items() if has_projections(reference)]
        findings.append(find_runs(wanted, partial(_of_file, runs), output=output, taken=names))
    return findings


def _runs_of(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return {run_uid(reference): reference for reference in load_runs(path)}
    except ScanError:
        return {}  # it is told when the scan is opened


def _of_file(runs: dict[str, dict[str, Any]], uid: str) -> dict[str, Any]:
    if uid not in runs:
        raise ScanError(f"the file of documents holds no run {uid}")
    return runs[uid]


@contextmanager
def _runs(tiled: str | None) -> Iterator[tuple[Any, GetRun]]:
    """Give the catalogue, and what gives a run of it by its uid; without a catalogue, what asks the queue."""
    if tiled is None:
        yield None, _of_queue()
        return
    from quietbeam.beamline.watching.tiled_runs import connected, reference_of_run

    with connected(tiled) as client:
        yield client, partial(reference_of_run, client)


def _of_queue() -> GetRun:
    from quietbeam.beamline.jobs.places import default_queue
    from quietbeam.beamline.jobs.submission import open_queue

    opened = open_queue(default_queue())
    if opened.is_spool or not opened.path.exists():
        raise QueueError(f"{opened.path}: no queue is here that knows runs; name a catalogue with --tiled URI")

    def get(uid: str) -> dict[str, Any]:
        known = opened.queue().find_run(uid)
        if known is None:
            raise ScanError(f"{opened.path}: the queue knows no run {uid}; name a catalogue with --tiled URI")
        return known

    return get
