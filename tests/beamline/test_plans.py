from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import defaultdict
from urllib.parse import unquote, urlparse

import event_model
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import FailedStatus, RunEngineInterrupted
from ophyd_async.core import init_devices

from quietbeam.beamline import plans
from quietbeam.beamline.plans import tomo_fly_scan, tomo_golden_scan, tomo_interlaced_scan, tomo_step_scan
from quietbeam.beamline.runs.collector import RunCollector
from quietbeam.beamline.runs.reference import counted_frames, planned_frames
from quietbeam.reconstruction.phantom import project_foam
from quietbeam.reconstruction.scan_patterns import GOLDEN_SECTION

from .end_station import ANGLE, DATA, OFFSET, Shutter, close_run_engine

FRAMES = {"num_darks": 3, "num_flats": 4, "out_of_beam": 20.0}
BARE = {"num_darks": 0, "num_flats": 0}
EXPOSURE = 0.001
ROUNDING = 1e-9  # degrees


def run(station, plan):
    """Run a plan: its documents by name, and what it returned."""
    documents = defaultdict(list)
    token = station.RE.subscribe(lambda name, doc: documents[name].append(doc))
    (uid,) = station.RE(plan)
    station.RE.unsubscribe(token)
    assert [doc["uid"] for doc in documents["start"]] == [uid]
    assert [doc["exit_status"] for doc in documents["stop"]] == ["success"]
    return documents


def devices(station):
    return station.detector, station.rotation, station.x, station.shutter.open


def contents(documents, stream, dataset):
    """What a stream's frames hold, by the documents alone."""
    uids = {doc["uid"] for doc in documents["descriptor"] if doc["name"] == stream}
    resources = {doc["uid"]: doc for doc in documents["stream_resource"]}
    parts = []
    for datum in documents["stream_datum"]:
        resource = resources[datum["stream_resource"]]
        if datum["descriptor"] in uids and resource["parameters"]["dataset"] == dataset:
            with h5py.File(unquote(urlparse(resource["uri"]).path)) as file:
                parts.append(file[dataset][datum["indices"]["start"] : datum["indices"]["stop"]])
    return np.concatenate(parts)


def collected(documents):
    collector = RunCollector()
    for name in ("start", "descriptor", "stream_resource", "event", "stream_datum", "stop"):
        for doc in documents[name]:
            collector(name, doc)
    return collector.reference


@pytest.mark.parametrize(
    ("plan", "settings", "angles"),
    [
        (tomo_step_scan, {"num": 9, "start": -10.0, "stop": 80.0}, -10 + 10.0 * np.arange(9)),
        (tomo_golden_scan, {"num": 8, "start": 5.0}, 5 + (np.arange(8) * 180 * GOLDEN_SECTION) % 180),
        (tomo_fly_scan, {"num": 12, "exposure": EXPOSURE}, 15.0 * np.arange(12)),
        (tomo_fly_scan, {"num": 12, "exposure": EXPOSURE, "deadtime": EXPOSURE, "stop": -180}, -15.0 * np.arange(12)),
        (
            tomo_interlaced_scan,
            {"num": 3, "rotations": 4, "exposure": EXPOSURE},
            (60.0 * np.arange(3) + 15.0 * np.array([[0], [2], [1], [3]])).ravel(),
        ),
        (
            tomo_interlaced_scan,
            {"num": 3, "rotations": 2, "exposure": EXPOSURE, "goes_on": True},
            (60.0 * np.arange(3) + np.array([[0], [210]])).ravel(),
        ),
    ],
    ids=["step", "golden", "fly", "fly backwards", "interlaced", "interlaced on and on"],
)
def test_frames_of_each_type_in_a_stream_of_their_own(station, plan, settings, angles):
    documents = run(station, plan(*devices(station), **settings, **FRAMES))
    assert np.abs(contents(documents, "primary", ANGLE) - angles).max() < ROUNDING
    darks, flats, projections = (contents(documents, stream, DATA) for stream in ("dark", "flat", "primary"))
    assert (len(darks), len(flats), len(projections)) == (3, 4, len(angles))
    assert abs(darks.mean() - OFFSET) < 1  # no beam
    transmission = (projections - OFFSET) / (flats.mean(axis=0) - OFFSET)
    expected = np.exp(-project_foam(*foam(station, angles)[0], **foam(station, angles)[1]))
    # 4000 photons a pixel, a few flats: some hundredths at each pixel, far less in the mean.
    assert np.abs(transmission - expected).max() < 0.15
    assert abs((transmission - expected).mean()) < 0.002
    reference = collected(documents)
    assert counted_frames(reference) == {"projections": len(angles), "flats": 4, "darks": 3}
    assert planned_frames(reference) == len(angles)


def foam(station, angles):
    beam = station.detector.camera.beam
    return (beam.foam, np.deg2rad(angles), beam.rows, beam.columns), beam.geometry


@pytest.mark.parametrize("plan", [tomo_step_scan, tomo_fly_scan])
def test_flats_before_and_after(station, plan):
    documents = run(station, plan(*devices(station), num=5, exposure=EXPOSURE, flats="both", **FRAMES))
    assert counted_frames(collected(documents)) == {"projections": 5, "flats": 8, "darks": 3}
    seq_nums = [
        n for doc in documents["stream_datum"] for n in range(doc["seq_nums"]["start"], doc["seq_nums"]["stop"])
    ]
    assert sorted(seq_nums) == sorted([*range(1, 4), *range(1, 9), *range(1, 6)] * 2)
    names = [doc["name"] for doc in documents["descriptor"]]
    assert names == ["dark", "flat", "primary", "flat"]
    after = run(station, plan(*devices(station), num=5, exposure=EXPOSURE, flats="after", **FRAMES))
    assert [doc["name"] for doc in after["descriptor"]] == ["primary", "flat", "dark"]


def test_metadata_tell_the_scan_and_the_caller_has_the_last_word(station):
    settings = {"num": 3, "rotations": 4, "exposure": EXPOSURE, "num_darks": 0, "num_flats": 0, "angle_key": "k"}
    plan = tomo_interlaced_scan(*devices(station)[:2], **settings, md={"sample": "S", "plan_name": "mine"})
    (start,) = run(station, plan)["start"]
    assert (start["sample"], start["plan_name"], start["facility"]) == ("S", "mine", "SIM")
    tomo = start["tomo"]
    assert tomo["mode"] == "interlaced"
    assert (tomo["detector"], tomo["rotation"], tomo["angle_key"]) == ("detector", "rotation", "k")
    assert tomo["angle_unit"] == "deg"  # of the offsets
    assert tomo["streams"] == {"projections": "primary", "flat": "flat", "dark": "dark"}
    assert (tomo["num"], tomo["rotations"], tomo["num_projections"]) == (3, 4, 12)
    assert np.abs(np.subtract(tomo["offsets"], [0, 30, 15, 45])).max() < ROUNDING
    event_model.schema_validators[event_model.DocumentNames.start].validate(start)


@pytest.mark.parametrize("plan", [tomo_step_scan, tomo_fly_scan])
@pytest.mark.parametrize("unit", [None, "rad"])
def test_the_unit_of_the_stage_is_told_only_if_it_is_given(station, plan, unit):
    settings = {"num": 2, "exposure": EXPOSURE, "num_darks": 0, "num_flats": 0, "angle_unit": unit}
    (start,) = run(station, plan(*devices(station)[:2], **settings))["start"]
    assert {name: value for name, value in start["tomo"].items() if name == "angle_unit"} == (
        {} if unit is None else {"angle_unit": unit}
    )


@pytest.mark.parametrize("stream", ["flat", "primary"])
def test_a_failing_scan_leaves_the_end_station_as_it_was(station, stream):
    def break_camera(name, doc):
        station.detector.camera.broken = doc["name"] == stream

    token = station.RE.subscribe(break_camera, "descriptor")
    station.RE(bps.mv(station.x, 1.5))
    with pytest.raises(FailedStatus):
        station.RE(tomo_fly_scan(*devices(station), num=5, exposure=EXPOSURE, **FRAMES))
    station.RE.unsubscribe(token)
    assert left(station) == (1.5, 0.0, False)
    station.detector.camera.broken = False
    run(station, tomo_fly_scan(*devices(station), num=5, exposure=EXPOSURE, **FRAMES))
    assert left(station) == (1.5, 0.0, False)


class JammedShutter(Shutter):
    """Opens, and then does not close again."""

    opened = False

    def set(self, value):
        if self.opened and not value:
            raise RuntimeError("the shutter is jammed")
        self.opened = value
        return super().set(value)


@pytest.mark.parametrize("stream", ["flat", "primary"])
def test_what_can_be_put_back_is_put_back_if_the_shutter_fails(station, stream):
    """The sample is out of the beam while flats are taken, the velocity is set while projections are."""

    def break_camera(name, doc):
        station.detector.camera.broken = doc["name"] == stream

    with init_devices():
        shutter = JammedShutter()
    station.RE.subscribe(break_camera, "descriptor")
    station.RE(bps.mv(station.x, 1.5))
    with pytest.raises(RuntimeError, match="the shutter is jammed"):
        station.RE(
            tomo_fly_scan(station.detector, station.rotation, station.x, shutter, num=5, exposure=EXPOSURE, **FRAMES)
        )
    assert left(station)[:2] == (1.5, 0.0)


def test_the_velocity_is_put_back_if_the_sample_stage_fails(station):
    moves = []

    def break_stage(message):
        if message.command == "set" and message.obj is station.x:
            moves.append(message)
            if len(moves) == 3:  # out of the beam, back, and once more in the end
                return jam(), None
        return None, None

    def jam():
        yield from bps.null()
        raise RuntimeError("the stage is stuck")

    plan = tomo_fly_scan(*devices(station), num=5, exposure=EXPOSURE, **FRAMES)
    with pytest.raises(RuntimeError, match="the stage is stuck"):
        station.RE(bpp.plan_mutator(plan, break_stage))
    assert left(station) == (0.0, 0.0, False)


@pytest.mark.parametrize("ending", ["abort", "resume"])
def test_a_step_scan_that_is_paused_can_be_aborted_or_resumed(station, ending):
    documents, saved = defaultdict(list), []

    def pause_after_two(message):
        saved.extend([message] * (message.command == "save"))
        wanted = message.command == "save" and len(saved) == 2
        return None, bps.deferred_pause() if wanted else None

    plan = tomo_step_scan(*devices(station), num=4, exposure=EXPOSURE, **FRAMES)
    station.RE.subscribe(lambda name, doc: documents[name].append(doc))
    with pytest.raises(RunEngineInterrupted):
        station.RE(bpp.plan_mutator(plan, pause_after_two))
    getattr(station.RE, ending)()
    assert left(station) == (0.0, 0.0, False)
    assert documents["stop"][0]["exit_status"] == {"abort": "abort", "resume": "success"}[ending]
    assert counted_frames(collected(documents))["projections"] == {"abort": 2, "resume": 4}[ending]


def test_a_pause_while_the_stage_turns_ends_the_scan_and_leaves_order(station):
    stops = []

    def pause_in_flight(message):
        turning = message.command == "collect" and message.kwargs["name"] == "primary"
        return None, bps.pause() if turning else None

    plan = tomo_fly_scan(*devices(station), num=50, exposure=EXPOSURE, **FRAMES)
    station.RE.subscribe(lambda name, doc: stops.append(doc["exit_status"]), "stop")
    with pytest.raises(RunEngineInterrupted):
        station.RE(bpp.plan_mutator(plan, pause_in_flight))
    assert (station.RE.state, stops) == ("idle", ["abort"])
    assert left(station) == (0.0, 0.0, False)


def left(station):
    """Where the sample is, the velocity of the rotation, and whether the shutter is open."""
    return tuple(
        asyncio.run_coroutine_threadsafe(signal.get_value(), station.RE.loop).result(5)
        for signal in (station.x.user_readback, station.rotation.velocity, station.shutter.open)
    )


@pytest.mark.parametrize(
    ("plan", "settings", "error", "message"),
    [
        (tomo_step_scan, {"num_flats": 0}, ValueError, "10 darks need a shutter"),
        (tomo_step_scan, {"num_darks": 0}, ValueError, "10 flats need sample_x and out_of_beam"),
        (tomo_step_scan, {"num": 0}, ValueError, "num must be 1 or more, got 0"),
        (tomo_fly_scan, {"exposure": 0.0}, ValueError, "exposure must be positive"),
        (tomo_step_scan, BARE | {"exposure": 0.0}, ValueError, "exposure must be positive, got 0.0 seconds"),
        (tomo_golden_scan, BARE | {"exposure": -1.0}, ValueError, "exposure must be positive, got -1.0 seconds"),
        (tomo_fly_scan, BARE | {"num_darks": -1}, ValueError, "must be 0 or more, got -1 and 0"),
        (tomo_step_scan, BARE | {"num_flats": -1}, ValueError, "must be 0 or more, got 0 and -1"),
        (tomo_step_scan, BARE | {"start": 5.0, "stop": 5}, ValueError, "start and stop must differ .* got 5.0"),
        (tomo_fly_scan, BARE | {"stop": 0.0}, ValueError, "start and stop must differ .* got 0.0"),
        (tomo_interlaced_scan, {"rotations": 3}, ValueError, "power of two, got 3"),
        (tomo_step_scan, {"flats": "never"}, ValueError, "'before', 'after' or 'both', got 'never'"),
    ],
)
def test_what_cannot_be_taken_is_refused_before_anything_moves(station, plan, settings, error, message):
    seen = []
    station.RE.msg_hook = lambda message: seen.append(message.command)
    with pytest.raises(error, match=message):
        # With all devices that the darks and flats would need, where it is not their lack that is refused.
        given = devices(station) if settings.keys() >= BARE.keys() else devices(station)[:2]
        station.RE(plan(*given, **{"out_of_beam": 20.0} | settings))
    assert not {"open_run", "set", "stage", "prepare", "kickoff"} & set(seen)


def test_step_scan_of_devices_that_are_not_of_ophyd_async():
    from bluesky.tests.utils import DocCollector
    from ophyd.sim import SynAxis, SynGauss

    RE = RunEngine(context_managers=[])
    try:
        motor = SynAxis(name="theta")
        detector = SynGauss("camera", motor, "theta", center=0, Imax=1)
        shutter, x = SynAxis(name="shutter"), SynAxis(name="x", value=1.0)
        collector = DocCollector()
        settings = {"open_value": 1, "closed_value": 0}
        (uid,) = RE(tomo_step_scan(detector, motor, x, shutter, num=4, **FRAMES, **settings), collector.insert)
        assert {doc["name"]: 0 for doc in collector.descriptor[uid]} == {"dark": 0, "flat": 0, "primary": 0}
        assert collector.stop[uid]["num_events"] == {"dark": 3, "flat": 4, "primary": 4}
        assert (x.position, shutter.position) == (1.0, 0)
        seen = []
        RE.msg_hook = seen.append
        with pytest.raises(ValueError, match="set the exposure on camera itself"):
            RE(tomo_step_scan(detector, motor, x, shutter, num=4, exposure=0.1, **FRAMES, **settings))
        assert not {message.command for message in seen} & {"open_run", "set", "stage"}
        with pytest.raises(TypeError, match="camera cannot be prepared and kicked off"):
            RE(tomo_fly_scan(detector, motor, num=4, num_darks=0, num_flats=0))
    finally:
        close_run_engine(RE)


def test_without_ophyd_async_the_error_says_so():
    code = """
import sys
sys.modules["ophyd_async"] = None
from quietbeam.beamline.plans import tomo_fly_scan
class Device:
    name = "d"
try:
    list(tomo_fly_scan(Device(), Device(), num_darks=0, num_flats=0))
except ImportError as error:
    print(error)
print([name for name in ("torch", "h5py", "pydantic", "numba") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'ophyd-async>=0.21'" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what queueserver imports
def test_queueserver_takes_the_plans(station):
    from bluesky_queueserver.manager import profile_ops

    namespace = {name: getattr(plans, name) for name in plans.__all__}
    namespace |= {"detector": station.detector, "rotation": station.rotation}
    found, devices_, _, _ = profile_ops.existing_plans_and_devices_from_nspace(nspace=namespace)
    assert set(found) == set(plans.__all__)
    assert {"detector", "rotation"} <= set(devices_)
    by_name = {parameter["name"]: parameter for parameter in found["tomo_fly_scan"]["parameters"]}
    assert by_name["detector"]["annotation"]["type"] == "__READABLE__"
    assert by_name["shutter"]["convert_device_names"] is True
    assert by_name["flats"]["annotation"]["type"] == "typing.Literal['before', 'after', 'both']"
    assert all("annotation" in parameter for plan in found.values() for parameter in plan["parameters"])
    ours = {"name": "tomo_fly_scan", "user_group": "root", "args": ["detector", "rotation"], "kwargs": {"num": 5}}
    allowed = {"allowed_plans": found, "allowed_devices": devices_}
    assert profile_ops.validate_plan(ours, **allowed) == (True, "")
    for wrong in ({"num": "many"}, {"angle_unit": "grad"}):
        assert profile_ops.validate_plan(ours | {"kwargs": wrong}, **allowed)[0] is False
    for right in ({"angle_unit": "rad"}, {"angle_unit": None}):
        assert profile_ops.validate_plan(ours | {"kwargs": right}, **allowed) == (True, "")
    prepared = profile_ops.prepare_plan(
        ours | {"kwargs": {"num": 5, "exposure": EXPOSURE, "num_darks": 0, "num_flats": 0}},
        plans_in_nspace=profile_ops.plans_from_nspace(namespace),
        devices_in_nspace=profile_ops.devices_from_nspace(namespace),
        nspace=namespace,
        allowed_plans={"root": found},
        allowed_devices={"root": devices_},
    )
    assert prepared["args"][0] is station.detector
    assert len(station.RE(prepared["callable"](*prepared["args"], **prepared["kwargs"]))) == 1
