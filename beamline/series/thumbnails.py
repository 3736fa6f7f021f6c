"""Small pictures of the middle slices of the scans of a series, each in the folder of its scan."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from quietbeam.beamline.atomic import write_atomically
from quietbeam.beamline.pictures import block_mean, data_url, grey_png, grey_window
from quietbeam.beamline.workspace import ARCHIVE, MANIFEST
from quietbeam.compress.archive import open_archive
from quietbeam.reconstruction.errors import ArchiveError

from .scan_row import ScanRow

__all__ = ["THUMBNAIL", "draw_thumbnail", "thumbnails_of"]

THUMBNAIL = "thumbnail.png"
SIDE = 96
"""Longest side of a thumbnail, pixels."""
MOST_VOXELS = 2**22
"""Of a chunk that is decoded for a picture where the preview is too small for one: some seconds."""


def thumbnails_of(output: Path, rows: Iterable[ScanRow]) -> dict[str, str]:
    """Give the thumbnails of the scans that are done, and draw those that are missing or older than the result.

    Parameters
    ----------
    output : Path
        Folder of the series.
    rows : iterable of ScanRow
        Its scans.

    Returns
    -------
    dict of str to str
        Name to ``data:`` address; a scan whose archive cannot be shown is left out.
    """
    shown = {}
    for row in rows:
        if row.state == "done" and (png := _thumbnail(output / row.name)):
            shown[row.name] = data_url(png)
    return shown


def _thumbnail(folder: Path) -> bytes | None:
    path = folder / THUMBNAIL
    try:
        if not path.exists() or path.stat().st_mtime_ns < (folder / MANIFEST).stat().st_mtime_ns:
            write_atomically(path, draw_thumbnail(folder / ARCHIVE))
        return path.read_bytes()
    except (ArchiveError, OSError):
        return None


def draw_thumbnail(archive: Path) -> bytes:
    """Draw the middle slice of an archive: from its preview, or decoded where that is smaller and it takes seconds.

    Parameters
    ----------
    archive : Path
        The file.

    Returns
    -------
    bytes
        PNG, at most 96 pixels a side. Black and white are chosen as in the report: the slice's values without the
        outermost half percent at either end.

    Raises
    ------
    ArchiveError
        If the archive is damaged.
    """
    with open_archive(archive, cache_bytes=0) as opened:
        num_slices, *sides = opened.shape
        factor = opened.preview_factor
        if factor is None or (max(sides) < SIDE * factor and math.prod(opened.chunks) <= MOST_VOXELS):
            middle = opened[num_slices // 2]
        else:
            preview = opened.preview()
            middle = preview[len(preview) // 2]
    small, _ = block_mean(middle, SIDE)
    return grey_png(small, grey_window(middle))
