"""Runs as files of JSON lines, one document each, as bluesky's own writer makes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from quietbeam.beamline.atomic import write_atomically

from .derived_run import Document

__all__ = ["write_documents"]


def write_documents(folder: Path, documents: Iterable[Document]) -> Path:
    """Write a run into a folder as ``UID.jsonl``, whole or not at all; nothing is written if it is there already.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    documents : iterable of (name, document)
        A whole run, the start document first.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    lines = [json.dumps({"name": name, "doc": document}) for name, document in documents]
    path = folder / f"{json.loads(lines[0])['doc']['uid']}.jsonl"
    content = "".join(f"{line}\n" for line in lines).encode()
    if not path.exists() or path.read_bytes() != content:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    return path
