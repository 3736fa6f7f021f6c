"""A simulated tomography end station on ophyd-async: a detector that writes HDF5, rotation, sample stage, shutter.

Moves take no time, exposures a millisecond. What the detector sees is a foam whose truth is known; the same seed and
the same plan give the same frames, for a turning stage too: its angles follow the detector's own clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from bluesky import RunEngine
from numpy.typing import NDArray
from ophyd_async.core import (
    AsyncStatus,
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    FlyMotorInfo,
    PathProvider,
    StandardDetector,
    StandardReadable,
    StaticPathProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    TriggerInfo,
    UUIDFilenameProvider,
    WatchableAsyncStatus,
    init_devices,
    soft_signal_r_and_setter,
    soft_signal_rw,
)
from ophyd_async.sim import SimMotor

from quietbeam.beamline.plans import tomo_fly_scan
from quietbeam.reconstruction.foam import Foam, foam_phantom
from quietbeam.reconstruction.phantom import project_foam, rasterise_foam

DATA = "/entry/data/data"
ANGLE = "/entry/instrument/NDAttributes/rotation_angle"
PIXEL_SIZE = 1e-6  # metres
BEAM_HALF_WIDTH = 10.0  # millimetres; a sample stage further out leaves the beam empty
OFFSET, READ_NOISE = 100.0, 2.0  # counts
RUN_UP = 0.005  # seconds


class Shutter(StandardReadable):
    """A shutter that is open or not, and is moved as a whole or by its signal."""

    def __init__(self, name: str = "") -> None:
        with self.add_children_as_readables():
            self.open = soft_signal_rw(bool, False)
        super().__init__(name=name)

    def set(self, value: bool) -> AsyncStatus:
        return self.open.set(value)


class Rotation(SimMotor):
    """A rotation stage in degrees, which tells where it is `seconds` after it began to turn evenly."""

    turning: FlyMotorInfo | None = None

    def set(self, *arguments, **options) -> WatchableAsyncStatus:
        self.turning = None
        return super().set(*arguments, **options)

    @AsyncStatus.wrap
    async def kickoff(self) -> None:
        await super().kickoff()
        self.turning = self._fly_info

    async def angle(self, seconds: float) -> float:
        if self.turning is None:
            return await self.user_readback.get_value()
        way = self.turning.end_position - self.turning.start_position
        return self.turning.start_position + way * seconds / self.turning.time_for_move


@dataclass
class Beam:
    """What reaches the detector: a foam in a beam with a fixed pattern, photon and read noise."""

    rows: int
    columns: int
    photons: float
    foam: Foam
    rng: np.random.Generator

    @property
    def geometry(self) -> dict[str, float]:
        radius = 0.42 * self.columns
        return {"radius": radius, "pixel_size": PIXEL_SIZE, "attenuation": 1.2 / (2 * radius * PIXEL_SIZE)}

    def frame(self, degrees: float, *, sample: bool, shutter: bool) -> NDArray[np.uint16]:
        """One exposure, shape (row, column)."""
        shape = (self.rows, self.columns)
        counts = self.rng.normal(OFFSET, READ_NOISE, shape)
        if shutter:
            expected = np.broadcast_to(self.photons * (1 + 0.1 * np.sin(np.arange(self.columns) / 7)), shape)
            counts += self.rng.poisson(expected * np.exp(-self._line_integrals(degrees)) if sample else expected)
        return counts.clip(0, 65535).astype(np.uint16)

    def _line_integrals(self, degrees: float) -> NDArray[np.float32]:
        return project_foam(self.foam, np.deg2rad([degrees]), self.rows, self.columns, **self.geometry)[0]


class Camera:
    """Takes frames of the beam and appends them, and the angle of each, to an HDF5 file in SWMR mode.

    A `broken` one raises when it shall begin.
    """

    broken = False

    def __init__(self, beam: Beam, rotation: Rotation, x: SimMotor, shutter: Shutter, jitter: float) -> None:
        self.beam, self.rotation, self.x, self.shutter, self.jitter = beam, rotation, x, shutter, jitter
        self.num, self.period = 1, 0.001
        self.file: h5py.File | None = None
        self.written, self._set_written = soft_signal_r_and_setter(int)

    def open(self, path: Path) -> None:
        self.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (self.beam.rows, self.beam.columns)
        self.file = h5py.File(path, "w", libver="latest")
        self.file.create_dataset(DATA, (0, *shape), "u2", maxshape=(None, *shape), chunks=(1, *shape))
        self.file.create_dataset(ANGLE, (0,), "f8", maxshape=(None,), chunks=(1024,))
        self.file.swmr_mode = True
        self._set_written(0)

    async def acquire(self) -> None:
        begin = time.monotonic()
        for i in range(self.num):
            await asyncio.sleep(max(0.0, begin + (i + 1) * self.period - time.monotonic()))
            await self._expose(i * self.period)

    async def _expose(self, seconds: float) -> None:
        degrees = await self.rotation.angle(seconds) + self.beam.rng.uniform(-1, 1) * self.jitter
        sample = abs(await self.x.user_readback.get_value()) < BEAM_HALF_WIDTH
        frame = self.beam.frame(degrees, sample=sample, shutter=await self.shutter.open.get_value())
        for name, value in ((DATA, frame), (ANGLE, degrees)):
            dataset = self.file[name]
            dataset.resize(len(dataset) + 1, axis=0)
            dataset[-1] = value
            dataset.flush()
        self._set_written(len(dataset))

    def close(self) -> None:
        if self.file:
            self.file.close()
            self.file = None


class Triggering(DetectorTriggerLogic):
    def __init__(self, camera: Camera) -> None:
        self.camera = camera

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        self.camera.num = num
        self.camera.period = (livetime + deadtime) or self.camera.period

    async def default_trigger_info(self) -> TriggerInfo:
        return TriggerInfo()


class Acquiring(DetectorAcquireLogic):
    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.task: asyncio.Task[None] | None = None

    async def start_acquiring(self) -> None:
        if self.camera.broken:
            raise RuntimeError("the camera does not answer")
        self.task = asyncio.create_task(self.camera.acquire())

    async def wait_for_idle(self) -> None:
        if self.task:
            await self.task

    async def ensure_stopped(self) -> None:
        if self.task:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
            self.task = None


class Writing(DetectorDataLogic):
    def __init__(self, camera: Camera, paths: PathProvider) -> None:
        self.camera, self.paths = camera, paths

    async def prepare_unbounded(self, datakey_name: str) -> StreamResourceDataProvider:
        info = self.paths(datakey_name)
        self.camera.open(Path(info.directory_path) / f"{info.filename}.h5")
        shape = (self.camera.beam.rows, self.camera.beam.columns)
        return StreamResourceDataProvider(
            uri=f"{info.directory_uri}{info.filename}.h5",
            resources=[
                _resource(datakey_name, DATA, shape=shape, chunk_shape=(1, *shape), dtype_numpy="<u2"),
                _resource(f"{datakey_name}-rotation_angle", ANGLE, shape=(), chunk_shape=(1024,), dtype_numpy="<f8"),
            ],
            mimetype="application/x-hdf5",
            collections_written_signal=self.camera.written,
        )

    async def stop(self) -> None:
        self.camera.close()

    def get_hinted_fields(self, datakey_name: str) -> list[str]:
        return [datakey_name]


def _resource(data_key: str, dataset: str, **layout: object) -> StreamResourceInfo:
    return StreamResourceInfo(data_key=data_key, parameters={"dataset": dataset}, **layout)


class Detector(StandardDetector):
    """The simulated detector; `-rotation_angle` beside its frames is what an encoder would have given."""

    def __init__(self, camera: Camera, paths: PathProvider, name: str = "") -> None:
        self.camera = camera
        self.add_detector_logics(Triggering(camera), Acquiring(camera), Writing(camera, paths))
        super().__init__(name=name)


@dataclass
class EndStation:
    """A RunEngine and its devices: `detector`, `rotation` (degrees), `x` (mm) and `shutter`."""

    RE: RunEngine
    detector: Detector
    rotation: Rotation
    x: SimMotor
    shutter: Shutter

    @property
    def truth(self) -> NDArray[np.float32]:
        """The volume in the beam, shape (slice, y, x), in 1/m."""
        beam = self.detector.camera.beam
        return rasterise_foam(beam.foam, beam.rows, beam.columns, **beam.geometry)

    def fly(self, num: int) -> list[tuple[str, dict[str, Any]]]:
        """Take a short scan on the fly, of `num` projections after two darks and two flats; give its documents."""
        taken: list[tuple[str, dict[str, Any]]] = []
        token = self.RE.subscribe(lambda name, doc: taken.append((name, doc)))
        frames = {"num_darks": 2, "num_flats": 2, "out_of_beam": 2 * BEAM_HALF_WIDTH, "exposure": 0.001}
        self.RE(tomo_fly_scan(self.detector, self.rotation, self.x, self.shutter, num=num, **frames))
        self.RE.unsubscribe(token)
        return taken

    def close(self) -> None:
        """End the RunEngine's thread and event loop."""
        close_run_engine(self.RE)
        self.detector.camera.close()


def close_run_engine(RE: RunEngine) -> None:
    """End the thread and the event loop that a RunEngine leaves running."""
    asyncio.run_coroutine_threadsafe(_cancel_tasks(), RE.loop).result(10)
    RE.loop.call_soon_threadsafe(RE.loop.stop)
    RE._th.join(10)
    RE.loop.close()


async def _cancel_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def make_end_station(
    folder: Path,
    *,
    columns: int = 96,
    rows: int = 32,
    photons: float = 4000.0,
    seed: int = 0,
    jitter: float = 0.0,
    num_voids: int = 120,
    **metadata: object,
) -> EndStation:
    """Make an end station whose detector writes into `folder`; `metadata` goes to ``RE.md``.

    `jitter` is how far in degrees the stage is off its nominal angle; the recorded angles are the true ones.
    """
    RE = RunEngine(
        {"facility": "SIM", "beamline_id": "sim-tomo", "data_session": "pass-000000", "sample_name": "foam"} | metadata,
        context_managers=[],
    )
    with init_devices():
        rotation, x, shutter = Rotation(instant=True, units="deg"), SimMotor(instant=True), Shutter()
    foam = foam_phantom(num_voids, seed=seed, height=2 * rows / columns + 0.5, min_radius=0.04)
    camera = Camera(Beam(rows, columns, photons, foam, np.random.default_rng(seed)), rotation, x, shutter, jitter)
    with init_devices():
        detector = Detector(camera, StaticPathProvider(UUIDFilenameProvider(), folder))
    asyncio.run_coroutine_threadsafe(_set_run_up(rotation), RE.loop).result(10)
    return EndStation(RE, detector, rotation, x, shutter)


async def _set_run_up(rotation: Rotation) -> None:
    await rotation.acceleration_time.set(RUN_UP)


@contextmanager
def end_station(folder: Path, **settings: object) -> Iterator[EndStation]:
    """`make_end_station`, closed afterwards."""
    station = make_end_station(folder, **settings)
    try:
        yield station
    finally:
        station.close()
