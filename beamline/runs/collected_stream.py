"""One stream of a run while its documents come in: events in a few bytes each, ranges of frames, no pixel.

Nothing but the standard library is imported here: this runs inside the RunEngine's process.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from .reference import frames_per_index

__all__ = ["CollectedStream"]


class _Part(NamedTuple):
    """Indices of a resource that follow each other, with their `seq_num` and their place in the acquisition."""

    first: int
    length: int
    seq_num: int
    position: int
    frames_per_index: int

    def cut(self, begin: int, end: int) -> _Part:
        """Take some of the indices, counted from the first."""
        position = self.position + begin * self.frames_per_index
        return self._replace(
            first=self.first + begin, length=end - begin, seq_num=self.seq_num + begin, position=position
        )

    def goes_on_in(self, other: _Part) -> bool:
        """Tell whether another part follows without a gap."""
        return other == self.cut(self.length, self.length + other.length)

    def without(self, other: _Part) -> Iterator[_Part]:
        """Leave out the indices whose `seq_num` the other part has, too."""
        begin = min(self.length, max(0, other.seq_num - self.seq_num))
        end = min(self.length, max(0, other.seq_num + other.length - self.seq_num))
        if begin:
            yield self.cut(0, begin)
        if end < self.length:
            yield self.cut(end, self.length)


@dataclass
class _Events:
    """Numbers of events as they came, a few bytes each; an earlier event of the same `seq_num` does not count."""

    columns: tuple[str, ...]
    seq_nums: array[int] = field(default_factory=lambda: array("q"))
    times: array[float] = field(default_factory=lambda: array("d"))
    # Those of an event lie together; nan for none.
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, seq_num: int, time: float, data: Mapping[str, Any]) -> None:
        values = [_number(data.get(key)) for key in self.columns]
        self.seq_nums.append(seq_num)
        self.times.append(time)
        self.values.extend(math.nan if value is None else value for value in values)

    def copy(self) -> _Events:
        return _Events(self.columns, self.seq_nums[:], self.times[:], self.values[:])

    def as_json(self) -> dict[str, Any]:
        row_of = {seq_num: row for row, seq_num in enumerate(self.seq_nums)}
        seq_nums = sorted(row_of)
        rows = [row_of[seq_num] for seq_num in seq_nums]
        columns = {key: self._column(k, rows) for k, key in enumerate(self.columns)}
        return {
            "seq_nums": seq_nums,
            "times": [self.times[row] for row in rows],
            "columns": {key: column for key, column in columns.items() if any(value is not None for value in column)},
        }

    def _column(self, k: int, rows: list[int]) -> list[float | None]:
        column = self.values[k :: len(self.columns)]
        return [None if math.isnan(column[row]) else column[row] for row in rows]


@dataclass
class CollectedStream:
    """One descriptor, and what came for it.

    Parameters
    ----------
    uid, name : str
        Of the descriptor.
    time : float
        Seconds of the epoch.
    data_keys : dict
        As in the run reference.
    columns : tuple of str
        Data keys that may be angles.
    """

    uid: str
    name: str
    time: float
    data_keys: dict[str, dict[str, Any]]
    columns: tuple[str, ...]
    _resources: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)
    _parts: dict[str, list[_Part]] = field(default_factory=dict, init=False)
    _last: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._events = _Events(self.columns)
        self._keeps_events = bool(self.columns) or self.is_external

    @property
    def is_external(self) -> bool:
        """Whether some of its data, such as frames, are in files."""
        return any("external" in entry for entry in self.data_keys.values())

    def copy(self) -> CollectedStream:
        """Copy what came so far: later documents do not change the copy."""
        made = replace(self)
        made._events, made._resources, made._last = self._events.copy(), dict(self._resources), dict(self._last)
        made._parts = {uid: list(parts) for uid, parts in self._parts.items()}
        return made

    def add_frames(self, uid: str, resource: Mapping[str, Any], indices: range, seq_num: int, position: int) -> None:
        """Enter frames of a resource; earlier ones of the same `seq_num` no longer count.

        Parameters
        ----------
        uid : str
            Of the resource.
        resource : dict
            As in the run reference, without its ranges.
        indices : range
            In the file.
        seq_num, position : int
            Of the first: number of its event, and number of its frame in the acquisition.
        """
        part = _Part(indices.start, len(indices), seq_num, position, self.frames_per_index(resource))
        key, stop = resource["data_key"], part.seq_num + part.length
        if part.seq_num < self._last.get(key, 0):
            self._forget(key, part)
        self._resources.setdefault(uid, dict(resource))
        parts = self._parts.setdefault(uid, [])
        if parts and parts[-1].goes_on_in(part):
            parts[-1] = parts[-1].cut(0, parts[-1].length + part.length)
        else:
            parts.append(part)
        self._last[key] = max(self._last.get(key, 0), stop)

    def frames_per_index(self, resource: Mapping[str, Any]) -> int:
        """Count the frames of one index of a resource."""
        return frames_per_index({"data_keys": self.data_keys}, resource)

    def _forget(self, key: str, part: _Part) -> None:
        for uid, resource in self._resources.items():
            if resource["data_key"] == key:
                self._parts[uid] = [rest for earlier in self._parts[uid] for rest in earlier.without(part)]

    def add_event(self, doc: Mapping[str, Any]) -> None:
        """Take one event, if it can matter; of a monitored device, the time that it gave its value itself."""
        if not self._keeps_events:
            return
        time = float(doc["time"])
        if self.name.endswith("_monitor") and self.columns:
            time = _number(doc.get("timestamps", {}).get(self.columns[0])) or time
        self._events.add(int(doc["seq_num"]), time, doc["data"])

    def as_json(self, *, with_events: bool) -> dict[str, Any]:
        """Give the stream as in the run reference; without its events, those lists are empty."""
        events = self._events if with_events else _Events(())
        return {
            "uid": self.uid,
            "name": self.name,
            "time": self.time,
            "data_keys": self.data_keys,
            **events.as_json(),
            "resources": [
                {
                    **resource,
                    "ranges": [[part.first, part.first + part.length, part.seq_num] for part in self._parts[uid]],
                    "positions": [part.position for part in self._parts[uid]],
                }
                for uid, resource in self._resources.items()
                if self._parts[uid]
            ],
        }


def _number(value: Any) -> float | None:
    if isinstance(value, str | bytes | bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
