"""The folder of a job's results: named after the run, and the job's alone for ever."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import string
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from quietbeam.reconstruction.errors import ReductionError

from .profiles import DEFAULT, profile_stem
from .request import Submission, json_text

__all__ = ["OWNER", "claim_output", "output_name"]

OWNER = "job.json"
"""What was submitted, in the output folder: it tells whose folder that is."""
UNKNOWN = "unknown"
LONGEST_PART = 80
_DIGITS = 8
_UNSAFE = re.compile(r"[^\w.+@-]+")


def output_name(submission: Submission, template: str) -> PurePosixPath:
    """Name the folder of a job below the output folder.

    Parameters
    ----------
    submission : Submission
        The job.
    template : str
        For runs: names of the start document's metadata in braces, and ``uid8``. What the run does not tell becomes
        ``unknown``. A scan on disk is named after its file and a hash of its folder.

    Returns
    -------
    PurePosixPath
        Relative; whatever the metadata are, it has as many parts as the template, and none is ``..``.
    """
    if submission.run is None:
        scan = Path(submission.scan or submission.key)
        name = PurePosixPath(f"{_safe(scan.stem)}_{_digits(str(scan.parent))}")
    else:
        start = submission.run["start"]
        fields = {**start, "uid8": str(start["uid"])[:_DIGITS]}
        name = PurePosixPath(*(_fill(part, fields) for part in PurePosixPath(template).parts))
    if submission.profile == DEFAULT:
        return name
    return name.with_name(f"{name.name}_{_safe(profile_stem(submission.profile))}")


def claim_output(root: Path, submission: Submission, template: str) -> Path:
    """Give a job its folder: the one it has, or a new one that no other job has.

    Parameters
    ----------
    root : Path
        Folder below which all jobs' folders lie.
    submission : Submission
        The job; its key tells whether a folder is its own.
    template : str
        See `output_name`.

    Returns
    -------
    Path
        Folder with ``job.json`` in it, on this machine or on a shared disk alike: two workers never get the same one
        for two jobs.

    Raises
    ------
    ReductionError
        If all names that the job can have are taken.
    OSError
        If the folder cannot be made.
    """
    names = list(_candidates(output_name(submission, template), submission))
    for name in names:
        if _owner(root / name) == submission.key:
            return root / name
    for name in names:
        if _take(root / name, submission):
            return root / name
    raise ReductionError(
        f"{root / names[0]}: holds other files, and so do {', '.join(map(str, names[1:]))}: remove one"
    )


def _candidates(name: PurePosixPath, submission: Submission) -> Iterator[PurePosixPath]:
    yield name
    uid8 = str(submission.run["start"]["uid"])[:_DIGITS] if submission.run else ""
    if uid8 and uid8 not in name.name:
        yield name.with_name(f"{name.name}_{_safe(uid8)}")
    yield name.with_name(f"{name.name}_{_digits(submission.key)}")


def _owner(folder: Path) -> str | None:
    try:
        content = json.loads((folder / OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("key") if isinstance(content, dict) else None


def _take(folder: Path, submission: Submission) -> bool:
    """Make a folder the job's own, if it is nobody's; a file that appears whole decides between two workers."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        return False
    if any(not path.name.startswith(f".{OWNER}.") for path in folder.iterdir()):
        return _owner(folder) == submission.key  # another worker may have taken it for this job just now
    mine = f".{OWNER}.{uuid.uuid4().hex}"
    (folder / mine).write_text(json_text(_description(submission)) + "\n", encoding="utf-8")
    try:
        with contextlib.suppress(FileExistsError):
            os.link(folder / mine, folder / OWNER)
    finally:
        (folder / mine).unlink()
    return _owner(folder) == submission.key


def _description(submission: Submission) -> dict[str, Any]:
    """Tell what was submitted; the run's documents are in ``run.json``."""
    return {name: value for name, value in submission.to_dict().items() if name != "run"}


def _fill(part: str, fields: Mapping[str, Any]) -> str:
    """Put metadata into one part of the template, each value made safe on its own."""
    pieces = []
    for text, field, form, _ in string.Formatter().parse(part):
        pieces.append(text)
        if field is not None:
            pieces.append(_safe(_formatted(fields.get(field), form or "")))
    return _safe("".join(pieces))


def _formatted(value: Any, form: str) -> str:
    """Write a value as the template asks, or plainly where it is of another kind."""
    if value is None or isinstance(value, dict | list):
        return UNKNOWN
    with contextlib.suppress(ValueError, TypeError):
        return format(value, form)
    return str(value)


def _safe(text: str) -> str:
    """Make a text one part of a path: no separator, no control character, not hidden, of bounded length in bytes."""
    cleaned = _UNSAFE.sub("_", text).strip("_").lstrip(".")
    return cleaned.encode()[:LONGEST_PART].decode(errors="ignore") or UNKNOWN


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_DIGITS]
