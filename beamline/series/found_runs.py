"""Scans that are runs of bluesky: by their uid, or by a search in a Tiled catalogue."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quietbeam.beamline.runs.reference import (
    counted_frames,
    has_projections,
    needed_dark_flat_uid,
    run_uid,
    with_dark_flat,
    write_reference,
)
from quietbeam.reconstruction.errors import QuietbeamError, ReductionError, ScanError

from .find_scans import Findings, FoundScan
from .folder_search import LeftOut
from .scan_names import name_scans

__all__ = ["RUN_FILE", "find_runs", "parse_query", "put_run", "search_runs", "stored_run"]

RUN_FILE = "run.json"
"""The run's reference in the output folder of its scan."""
_SHORT_UID = 8
Reference = Mapping[str, Any]
GetRun = Callable[[str], dict[str, Any]]
"""Gives the reference of a run by its uid."""


def find_runs(
    uids: Iterable[str], get: GetRun, *, output: Path, taken: Mapping[str, str] | None = None, asked: bool = True
) -> Findings:
    """Find runs by their uids, each with its darks and flats.

    Parameters
    ----------
    uids : iterable of str
        Or the beginnings of uids, as far as `get` takes those.
    get : callable
        Such as ``partial(reference_of_run, client)`` of `quietbeam.beamline.watching.tiled_runs`.
    output : Path
        Folder of the series.
    taken : mapping, optional
        Source to name, of scans that were named before.
    asked : bool
        Whether a person named these very runs. Then a run that has not ended is taken as it is, and one that cannot be
        reduced is told of; of those that a search gave, such are left out.

    Returns
    -------
    Findings
        Each run once.
    """
    left_out, runs, problems = [], {}, {}
    for uid in dict.fromkeys(uids):
        try:
            reference = get(uid)
            why = _why_no_scan(reference, is_search=not asked)
            if why and not asked:
                left_out.append(LeftOut(Path(f"run {run_uid(reference)}"), why))
                continue
            runs[f"run {run_uid(reference)}"] = _complete(reference, get)
            if why:
                problems[f"run {run_uid(reference)}"] = why
        except QuietbeamError as error:
            problems[f"run {uid}"] = str(error)
    names = name_scans({source: _stem(source, runs.get(source)) for source in {**runs, **problems}}, taken or {})
    found = [
        FoundScan(name, output / name / RUN_FILE, source, runs.get(source), problems.get(source, ""))
        for source, name in names.items()
    ]
    return Findings(tuple(sorted(found, key=lambda one: one.name)), tuple(left_out))


def _why_no_scan(reference: Reference, *, is_search: bool) -> str:
    start = reference["start"]
    if not has_projections(reference):
        counts = ", ".join(f"{number} {role}" for role, number in counted_frames(reference).items())
        return f"no projections to reduce; it has {counts}"
    if is_search and (start.get("purpose") == "analysis" or "raw_uid" in start):
        return "a result, no measurement"
    if is_search and reference["stop"] is None:
        return "has not ended; --runs takes it as it is"
    return ""


def _complete(reference: dict[str, Any], get: GetRun) -> dict[str, Any]:
    """Put the run with the darks and flats into the reference, where there is one and it can be had.

    Where it cannot, the reduction says which run is missing, unless the settings name darks and flats.
    """
    uid = needed_dark_flat_uid(reference)
    if uid is None or reference.get("dark_flat"):
        return reference
    try:
        return with_dark_flat(reference, get(uid))
    except ScanError:
        return reference


def _stem(source: str, reference: Reference | None) -> str:
    uid = source.removeprefix("run ")[:_SHORT_UID]
    number = reference["start"].get("scan_id") if reference else None
    return f"run-{uid}" if number is None else f"scan-{number}-{uid}"


def put_run(found: FoundScan) -> None:
    """Write the reference of a run into the folder of its scan, whole or not at all; a scan that is no run has none."""
    if found.run is None:
        return
    try:
        found.path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ReductionError(f"{found.path.parent}: a file is in the way of this scan's folder; move it") from None
    write_reference(found.run, found.path)


def stored_run(found: FoundScan) -> bool:
    """Tell whether the reference that was found is that in the folder of the scan, as it is for a scan that is none."""
    if found.run is None:
        return True
    try:
        return bool(json.loads(found.path.read_text(encoding="utf-8")) == json.loads(json.dumps(found.run)))
    except (OSError, ValueError):
        return False


def search_runs(client: Any, query: Sequence[tuple[str, object]]) -> list[str]:
    """Search a Tiled catalogue for runs.

    Parameters
    ----------
    client : tiled client
        Container of runs.
    query : sequence of (str, object)
        From `parse_query`; all must hold.

    Returns
    -------
    list of str
        Uids, in the catalogue's order.

    Raises
    ------
    QuietbeamError
        If the catalogue does not answer.
    """
    from quietbeam.beamline.watching.tiled_runs import matching_uids

    return matching_uids(client, query)


def parse_query(texts: Iterable[str]) -> list[tuple[str, object]]:
    """Read conditions ``KEY=VALUE`` on the metadata of runs.

    Parameters
    ----------
    texts : iterable of str
        `KEY` is one of the start document, or begins with ``start.`` or ``stop.``; `VALUE` a number, true or false, or
        text; a number that is meant as text stands in quotes.

    Returns
    -------
    list of (str, object)
        Key as the catalogue has it, and value.

    Raises
    ------
    ValueError
        If one is not of that form.
    """
    return list(_conditions(texts))


def _conditions(texts: Iterable[str]) -> Iterator[tuple[str, object]]:
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals and value):
            raise ValueError(f"expected --query KEY=VALUE, for example plan_name=tomo_fly_scan, got {text!r}")
        yield (key if key.startswith(("start.", "stop.")) else f"start.{key}"), _value(value)


def _value(text: str) -> object:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float | bool) else text
