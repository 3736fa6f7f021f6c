"""A volume on a scratch disk: written and read by parts, never whole in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["VolumeFile"]


class VolumeFile:
    """A float32 array in a ``.npy`` file whose parts are read as arrays.

    Parameters
    ----------
    path : Path
        An existing file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = np.lib.format.open_memmap(path, mode="r")
        self.shape: tuple[int, ...] = header.shape
        self._offset: int = header.offset

    @classmethod
    def create(cls, path: Path, shape: tuple[int, ...]) -> Self:
        """Make a file of zeros that takes disk only where it is written.

        Parameters
        ----------
        path : Path
            Name; a file of that name is replaced.
        shape : tuple of int
            Shape of the array.

        Returns
        -------
        VolumeFile
            Open for reading and writing.
        """
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 4 * int(np.prod(shape)))
        return cls(path)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Read a part. The file is mapped for the time of the copy only, so that no page of it stays in memory."""
        return np.array(np.lib.format.open_memmap(self.path, mode="r")[key])

    def write(self, first: int, part: NDArray[np.float32]) -> None:
        """Write along the first axis and wait until it is on the disk.

        Parameters
        ----------
        first : int
            Index on the first axis.
        part : float32, shape (n, ...)
            Values; the other axes whole.
        """
        if part.shape[1:] != self.shape[1:] or first + len(part) > self.shape[0]:
            raise ValueError(f"a part of shape {part.shape} does not fit at {first} into {self.shape}")
        row = 4 * int(np.prod(self.shape[1:]))
        with self.path.open("r+b") as file:
            file.seek(self._offset + first * row)
            file.write(np.ascontiguousarray(part, dtype="<f4").data)
            file.flush()
            os.fsync(file.fileno())
