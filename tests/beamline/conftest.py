from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bluesky import RunEngine

    from quietbeam.beamline.hook import PostScan
    from quietbeam.beamline.jobs.queue import JobQueue

    from .end_station import EndStation
    from .tiled_server import TiledServer

BINARIES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--enable-logging=stderr",
    "--v=0",
    "--dump-dom",
)
# Reports to its own document which pictures did not load; runs only in a copy of the page without its security policy.
PROBE = """<script>addEventListener("load", () => {
document.documentElement.dataset.broken = [...document.images].filter(i => !i.complete || !i.naturalWidth).length;
document.documentElement.dataset.pictures = document.images.length; })</script>"""

OpenPage = Callable[[Path], subprocess.CompletedProcess[str]]


@pytest.fixture
def open_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenPage]:
    """Open a page in headless Chromium; stdout is its document after loading, stderr the browser's log."""
    binary = next((found for name in BINARIES if (found := shutil.which(name))), None)
    if binary is None:
        pytest.skip(f"none of {', '.join(BINARIES)} is installed")
    profile = tmp_path_factory.mktemp("chromium")

    def open_in_chromium(path: Path) -> subprocess.CompletedProcess[str]:
        command = [binary, *SWITCHES, f"--user-data-dir={profile}", path.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    yield open_in_chromium
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def console_messages(open_page: OpenPage) -> Callable[[Path], list[str]]:
    """Give what a page writes to the browser's console while it loads: errors, refusals and logs."""

    def messages(path: Path) -> list[str]:
        return [line for line in open_page(path).stderr.splitlines() if "CONSOLE" in line]

    return messages


@pytest.fixture
def count_pictures(open_page: OpenPage, tmp_path: Path) -> Callable[[Path], tuple[int, int]]:
    """Count the pictures of a page: (all, those that did not load)."""

    def count(path: Path) -> tuple[int, int]:
        page = path.read_text(encoding="utf-8").replace("Content-Security-Policy", "x-no-policy")
        copy = tmp_path / "probed.html"
        copy.write_text(page.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
        opening = open_page(copy).stdout.split(">", 2)[1]
        found = dict(part.split("=") for part in opening.split() if part.startswith("data-"))
        return int(found["data-pictures"].strip('"')), int(found["data-broken"].strip('"'))

    return count


@pytest.fixture
def station(tmp_path: Path) -> Iterator[EndStation]:
    """Give a simulated end station whose detector writes into ``tmp_path / "raw"``."""
    from .end_station import end_station

    with end_station(tmp_path / "raw") as made:
        yield made


@pytest.fixture(scope="session")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TiledServer]:
    """Give a Tiled server that reads all files of the tests, archives among them; it starts in some seconds."""
    from .tiled_server import ARCHIVES, tiled_server

    base = tmp_path_factory.getbasetemp()
    with tiled_server(base / "tiled", [base], ARCHIVES) as server:
        yield server


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    """Give an empty queue, ``tmp_path / "jobs.db"``."""
    from quietbeam.beamline.jobs.queue import JobQueue

    with JobQueue(tmp_path / "jobs.db") as made:
        yield made


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[PostScan]:
    """Give a hook for `queue`."""
    from quietbeam.beamline.hook import PostScan

    made = PostScan(tmp_path / "jobs.db")
    yield made
    made.close()


@pytest.fixture
def RE() -> Iterator[RunEngine]:  # noqa: N802
    """Give a RunEngine without devices; its thread ends with the test."""
    from bluesky import RunEngine

    from .end_station import close_run_engine

    made = RunEngine(context_managers=[])
    yield made
    close_run_engine(made)
