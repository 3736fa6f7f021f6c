"""Documents of bluesky runs in, run references out: no pixel is touched, and nothing grows with the number of pixels.

Nothing but the standard library and event-model is imported here: this runs inside the RunEngine's process.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import quote

from event_model import DocumentRouter

from .collected_stream import CollectedStream
from .reference import FORMAT

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
        self._streams: dict[str, CollectedStream] = {}
        self._resources: dict[str, dict[str, Any]] = {}
        self._datums: dict[str, tuple[str, int]] = {}
        self._points: dict[str, int] = {}
        self._num_frames: dict[str, int] = {}
        self._next_seq_num: dict[tuple[str, str], int] = {}

    def _add(self, stream: CollectedStream, uid: str, resource: dict[str, Any], indices: range, seq_num: int) -> None:
        """Enter frames, counting them by data key in the order of acquisition."""
        key, position = resource["data_key"], self._num_frames.get(resource["data_key"], 0)
        self._num_frames[key] = position + stream.frames_per_index(resource) * len(indices)
        self._next_seq_num[stream.name, key] = seq_num + len(indices)
        stream.add_frames(uid, resource, indices, seq_num, position)

    @property
    def uid(self) -> str:
        """Uid of the run.

        Raises
        ------
        ValueError
            If no start document came.
        """
        return str(self._started()["uid"])

    def _started(self) -> dict[str, Any]:
        if self._start is None:
            raise ValueError("expected a start document first, got none")
        return self._start

    def snapshot(self) -> RunCollector:
        """Copy what came so far, for another thread to make the reference of; takes microseconds."""
        copy = RunCollector()
        copy._start, copy._stop = self._start, self._stop
        copy._streams = {uid: stream.copy() for uid, stream in self._streams.items()}
        return copy

    @property
    def reference(self) -> dict[str, Any]:
        """The run reference, see `quietbeam.beamline.runs.reference`; made anew each time.

        Without any data in files there are no frames whose angles the events could tell: they are left out.

        Raises
        ------
        ValueError
            If no start document came.
        """
        start, with_events = self._started(), any(stream.is_external for stream in self._streams.values())
        streams = [stream.as_json(with_events=with_events) for stream in self._streams.values()]
        return {"format": FORMAT, "start": start, "stop": self._stop, "streams": streams}

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
        self._streams[uid] = CollectedStream(uid, name, float(doc["time"]), data_keys, columns)

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
        stream, uid = self._streams[doc["descriptor"]], doc["stream_resource"]
        resource = self._resources[uid]
        # Some writers leave the numbers out; the frames then are events in the order in which they came.
        following = self._next_seq_num.get((stream.name, resource["data_key"]), 1)
        first = int(seq_nums["start"]) if seq_nums["stop"] > seq_nums["start"] else following
        if frames:
            self._add(stream, uid, resource, frames, first)

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
        Gets a run so far, which no longer changes, and what happened: a `RunEvent`. To make the reference of a long
        run takes a while: better in another thread than in that which the documents come in.
    """

    def __init__(self, tell: Callable[[RunCollector, RunEvent], None]) -> None:
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
        if name == "start":
            self._tell(run.snapshot(), "start")
        elif name in ("event", "event_page", "stream_datum") and doc["descriptor"] in self._silent:
            self._silent.discard(doc["descriptor"])
            self._tell(run.snapshot(), "stream")
        elif name == "stop":
            self._end(uid)
            self._tell(run, "stop")

    def _begin(self, uid: str) -> None:
        self._end(uid)
        self._runs[uid] = RunCollector()
        if len(self._runs) > _MAX_OPEN_RUNS:
            oldest, lost = next(iter(self._runs.items()))
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
