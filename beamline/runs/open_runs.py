"""Runs that were cut off: what came after the last document is counted in the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .frame_table import values_per_index
from .frames import dataset_of
from .ready_files import Need, ReadyFiles
from .reference import frames_per_index, planned_frames

__all__ = ["count_in_files"]


def count_in_files(reference: Mapping[str, Any], files: ReadyFiles) -> dict[str, Any]:
    """Lengthen the last range of each file that was being streamed to when the documents ended.

    Parameters
    ----------
    reference : dict
        A run without a stop document.
    files : ReadyFiles
        Where the files are.

    Returns
    -------
    dict
        The reference with what the files hold, but no more than was planned.
    """
    streams = list(reference["streams"])
    # A file that several streams share goes on in the last of them.
    owner = {resource["uri"]: number for number, stream in enumerate(streams) for resource in stream["resources"]}
    limit = planned_frames(reference)
    return {**reference, "streams": [_lengthen(stream, k, owner, files, limit) for k, stream in enumerate(streams)]}


def _lengthen(
    stream: dict[str, Any], number: int, owner: Mapping[str, int], files: ReadyFiles, limit: int | None
) -> dict[str, Any]:
    resources = list(stream["resources"])
    # Frames go to the last file of each key.
    last = {resource["data_key"]: k for k, resource in enumerate(resources)}
    for key, k in last.items():
        external = stream["data_keys"].get(key, {}).get("external", "")
        if str(external).startswith("STREAM") and owner[resources[k]["uri"]] == number:
            resources[k] = _lengthen_resource(stream, resources[k], files, limit)
    return {**stream, "resources": resources}


def _lengthen_resource(
    stream: Mapping[str, Any], resource: dict[str, Any], files: ReadyFiles, limit: int | None
) -> dict[str, Any]:
    shape = stream["data_keys"].get(resource["data_key"], {}).get("shape", [])
    has_pixels = len(shape) > 1
    per_index = frames_per_index(stream, resource) if has_pixels else values_per_index(stream, resource)
    dataset = dataset_of(resource)
    if dataset is None or not resource["ranges"]:
        return resource
    *earlier, (first, stop, seq_num) = resource["ranges"]
    length = files.count(Need(resource["uri"], dataset, stop, per_index, 2 if has_pixels else 0))
    most = length if limit is None else min(length, first + max(0, limit // per_index - seq_num + 1))
    return {**resource, "ranges": [*earlier, [first, max(stop, most), seq_num]]}
