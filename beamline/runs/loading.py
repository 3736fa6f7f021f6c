"""Run references out of files: as JSON, or put together from documents in JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quietbeam.reconstruction.errors import ScanError

from .collector import RunCollector
from .reference import check_reference, has_projections, needed_dark_flat_uid, run_uid, with_dark_flat

__all__ = ["RUN_SUFFIXES", "is_run_file", "load_run", "load_runs"]

RUN_SUFFIXES = (".json", ".jsonl")
_MAX_BYTES = 2**30


def is_run_file(path: Path) -> bool:
    """Tell by its name whether a file should hold a run reference or documents."""
    return path.suffix.lower() in RUN_SUFFIXES and path.is_file()


def load_run(path: Path, uid: str | None = None) -> dict[str, Any]:
    """Load a run.

    Parameters
    ----------
    path : Path
        A run reference (``.json``), or documents (``.jsonl``): a line each, ``{"name": ..., "doc": {...}}`` or
        ``[name, doc]``, of one run or of several.
    uid : str, optional
        Which of several runs, by the beginning of its uid.

    Returns
    -------
    dict
        The reference; with that of the darks and flats, if the same file holds the documents of that run.

    Raises
    ------
    ScanError
        If the file cannot be read, or holds no run, or more than one with projections.
    """
    text = _read(path)
    try:
        return _load_reference(path, text) if path.suffix.lower() == ".json" else _choose(path, text, uid)
    except RecursionError:
        raise ScanError(f"{path}: its JSON is nested too deeply to be a run; write it again") from None


def load_runs(path: Path) -> list[dict[str, Any]]:
    """Load all runs of a file.

    Parameters
    ----------
    path : Path
        As for `load_run`.

    Returns
    -------
    list of dict
        Their references, in the order of their start documents.

    Raises
    ------
    ScanError
        If the file cannot be read, or holds something else.
    """
    text = _read(path)
    try:
        return [_load_reference(path, text)] if path.suffix.lower() == ".json" else _references(path, text)
    except RecursionError:
        raise ScanError(f"{path}: its JSON is nested too deeply to be a run; write it again") from None


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ScanError(f"{path} has {path.stat().st_size} bytes, too many for the documents of a run")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScanError(f"{path} cannot be read ({error.strerror}); give a run reference or documents") from error
    except UnicodeDecodeError as error:
        raise ScanError(f"{path} is not text ({error.reason} at byte {error.start}); expected JSON") from error


def _load_reference(path: Path, text: str) -> dict[str, Any]:
    try:
        return check_reference(json.loads(text))
    except json.JSONDecodeError as error:
        raise ScanError(f"{path}, line {error.lineno}: {error.msg}; expected a run reference as JSON") from error
    except ValueError as error:
        raise ScanError(f"{path}: {error}; for documents of a run, give JSON lines (.jsonl)") from error


def _choose(path: Path, text: str, uid: str | None) -> dict[str, Any]:
    """Take the run with projections, and that with its darks and flats if it is there."""
    runs = {run_uid(reference): reference for reference in _references(path, text)}
    if not runs:
        raise ScanError(f"{path} holds no start document; expected the documents of a run, one a line")
    wanted = [run for run in runs.values() if has_projections(run)] or list(runs.values())
    wanted = wanted if uid is None else [run for run in runs.values() if run_uid(run).startswith(uid)]
    if len(wanted) != 1:
        found = ", ".join(runs)
        raise ScanError(f"{path} holds the runs {found}; choose one with --set scan.entry=UID (its beginning will do)")
    dark_flat = runs.get(needed_dark_flat_uid(wanted[0]) or "")
    return wanted[0] if dark_flat is None else with_dark_flat(wanted[0], dark_flat)


def _references(path: Path, text: str) -> list[dict[str, Any]]:
    """Collect the documents, which may be of interleaved runs; a last line that was cut off is left out."""
    collectors: dict[str, RunCollector] = {}
    owners: dict[str, str] = {}
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            for name, document in _parse(line):
                _hand_on(collectors, owners, name, document)
        except json.JSONDecodeError as error:
            if number < len(lines) or text.endswith("\n"):
                raise ScanError(
                    f"{path}, line {number}: no JSON ({error.msg}); expected one document a line"
                ) from error
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
            raise ScanError(f"{path}, line {number}: this is no document of a run ({reason})") from error
    try:
        return [check_reference(collector.reference) for collector in collectors.values()]
    except ValueError as error:
        raise ScanError(f"{path} holds documents that cannot be of one run: {error}") from error


def _parse(line: str) -> Iterator[tuple[str, dict[str, Any]]]:
    record = line.lstrip("\x1e").strip()  # RFC 7464 begins each record with this character
    if record:
        item = json.loads(record)
        name, document = (item["name"], item["doc"]) if isinstance(item, dict) else item
        if not isinstance(name, str) or name.startswith("_") or not isinstance(document, dict):
            raise ValueError('expected {"name": ..., "doc": {...}} or [name, {...}]')
        yield name, document


_NAMES = (
    *("start", "stop", "descriptor", "event", "event_page", "bulk_events"),
    *("resource", "datum", "datum_page", "bulk_datum", "stream_resource", "stream_datum"),
)


def _hand_on(collectors: dict[str, RunCollector], owners: dict[str, str], name: str, document: dict[str, Any]) -> None:
    """Give a document to the collector of its run."""
    if name not in _NAMES:
        raise ValueError(f"{name!r} is none of {', '.join(_NAMES)}")
    if name == "start":
        collectors[document["uid"]] = RunCollector()
        run = document["uid"]
    else:
        named = [document.get(key) for key in ("run_start", "descriptor", "resource", "stream_resource")]
        run = next((owners[uid] for uid in named if uid in owners), next(reversed(collectors), None))
    if run is None:
        raise ValueError(f"the first document is a {name}, expected the start document of a run")
    if "uid" in document:
        owners[document["uid"]] = run
    collectors[run](name, document)
