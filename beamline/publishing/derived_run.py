"""A result as a run of its own: event-model documents that tell which raw run it comes from.

Every unique id and time follows from the raw run and the manifest, so that the same result makes the same documents.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

from event_model import ComposeRunBundle, ComposeStreamResource, compose_run

from quietbeam.compress.archive import Archive, open_archive

from .files import NAMES
from .nxtomoproc import DATASET
from .provenance import Provenance
from .published import FOLDER
from .settings import ARCHIVE_MIMETYPE, PublishSettings

__all__ = ["ARCHIVE_KEY", "VOLUME_KEY", "Document", "derived_run", "quality"]

Document = tuple[str, dict[str, Any]]
VOLUME_KEY, ARCHIVE_KEY = "volume", "archive"
"""Names of the decoded volume and of the archive in the stream ``primary``."""
COPIED = (
    "beamline_id",
    "cycle",
    "data_session",
    "experiment",
    "facility",
    "group",
    "owner",
    "project",
    "proposal",
    "proposal_id",
    "sample",
    "sample_name",
    "start_datetime",
    "tiled_access_tags",
    "username",
)
"""What the derived run takes over from the raw run's start document: whose it is, and who may read it."""
_UNITS = {"psnr": "dB", "bits_per_voxel": "bit", "rotation_axis": "pixel"}
_IN_UNIT_OF_VOLUME = ("max_error", "largest_error", "noise")


def derived_run(provenance: Provenance, settings: PublishSettings) -> list[Document]:
    """Compose the documents of a derived run.

    Parameters
    ----------
    provenance : Provenance
        Of the result.
    settings : PublishSettings
        Whether the volume, the archive or both are shown.

    Returns
    -------
    list of (name, document)
        Plain JSON, checked against the schemas of event-model: a stream ``primary`` with one index for each slice, a
        stream ``quality`` with one event.

    Raises
    ------
    ArchiveError
        If the archive cannot be opened.
    """
    run = compose_run(uid=provenance.uid, time=provenance.time, metadata=_start(provenance))
    with open_archive(provenance.archive, cache_bytes=0) as archive:
        primary = _primary(run, provenance, settings, archive)
        unit = str(archive.metadata.get("unit") or "")
        num_slices = len(archive)
    documents = [("start", dict(run.start_doc)), *primary, *_quality(run, provenance, unit)]
    stop = run.compose_stop(uid=_uid(provenance, "stop"), time=provenance.time)
    stop["num_events"] = {"primary": num_slices, "quality": 1}  # compose_stop counts events, not stream datums
    return [*documents, ("stop", dict(stop))]


def quality(manifest: dict[str, Any]) -> dict[str, float]:
    """Collect the numbers that tell how good a result is and what it cost.

    Parameters
    ----------
    manifest : dict
        From `quietbeam.beamline.manifest.read_manifest`.

    Returns
    -------
    dict
        The manifest's ``numbers`` but for those that are not finite, ``held_out_loss``, ``rotation_axis``,
        ``num_caveats``, ``seconds_STAGE`` and ``seconds_total``.
    """
    seconds = {f"seconds_{stage.replace(' ', '_')}": value for stage, value in manifest.get("seconds", {}).items()}
    held_out = [epoch["held_out"] for epoch in manifest.get("history", []) if "held_out" in epoch]
    numbers = {
        **manifest["numbers"],
        "held_out_loss": min(held_out, default=None),
        "rotation_axis": manifest.get("rotation_axis"),
        "num_caveats": len(manifest.get("caveats", [])),
        **seconds,
        "seconds_total": sum(seconds.values()),
    }
    return {name: float(value) for name, value in numbers.items() if value is not None}


def _start(provenance: Provenance) -> dict[str, Any]:
    raw = provenance.start
    origin = {"raw_uid": provenance.raw_uid, "raw_scan_id": raw.get("scan_id"), "raw_sha256": provenance.scan_sha256}
    if provenance.raw_uid is None:
        origin["raw_path"] = provenance.scan_path
    return {
        **{name: raw[name] for name in COPIED if name in raw},
        **{name: value for name, value in origin.items() if value is not None},
        "plan_name": "tomo_denoise",
        "purpose": "analysis",
        "analysis_stage": "denoised",
        "software": provenance.manifest["versions"],
        "parameters": provenance.manifest["settings"],
        "result": {
            "folder": str(provenance.output),
            "key": provenance.manifest["key"],
            "archive_sha256": provenance.archive_sha256,
        },
    }


def _primary(
    run: ComposeRunBundle, provenance: Provenance, settings: PublishSettings, archive: Archive
) -> list[Document]:
    image = {
        "source": "quietbeam",
        "shape": list(archive.shape[1:]),
        "dtype": "array",
        "dtype_numpy": archive.dtype.newbyteorder("<").str,
        "dims": ["y", "x"],
        "external": "STREAM:",
        "units": archive.metadata.get("unit"),
    }
    shown = _shown(provenance, settings, archive)
    described = run.compose_descriptor(
        "primary",
        dict.fromkeys(shown, image),
        object_keys={"quietbeam": list(shown)},
        uid=_uid(provenance, "primary"),
        time=provenance.time,
    ).descriptor_doc
    documents: list[Document] = [("descriptor", dict(described))]
    for key, resource in shown.items():
        made = ComposeStreamResource(run.start_doc)(data_key=key, uid=_uid(provenance, key), **resource)
        datum = made.compose_stream_datum(
            {"start": 0, "stop": len(archive)}, {"start": 1, "stop": len(archive) + 1}, described
        )
        documents += [("stream_resource", dict(made.stream_resource_doc)), ("stream_datum", dict(datum))]
    return documents


def _shown(provenance: Provenance, settings: PublishSettings, archive: Archive) -> dict[str, dict[str, Any]]:
    """Tell what each name in the stream stands for."""
    shown: dict[str, dict[str, Any]] = {}
    if "nxtomoproc" in settings.formats:
        volume = provenance.output / FOLDER / NAMES["nxtomoproc"]
        parameters = {"dataset": DATASET, "chunk_shape": [1, *archive.shape[1:]], "swmr": False}
        shown[VOLUME_KEY] = {
            "mimetype": "application/x-hdf5",
            "uri": _uri(volume, settings),
            "parameters": parameters,
        }
    if settings.tiled_archive:
        parameters = {"chunk_shape": [1, *archive.shape[1:]]}
        uri = _uri(provenance.archive, settings)
        shown[ARCHIVE_KEY] = {"mimetype": ARCHIVE_MIMETYPE, "uri": uri, "parameters": parameters}
    return shown


def _quality(run: ComposeRunBundle, provenance: Provenance, unit: str) -> list[Document]:
    numbers = quality(provenance.manifest)
    keys = {name: {"source": "quietbeam", "shape": [], "dtype": "number", "dtype_numpy": "<f8"} for name in numbers}
    units = _UNITS | dict.fromkeys(_IN_UNIT_OF_VOLUME, unit)
    for name, key in keys.items():
        key["units"] = "s" if name.startswith("seconds_") else units.get(name, "")
    described = run.compose_descriptor(
        "quality", keys, object_keys={"quietbeam": list(keys)}, uid=_uid(provenance, "quality"), time=provenance.time
    )
    event = described.compose_event(
        data=numbers,
        timestamps=dict.fromkeys(numbers, provenance.time),
        uid=_uid(provenance, "event"),
        time=provenance.time,
    )
    return [("descriptor", dict(described.descriptor_doc)), ("event", dict(event))]


def _uri(path: Path, settings: PublishSettings) -> str:
    """Name a file as those who read it see it; the first prefix that fits is exchanged."""
    text = str(path)
    for here, there in settings.path_map:
        if text == here or text.startswith(here.rstrip("/") + "/"):
            text = there.rstrip("/") + text[len(here.rstrip("/")) :]
            break
    return "file://localhost" + quote(text)


def _uid(provenance: Provenance, part: str) -> str:
    return str(uuid.uuid5(uuid.UUID(provenance.uid), part))
