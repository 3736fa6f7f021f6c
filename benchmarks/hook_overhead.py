"""What the post-scan hook costs a scan: time in the RunEngine's thread for each document.

python benchmarks/hook_overhead.py [--tiny] [--json FILE]

A simulated end station (ophyd-async, HDF5) takes step and fly scans, first alone, then with a Tiled server in the same
process that a TiledWriter feeds from a thread of its own, so that all compete for the interpreter's lock. Peers are the
same hook without its thread, which writes to the queue within the callback, and TiledWriter within the callback.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from rows import Row, arguments, report

from quietbeam.beamline.hook import PostScan
from quietbeam.beamline.hook_rules import Rules
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.plans import tomo_fly_scan, tomo_step_scan
from quietbeam.beamline.runs.collector import RunsCollector

END_STATION = Path(__file__).parents[1] / "tests" / "beamline" / "end_station.py"
FRAMES = {"num_darks": 3, "num_flats": 3, "out_of_beam": 20.0, "exposure": 0.001}

Callback = Callable[[str, Mapping[str, Any]], None]


class Timed:
    """Passes documents on and notes how long the callback kept its caller, by the clock and on the processor."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.at_stop: list[float] = []

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Pass a document on."""
        cpu, begin = time.thread_time(), time.perf_counter()
        self.callback(name, doc)
        self.seconds.append(time.perf_counter() - begin)
        self.cpu_seconds.append(time.thread_time() - cpu)
        if name == "stop":
            self.at_stop.append(self.seconds[-1])

    def rows(self, case: str, method: str) -> Iterator[Row]:
        """Give quantiles over all documents."""
        yield Row(case, method, "documents", len(self.seconds), "")
        for share in (50, 99):
            yield Row(case, method, f"p{share}", 1e3 * float(np.percentile(self.seconds, share)), "ms")
        yield Row(case, method, "longest", 1e3 * max(self.seconds), "ms")
        yield Row(case, method, "longest at the end of a scan", 1e3 * max(self.at_stop), "ms")
        yield Row(case, method, "p99 of CPU time", 1e3 * float(np.percentile(self.cpu_seconds, 99)), "ms")
        yield Row(case, method, "mean CPU time", 1e3 * float(np.mean(self.cpu_seconds)), "ms")


def end_stations() -> ModuleType:
    """Load the simulated end station of the tests."""
    spec = importlib.util.spec_from_file_location("end_station", END_STATION)
    assert spec is not None and spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules["end_station"] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def our_hook(folder: Path) -> Iterator[Callback]:
    """Give the hook as it is."""
    hook = PostScan(folder / "jobs.db")
    yield hook
    hook.close()
    if hook.errors:
        raise RuntimeError(f"{hook.errors} errors in the hook: {hook.last_error}")


@contextmanager
def synchronous_hook(folder: Path) -> Iterator[Callback]:
    """Give the hook without its thread."""
    with JobQueue(folder / "jobs.db") as queue:
        rules = Rules()
        yield RunsCollector(lambda run, event: queue.put(rules.submission(run.reference)) and None)


@contextmanager
def tiled_server(folder: Path) -> Iterator[str]:
    """Run a Tiled server in this process and give its address."""
    from tiled.server import SimpleTiledServer

    server = SimpleTiledServer(folder / "tiled", readable_storage=[folder])
    yield server.uri
    server.close()


@contextmanager
def tiled_writer(uri: str, *, beside: bool) -> Iterator[Callback]:
    """Give a TiledWriter; `beside`: behind a thread of its own."""
    from bluesky.callbacks.buffer import BufferingWrapper
    from bluesky_tiled_plugins import TiledWriter
    from tiled.client import from_uri

    writer = TiledWriter(from_uri(uri))
    buffer = BufferingWrapper(writer) if beside else None
    yield buffer or writer
    if buffer:
        buffer.shutdown()


METHODS: dict[str, Callable[[Path], Any]] = {"quietbeam": our_hook, "queue in the callback": synchronous_hook}


def measure(scan: Scan, method: str, folder: Path, uri: str | None) -> Timed:
    """Time one method in scans of its own; `uri`: with a TiledWriter to this server beside it."""
    folder.mkdir()
    with ExitStack() as stack:
        station = stack.enter_context(end_stations().end_station(folder / "raw"))
        if method in METHODS:
            timed = Timed(stack.enter_context(METHODS[method](folder)))
            if uri is not None:
                station.RE.subscribe(stack.enter_context(tiled_writer(uri, beside=True)))
        else:
            timed = Timed(stack.enter_context(tiled_writer(str(uri), beside=False)))
        station.RE.subscribe(timed)
        for _ in range(scan.repeats if method in METHODS else 1):
            devices = (station.detector, station.rotation, station.x, station.shutter)
            station.RE(scan.plan(*devices, num=scan.num, **FRAMES))
    return timed


class Scan(NamedTuple):
    """What is taken, and how often."""

    name: str
    plan: Callable[..., Any]
    num: int
    repeats: int


def compare(scan: Scan, folder: Path, uri: str | None = None) -> Iterator[Row]:
    """Measure all methods that make sense with or without a server."""
    case = scan.name if uri is None else f"{scan.name} beside a Tiled server"
    methods = [*METHODS, *(["TiledWriter in the callback"] if uri else [])]
    for method in methods:
        yield from measure(scan, method, folder / f"{case}, {method}", uri).rows(case, method)


def main() -> None:
    """Measure step and fly scans, alone and beside a Tiled server."""
    options = arguments(__doc__)
    rows: list[Row] = []
    step, fly = Scan("step scan", tomo_step_scan, 60, 8), Scan("fly scan", tomo_fly_scan, 60, 40)
    if options.tiny:
        step, fly = Scan("step scan", tomo_step_scan, 4, 1), Scan("fly scan", tomo_fly_scan, 4, 2)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for scan in (step, fly):
            rows += compare(scan, folder)
        uri = stack.enter_context(tiled_server(folder))
        for scan in (fly,) if options.tiny else (step, fly):
            rows += compare(scan._replace(repeats=(scan.repeats + 1) // 2), folder, uri)
    report(rows, options.json)


if __name__ == "__main__":
    main()
