from __future__ import annotations

import copy
import json

import pytest

from quietbeam.beamline.runs.reference import (
    FORMAT,
    check_reference,
    choose_detector,
    counted_frames,
    frame_streams,
    has_projections,
    needed_dark_flat_uid,
    planned_frames,
    run_uid,
    with_dark_flat,
    write_reference,
)


def stream(name, keys=("det",), num=4, shape=(1, 8, 8)):
    """A stream of a run with frames of some detectors."""
    resources = [
        {"data_key": key, "uri": f"file:///{key}.h5", "mimetype": "application/x-hdf5", "parameters": {}, "ranges": []}
        for key in keys
    ]
    for resource in resources:
        resource["ranges"].append([0, num, 1])
    data_keys = {key: {"shape": list(shape), "external": "STREAM:"} for key in keys}
    empty = {"seq_nums": [], "times": [], "columns": {}}
    return {"uid": name, "name": name, "time": 0.0, "data_keys": data_keys, "resources": resources} | empty


def reference(*streams, **start):
    return check_reference(
        {"format": FORMAT, "start": {"uid": "run", "time": 0.0} | start, "stop": {}, "streams": list(streams)}
    )


def names(run, role):
    return [stream["name"] for stream in frame_streams(run, role)]


class TestRoles:
    @pytest.mark.parametrize("name", ["primary", "tomo", "proj", "projections", "Primary", "TOMO"])
    def test_usual_names_of_projections(self, name):
        run = reference(stream("other"), stream(name))
        assert names(run, "projections") == [name]
        assert has_projections(run)

    @pytest.mark.parametrize(
        ("flat", "dark"), [("flat", "dark"), ("flats", "Darks"), ("white", "dark"), ("bkg", "dark")]
    )
    def test_usual_names_of_background(self, flat, dark):
        run = reference(stream(flat), stream(dark))
        assert (names(run, "flats"), names(run, "darks"), names(run, "projections")) == ([flat], [dark], [])
        assert not has_projections(run)

    @pytest.mark.parametrize("word", ["flat", "flats"])
    def test_plan_has_the_first_word(self, word):
        """The plan's flats before and after; and a stream it calls darks is not taken for projections."""
        streams = {"projections": "views", word: ["before", "after"], "dark": "primary"}
        run = reference(*map(stream, ("primary", "after", "views", "before")), tomo={"streams": streams})
        assert names(run, "projections") == ["views"]
        assert names(run, "flats") == ["before", "after"]
        assert names(run, "darks") == ["primary"]

    def test_plan_tells_some(self):
        run = reference(*map(stream, ("a", "dark", "primary")), tomo={"streams": {"flat": "a"}})
        assert [names(run, role) for role in ("flats", "darks", "projections")] == [["a"], ["dark"], ["primary"]]
        run = reference(*map(stream, ("primary", "tomo")), tomo={"streams": {"dark": "primary"}})
        assert names(run, "projections") == ["tomo"]

    def test_streams_without_frames(self):
        """Numbers of a stage or a monitor are no frames."""
        run = reference(stream("primary", shape=(1,)), stream("tomo", shape=(20,)), stream("proj", shape=()))
        assert names(run, "projections") == []

    def test_several_descriptors(self):
        assert names(reference(stream("primary"), stream("flat"), stream("primary")), "projections") == ["primary"] * 2


class TestDetector:
    def test_only_one(self):
        assert choose_detector(reference(stream("primary"))) == "det"

    @pytest.mark.parametrize(("told", "taken"), [("left", "left"), ("right", "right-image"), ("left-two", "left-two")])
    def test_told(self, told, taken):
        run = reference(stream("primary", ("left", "left-two", "right-image")), tomo={"detector": told})
        assert choose_detector(run) == taken
        assert choose_detector(reference(stream("primary", ("left", "left-two", "right-image"))), told) == taken

    def test_told_device_without_frames(self):
        assert choose_detector(reference(stream("primary"), tomo={"detector": "shutter"})) == "det"

    @pytest.mark.parametrize("told", [None, "other", "right"])
    def test_not_clear(self, told):
        run = reference(stream("primary", ("left", "right-1", "right-2")), tomo={"detector": told})
        with pytest.raises(ValueError, match=r"expected one detector with projections.*, got left, right-1, right-2"):
            choose_detector(run)

    def test_none(self):
        with pytest.raises(ValueError, match="no stream of projections has frames; its streams are flat"):
            choose_detector(reference(stream("flat")))


class TestCounts:
    def test_counted(self):
        run = reference(
            stream("dark", num=2), stream("flat", num=3), stream("primary", ("det", "other"), shape=(5, 8, 8))
        )
        assert counted_frames(run) == {"projections": 20, "flats": 3, "darks": 2}
        run["streams"][2]["resources"][0]["parameters"]["frame_per_point"] = 7
        assert counted_frames(run)["projections"] == 28
        assert counted_frames(run, "other")["projections"] == 20

    def test_counted_of_the_detector_that_the_plan_names(self):
        run = reference(stream("primary", ("eye", "det"), 10), stream("flat", ("eye", "det")), tomo={"detector": "det"})
        for entry in run["streams"]:
            entry["resources"][0]["ranges"] = [[0, 1, 1]]
        assert counted_frames(run) == {"projections": 10, "flats": 4, "darks": 0}
        run["streams"].pop(0)
        assert counted_frames(run) == {"projections": 0, "flats": 4, "darks": 0}
        run["start"]["tomo"] = {}
        assert counted_frames(run)["flats"] == 1

    @pytest.mark.parametrize(
        ("start", "number"),
        [
            ({"tomo": {"num": 12}}, 12),
            ({"tomo": {"num": 12, "num_projections": 10}}, 10),
            ({"num_projections": 9.0}, 9),
            ({"num_points": 3}, 3),
            ({"tomo": {"num": "12"}}, None),
            ({"tomo": {"num": True}}, None),
            ({"tomo": {"num": 2.5}}, None),
            ({"tomo": "step"}, None),
            ({}, None),
        ],
    )
    def test_planned(self, start, number):
        assert planned_frames(reference(stream("primary"), **start)) == number


class TestDarkFlatRun:
    def test_named(self):
        assert needed_dark_flat_uid(reference(stream("primary"), tomo={"dark_flat_uid": "a"})) == "a"
        assert needed_dark_flat_uid(reference(stream("primary"), current_dark_flat_scan_uid="b")) == "b"
        both = {"tomo": {"dark_flat_uid": "a"}, "current_dark_flat_scan_uid": "b"}
        assert needed_dark_flat_uid(reference(stream("primary"), stream("flat"), **both)) == "a"

    def test_not_needed(self):
        own = reference(stream("primary"), stream("flat"), stream("dark"), current_dark_flat_scan_uid="b")
        assert needed_dark_flat_uid(own) is None
        assert needed_dark_flat_uid(reference(stream("flat"), current_dark_flat_scan_uid="run")) is None
        assert needed_dark_flat_uid(reference(stream("primary"))) is None

    def test_put_in(self):
        other = reference(stream("flat"), stream("dark"))
        run = with_dark_flat(reference(stream("primary")), with_dark_flat(other, other))
        assert run["dark_flat"] == other
        assert check_reference(run) is run


RESOURCE = ("streams", 0, "resources", 0)


class TestCheck:
    @pytest.fixture
    def whole(self):
        run = reference(stream("primary"))
        run["streams"][0] |= {"seq_nums": [1], "times": [0.0], "columns": {"rot": [1.0]}}
        run["streams"][0]["resources"][0]["positions"] = [0]
        return check_reference(run)

    @pytest.mark.parametrize(
        ("part", "value", "message"),
        [
            (("format",), "quietbeam-run-2", "format 'quietbeam-run-1', got 'quietbeam-run-2'"),
            (("start", "uid"), 3, "start: expected the start document with its uid"),
            (("stop",), [], "stop: expected the stop document or null, got list"),
            (("streams",), {}, "streams: expected a list, got dict"),
            (("streams", 0), None, r"streams\[0\]: expected a stream with its name"),
            (("streams", 0, "name"), None, r"streams\[0\]: expected a stream with its name"),
            (("streams", 0, "times"), None, r"streams\[0\].times: expected a list, got NoneType"),
            (("streams", 0, "times", 0), float("nan"), "expected one seq_num, time and value"),
            (("streams", 0, "seq_nums", 0), "1", "expected one seq_num, time and value"),
            (("streams", 0, "columns", "rot"), [1.0, 2.0], "expected one seq_num, time and value"),
            (("streams", 0, "columns", "rot", 0), "1", "columns: expected lists of numbers and null by name"),
            (("streams", 0, "data_keys", "det"), [], "data_keys: expected descriptions by name"),
            (RESOURCE, 1, r"resources\[0\]: expected data_key, uri, mimetype as text"),
            ((*RESOURCE, "uri"), None, "expected data_key, uri, mimetype as text"),
            ((*RESOURCE, "parameters"), None, "parameters: expected an object"),
            ((*RESOURCE, "ranges"), None, "ranges: expected lists of"),
            ((*RESOURCE, "ranges", 0), [0, 1], "ranges: expected lists of"),
            ((*RESOURCE, "ranges", 0, 0), -1, "ranges: expected lists of"),
            ((*RESOURCE, "ranges", 0, 1), 0, "ranges: expected lists of"),
            ((*RESOURCE, "ranges", 0, 1), 2**70, "ranges: expected lists of"),
            ((*RESOURCE, "ranges", 0, 2), 1.5, "ranges: expected lists of"),
            ((*RESOURCE, "positions"), [], "positions: expected one whole number for each range"),
            (("dark_flat",), {"format": FORMAT}, "start: expected the start document"),
        ],
        ids=str,
    )
    def test_wrong_parts(self, whole, part, value, message):
        *way, last = part
        holder = whole
        for step in way:
            holder = holder[step]
        holder[last] = value
        with pytest.raises(ValueError, match=message):
            check_reference(whole)


def test_written_whole_and_once(tmp_path):
    run, path = reference(stream("primary")), tmp_path / "run.json"
    write_reference(run, path)
    assert json.loads(path.read_text()) == run
    inode = path.stat().st_ino
    write_reference(copy.deepcopy(run), path)
    assert path.stat().st_ino == inode
    write_reference(with_dark_flat(run, run), path)
    assert run_uid(json.loads(path.read_text())["dark_flat"]) == "run"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
    with pytest.raises(ValueError, match="Out of range float"):
        write_reference(run | {"x": float("nan")}, path)
