"""The documents of a run, written anew from what a Tiled catalogue keeps of them.

A catalogue on SQL holds no documents, but what was made of them: the start and stop documents, a node for each stream,
a table of its events, and an array for each external data key with the files it lies in. Where these do not tell which
frames belong to which stream, the run is refused rather than guessed at: bluesky-tiled-plugins 2.0 counts all frames of
a file that several streams share to the first of them, and does not keep how many frames each of several files has. A
catalogue on MongoDB gives the documents as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quietbeam.reconstruction.errors import ScanError

__all__ = ["documents_of_run", "keeps_documents", "without_positions"]

Document = tuple[str, dict[str, Any]]


def documents_of_run(run: Any) -> Iterator[Document]:
    """Give the documents of a run in a catalogue.

    Parameters
    ----------
    run : tiled client
        Of a run.

    Yields
    ------
    tuple of (str, dict)
        Name and document. Of external data, one range over all that a file holds; the uids of resources are made up.

    Raises
    ------
    ScanError
        If the catalogue does not tell which frames belong to which stream.
    """
    if keeps_documents(run):
        yield from ((name, dict(document)) for name, document in run.documents())
        return
    metadata = run.metadata
    start, stop = dict(metadata["start"]), metadata.get("stop")
    yield "start", start
    for name, stream in sorted(_streams(run), key=lambda item: float(item[1].metadata["time"])):
        yield from _stream_documents(name, stream, start["uid"], (stop or {}).get("num_events"))
    if stop:
        yield "stop", dict(stop)


def keeps_documents(run: Any) -> bool:
    """Tell whether the catalogue has the documents themselves, not only what was made of them."""
    return not any(spec.name == "BlueskyRun" and (spec.version or "").startswith("3.") for spec in run.specs)


def without_positions(reference: dict[str, Any]) -> dict[str, Any]:
    """Leave out when in the acquisition frames were taken, which documents that were made up do not tell.

    Flats before and after the projections are one range in a catalogue. Without positions, all flats are averaged.
    """
    streams = []
    for stream in reference["streams"]:
        resources = [{k: v for k, v in resource.items() if k != "positions"} for resource in stream["resources"]]
        streams.append({**stream, "resources": resources})
    return {**reference, "streams": streams}


def _streams(run: Any) -> Iterator[tuple[str, Any]]:
    """Give the streams' nodes as plain containers; older runs have them one level lower."""
    children = dict(_plain(run).items())
    lower = children.get("streams")
    if lower is not None and not any(spec.name == "BlueskyEventStream" for spec in lower.specs):
        children = dict(_plain(lower).items())
    return ((name, _plain(stream)) for name, stream in children.items())


def _plain(node: Any) -> Any:
    """Give a node as Tiled's own container, with all its children as they are stored, and their files."""
    from tiled.client.container import Container

    return Container(node.context, item=node.item, structure_clients=node.structure_clients, include_data_sources=True)


def _stream_documents(name: str, stream: Any, run_uid: str, num_events: Mapping[str, int] | None) -> Iterator[Document]:
    metadata, children = dict(stream.metadata), dict(stream.items())
    metadata.pop("_config_updates", None)
    descriptor = metadata | {"name": name, "run_start": run_uid}
    yield "descriptor", descriptor
    yield from _events(children, descriptor["uid"])
    for key, data_key in descriptor["data_keys"].items():
        if data_key.get("external"):
            expected = None if num_events is None else num_events.get(name, 0)
            yield from _resource_documents(children.get(key), key, descriptor, expected)


def _events(children: Mapping[str, Any], descriptor: str) -> Iterator[Document]:
    rows: dict[int, dict[str, Any]] = {}
    for key, node in children.items():
        if key.startswith("internal") and node.structure_family == "table":
            for number, row in enumerate(node.read().to_dict(orient="records")):
                rows.setdefault(number, {}).update(row)
    for number, row in rows.items():
        numbers = {"seq_num": int(row.pop("seq_num")), "time": float(row.pop("time"))}
        stamps = {key.removeprefix("ts_"): row.pop(key) for key in list(row) if key.startswith("ts_")}
        ids = {"uid": f"{descriptor}-{number}", "descriptor": descriptor, "filled": {}}
        yield "event", ids | numbers | {"data": row, "timestamps": stamps}


def _resource_documents(node: Any, key: str, descriptor: Mapping[str, Any], expected: int | None) -> Iterator[Document]:
    """Give one resource with all events of an external array; `expected` is their number by the stop document."""
    num = _num_events(node, descriptor["data_keys"][key]["shape"]) if node is not None else 0
    where = f"run {descriptor['run_start']}, stream {descriptor['name']}, {key}"
    if expected is not None and num != expected:
        raise ScanError(
            f"{where}: the catalogue has {num} of its events, the stop document says {expected}: streams that share a"
            " file are mixed up in it; submit the run's documents (.jsonl), or let the hook do so"
        )
    if not num:
        return
    source, uid = node.data_sources()[0], f"{descriptor['uid']}-{key}"
    assets = sorted(source.assets, key=lambda asset: asset.num or 0)
    if len(assets) != 1:
        raise ScanError(
            f"{where}: lies in {len(assets)} files, and the catalogue does not say how many frames are in each;"
            " submit the run's documents (.jsonl), or let the hook do so"
        )
    resource = {"uid": uid, "run_start": descriptor["run_start"], "data_key": key, "mimetype": source.mimetype}
    yield "stream_resource", resource | {"uri": assets[0].data_uri, "parameters": dict(source.parameters)}
    yield (
        "stream_datum",
        {
            "uid": f"{uid}-0",
            "stream_resource": uid,
            "descriptor": descriptor["uid"],
            "indices": {"start": 0, "stop": num},
            "seq_nums": {"start": 1, "stop": num + 1},
        },
    )


def _num_events(node: Any, datum_shape: list[int]) -> int:
    """Count the events of an external array: stacked along a new axis, or joined along the first."""
    stacked = len(node.shape) == len(datum_shape) + 1
    return int(node.shape[0]) if stacked or not datum_shape else int(node.shape[0]) // int(datum_shape[0])
