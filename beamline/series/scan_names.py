"""Names of scans: one folder each below the output folder of a series, the same whenever the scan is met again."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["RESERVED", "common_folder", "fold", "name_scans", "safe_name"]

RESERVED = frozenset(
    {"decoders", "work", "index.html", "index.json", "index.csv", "index.js", "series.json", "cluster.log"}
)
"""Names of files and folders that a series has for itself, or may have; hidden ones are no scan's in any case."""
MOST_BYTES = 120
"""Of a name, so that what is put before or behind it by others still makes a name of at most 255 bytes."""
DIGITS = 8
"""Of the hash that tells scans apart whose names would be the same."""
_NO_SUFFIX = re.compile(r"\.(h5|hdf5?|nxs?|nexus|tiff?|jsonl?)$", re.IGNORECASE)


def name_scans(stems: Mapping[str, str], taken: Mapping[str, str]) -> dict[str, str]:
    """Give each scan a name that no other one has.

    Parameters
    ----------
    stems : mapping
        Source (what a scan is known by) to the name that it should have.
    taken : mapping
        Source to name of scans that were named before, which keep them.

    Returns
    -------
    dict
        Source to name, for all of `stems`. Where several would have the same name, or one that is taken, each gets some
        digits of the hash of its source behind it: which they are does not depend on the order. The case of letters
        makes no difference.
    """
    known = {source: taken[source] for source in stems if source in taken}
    new = {source: safe_name(stem) for source, stem in stems.items() if source not in taken}
    folded = Counter(map(fold, new.values()))
    used = {fold(name) for name in taken.values()} | RESERVED
    for source in sorted(new):
        name = new[source]
        if folded[fold(name)] > 1 or fold(name) in used:
            name = _with_hash(name, source, used)
        used.add(fold(name))
        known[source] = name
    return {source: known[source] for source in stems}


def _with_hash(name: str, source: str, used: set[str]) -> str:
    digits = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
    longer = (f"{name}-{digits[:number]}" for number in range(DIGITS, len(digits) + 1))
    return next(one for one in longer if fold(one) not in used)


def safe_name(text: str) -> str:
    """Make a name that every disk takes: letters, digits, ``-``, ``_`` and ``.``, no dot or dash at the front.

    Parameters
    ----------
    text : str
        Path of a scan below the folder in which it was looked for, or anything.

    Returns
    -------
    str
        Never empty; folders are told apart by ``_``.
    """
    plain = unicodedata.normalize("NFC", _NO_SUFFIX.sub("", text))
    name = re.sub(r"[^\w.-]+", "_", plain).strip("._-")
    while len(name.encode()) > MOST_BYTES:
        name = name[:-1]
    return name.rstrip("._-") or "scan"


def common_folder(paths: Sequence[Path]) -> Path:
    """Give the folder that all files or folders lie in."""
    return Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()


def fold(name: str) -> str:
    """Give the form in which two names are compared: on some disks the case of letters makes no difference."""
    return name.casefold()
