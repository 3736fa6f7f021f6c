"""Derived runs into a Tiled catalogue, through the TiledWriter of bluesky-tiled-plugins.

The writer's own backup is not used: it swallows the error, and a run that is tried twice is appended twice. Here the
error is raised, and `quietbeam.beamline.publishing.publish` keeps the documents.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import numpy as np

from quietbeam.beamline.tiled_connection import tiled_client
from quietbeam.compress.archive import open_archive
from quietbeam.reconstruction.errors import PublishError

from .derived_run import ARCHIVE_KEY, VOLUME_KEY, Document
from .provenance import Provenance
from .settings import PublishSettings

__all__ = ["KEY_VARIABLE", "publish_to_tiled"]

KEY_VARIABLE = "TILED_API_KEY"
"""Environment variable with the server's key; nothing else names it."""
_ATTEMPTS = 3
"""Of each request, where ``TILED_RETRY_ATTEMPTS`` does not say otherwise."""


def publish_to_tiled(documents: list[Document], provenance: Provenance, settings: PublishSettings) -> dict[str, str]:
    """Write a run unless it is there already, and read a slice of it back.

    Parameters
    ----------
    documents : list of (name, document)
        From `quietbeam.beamline.publishing.derived_run.derived_run`.
    provenance : Provenance
        Of the result.
    settings : PublishSettings
        Server, container, time limit.

    Returns
    -------
    dict
        ``uri`` of the server, ``path`` of the run, ``state``: ``written`` or ``there already``.

    Raises
    ------
    PublishError
        If the run is not there, whole and readable, at the end.
    """
    uid = documents[0][1]["uid"]
    path = "/".join(filter(None, (settings.tiled_path.strip("/"), uid)))
    with _told_as_publish_error(settings), _connection(settings) as client:
        container = _container(client, settings.tiled_path)
        state = "there already"
        if _fault(container, uid, provenance):
            _write(container, documents)
            state = "written"
            if fault := _fault(container, uid, provenance):
                raise PublishError(f"{settings.tiled_uri}: run {uid} was written, but {fault}")
    return {"uri": str(settings.tiled_uri), "path": path, "state": state}


@contextmanager
def _told_as_publish_error(settings: PublishSettings) -> Iterator[None]:
    """Turn whatever the client meets, of which there is no end, into one error that says what to do."""
    try:
        yield
    except PublishError:
        raise
    except ImportError as error:
        raise PublishError("publishing to Tiled needs more packages: pip install 'quietbeam[tiled]'") from error
    except Exception as error:
        raise PublishError(
            f"{settings.tiled_uri}: the derived run could not be written ({_without_key(error)}); when the server "
            f"answers and {KEY_VARIABLE} may write there, publish again: quietbeam publish --pending"
        ) from None  # the chain would show the request, key and all


def _without_key(error: Exception) -> str:
    text, key = f"{type(error).__name__}: {error}", os.environ.get(KEY_VARIABLE)
    return text.replace(key, "***") if key else text


@contextmanager
def _connection(settings: PublishSettings) -> Iterator[Any]:
    """Connect with limits on time; a server that does not answer is met before the client begins to try again."""
    import httpx

    if not os.environ.get(KEY_VARIABLE):  # without one, the client may ask at the terminal
        raise PublishError(f"{settings.tiled_uri}: no key to write with: set {KEY_VARIABLE} in the environment")
    uri, seconds = str(settings.tiled_uri), settings.tiled_timeout
    with _few_retries(settings), tiled_client(uri, answer_seconds=seconds, timeout=httpx.Timeout(seconds)) as client:
        yield client


@contextmanager
def _few_retries(settings: PublishSettings) -> Iterator[None]:
    """Limit the client's retries, unless the environment does; it reads that once, when it is imported."""
    from tiled.client import utils

    limits = {"TILED_RETRY_ATTEMPTS": _ATTEMPTS, "TILED_RETRY_TIMEOUT": settings.tiled_timeout}
    before = {name: getattr(utils, name) for name in limits.keys() - os.environ.keys()}
    for name in before:
        setattr(utils, name, limits[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(utils, name, value)


def _container(client: Any, path: str) -> Any:
    for name in filter(None, path.split("/")):
        client = client[name] if name in client else client.create_container(name)
    return client


def _fault(container: Any, uid: str, provenance: Provenance) -> str | None:
    """Tell what is missing of a run, if anything."""
    if uid not in container:
        return "it is not there"
    run = container[uid]
    if not run.metadata.get("stop"):
        return "it has no stop document"
    if run.metadata["start"].get("result", {}).get("archive_sha256") != provenance.archive_sha256:
        return "it tells of another archive"
    return _fault_of_slices(run["primary"], provenance)


def _fault_of_slices(primary: Any, provenance: Provenance) -> str | None:
    """Compare the first slice, as the server reads it from the files, with the archive's."""
    with open_archive(provenance.archive, cache_bytes=0) as archive:
        expected, shape = archive[0], archive.shape
    for key in sorted({VOLUME_KEY, ARCHIVE_KEY} & set(primary)):
        try:
            same = primary[key].shape == shape and np.array_equal(primary[key][0], expected)
        except Exception as error:  # whatever the server, or the client on its behalf, says
            return f"the server cannot read its {key}: {_without_key(error)}"
        if not same:
            return f"its {key} is not what the archive holds"
    return None


def _write(container: Any, documents: list[Document]) -> None:
    """Write a run anew; of one that is there in part, the entries go, never the files that they name."""
    from bluesky_tiled_plugins import TiledWriter

    uid = documents[0][1]["uid"]
    if uid in container:
        container.delete_contents(uid, recursive=True, external_only=False)
    writer = TiledWriter(container)
    for name, document in documents:
        document = copy.deepcopy(document)
        if name == "stream_resource":
            document["uri"] = unquote(document["uri"])  # Tiled takes the path as it stands, %20 and all
        writer(name, document)
