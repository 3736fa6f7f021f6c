"""A folder of pieces, one file for each chunk that is done, written by many processes at once.

The folder is named after the key of its stage, so that one who comes late with a piece of other settings does no harm.
Files do not say which of them count: a journal does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .atomic import atomic_path, remove, remove_shared
from .journal import Journal

__all__ = ["new_piece", "piece_path", "take_up_pieces"]

_KEY_LENGTH = 16
"""Digits of a key in the name of a folder."""


def piece_path(folder: Path, start: int, stop: int, suffix: str) -> Path:
    """Name the file of slices `start` to `stop`, the latter not included."""
    return folder / f"{start:08d}-{stop:08d}{suffix}"


@contextmanager
def new_piece(path: Path) -> Iterator[BinaryIO]:
    """Write a piece, whole or not at all, whoever else writes the same one."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def take_up_pieces(folder: Path, journal: Journal, suffix: str) -> Path:
    """Make the folder of a stage agree with its journal.

    Parameters
    ----------
    folder : Path
        Of all pieces of one kind, whatever their key; made if it is not there. Those of other keys are removed, and
        so are those that the journal does not speak of.
    journal : Journal
        What is not there is taken out of it.
    suffix : str
        Of the files.

    Returns
    -------
    Path
        The folder of the journal's key, absolute.
    """
    keyed = folder.absolute() / journal.key[:_KEY_LENGTH]
    keyed.mkdir(parents=True, exist_ok=True)
    pieces = {piece_path(keyed, record["start"], record["stop"], suffix): record for record in journal.pieces()}
    for path in set(keyed.iterdir()) - pieces.keys():
        remove(path)
    for other in folder.absolute().iterdir():
        if other != keyed:
            remove_shared(other)
    journal.keep([record for path, record in pieces.items() if _is_there(path)])
    return keyed


def _is_there(path: Path) -> bool:
    """Look for a file by opening it: what a network disk lists may be older than what others wrote."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return False
    return True
