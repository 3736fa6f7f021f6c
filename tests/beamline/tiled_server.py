"""A real Tiled server in a process of its own: a catalogue in SQLite, tables in DuckDB, on 127.0.0.1."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from tiled.client import from_uri

ARCHIVES = {"application/x-quietbeam-archive": "quietbeam.beamline.publishing.tiled_adapter:ArchiveAdapter"}
"""Adapters of a server that reads archives."""
STARTUP_SECONDS = 60
"""Longest wait until the server answers; a few seconds are usual, more on a busy machine."""


class TiledServer(NamedTuple):
    uri: str
    api_key: str
    client: Any


@contextmanager
def tiled_server(
    folder: Path, readable: Sequence[Path] = (), adapters: Mapping[str, str] | None = None
) -> Iterator[TiledServer]:
    """Serve a new catalogue in `folder`; files under `readable` may be registered.

    `adapters` maps a MIME type to ``module:class``. The server ends with the block, at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, api_key, port = folder / "config.yml", secrets.token_hex(16), _free_port()
    config.write_text(json.dumps(_configuration(folder, readable, adapters or {})))  # JSON is YAML
    command = [sys.executable, "-m", "tiled", "serve", "config", str(config)]
    environment = os.environ | {"TILED_SINGLE_USER_API_KEY": api_key, "OMP_NUM_THREADS": "1"}
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log, env=environment, cwd=folder
        ) as process,
    ):
        uri = f"http://127.0.0.1:{port}"
        try:
            _wait(process, uri, folder / "server.log")
            client = from_uri(uri, api_key=api_key, remember_me=False)
            try:
                yield TiledServer(uri, api_key, client)
            finally:
                client.context.close()
        finally:
            process.kill()
            process.wait()


def _configuration(folder: Path, readable: Sequence[Path], adapters: Mapping[str, str]) -> dict[str, Any]:
    catalog = {
        "uri": f"sqlite:///{folder}/catalog.db",
        "init_if_not_exists": True,
        "writable_storage": [f"file://localhost{folder}/data", f"duckdb:///{folder}/tables.duckdb"],
        "readable_storage": [str(path) for path in readable],
        "adapters_by_mimetype": dict(adapters),
    }
    return {
        "trees": [{"path": "/", "tree": "catalog", "args": catalog}],
        "authentication": {"allow_anonymous_access": False},
        "media_types": {
            "BlueskyRun": {"application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"},
        },
        "streaming_cache": {"uri": "memory"},
    }


def _wait(process: subprocess.Popen[bytes], uri: str, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{uri}/healthz", timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"the Tiled server did not start:\n{log.read_text(errors='replace')[-4000:]}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
