"""Which frame of which file each frame of a run is, as the documents tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ScanError

from .reference import frames_per_index

__all__ = ["FrameTable", "frame_table", "values_per_index"]

_MAX_FRAMES = 10_000_000

Whole = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class FrameTable:
    """Frames, or numbers that were stored like them, in the order of acquisition; all arrays have shape (frame,).

    Attributes
    ----------
    resources : tuple of dict
        The files, as in the run reference.
    stream, seq_num, sub : int
        Number of the stream, of the event in it, and of the frame in the event.
    resource, stored : int
        Number of the file, and of the frame in its dataset, all its leading dimensions counted through.
    position : float64 or None
        Number in the acquisition.
    per_index : tuple of int
        Frames of one index, for each file.
    """

    resources: tuple[Mapping[str, Any], ...]
    stream: Whole
    seq_num: Whole
    sub: Whole
    resource: Whole
    stored: Whole
    position: NDArray[np.float64] | None
    per_index: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.stored)

    def select(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> FrameTable:
        """Keep some of the frames."""
        position = None if self.position is None else self.position[chosen]
        return replace(
            self,
            stream=self.stream[chosen],
            seq_num=self.seq_num[chosen],
            sub=self.sub[chosen],
            resource=self.resource[chosen],
            stored=self.stored[chosen],
            position=position,
        )

    def stop(self, number: int) -> int:
        """Count the indices that a file must have."""
        stored = self.stored[self.resource == number]
        return int(stored.max()) // self.per_index[number] + 1 if stored.size else 0


def values_per_index(stream: Mapping[str, Any], resource: Mapping[str, Any]) -> int:
    """Count the numbers that one index of a key without pixels holds."""
    shape = stream["data_keys"].get(resource["data_key"], {}).get("shape")
    whole = isinstance(shape, Sequence) and all(type(size) is int and size > 0 for size in shape)
    return max(1, math.prod(shape)) if whole and shape else 1


def frame_table(streams: Sequence[Mapping[str, Any]], keys: Sequence[str], *, has_pixels: bool = True) -> FrameTable:
    """Bring the frames of some streams in order.

    Parameters
    ----------
    streams : sequence of dict
        Of a run reference.
    keys : sequence of str
        For each stream, the data key to take.
    has_pixels : bool
        False: the key holds numbers instead of frames.

    Returns
    -------
    FrameTable
        Stream by stream, in the order of `seq_num`; where one is repeated, its last frame.
    """
    rows: list[NDArray[np.intp]] = []
    resources: list[Mapping[str, Any]] = []
    per_index: list[int] = []
    has_positions = True
    for number, (stream, key) in enumerate(zip(streams, keys, strict=True)):
        for resource in (entry for entry in stream["resources"] if entry["data_key"] == key):
            count = frames_per_index(stream, resource) if has_pixels else values_per_index(stream, resource)
            _check_number(resource, count)
            rows += [_rows(number, len(resources), count, *part) for part in _parts(resource)]
            resources.append(resource)
            per_index.append(count)
            has_positions &= resource.get("positions") is not None
    columns = np.concatenate(rows) if rows else np.empty((0, 6), np.intp)
    stream_number, seq_num, sub, file_number, stored, position = _last_of_each(columns).T
    places = position.astype(np.float64) if has_positions else None
    return FrameTable(tuple(resources), stream_number, seq_num, sub, file_number, stored, places, tuple(per_index))


def _check_number(resource: Mapping[str, Any], count: int) -> None:
    number = count * sum(stop - first for first, stop, _ in resource["ranges"])
    if number > _MAX_FRAMES:
        raise ScanError(f"{resource['uri']} is said to hold {number} frames, more than {_MAX_FRAMES}; is it meant so?")


def _parts(resource: Mapping[str, Any]) -> list[tuple[int, int, int, int]]:
    """Give first index, stop index, first `seq_num` and position of each range."""
    positions = resource.get("positions") or [0] * len(resource["ranges"])
    return [(*entry, position) for entry, position in zip(resource["ranges"], positions, strict=True)]


def _rows(
    stream: int, resource: int, count: int, first: int, stop: int, seq_num: int, position: int
) -> NDArray[np.intp]:
    """One row of the table for each frame of a range."""
    frame = np.arange((stop - first) * count)
    same = np.ones_like(frame)
    return np.column_stack(
        [
            stream * same,
            seq_num + frame // count,
            frame % count,
            resource * same,
            first * count + frame,
            position + frame,
        ]
    ).astype(np.intp)


def _last_of_each(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Sort by stream, `seq_num` and frame of the event; of equal ones, the last."""
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    is_last = np.ones(len(rows), bool)
    is_last[:-1] = (rows[1:, :3] != rows[:-1, :3]).any(axis=1)
    return rows[is_last]
