"""Runs of a real RunEngine whose frames tell their own angle, on devices that write files as detectors do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import event_model
import h5py
import numpy as np
from bluesky import RunEngine
from numpy.typing import NDArray
from ophyd_async.core import AsyncStatus, init_devices, soft_signal_rw

from quietbeam.beamline.runs.collector import RunCollector
from quietbeam.beamline.runs.reference import write_reference
from quietbeam.beamline.scan import Scan, ScanSettings, open_scan

from .end_station import close_run_engine

SHAPE = (4, 6)
DARK, FLAT, PROJECTION, PER_DEGREE = 100, 30000, 1000, 10
DATASET = "/entry/data/data"
ANGLES = np.arange(0, 180, 15.0)


@dataclass
class Beam:
    """What the detectors of these runs see: the open beam, nothing, or a sample whose brightness tells its angle."""

    rotation: Any
    shown: str = "projection"

    async def frame(self) -> NDArray[np.uint16]:
        degrees = await self.rotation.get_value()
        counts = {"dark": DARK, "flat": FLAT, "projection": PROJECTION + PER_DEGREE * degrees}[self.shown]
        return np.full(SHAPE, np.round(counts)) + np.arange(SHAPE[1])[None]


@dataclass(eq=False)
class FileDevice:
    """A detector, or a device that stores one number a time, with one file open only while it is written to.

    `per_event` values are taken at each trigger; they get a dimension of their own if `own_dimension`. The documents
    are stream resources, or with `classic` a resource and a datum for each event, as ophyd makes them.
    """

    name: str
    folder: Path
    value: Callable[[], Any]
    key: str = ""
    dataset: str = DATASET
    shape: tuple[int, ...] = SHAPE
    per_event: int = 1
    own_dimension: bool = False
    classic: bool = False
    events_per_file: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    extra: Callable[[h5py.File], None] | None = None
    units: str | None = None
    parent: None = None
    files: list[Path] = field(default_factory=list)
    pending: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def stage(self) -> list[Any]:
        self.index, self.bundle, self.path = 0, None, None
        return [self]

    def unstage(self) -> list[Any]:
        return [self]

    async def _take(self) -> None:
        if self.path is None or self.events_per_file == self.index:
            self._open()
        values = np.stack([np.asarray(await self.value()) for _ in range(self.per_event)])
        with h5py.File(self.path, "a") as file:
            dataset = file[self.dataset]
            added = values[None] if self.own_dimension else values
            dataset.resize(len(dataset) + len(added), axis=0)
            dataset[-len(added) :] = added
            if self.extra is not None:
                self.extra(file)
        self._tell()

    def _open(self) -> None:
        self.index, self.folder = 0, Path(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"{self.name} {len(self.files)}.h5"
        self.files.append(self.path)
        shape = (self.per_event, *self.shape) if self.own_dimension else self.shape
        with h5py.File(self.path, "w") as file:
            file.create_dataset(
                self.dataset, (0, *shape), "u2" if self.shape else "f8", maxshape=(None, *shape), chunks=(1, *shape)
            )
        self.bundle = self._resource()

    def _resource(self) -> Any:
        if self.classic:
            kwargs = {"frame_per_point": self.per_event} | self.parameters
            bundle = event_model.compose_resource(
                spec="AD_HDF5", root=str(self.folder), resource_path=self.path.name, resource_kwargs=kwargs
            )
            self.pending.append(("resource", bundle.resource_doc))
            return bundle
        bundle = event_model.ComposeStreamResource()(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{quote(str(self.path))}",
            data_key=self.data_key,
            parameters={"dataset": self.dataset, "chunk_shape": [1, *self.shape]} | self.parameters,
        )
        self.pending.append(("stream_resource", bundle.stream_resource_doc))
        return bundle

    def _tell(self) -> None:
        if self.classic:
            self.datum = self.bundle.compose_datum(datum_kwargs={"point_number": self.index})
            self.pending.append(("datum", self.datum))
        else:
            indices = {"start": self.index, "stop": self.index + 1}
            self.pending.append(("stream_datum", self.bundle.compose_stream_datum(indices)))
        self.index += 1

    @property
    def data_key(self) -> str:
        return self.key or self.name

    def trigger(self) -> Any:
        return AsyncStatus(self._take())

    def describe(self) -> dict[str, Any]:
        entry = {
            "source": f"file://localhost/{self.name}",
            "dtype": "array",
            "shape": [self.per_event, *self.shape],
            "external": "FILESTORE:" if self.classic else "STREAM:",
        }
        return {self.data_key: entry | ({"units": self.units} if self.units else {})}

    def read(self) -> dict[str, Any]:
        return {self.data_key: {"value": self.datum["datum_id"], "timestamp": 0.0}} if self.classic else {}

    def read_configuration(self) -> dict[str, Any]:
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        return {}

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        pending, self.pending = self.pending, []
        yield from pending


@dataclass
class Bench:
    """A RunEngine, a rotation that is a number, and what its runs left: documents and files."""

    folder: Path
    RE: RunEngine
    rotation: Any
    beam: Beam
    documents: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def detector(self, name: str = "det", **settings: Any) -> FileDevice:
        return FileDevice(name, self.folder / "raw", self.beam.frame, **settings)

    def numbers(self, name: str, **settings: Any) -> FileDevice:
        return FileDevice(name, self.folder / "raw", **{"value": self.rotation.get_value, "shape": ()} | settings)

    def run(self, plan: Any) -> dict[str, Any]:
        """Run a plan; the reference of its last run."""
        self.documents.clear()
        self.RE(plan)
        return self.reference()

    def reference(self) -> dict[str, Any]:
        collector = RunCollector()
        for name, document in self.documents:
            collector(name, document)
        return json.loads(json.dumps(collector.reference))

    def open(self, reference: dict[str, Any], **settings: Any) -> Scan:
        """Open a run by its reference."""
        path = self.folder / "run.json"
        write_reference(reference, path)
        return open_scan(path, ScanSettings(**({"wait_seconds": 0.0} | settings)))


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Make a bench, ended afterwards."""
    RE = RunEngine({}, context_managers=[])
    with init_devices():
        rotation = soft_signal_rw(float, 0.0, units="deg")
    made = Bench(folder, RE, rotation, Beam(rotation))
    RE.subscribe(lambda name, document: made.documents.append((name, document)))
    try:
        yield made
    finally:
        close_run_engine(RE)


def show(beam: Beam, what: str) -> Iterator[Any]:
    """Change what the detectors see."""
    beam.shown = what
    yield from bps.null()


def take(beam: Beam, devices: list[Any], what: str, stream: str, number: int) -> Iterator[Any]:
    """Frames of one kind."""
    yield from show(beam, what)
    for _ in range(number):
        yield from bps.trigger_and_read(devices, name=stream)


def step_scan(
    made: Bench,
    devices: list[Any],
    angles: Any,
    *,
    flats_after: int = 0,
    num: int = 3,
    pause_after: int | None = None,
    read_rotation: bool = True,
    md: dict[str, Any] | None = None,
) -> Iterator[Any]:
    """Darks, flats and projections in one stage cycle; with `pause_after`, the run is paused once after that step."""
    readables = [*devices, made.rotation] if read_rotation else devices

    @bpp.stage_decorator(devices)
    @bpp.run_decorator(md={"motors": ["rotation"]} | (md or {}))
    def inner() -> Iterator[Any]:
        yield from take(made.beam, devices, "dark", "dark", num)
        yield from take(made.beam, devices, "flat", "flat", num)
        yield from show(made.beam, "projection")
        for number, angle in enumerate(angles):
            if number % 3 == 0:
                yield from bps.checkpoint()
            yield from bps.mv(made.rotation, float(angle))
            yield from bps.trigger_and_read(readables, name="primary")
            if number == pause_after:
                pause_after_once.append(None)
                if len(pause_after_once) == 1:
                    yield from bps.pause()
        yield from take(made.beam, devices, "flat", "flat", flats_after)

    pause_after_once: list[None] = []
    return (yield from inner())


def angles_in(scan: Scan) -> NDArray[np.float64]:
    """Read the angles that the frames themselves tell, in degrees."""
    return (scan.projections(slice(0, 1))[:, 0, 0] - PROJECTION) / PER_DEGREE


# Frames tell their angle in whole counts, a tenth of a degree each.
ROUNDING = 0.05 + 1e-6


def check(scan: Scan, angles: NDArray[np.float64] = ANGLES, num: int = 3) -> None:
    """The angles, and the frames that tell the same; flats and darks that are what they should be."""
    np.testing.assert_allclose(np.rad2deg(scan.theta), angles, atol=1e-9)
    np.testing.assert_allclose(angles_in(scan), angles, atol=ROUNDING)
    for frames, counts in ((scan.flats(slice(0, 1)), FLAT), (scan.darks(slice(0, 1)), DARK)):
        np.testing.assert_array_equal(frames[:, 0, 0], [counts] * num)


def codes(scan: Scan) -> list[str]:
    return [caveat.code for caveat in scan.caveats]


def decisions(scan: Scan) -> dict[str, str]:
    return {decision.name: decision.value for decision in scan.decisions}
