"""Work on chunks of slices: cut here, done here or elsewhere, in any order.

A stage that goes through the slices is a task, which does one chunk, and a journal of the chunks that are done. What is
made of a chunk goes into a file of its own in the scratch folder, so that any process that sees the folder can do any
chunk, and doing one twice leaves the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from .journal import Record, note
from .workspace import Workspace

__all__ = ["Elsewhere", "Here", "PieceTask", "Pieces", "PiecesWanted", "Record", "cut", "gaps", "note_piece"]


class PieceTask(Protocol):
    """Plain values (paths, settings, numbers) in a frozen dataclass, which can be sent to another process."""

    def __call__(self, chunk: slice, /) -> Record:
        """Do a chunk: write its pieces, each whole or not at all; tell what was found, and the ``seconds`` taken."""


class PiecesWanted(Exception):  # noqa: N818 - nothing is wrong, and no reduction may take it for a failure
    """There are chunks to be done elsewhere before the reduction can go on.

    Parameters
    ----------
    stage : str
        Of the chunks.
    task : PieceTask
        Does one.
    chunks : list of slice
        Those to be done, in order.
    """

    def __init__(self, stage: str, task: PieceTask, chunks: list[slice]) -> None:
        super().__init__(f"{stage}: {len(chunks)} chunks to be done elsewhere")
        self.stage, self.task, self.chunks = stage, task, chunks


class Pieces(Protocol):
    """Where the chunks are done."""

    def run(self, stage: str, task: PieceTask, chunks: Sequence[slice]) -> Iterator[tuple[slice, Record]]:
        """Do chunks, and tell of each as it is done."""


class Here:
    """One after the other, in this process."""

    def run(self, stage: str, task: PieceTask, chunks: Sequence[slice]) -> Iterator[tuple[slice, Record]]:
        """Do each chunk when it is asked for."""
        return ((chunk, task(chunk)) for chunk in chunks)


class Elsewhere:
    """Not in this process: what is to be done is given to the caller."""

    def run(self, stage: str, task: PieceTask, chunks: Sequence[slice]) -> Iterator[tuple[slice, Record]]:
        """Raise `PiecesWanted` if there is anything to do."""
        if chunks:
            raise PiecesWanted(stage, task, list(chunks))
        return iter(())


def gaps(done: Iterable[range], total: int) -> list[range]:
    """Find what is left of a number of slices.

    Parameters
    ----------
    done : iterable of range
        Disjoint.
    total : int
        Slices in all.

    Returns
    -------
    list of range
        In order, none empty; with those that are done they hold each slice once.
    """
    edges = [0]
    for part in sorted(done, key=lambda part: part.start):
        edges += [part.start, part.stop]
    edges.append(total)
    return [range(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]


def cut(parts: Iterable[range], size: int) -> list[slice]:
    """Cut parts into chunks of at most `size` slices, each counted from where its part begins."""
    return [slice(start, min(start + size, part.stop)) for part in parts for start in part[::size]]


def note_piece(output: Path, stage: str, chunk: slice, record: Record, *, scratch: Path | None = None) -> None:
    """Note what another process found, as `Here` would have done.

    A piece that is noted twice counts once.

    Parameters
    ----------
    output : Path
        Output folder of the scan, locked by the caller.
    stage : str
        As in `PiecesWanted`.
    chunk : slice
        What was done.
    record : dict
        What the task gave; its ``seconds`` count to the time of the stage.
    scratch : Path, optional
        ``compute.scratch`` of the scan's settings.
    """
    note(Workspace(output, scratch).journal_path(stage), {"start": chunk.start, "stop": chunk.stop} | record)
