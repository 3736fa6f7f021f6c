"""A volume on a scratch disk: written and read by pieces, never whole in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ReductionError

from .journal import Record
from .piece_folder import new_piece, piece_path

__all__ = ["VolumePieces", "write_slices"]

SUFFIX = ".npy"


def write_slices(folder: Path, chunk: slice, part: NDArray[np.float32]) -> None:
    """Write some slices of a volume, and wait until they are on the disk.

    Parameters
    ----------
    folder : Path
        Of the volume's pieces.
    chunk : slice
        Which slices.
    part : float32, shape (slice, ...)
        Their values.

    Raises
    ------
    ValueError
        If there are more values or fewer than slices.
    """
    if len(part) != chunk.stop - chunk.start:
        raise ValueError(f"expected {chunk.stop - chunk.start} slices from {chunk.start} on, got {len(part)}")
    with new_piece(piece_path(folder, chunk.start, chunk.stop, SUFFIX)) as file:
        np.save(file, np.ascontiguousarray(part, dtype="<f4"))


@dataclass(frozen=True)
class VolumePieces:
    """A float32 array in a folder of ``.npy`` files; its parts are read as arrays, and nothing stays in memory.

    Attributes
    ----------
    folder : Path
        Where the pieces are, from `write_slices`.
    shape : tuple of int
        Of the whole; pieces are cut along the first axis.
    edges : tuple of int
        Where the pieces begin, and the end of the last one.
    """

    folder: Path
    shape: tuple[int, ...]
    edges: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path, shape: tuple[int, ...], records: Iterable[Record]) -> Self:
        """Join pieces by the journal's records of them, which hold each slice once and are in order."""
        edges = (0, *(record["stop"] for record in records))
        if edges[-1] != shape[0]:
            raise ValueError(f"{folder}: expected pieces of {shape[0]} slices, got {edges[-1]}")
        return cls(folder, shape, edges)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Read a part: a number or a slice of the first axis, and any index of the others, as of an array."""
        first, *others = key if isinstance(key, tuple) else (key,)
        if not isinstance(first, slice):
            index = range(self.shape[0])[first]
            return np.asarray(next(self._read(range(index, index + 1), others))[0])
        wanted = range(self.shape[0])[first]
        if wanted.step < 0:
            raise ValueError(f"slices are read in ascending order, got {first}")
        return self._joined(list(self._read(wanted, others)), others)

    def save(self, path: Path) -> None:
        """Write the whole as one ``.npy`` file."""
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": self.shape})
            for start, stop in pairwise(self.edges):
                file.write(self[start:stop].data)

    def _read(self, wanted: range, others: list[Any]) -> Iterator[NDArray[np.float32]]:
        """Read slices from one piece after the other, mapping each for the time of the copy only."""
        while wanted:
            number = bisect_right(self.edges, wanted.start) - 1
            start, stop = self.edges[number : number + 2]
            count = len(range(wanted.start, min(stop, wanted.stop), wanted.step))
            inside, wanted = wanted[:count], wanted[count:]
            local = slice(inside.start - start, inside[-1] + 1 - start, wanted.step)
            yield np.array(self._map(start, stop)[local, *others])

    def _joined(self, parts: list[NDArray[np.float32]], others: list[Any]) -> NDArray[np.float32]:
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.array(self._map(*self.edges[:2])[:0, *others])

    def _map(self, start: int, stop: int) -> NDArray[np.float32]:
        path = piece_path(self.folder, start, stop, SUFFIX)
        shape = (stop - start, *self.shape[1:])
        try:
            piece = np.lib.format.open_memmap(path, mode="r")
        except ValueError as error:
            raise ReductionError(f"{path}: {error}: remove {self.folder} and run the command again") from error
        if piece.shape != shape or piece.dtype != np.float32:
            raise ReductionError(
                f"{path}: expected float32 of shape {shape}, got {piece.dtype} of {piece.shape}: remove {self.folder} "
                "and run the command again"
            )
        return piece
