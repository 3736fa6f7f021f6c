"""Refusing to begin what the disks cannot hold."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from quietbeam.reconstruction.errors import SpaceError

__all__ = ["DiskNeed", "blocks_below", "refuse_full_disks"]

GIB = 2**30
BLOCK = 512
"""Bytes of what the file system counts in."""


class DiskNeed(NamedTuple):
    """What will lie in a folder.

    Attributes
    ----------
    folder : Path
        It, or a folder above it, is there.
    num_bytes : int
        At most.
    held : int
        Of these, what lies there already.
    """

    folder: Path
    num_bytes: int
    held: int = 0


def refuse_full_disks(what: str, needs: Sequence[DiskNeed], advice: str) -> None:
    """Compare what folders need with what is free on their disks; folders on one disk count together.

    Parameters
    ----------
    what : str
        For the message: what is about to begin.
    needs : sequence of DiskNeed
        The folders.
    advice : str
        For the message: what to do.

    Raises
    ------
    SpaceError
        Naming the first folder of the disk, with needed and free.
    """
    disks: dict[int, list[DiskNeed]] = {}
    for need in needs:
        disks.setdefault(_existing(need.folder).stat().st_dev, []).append(need)
    for together in disks.values():
        needed, first = sum(need.num_bytes for need in together), together[0].folder
        free = shutil.disk_usage(_existing(first)).free + sum(need.held for need in together)
        if needed > free:
            raise SpaceError(
                f"{first}: {what} needs {needed / GIB:.2f} GiB of disk, {free / GIB:.2f} GiB are free: {advice}"
            )


def blocks_below(folder: Path) -> int:
    """Count the bytes on the disk of all files below a folder; what goes meanwhile does not count."""
    return sum(_blocks(Path(parent, name)) for parent, _, names in os.walk(folder) for name in names)


def _blocks(path: Path) -> int:
    try:
        return path.lstat().st_blocks * BLOCK
    except OSError:
        return 0


def _existing(folder: Path) -> Path:
    """Give the folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
