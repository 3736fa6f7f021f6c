from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
import tracemalloc
from collections import Counter

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import event_model
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.beamline.hook import PostScan
from quietbeam.beamline.runs.collector import RunCollector, RunsCollector, plain_json
from quietbeam.beamline.runs.reference import check_reference, counted_frames, run_uid

from .bluesky_runs import bench, step_scan, take

ANGLES = np.arange(0, 90, 15.0)


@pytest.fixture
def made(tmp_path):
    with bench(tmp_path) as made:
        yield made


def collect(documents):
    collector = RunCollector()
    for name, document in documents:
        collector(name, copy.deepcopy(document))
    return collector.reference


def test_reference(made):
    """What is kept of the documents; it does not grow with the number of pixels."""
    reference = check_reference(made.run(step_scan(made, [made.detector()], ANGLES, md={"motors": ["rotation"]})))
    dark, flat, primary = reference["streams"]
    assert [stream["name"] for stream in reference["streams"]] == ["dark", "flat", "primary"]
    assert primary["columns"] == {"rotation": ANGLES.tolist()}
    assert primary["seq_nums"] == [1, 2, 3, 4, 5, 6]
    assert dark["resources"][0]["ranges"] == [[0, 3, 1]]
    assert primary["resources"][0]["ranges"] == [[6, 12, 1]]
    assert primary["resources"][0]["uri"] == flat["resources"][0]["uri"]
    assert "source" not in primary["data_keys"]["det"]
    assert reference["stop"]["exit_status"] == "success"
    assert counted_frames(reference) == {"projections": 6, "flats": 3, "darks": 3}
    assert len(json.dumps(reference)) < 4000


@pytest.mark.parametrize("per_event", [1, 2])
def test_pages(made, per_event):
    """Events and datums may come in pages, as data brokers give them."""
    reference = made.run(step_scan(made, [made.detector(classic=True, per_event=per_event)], ANGLES))
    last = reference["streams"][-1]["resources"][0]
    assert last["parameters"] == {"dataset": "/entry/data/data", "frame_per_point": per_event, "spec": "AD_HDF5"}
    assert last["ranges"] == [[6, 12, 1]]
    datums = event_model.pack_datum_page(*[document for name, document in made.documents if name == "datum"])
    paged = [("datum_page", datums) if name == "resource" else (name, doc) for name, doc in made.documents]
    order = [entry for entry in made.documents if entry[0] in ("start", "resource")]
    events = {}
    for name, document in made.documents:
        if name == "event":
            events.setdefault(document["descriptor"], []).append(document)
    descriptors = [entry for entry in made.documents if entry[0] == "descriptor"]
    pages = [("event_page", event_model.pack_event_page(*group)) for group in events.values()]
    assert collect([*order, ("datum_page", datums), *descriptors, *pages, made.documents[-1]]) == reference
    assert len(paged) == len(made.documents)


def test_replayed(made):
    """The same documents again, as when they are sent anew, give the same reference."""
    reference = made.run(step_scan(made, [made.detector()], ANGLES))
    assert json.loads(json.dumps(collect(made.documents + made.documents))) == reference


def test_no_start():
    with pytest.raises(ValueError, match="expected a start document first"):
        RunCollector().reference  # noqa: B018


@st.composite
def batches(draw):
    """Batches of frames: each goes on, or back to an earlier `seq_num`, as after a pause."""
    seq_num, made = 1, []
    for _ in range(draw(st.integers(1, 12))):
        seq_num = draw(st.integers(1, seq_num)) if draw(st.booleans()) else seq_num
        length = draw(st.integers(1, 5))
        made.append((seq_num, length, draw(st.booleans())))
        seq_num += length
    return made


@given(batches())
def test_last_frame_of_each_number_counts(batches):
    """Ranges are what a table of `seq_num` that is written over gives; a batch may begin a new file."""
    collector = RunCollector()
    collector("start", {"uid": "run", "time": 0.0})
    key = {"shape": [1, 8, 8], "external": "STREAM:"}
    collector("descriptor", {"uid": "d", "name": "primary", "time": 0.0, "data_keys": {"det": key}, "run_start": "run"})
    expected, index, number = {}, 0, -1
    for position, (seq_num, length, new_file) in enumerate(batches):
        if new_file or number < 0:
            index, number = 0, number + 1
            resource = {"data_key": "det", "uri": f"file:///{number}.h5", "mimetype": "x", "parameters": {}}
            collector("stream_resource", resource | {"uid": str(number), "run_start": "run"})
        datum = {"descriptor": "d", "stream_resource": str(number), "uid": f"{number}/{position}"}
        indices, seq_nums = {"start": index, "stop": index + length}, {"start": seq_num, "stop": seq_num + length}
        collector("stream_datum", datum | {"indices": indices, "seq_nums": seq_nums})
        taken = sum(entry[1] for entry in batches[:position])
        for k in range(length):
            expected[seq_num + k] = (f"file:///{number}.h5", index + k, taken + k)
        index += length
    found = {}
    for resource in collector.reference["streams"][0]["resources"]:
        for (first, stop, seq_num), position in zip(resource["ranges"], resource["positions"], strict=True):
            for k in range(stop - first):
                assert seq_num + k not in found
                found[seq_num + k] = (resource["uri"], first + k, position + k)
    assert found == expected


class TestRunsCollector:
    def collect(self, documents):
        told = []
        runs = RunsCollector(lambda run, event: told.append((event, run)))
        for name, document in documents:
            runs(name, document)
        # Made only now: what was told before must not have changed.
        return [(event, run.reference) for event, run in told], runs

    def test_events_of_a_run(self, made):
        reference = made.run(step_scan(made, [made.detector()], ANGLES))
        told, _ = self.collect(made.documents)
        assert [event for event, _ in told] == ["start", "stream", "stream", "stream", "stop"]
        assert told[0][1]["streams"] == []
        assert told[3][1]["streams"][-1]["resources"][0]["ranges"] == [[6, 7, 1]]
        assert len(told[3][1]["streams"][-1]["seq_nums"]) <= 1
        assert told[-1][1] == reference

    def test_interleaved_runs(self, made):
        """Two runs that are open at the same time, one with resources as ophyd makes them."""
        left, right = made.detector("left", classic=True), made.detector("right")

        @bpp.stage_decorator([left, right])
        def plan():
            for key in ("a", "b"):
                yield from bpp.set_run_key_wrapper(bps.open_run({"which": key}), key)
            for _ in range(4):
                for key, det in (("a", left), ("b", right)):
                    yield from bpp.set_run_key_wrapper(take(made.beam, [det], "projection", "primary", 1), key)
            for key in ("a", "b"):
                yield from bpp.set_run_key_wrapper(bps.close_run(), key)

        made.documents.clear()
        made.RE(plan())
        told, runs = self.collect(made.documents)
        assert [event for event, _ in told] == ["start", "start", "stream", "stream", "stop", "stop"]
        for (_, reference), name in zip(told[-2:], ("left", "right"), strict=True):
            (stream,) = reference["streams"]
            assert [resource["data_key"] for resource in stream["resources"]] == [name]
            assert stream["resources"][0]["ranges"] == [[0, 4, 1]]
        assert not any(vars(runs)[name] for name in ("_runs", "_run_of", "_silent"))

    def test_begun_in_the_middle(self, made):
        """A collector that is subscribed late passes over what it cannot place."""
        made.run(step_scan(made, [made.detector(classic=True)], ANGLES))
        told, runs = self.collect(made.documents[1:])
        assert told == []
        assert not any(vars(runs)[name] for name in ("_runs", "_run_of", "_silent"))

    def test_runs_that_never_end(self):
        told, _ = self.collect([("start", {"uid": str(number), "time": 0.0}) for number in range(70)])
        lost = [run_uid(reference) for event, reference in told if event == "lost"]
        assert lost == [str(number) for number in range(6)]
        assert Counter(event for event, _ in told)["start"] == 70


def long_run(num, *data_keys, frames=False):
    """Documents of a run whose events have numbers, and one frame before them if wanted."""
    yield "start", {"uid": "run", "time": 0.0, "motors": ["motor"], "tomo": {}}
    if frames:
        key = {"det": {"shape": [1, 8, 8], "external": "STREAM:"}}
        yield "descriptor", {"uid": "frames", "run_start": "run", "name": "primary", "time": 0.0, "data_keys": key}
    keys = {key: {"shape": [], "dtype": "number"} for key in data_keys}
    yield "descriptor", {"uid": "d", "run_start": "run", "name": "x_monitor", "time": 0.0, "data_keys": keys}
    for number in range(num):
        data = {"data": dict.fromkeys(data_keys, float(number)), "timestamps": {}}
        yield "event", data | {"descriptor": "d", "uid": str(number), "seq_num": number + 1, "time": float(number)}
    yield "stop", {"uid": "stop", "run_start": "run", "time": 0.0, "exit_status": "success"}


class TestLongRuns:
    @pytest.mark.parametrize(("key", "bytes_per_event"), [("counts", 0.5), ("theta", 32)])
    def test_memory(self, key, bytes_per_event):
        """Nothing is kept of events that tell no angle, and three numbers of each of the others, with room to grow."""
        num, runs = 50_000, RunsCollector(lambda run, event: None)
        tracemalloc.start()
        for name, document in long_run(num, key):
            if name == "stop":
                held = tracemalloc.get_traced_memory()[0]
                tracemalloc.stop()
            runs(name, document)
        assert held < bytes_per_event * num

    def test_the_end_takes_no_time_in_the_callers_thread(self, tmp_path):
        """To make the reference of so many events takes some milliseconds; the shortest time tells if it is made."""
        hook, seconds = PostScan(tmp_path / "jobs.db"), []
        for _ in range(3):
            for name, document in long_run(10_000, "theta", frames=True):
                begin = time.perf_counter()
                hook(name, document)
            seconds.append(time.perf_counter() - begin)
            assert hook.flush()
        assert len(hook.destination.queue().run("run")["streams"][1]["times"]) == 10_000
        assert (hook.errors, min(seconds) < 1e-3) == (0, True)
        hook.close()

    @pytest.mark.parametrize(("frames", "kept"), [(True, [1, 2, 3]), (False, [])])
    def test_events_beside_frames_only(self, frames, kept):
        """Angles are of use only for frames: the reference of any other scan stays small."""
        stream = collect(long_run(3, "motor", frames=frames))["streams"][-1]
        assert stream["seq_nums"] == kept
        assert stream["columns"] == ({"motor": [0.0, 1.0, 2.0]} if kept else {})

    def test_values_that_are_no_numbers(self):
        documents = list(long_run(4, "theta", "counts", frames=True))
        for (_, event), value in zip(documents[3:7], (1.5, "moving", float("nan"), True), strict=True):
            event["data"]["theta"] = value
        again = ("event", documents[4][1] | {"data": {"theta": 2.5, "counts": 0}, "time": 9.0})
        stream = collect([*documents[:-1], again])["streams"][-1]
        assert stream["columns"] == {"theta": [1.5, 2.5, None, None]}
        assert stream["times"] == [0.0, 9.0, 2.0, 3.0]


def test_frames_without_numbers():
    """Where a writer leaves `seq_num` out, frames are counted in their stream, not in the file that streams share."""
    key = {"det": {"shape": [1, 8, 8], "external": "STREAM:"}}
    resource = {"uid": "file", "data_key": "det", "uri": "file:///a.h5", "mimetype": "x", "parameters": {}}
    documents = [("start", {"uid": "run", "time": 0.0}), ("stream_resource", resource)]
    for name, first, stop in (("dark", 0, 3), ("primary", 3, 5), ("primary", 5, 9)):
        documents.append(("descriptor", {"uid": f"{name}{first}", "name": name, "time": 0.0, "data_keys": key}))
        datum = {"descriptor": f"{name}{first}", "stream_resource": "file", "indices": {"start": first, "stop": stop}}
        documents.append(("stream_datum", datum | {"seq_nums": {"start": 0, "stop": 0}}))
    ranges = [stream["resources"][0]["ranges"] for stream in collect(documents)["streams"]]
    assert ranges == [[[0, 3, 1]], [[3, 5, 1]], [[5, 9, 3]]]


def test_plain_json():
    class Device:
        def __str__(self):
            return "device"

    value = {
        1: np.float32(0.5),
        "array": np.arange(3),
        "nan": float("nan"),
        "inside": [np.int64(3), (1, {2})],
        "device": Device(),
        "none": None,
        "large": 2**70,
        "bool": np.bool_(True),
    }
    expected = {
        "1": 0.5,
        "array": [0, 1, 2],
        "nan": None,
        "inside": [3, [1, [2]]],
        "device": "device",
        "none": None,
        "large": 2**70,
        "bool": True,
    }
    assert plain_json(value) == expected
    json.dumps(plain_json(value), allow_nan=False)


def test_plain_json_of_a_circle():
    circle: dict[str, object] = {}
    circle["itself"] = circle
    json.dumps(plain_json(circle))


def test_imports_nothing_heavy():
    """These modules are imported in the RunEngine's process."""
    heavy = ("torch", "numba", "h5py", "pydantic", "tiled", "scipy", "bluesky")
    code = (
        "import sys; import quietbeam.beamline.runs.collector, quietbeam.beamline.runs.reference; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
