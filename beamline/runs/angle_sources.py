"""Where the angles of a run may come from, the surest first.

Angles that were measured with the frames come before those of the stage, and these before those that were planned:
between what a plan asked for and what a turning stage did lie the run-up, dropped frames and turns that were cut short.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.beamline.hdf5_contents import Hdf5Contents
from quietbeam.reconstruction.errors import ScanError

from .frame_table import FrameTable, frame_table
from .frames import dataset_of
from .ready_files import Need, ReadyFiles
from .reference import planned_frames, tomo_metadata

__all__ = ["PLANNED", "Candidate", "RunAngles"]

PLANNED = "the start document"
_ANGLE = re.compile(r"angle|theta|rotation", re.IGNORECASE)
_NO_ANGLE = re.compile(r"set_?point|velocity|speed|acceleration|offset|time_?stamp", re.IGNORECASE)
_TIME = re.compile(r"time_?stamp", re.IGNORECASE)
# Where areaDetector's HDF5 writer puts the times of the frames.
_TIMES_BESIDE = "/entry/instrument/NDAttributes/NDArrayTimeStamp"
# areaDetector counts seconds from 1990, bluesky from 1970.
_EPICS_EPOCH = 631152000.0

Values = NDArray[np.float64]


class Candidate(NamedTuple):
    """Angles that a run may have.

    Attributes
    ----------
    origin : str
        Where they come from, for people.
    values : float64, shape (frame,)
        In `unit`; nan for frames without one.
    unit : str or None
        As the documents spell it.
    source : Path or None
        The file, if any.
    """

    origin: str
    values: Values
    unit: str | None = None
    source: Path | None = None


@dataclass(frozen=True, eq=False)
class RunAngles:
    """The angles of a run's projections.

    Parameters
    ----------
    reference : dict
        The run.
    streams : sequence of dict
        Its streams of projections.
    table : FrameTable
        Their frames.
    files : ReadyFiles
        Where the files are.
    """

    reference: Mapping[str, Any]
    streams: Sequence[Mapping[str, Any]]
    table: FrameTable
    files: ReadyFiles

    def candidates(self) -> Iterator[Candidate]:
        """Give what there is, the surest first; nothing is read before it is asked for."""
        for key in self._keys_in_order():
            found = self._external(key) if self._is_external(key) else self._column(key)
            if found is not None:
                yield found
        yield from self._monitored()
        planned = self._planned()
        if planned is not None:
            yield planned

    @cached_property
    def _names(self) -> list[str]:
        """Names of the rotation stage."""
        motors = self.reference["start"].get("motors")
        named = [tomo_metadata(self.reference).get("rotation"), *(motors[:1] if isinstance(motors, list) else [])]
        return list(dict.fromkeys(name for name in named if isinstance(name, str) and name))

    def _keys_in_order(self) -> list[str]:
        """Bring the keys of the projections' streams that may be angles in the order in which they are tried."""
        told = tomo_metadata(self.reference).get("angle_key")
        ranks = {key: self._rank(key) for stream in self.streams for key in stream["data_keys"]}
        return sorted(
            (key for key, rank in ranks.items() if rank is not None), key=lambda key: (key != told, ranks[key])
        )

    def _rank(self, key: str) -> int | None:
        """Rank a key: with the frames, a column, another device, the stage's own; None if it holds no angles."""
        name = key + " " + " ".join(dataset or "" for dataset in self._datasets(key))
        is_stage = any(key == stage or key.startswith((f"{stage}-", f"{stage}_")) for stage in self._names)
        if key == tomo_metadata(self.reference).get("angle_key"):
            return 0
        if self._has_pixels(key) or _NO_ANGLE.search(key) or not (_ANGLE.search(name) or is_stage):
            return None
        if not self._is_external(key):
            return 4 if is_stage else 2
        return 1 if self._device(key) == self._detector_device else 3

    def _entry(self, key: str) -> Mapping[str, Any]:
        found = (stream["data_keys"][key] for stream in self.streams if key in stream["data_keys"])
        return next(found, {})

    def _is_external(self, key: str) -> bool:
        return "external" in self._entry(key)

    def _device(self, key: str) -> str:
        return str(self._entry(key).get("object_name") or key.partition("-")[0])

    @cached_property
    def _detector_device(self) -> str:
        return self._device(self.table.resources[0]["data_key"])

    def _has_pixels(self, key: str) -> bool:
        return any(resource["data_key"] == key for resource in self.table.resources)

    def _datasets(self, key: str) -> list[str]:
        """Last parts of the names of the datasets of a key."""
        found = (entry for stream in self.streams for entry in stream["resources"] if entry["data_key"] == key)
        return [str(entry["parameters"].get("dataset", "")).rpartition("/")[2] for entry in found]

    def _unit(self, key: str) -> str | None:
        unit = self._entry(key).get("units")
        return unit if isinstance(unit, str) else None

    def _external(self, key: str) -> Candidate | None:
        """Read a key that was stored in files as the frames were, and match it by `seq_num`."""
        numbers = frame_table(self.streams, [key] * len(self.streams), has_pixels=False)
        if not len(numbers):
            return None
        index = self._match(numbers)
        if index is None:
            return None
        stored = np.full(len(numbers), np.nan)
        source = None
        for number in np.unique(numbers.resource):
            chosen = numbers.resource == number
            source, found = self._numbers(
                numbers.resources[number], numbers.stop(int(number)), numbers.per_index[number]
            )
            inside = chosen & (numbers.stored < len(found))
            stored[inside] = found[numbers.stored[inside]]
        values = np.where(index < 0, np.nan, stored[index])
        dataset = dataset_of(numbers.resources[0])
        return Candidate(f"{key} ({'' if source is None else source.name}:{dataset})", values, self._unit(key), source)

    def _match(self, numbers: FrameTable) -> NDArray[np.intp] | None:
        """Find for each frame the number of the same event and place in it, or -1; None if they do not go together."""
        if set(numbers.per_index) != set(self.table.per_index) or len(set(numbers.per_index)) != 1:
            return None
        places = _pairs(numbers.stream, numbers.seq_num, numbers.sub)
        wanted = _pairs(self.table.stream, self.table.seq_num, self.table.sub)
        found = {place: index for index, place in enumerate(places)}
        return np.array([found.get(place, -1) for place in wanted], np.intp)

    def _numbers(self, resource: Mapping[str, Any], stop: int, per_index: int) -> tuple[Path, Values]:
        """Wait for the numbers of a resource and read them."""
        dataset, path = dataset_of(resource), self.files.local(resource["uri"])
        if dataset is None:
            raise ScanError(f"{resource['uri']}: expected the angles in HDF5, got {resource['mimetype']}")
        self.files.wait([Need(resource["uri"], dataset, stop, per_index, 0)], all_needed=False)
        return path, Hdf5Contents(path, self.files.roots).numbers(dataset)

    def _column(self, key: str) -> Candidate | None:
        """Take a value of the events, where each event is one frame."""
        if set(self.table.per_index) != {1}:
            return None
        values = self._of_events(lambda stream: stream["columns"].get(key, []))
        return None if np.isnan(values).all() else Candidate(f"{key} of the events", values, self._unit(key))

    def _of_events(self, column: Callable[[Mapping[str, Any]], Sequence[float | None]]) -> Values:
        """Match numbers of the events with the frames by `seq_num`."""
        known: dict[tuple[int, ...], float] = {
            (number, seq_num): np.nan if value is None else float(value)
            for number, stream in enumerate(self.streams)
            for seq_num, value in zip(stream["seq_nums"], column(stream), strict=False)
        }
        places = _pairs(self.table.stream, self.table.seq_num)
        return np.array([known.get(place, np.nan) for place in places], np.float64)

    def _monitored(self) -> Iterator[Candidate]:
        """Interpolate a monitored stage at the times of the frames."""
        for stream in self.reference["streams"]:
            keys = [key for key in stream["columns"] if not _NO_ANGLE.search(key) and self._may_be_stage(key)]
            if not stream["name"].endswith("_monitor") or not keys:
                continue
            values = np.array([np.nan if value is None else value for value in stream["columns"][keys[0]]], np.float64)
            times, known = np.array(stream["times"], np.float64), np.isfinite(values)
            found = self._frame_times(times) if known.sum() > 1 else None
            if found is not None:
                frame_times, name = found
                between = np.interp(frame_times, times[known], values[known], left=np.nan, right=np.nan)
                unit = stream["data_keys"].get(keys[0], {}).get("units")
                yield Candidate(f"{keys[0]} as monitored, interpolated at {name}", between, unit)

    def _may_be_stage(self, key: str) -> bool:
        return bool(_ANGLE.search(key)) or any(key.startswith(name) for name in self._names)

    def _frame_times(self, monitor_times: Values) -> tuple[Values, str] | None:
        """Find when each frame was taken, on the monitor's clock; None if only the number of frames is known."""
        for times, name in self._recorded_times():
            for epoch in (0.0, _EPICS_EPOCH):
                inside = (times + epoch >= monitor_times.min()) & (times + epoch <= monitor_times.max())
                if inside.any():
                    return times + epoch, name
        return None

    def _recorded_times(self) -> Iterator[tuple[Values, str]]:
        keys = dict.fromkeys(key for stream in self.streams for key in stream["data_keys"])
        for key in (key for key in keys if _TIME.search(key) and self._is_external(key)):
            found = self._external(key)
            if found is not None:
                yield found.values, key
        beside = self._times_beside()
        if beside is not None:
            yield beside, _TIMES_BESIDE
        if set(self.table.per_index) == {1}:
            times = self._of_events(lambda stream: stream["times"])
            if np.isfinite(times).all():
                yield times, "the times of the events"

    def _times_beside(self) -> Values | None:
        """Read the times that areaDetector writes beside the frames, if all files have them."""
        times = np.full(len(self.table), np.nan)
        for number in np.unique(self.table.resource):
            resource = self.table.resources[number]
            if dataset_of(resource) is None:
                return None
            contents = Hdf5Contents(self.files.local(resource["uri"]), self.files.roots)
            chosen = self.table.resource == number
            stored = self.table.stored[chosen]
            if contents.find(_TIMES_BESIDE) is None:
                return None
            found = contents.numbers(_TIMES_BESIDE)
            if len(found) <= stored.max():
                return None
            times[chosen] = found[stored]
        return times

    def _planned(self) -> Candidate | None:
        """Take equal steps as the plan meant them, its end excluded unless it says otherwise."""
        tomo, plan = tomo_metadata(self.reference), self.reference["start"].get("plan_args")
        if tomo.get("mode") in ("interlaced", "golden") or tomo.get("rotations", 1) != 1 or tomo.get("offsets"):
            return None
        limits = _limits(tomo) or _limits(self.reference["start"]) or _limits(plan if isinstance(plan, Mapping) else {})
        places = self._places()
        number = planned_frames(self.reference) or int(places.max(initial=-1)) + 1
        if limits is None or number < 2:
            return None
        if places.max() >= number:  # numbers that go on from darks or flats tell nothing of the plan
            places = np.arange(len(self.table))
        steps = number - 1 if tomo.get("endpoint") is True else number
        return Candidate(PLANNED, limits[0] + (limits[1] - limits[0]) / steps * places.astype(np.float64))

    def _places(self) -> NDArray[np.intp]:
        """Tell which of the planned projections each frame is: by `seq_num`, so that frames which are lost count."""
        per_event, ordinals = set(self.table.per_index), np.arange(len(self.table))
        if len(per_event) != 1:
            return ordinals
        places = (self.table.seq_num - 1) * per_event.pop() + self.table.sub
        # Streams of different names are numbered anew.
        return places if (places >= 0).all() and (np.diff(places) > 0).all() else ordinals


def _limits(metadata: Mapping[str, Any]) -> tuple[float, float] | None:
    """Read the first and the last angle of the plan."""
    for first, last in (("start", "stop"), ("start_angle", "stop_angle"), ("min_theta", "max_theta")):
        pair = metadata.get(first), metadata.get(last)
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in pair):
            return float(pair[0]), float(pair[1])  # type: ignore[arg-type]
    return None


def _pairs(*columns: NDArray[np.intp]) -> list[tuple[int, ...]]:
    return [tuple(row) for row in np.column_stack(columns).tolist()]
