"""Where the files that a run's documents name lie on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from quietbeam.reconstruction.errors import ScanError

__all__ = ["local_file"]


def local_file(uri: str, path_map: Sequence[tuple[str, str]] = ()) -> Path:
    """Find the path that a uri stands for here.

    Parameters
    ----------
    uri : str
        ``file://localhost/a%20folder/file.h5``, ``file:///...``, or a plain path.
    path_map : sequence of (str, str)
        Beginnings of paths as the documents write them, whole folders, and what each is here; the longest that fits
        counts. A beginning may be that of the whole uri, host included.

    Returns
    -------
    Path
        Of a file that need not exist.

    Raises
    ------
    ScanError
        If the uri is not that of a file.
    """
    scheme, colon, rest = uri.partition("://")
    if colon and scheme.lower() != "file":
        raise ScanError(f"{uri} is not a file; only files (file://...) can be read: copy the data to a disk first")
    raw = "/" + rest.partition("/")[2] if colon else uri.removeprefix("file:")
    # Some writers leave characters such as % as they are; what exists tells.
    candidates = [_mapped(uri, path, path_map) for path in dict.fromkeys((unquote(raw), raw))]
    return next((path for path in candidates if path.exists()), candidates[0])


def _mapped(uri: str, path: str, path_map: Sequence[tuple[str, str]]) -> Path:
    for before, here in sorted(path_map, key=lambda entry: len(entry[0]), reverse=True):
        prefix = before.rstrip("/")
        for text in (path, path.removeprefix("/"), unquote(uri)):
            if text == prefix or text.startswith(f"{prefix}/"):
                return Path(here + text[len(prefix) :])
    return Path(path)
