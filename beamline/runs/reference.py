"""The run reference: what of a bluesky run's documents a reduction needs, as plain JSON of a few kilobytes.

::

    {"format": "quietbeam-run-1",
     "start": {...},                  the start document
     "stop": {...} or null,           null: the run was cut off, or is still going
     "streams": [{
        "uid", "name", "time",        of the descriptor
        "data_keys": {key: {"shape", "dtype", "dtype_numpy", "external", "units", "object_name"}},
        "seq_nums": [...], "times": [...],      of its events
        "columns": {key: [number or null, ...]},   of keys that may be angles, beside `seq_nums`
        "resources": [{"data_key", "uri", "mimetype", "parameters",
                       "ranges": [[first index, stop index, first seq_num], ...],
                       "positions": [...]}]}],     of the first frame of each range, in frames of the acquisition
     "dark_flat": {...}}              optional: the reference of the run with the darks and flats

Each index is one event's worth of frames, and each `seq_num` stands once: where a run was paused and went back to a
checkpoint, the last frame of a `seq_num` is the one that counts. ``data_keys[*].source`` is left out: bluesky caches
it, so that it may name the file of an earlier stream.

Nothing but the standard library is imported here: this runs inside the RunEngine's process.

References
----------
.. [1] The documents of bluesky, https://blueskyproject.io/event-model/main/user/explanations/data-model.html
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "FORMAT",
    "ROLES",
    "Role",
    "check_reference",
    "choose_detector",
    "counted_frames",
    "detector_keys",
    "frame_streams",
    "frames_key",
    "frames_per_index",
    "has_projections",
    "image_keys",
    "needed_dark_flat_uid",
    "planned_frames",
    "run_uid",
    "tomo_metadata",
    "with_dark_flat",
    "write_reference",
]

FORMAT = "quietbeam-run-1"
Role = Literal["projections", "flats", "darks"]
# Names of streams that hold each kind of frames, the likeliest first.
_ALIASES: dict[Role, tuple[str, ...]] = {
    "projections": ("primary", "tomo", "projections", "proj"),
    "flats": ("flat", "flats", "white", "bkg"),
    "darks": ("dark", "darks"),
}
ROLES: tuple[Role, ...] = tuple(_ALIASES)
# What tomo.streams may call a kind of frames.
_WORDS: dict[Role, tuple[str, ...]] = {
    "projections": ("projections", "projection", "proj", "primary"),
    "flats": ("flats", "flat"),
    "darks": ("darks", "dark"),
}
_STREAM_LISTS = ("seq_nums", "times", "resources")


def run_uid(reference: Mapping[str, Any]) -> str:
    """Uid of the run."""
    return str(reference["start"]["uid"])


def tomo_metadata(reference: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give ``start["tomo"]``; empty if the plan left none."""
    tomo = reference["start"].get("tomo")
    return tomo if isinstance(tomo, Mapping) else {}


def check_reference(value: object) -> dict[str, Any]:
    """Check that JSON from a file is a run reference.

    Parameters
    ----------
    value : object
        As `json.loads` gives it.

    Returns
    -------
    dict
        The same.

    Raises
    ------
    ValueError
        If it is not; the message tells the first thing that is wrong.
    """
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        got = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"expected a run reference of format {FORMAT!r}, got {got!r}")
    start, stop, streams = value.get("start"), value.get("stop"), value.get("streams")
    if not isinstance(start, dict) or not isinstance(start.get("uid"), str):
        raise ValueError("start: expected the start document with its uid")
    if not isinstance(stop, dict | None):
        raise ValueError(f"stop: expected the stop document or null, got {type(stop).__name__}")
    if not isinstance(streams, list):
        raise ValueError(f"streams: expected a list, got {type(streams).__name__}")
    for number, stream in enumerate(streams):
        _check_stream(stream, f"streams[{number}]")
    if value.get("dark_flat") is not None:
        check_reference(value["dark_flat"])
    return value


def _check_stream(stream: object, where: str) -> None:
    if not isinstance(stream, dict) or not isinstance(stream.get("name"), str):
        raise ValueError(f"{where}: expected a stream with its name")
    for name in _STREAM_LISTS:
        if not isinstance(stream.get(name), list):
            raise ValueError(f"{where}.{name}: expected a list, got {type(stream.get(name)).__name__}")
    columns, data_keys = stream.get("columns"), stream.get("data_keys")
    if not isinstance(columns, dict) or not all(_is_column(column) for column in columns.values()):
        raise ValueError(f"{where}.columns: expected lists of numbers and null by name")
    if not isinstance(data_keys, dict) or not all(isinstance(entry, dict) for entry in data_keys.values()):
        raise ValueError(f"{where}.data_keys: expected descriptions by name")
    lengths = {len(column) for column in [*columns.values(), stream["times"], stream["seq_nums"]]}
    if len(lengths) > 1 or not all(map(_is_number, [*stream["times"], *stream["seq_nums"]])):
        raise ValueError(f"{where}: expected one seq_num, time and value of each column for each event, as numbers")
    for number, resource in enumerate(stream["resources"]):
        _check_resource(resource, f"{where}.resources[{number}]")


def _check_resource(resource: object, where: str) -> None:
    texts = ("data_key", "uri", "mimetype")
    if not isinstance(resource, dict) or not all(isinstance(resource.get(name), str) for name in texts):
        raise ValueError(f"{where}: expected {', '.join(texts)} as text")
    if not isinstance(resource.get("parameters"), dict):
        raise ValueError(f"{where}.parameters: expected an object")
    ranges = resource.get("ranges")
    if not isinstance(ranges, list) or not all(_is_range(entry) for entry in ranges):
        raise ValueError(f"{where}.ranges: expected lists of [first index, stop index, first seq_num]")
    positions = resource.get("positions")
    if positions is not None and (
        not isinstance(positions, list) or [type(entry) for entry in positions] != [int] * len(ranges)
    ):
        raise ValueError(f"{where}.positions: expected one whole number for each range")


def _is_range(entry: object) -> bool:
    whole = isinstance(entry, list) and len(entry) == 3 and all(type(number) is int for number in entry)
    return whole and 0 <= entry[0] < entry[1] < 2**40 and 0 <= entry[2] < 2**40  # type: ignore[index]


def _is_column(column: object) -> bool:
    return isinstance(column, list) and all(value is None or _is_number(value) for value in column)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def frame_streams(reference: Mapping[str, Any], role: Role) -> list[dict[str, Any]]:
    """List the streams that hold one kind of frames.

    Parameters
    ----------
    reference : dict
        The run.
    role : {'projections', 'flats', 'darks'}
        The kind.

    Returns
    -------
    list of dict
        Those that ``start["tomo"]["streams"]`` names, or else those of the first usual name that is there: several if
        a device's configuration changed meanwhile. Only streams with frames count, so none of a monitor.
    """
    streams = [stream for stream in reference["streams"] if _image_resources(stream)]
    told = _told_streams(reference)
    if role in told:
        return [stream for name in told[role] for stream in streams if stream["name"] == name]
    taken = {name for names in told.values() for name in names}
    for alias in _ALIASES[role]:
        found = [stream for stream in streams if stream["name"].lower() == alias and stream["name"] not in taken]
        if found:
            return found
    return []


def _told_streams(reference: Mapping[str, Any]) -> dict[Role, list[str]]:
    """Read the plan's own word on which stream is what."""
    words = tomo_metadata(reference).get("streams")
    if not isinstance(words, Mapping):
        return {}
    told: dict[Role, list[str]] = {}
    for role in ROLES:
        names = next((words[word] for word in _WORDS[role] if word in words), None)
        names = [names] if isinstance(names, str) else names
        if isinstance(names, Sequence) and all(isinstance(name, str) for name in names) and names:
            told[role] = list(names)
    return told


def _image_resources(stream: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [resource for resource in stream["resources"] if _is_image(stream, resource["data_key"])]


def _is_image(stream: Mapping[str, Any], key: str) -> bool:
    """Tell whether a key holds frames: external data of at least two pixel dimensions."""
    shape = _shape(stream, key)
    return len(shape) >= 3 or (len(shape) == 2 and min(shape) > 1)


def _shape(stream: Mapping[str, Any], key: str) -> tuple[int, ...]:
    shape = stream["data_keys"].get(key, {}).get("shape")
    if not isinstance(shape, Sequence) or not all(type(size) is int for size in shape):
        return ()
    return tuple(shape)


def image_keys(stream: Mapping[str, Any]) -> list[str]:
    """List the data keys of a stream that hold frames."""
    return list(dict.fromkeys(resource["data_key"] for resource in _image_resources(stream)))


def detector_keys(reference: Mapping[str, Any]) -> list[str]:
    """List the data keys that hold projections, in the order in which they are met."""
    streams = frame_streams(reference, "projections")
    return list(dict.fromkeys(key for stream in streams for key in image_keys(stream)))


def choose_detector(reference: Mapping[str, Any], wanted: str | None = None) -> str:
    """Choose the data key with the frames.

    Parameters
    ----------
    reference : dict
        The run.
    wanted : str, optional
        Name of a data key, or of the device it belongs to; that of ``start["tomo"]["detector"]`` if not given.

    Returns
    -------
    str
        The key of that name, or the only one that begins with it, or the only one there is.

    Raises
    ------
    ValueError
        If there is none, or more than one.
    """
    keys = detector_keys(reference)
    told = wanted or tomo_metadata(reference).get("detector")
    if not keys:
        names = ", ".join(stream["name"] for stream in reference["streams"]) or "none"
        raise ValueError(f"no stream of projections has frames; its streams are {names}")
    if isinstance(told, str) and told:
        found = [key for key in keys if key == told] or [key for key in keys if key.startswith(told)]
        # A plan's word on a device that takes no frames of its own is no reason to refuse the only detector there is.
        keys = found if found or wanted else keys
    if len(keys) == 1:
        return keys[0]
    found_keys = ", ".join(detector_keys(reference))
    raise ValueError(f"expected one detector with projections{f' named {told!r}' if told else ''}, got {found_keys}")


def frames_per_index(stream: Mapping[str, Any], resource: Mapping[str, Any]) -> int:
    """Count the frames of one index of a resource: what areaDetector was told to take per point, or the key's shape."""
    for name in ("multiplier", "frame_per_point"):
        number = resource["parameters"].get(name)
        if type(number) is int and number > 0:
            return number
    return max(1, math.prod(_shape(stream, resource["data_key"])[:-2]))


def counted_frames(reference: Mapping[str, Any], detector: str | None = None) -> dict[Role, int]:
    """Count the frames of each kind that the documents tell of, a repeated `seq_num` once.

    Parameters
    ----------
    reference : dict
        The run.
    detector : str, optional
        Data key with the frames; if not given, that of `choose_detector`, or the first where it cannot choose.

    Returns
    -------
    dict
        Numbers of frames.
    """
    key = detector or _likeliest_detector(reference)
    return {role: sum(map(len, _indices(reference, role, key))) for role in ROLES}


def _likeliest_detector(reference: Mapping[str, Any]) -> str:
    try:
        return choose_detector(reference)
    except ValueError:
        # A run of darks and flats alone has no projections.
        keys = detector_keys(reference) or [key for stream in reference["streams"] for key in image_keys(stream)]
        told = tomo_metadata(reference).get("detector")
        named = [key for key in keys if isinstance(told, str) and told and key.startswith(told)]
        return next(iter(named or keys), "")


def _indices(reference: Mapping[str, Any], role: Role, detector: str) -> Iterator[range]:
    for stream in frame_streams(reference, role):
        key = frames_key(stream, detector)
        for resource in (entry for entry in stream["resources"] if entry["data_key"] == key):
            number = frames_per_index(stream, resource)
            yield from (range(first * number, stop * number) for first, stop, _ in resource["ranges"])


def frames_key(stream: Mapping[str, Any], detector: str) -> str:
    """Choose the data key with the frames of a stream: the detector, or the only one that the stream has."""
    keys = image_keys(stream)
    return keys[0] if detector not in keys and len(keys) == 1 else detector


def has_projections(reference: Mapping[str, Any]) -> bool:
    """Tell whether the run has taken projections."""
    return counted_frames(reference)["projections"] > 0


def planned_frames(reference: Mapping[str, Any]) -> int | None:
    """Read from the start document how many projections were to be taken; None if it does not tell."""
    tomo, start = tomo_metadata(reference), reference["start"]
    told = (tomo.get("num_projections"), start.get("num_projections"), tomo.get("num"), start.get("num_points"))
    return next((int(number) for number in told if _is_count(number)), None)  # type: ignore[arg-type]


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**40 and value == int(value)


def needed_dark_flat_uid(reference: Mapping[str, Any]) -> str | None:
    """Name the other run that holds the darks and flats of this one.

    Returns
    -------
    str or None
        ``start["tomo"]["dark_flat_uid"]``, or ``start["current_dark_flat_scan_uid"]`` as some beamlines keep it in
        their metadata; None if the run has both kinds of frames itself, or names no other run.
    """
    counts = counted_frames(reference)
    if counts["flats"] and counts["darks"]:
        return None
    named = (tomo_metadata(reference).get("dark_flat_uid"), reference["start"].get("current_dark_flat_scan_uid"))
    uid = next((uid for uid in named if isinstance(uid, str) and uid), None)
    return None if uid == run_uid(reference) else uid


def with_dark_flat(reference: Mapping[str, Any], dark_flat: Mapping[str, Any]) -> dict[str, Any]:
    """Put the reference of the run with the darks and flats into that of the projections."""
    return {**reference, "dark_flat": {key: value for key, value in dark_flat.items() if key != "dark_flat"}}


def write_reference(reference: Mapping[str, Any], path: Path) -> None:
    """Write a reference as JSON, whole or not at all.

    The same reference gives the same bytes, and a file that holds them is left as it is: a reduction that is begun
    again knows by it that the scan has not changed.

    Parameters
    ----------
    reference : dict
        The run.
    path : Path
        The file, by habit ``run.json``.
    """
    text = json.dumps(reference, sort_keys=True, indent=1, allow_nan=False) + "\n"
    if path.is_file() and path.read_bytes() == text.encode():
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
