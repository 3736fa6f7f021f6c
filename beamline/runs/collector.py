"""Documents of bluesky runs in, run references out: no pixel is touched, and nothing grows with the number of pixels.

Nothing but the standard library and event-model is imported here: this runs inside the RunEngine's process.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from event_model import DocumentRouter

from .reference import FORMAT, frames_per_index

__all__ = ["RunCollector", "RunEvent", "RunsCollector", "plain_json"]

RunEvent = Literal["start", "stream", "stop", "lost"]
"""What a `RunsCollector` tells of a run: it began; the first data of a stream came; it ended; it was given up, because
too many later runs began before it ended."""

_DATA_KEY = ("shape", "dtype", "dtype_numpy", "external", "units", "object_name")
_MAY_BE_ANGLES = re.compile(r"angle|theta|rot", re.IGNORECASE)
_MAX_DEPTH = 16
_MAX_OPEN_RUNS = 64
_HDF5_DATASET = "/entry/data/data"


def plain_json(value: Any, depth: int = 0) -> Any:
    """Make plain JSON of what a start document may hold.

    Parameters
    ----------
    value : object
        Anything.
    depth : int
        How deep in a larger value it lies.

    Returns
    -------
    object
        NumPy's numbers and arrays as numbers and lists, nan and infinity as None, anything unknown as its text.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth >= _MAX_DEPTH:
        return str(type(value))
    if isinstance(value, Mapping):
        return {str(key): plain_json(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_json(entry, depth + 1) for entry in value]
    if callable(getattr(value, "tolist", None)):  # a NumPy number or array
        return plain_json(value.tolist(), depth + 1)
    return str(value)


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
class _Stream:
    """One descriptor, and what came for it."""

    uid: str
    name: str
    time: float
    data_keys: dict[str, dict[str, Any]]
    columns: tuple[str, ...]
    events: dict[int, tuple[float, list[float | None]]] = field(default_factory=dict)
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, list[_Part]] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    def add_part(self, uid: str, resource: Mapping[str, Any], part: _Part) -> None:
        """Enter frames of a resource; earlier ones of the same `seq_num` no longer count."""
        key, stop = resource["data_key"], part.seq_num + part.length
        if part.seq_num < self.last.get(key, 0):
            self._forget(key, part)
        self.resources.setdefault(uid, dict(resource))
        parts = self.parts.setdefault(uid, [])
        if parts and parts[-1].goes_on_in(part):
            parts[-1] = parts[-1].cut(0, parts[-1].length + part.length)
        else:
            parts.append(part)
        self.last[key] = max(self.last.get(key, 0), stop)

    def _forget(self, key: str, part: _Part) -> None:
        for uid, resource in self.resources.items():
            if resource["data_key"] == key:
                self.parts[uid] = [rest for earlier in self.parts[uid] for rest in earlier.without(part)]

    def add_event(self, doc: Mapping[str, Any]) -> None:
        """Take one event; of a monitored device, the time that it gave its value itself."""
        data, time = doc["data"], float(doc["time"])
        if self.name.endswith("_monitor") and self.columns:
            time = _number(doc.get("timestamps", {}).get(self.columns[0])) or time
        self.events[int(doc["seq_num"])] = (time, [_number(data.get(key)) for key in self.columns])

    def as_json(self) -> dict[str, Any]:
        events = sorted(self.events.items())
        columns = {key: [values[k] for _, (_, values) in events] for k, key in enumerate(self.columns)}
        return {
            "uid": self.uid,
            "name": self.name,
            "time": self.time,
            "data_keys": self.data_keys,
            "seq_nums": [seq_num for seq_num, _ in events],
            "times": [time for _, (time, _) in events],
            "columns": {key: column for key, column in columns.items() if any(value is not None for value in column)},
            "resources": [
                {
                    **resource,
                    "ranges": [[part.first, part.first + part.length, part.seq_num] for part in self.parts[uid]],
                    "positions": [part.position for part in self.parts[uid]],
                }
                for uid, resource in self.resources.items()
                if self.parts[uid]
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


class RunCollector(DocumentRouter):
    """Collects the documents of one run; `reference` gives what came so far.

    A second start document begins anew, so that documents may be replayed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._start: dict[str, Any] | None = None
        self._forget()

    def _forget(self) -> None:
        self._stop: dict[str, Any] | None = None
        self._streams: dict[str, _Stream] = {}
        self._resources: dict[str, dict[str, Any]] = {}
        self._datums: dict[str, tuple[str, int]] = {}
        self._points: dict[str, int] = {}
        self._num_frames: dict[str, int] = {}

    def _add(self, stream: _Stream, uid: str, resource: dict[str, Any], indices: range, seq_num: int) -> None:
        """Enter frames, counting them by data key in the order of acquisition."""
        key, number = resource["data_key"], frames_per_index({"data_keys": stream.data_keys}, resource)
        position = self._num_frames.get(key, 0)
        self._num_frames[key] = position + number * len(indices)
        stream.add_part(uid, resource, _Part(indices.start, len(indices), seq_num, position, number))

    @property
    def reference(self) -> dict[str, Any]:
        """The run reference, see `quietbeam.beamline.runs.reference`.

        Raises
        ------
        ValueError
            If no start document came.
        """
        if self._start is None:
            raise ValueError("expected a start document first, got none")
        streams = [stream.as_json() for stream in self._streams.values()]
        return {"format": FORMAT, "start": self._start, "stop": self._stop, "streams": streams}

    def start(self, doc: Any) -> None:
        """Begin a run."""
        self._forget()
        self._start = plain_json(doc)

    def stop(self, doc: Any) -> None:
        """End it."""
        self._stop = plain_json(doc)

    def descriptor(self, doc: Any) -> None:
        """Begin a stream."""
        data_keys = {
            str(key): {name: plain_json(entry[name]) for name in _DATA_KEY if name in entry}
            for key, entry in doc["data_keys"].items()
        }
        columns = tuple(key for key, entry in data_keys.items() if "external" not in entry and self._may_be_angle(key))
        uid, name = str(doc["uid"]), str(doc.get("name", "primary"))
        self._streams[uid] = _Stream(uid, name, float(doc["time"]), data_keys, columns)

    def _may_be_angle(self, key: str) -> bool:
        start = self._start or {}
        tomo, motors = start.get("tomo"), start.get("motors")
        named = [tomo.get("rotation")] if isinstance(tomo, dict) else []
        named += motors if isinstance(motors, list) else []
        return bool(_MAY_BE_ANGLES.search(key)) or any(isinstance(name, str) and key.startswith(name) for name in named)

    def event(self, doc: Any) -> Any:
        """Take one event: its time, its angles, and the frames that it names."""
        stream, seq_num = self._streams[doc["descriptor"]], int(doc["seq_num"])
        stream.add_event(doc)
        for key, entry in stream.data_keys.items():
            datum = self._datums.get(str(doc["data"].get(key))) if "external" in entry else None
            if datum is not None:
                uid, point = datum
                resource = {"data_key": key, **self._resources[uid]}
                self._add(stream, f"{uid}/{key}", resource, range(point, point + 1), seq_num)
        return doc

    def stream_resource(self, doc: Any) -> None:
        """Take the name of a file that frames are streamed to."""
        self._resources[doc["uid"]] = {
            "data_key": str(doc["data_key"]),
            "uri": str(doc["uri"]),
            "mimetype": str(doc["mimetype"]),
            "parameters": plain_json(doc["parameters"]),
        }

    def stream_datum(self, doc: Any) -> None:
        """Take a range of frames that were streamed to a file."""
        indices, seq_nums = doc["indices"], doc["seq_nums"]
        frames = range(int(indices["start"]), int(indices["stop"]))
        # Some writers leave the numbers out; the frames then are events in the order in which they came.
        first = int(seq_nums["start"]) if seq_nums["stop"] > seq_nums["start"] else frames.start + 1
        if frames:
            uid = doc["stream_resource"]
            self._add(self._streams[doc["descriptor"]], uid, self._resources[uid], frames, first)

    def resource(self, doc: Any) -> None:
        """Take the name of a file that events point into, as ophyd writes it."""
        parameters = {str(name): plain_json(value) for name, value in doc.get("resource_kwargs", {}).items()}
        path = "/".join(part for part in (str(doc["root"]).rstrip("/"), str(doc["resource_path"]).lstrip("/")) if part)
        mimetype = _mimetype(str(doc["spec"]), path)
        if mimetype == "application/x-hdf5":
            parameters = {"dataset": parameters.get("key", _HDF5_DATASET)} | parameters
        self._resources[doc["uid"]] = {
            "uri": f"file://localhost{quote('/' + path.lstrip('/'))}",
            "mimetype": mimetype,
            "parameters": parameters | {"spec": str(doc["spec"])},
        }

    def datum(self, doc: Any) -> Any:
        """Take the place of one event's frames in a file."""
        uid, point = doc["resource"], doc["datum_kwargs"].get("point_number")
        number = self._points.get(uid, 0) if point is None else int(point)
        self._points[uid] = number + 1
        self._datums[str(doc["datum_id"])] = (uid, number)
        return doc


def _mimetype(spec: str, path: str) -> str:
    name = f"{spec} {path}".lower()
    if "hdf" in name or name.endswith((".h5", ".nxs")):
        return "application/x-hdf5"
    return "multipart/related;type=image/tiff" if "tif" in name else "application/octet-stream"


class RunsCollector:
    """Collects the documents of runs that may be interleaved, and tells of each run.

    event-model's own `RunRouter` is not used: it fills and repacks every event, and keeps the names of all files for
    as long as the process lives.

    Parameters
    ----------
    tell : callable
        Gets the reference of a run so far, and what happened: a `RunEvent`.
    """

    def __init__(self, tell: Callable[[dict[str, Any], RunEvent], None]) -> None:
        self._tell = tell
        self._runs: dict[str, RunCollector] = {}
        self._run_of: dict[str, str] = {}
        self._silent: set[str] = set()

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document; those of runs that began before are passed over."""
        uid = doc["uid"] if name == "start" else self._find_run(name, doc)
        if name == "start":
            self._begin(uid)
        run = self._runs.get(uid)
        if run is None:
            return
        run(name, dict(doc))
        if name in ("start", "stop"):
            self._tell(run.reference, "start" if name == "start" else "stop")
        elif name in ("event", "event_page", "stream_datum") and doc["descriptor"] in self._silent:
            self._silent.discard(doc["descriptor"])
            self._tell(run.reference, "stream")
        if name == "stop":
            self._end(uid)

    def _begin(self, uid: str) -> None:
        self._end(uid)
        self._runs[uid] = RunCollector()
        if len(self._runs) > _MAX_OPEN_RUNS:
            oldest = next(iter(self._runs))
            lost = self._runs[oldest].reference
            self._end(oldest)
            self._tell(lost, "lost")

    def _find_run(self, name: str, doc: Mapping[str, Any]) -> str:
        """Find the run of a document, and remember it for those that name this one."""
        if name in ("descriptor", "stream_resource", "resource"):
            # Old resources name no run; they are of the one that began last.
            run = str(doc.get("run_start") or next(reversed(self._runs), ""))
            if run in self._runs:
                self._run_of[doc["uid"]] = run
            if name == "descriptor":
                self._silent.add(doc["uid"])
            return run
        if name == "stop":
            return str(doc["run_start"])
        named = doc.get("descriptor") or doc.get("resource")
        return self._run_of.get(str(named), "")

    def _end(self, uid: str) -> None:
        self._runs.pop(uid, None)
        ended = {name for name, run in self._run_of.items() if run == uid}
        self._silent -= ended
        for name in ended:
            del self._run_of[name]
