"""Runs in a real Tiled catalogue, and what is told of them: the same as by their own documents, or nothing."""

import json
import signal
import subprocess
import time
import uuid

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from bluesky_tiled_plugins import TiledWriter
from ophyd_async.core import TriggerInfo
from tiled.structures.core import Spec

from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.submission import open_queue
from quietbeam.beamline.plans import tomo_fly_scan
from quietbeam.beamline.runs.collector import RunCollector
from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.watching.catch_up import catch_up
from quietbeam.beamline.watching.folder import WatchError
from quietbeam.beamline.watching.intake import Intake
from quietbeam.beamline.watching.tiled_documents import documents_of_run
from quietbeam.beamline.watching.tiled_runs import TRIES, TiledWatcher, connected, latest_uid, reference_of_run
from quietbeam.reconstruction.errors import ScanError

from .end_station import make_end_station
from .jobs import command

pytestmark = pytest.mark.filterwarnings("ignore:.*streams")

LONGEST = 30.0
"""Seconds until a process has done its part, on a busy machine."""


@pytest.fixture(scope="module")
def catalogue(tiled):
    """A container of the catalogue for these tests alone."""
    return tiled.client.create_container("runs-to-watch")


@pytest.fixture(scope="module")
def station(tmp_path_factory, catalogue):
    """An end station that writes to the catalogue; `documents` holds those of the last run."""
    made = make_end_station(tmp_path_factory.mktemp("raw"), rows=4, columns=8)
    made.documents = []
    made.RE.subscribe(TiledWriter(catalogue))
    made.RE.subscribe(lambda name, doc: made.documents.append((name, doc)))
    yield made
    made.close()


def take(station, plan):
    """Take a run; its uid, and the reference of its own documents."""
    station.documents.clear()
    (uid,) = station.RE(plan)
    collector = RunCollector()
    for name, document in station.documents:
        collector(name, document)
    return uid, collector.reference


def fly(station, **settings):
    options = {"num": 6, "num_darks": 2, "num_flats": 3, "out_of_beam": 20.0, "exposure": 0.001} | settings
    return tomo_fly_scan(station.detector, station.rotation, station.x, station.shutter, **options)


def stream(station, name, number):
    yield from bps.prepare(station.detector, TriggerInfo(number_of_events=number), wait=True)
    yield from bps.declare_stream(station.detector, name=name, collect=True)
    yield from bps.kickoff(station.detector, wait=True)
    yield from bps.collect_while_completing([station.detector], [station.detector], 0.05, stream_name=name)


def in_one_file(station, *streams):
    """Take several streams in one stage cycle, so that they share a file."""

    @bpp.stage_decorator([station.detector])
    @bpp.run_decorator(md={"tomo": {}})
    def plan():
        for name, number in streams:
            yield from stream(station, name, number)

    return plan()


def in_files(station, *streams):
    """Take each of several streams in a file of its own."""

    @bpp.run_decorator(md={"tomo": {}})
    def plan():
        for name, number in streams:
            yield from bps.stage(station.detector, wait=True)
            yield from stream(station, name, number)
            yield from bps.unstage(station.detector, wait=True)

    return plan()


def essentials(reference):
    """What of a reference the reduction uses; the catalogue adds parameters, and has no order of resources.

    But for `positions`: when frames were taken is not in a catalogue on SQL.
    """
    streams = []
    for entry in reference["streams"]:
        resources = [
            (item["data_key"], item["uri"], item["mimetype"], item["parameters"]["dataset"], item["ranges"])
            for item in entry["resources"]
        ]
        kept = {name: entry[name] for name in ("uid", "name", "time", "data_keys", "seq_nums", "times", "columns")}
        streams.append(kept | {"resources": sorted(resources)})
    return {"start": reference["start"], "stop": reference["stop"], "streams": streams}


def test_the_reference_of_a_fly_scan_is_that_of_its_documents(station, catalogue):
    uid, expected = take(station, fly(station, md={"sample": "wood"}))
    found = reference_of_run(catalogue, uid)
    assert essentials(found) == essentials(expected)
    assert [entry["name"] for entry in found["streams"]] == ["dark", "flat", "primary"]
    assert all("positions" in item for entry in expected["streams"] for item in entry["resources"])
    assert not any("positions" in item for entry in found["streams"] for item in entry["resources"])
    assert reference_of_run(catalogue, uid[:8]) == found
    with pytest.raises(WatchError, match="no run begins with 0123456789"):
        reference_of_run(catalogue, "0123456789")


def test_the_reference_of_a_step_scan_has_the_angles_of_its_events(station, catalogue):
    uid, expected = take(station, bp.scan([station.detector], station.rotation, 0, 90, 4))
    found = reference_of_run(catalogue, uid)
    assert essentials(found) == essentials(expected)
    (primary,) = found["streams"]
    assert primary["columns"]["rotation"] == [0.0, 30.0, 60.0, 90.0]


def test_streams_that_share_a_file_are_refused_since_the_catalogue_mixes_them_up(station, catalogue):
    uid, _ = take(station, in_one_file(station, ("dark", 2), ("flat", 3), ("primary", 4)))
    with pytest.raises(ScanError, match=r"stream dark.* has 9 of its events, the stop document says 2.*\.jsonl"):
        reference_of_run(catalogue, uid)


def test_a_stream_in_several_files_is_refused_since_the_catalogue_does_not_count_them(station, catalogue):
    uid, expected = take(station, in_files(station, ("primary", 4), ("primary", 5)))
    assert sum(len(entry["resources"]) for entry in expected["streams"]) == 4
    with pytest.raises(ScanError, match="lies in 2 files"):
        reference_of_run(catalogue, uid)


def test_flats_are_averaged_since_the_catalogue_does_not_tell_when_they_were_taken(station, catalogue, tmp_path):
    uid, expected = take(station, fly(station))
    for name, reference, is_known in (("told", expected, True), ("found", reference_of_run(catalogue, uid), False)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(reference))
        scan = open_scan(path)
        assert (scan.positions is not None, scan.flat_positions is not None) == (is_known, is_known)


def broken_run(catalogue):
    """Put a run into the catalogue that ended just now, a stream of which has lost what the catalogue says of it."""
    uid, now = str(uuid.uuid4()), time.time()
    documents = {"start": {"uid": uid, "time": now, "tomo": {}}, "stop": {"run_start": uid, "time": now}}
    run = catalogue.create_container(uid, metadata=documents, specs=[Spec("BlueskyRun", version="3.0")])
    run.base.create_container("primary", metadata={}, specs=[Spec("BlueskyEventStream", version="3.0")])
    return uid


def test_a_run_that_the_catalogue_does_not_give_keeps_no_other_back(station, catalogue, caplog):
    found = []
    watcher = TiledWatcher(catalogue, found.append, since=time.time())
    broken = broken_run(catalogue)
    taken = [take(station, fly(station))[0]]
    assert watcher.poll() == 1
    taken.append(take(station, fly(station))[0])
    assert [watcher.poll() for _ in range(TRIES)] == [1, 0, 0, 1, 0]
    assert [reference["start"]["uid"] for reference in found] == taken
    told = [record.getMessage() for record in caplog.records if broken in record.getMessage()]
    assert [message.rpartition("; ")[2] for message in told] == [
        "it is tried again",
        f"passed over now: quietbeam catch-up --tiled {catalogue.uri} finds it later",
    ]


def test_catching_up_tells_of_a_run_that_the_catalogue_does_not_give_and_goes_on(station, catalogue, tmp_path):
    began = time.time()
    broken = broken_run(catalogue)
    taken, _ = take(station, fly(station))
    with JobQueue(tmp_path / "jobs.db") as queue:
        problem, good = catch_up(Intake(open_queue(queue), "catch-up"), since=began, tiled=catalogue)
        assert (problem.name, problem.done) == (broken, None)
        assert "KeyError: 'time'" in problem.problem
        assert (good.done.what, queue.find(1).run_uid) == ("queued", taken)


def test_the_latest_run_is_the_one_that_ended_last(catalogue):
    runs = catalogue.create_container("of times")
    with pytest.raises(WatchError, match="no run in this catalogue that ended"):
        latest_uid(runs)
    for uid, began, ended in (("a", 1.0, 9.0), ("b", 2.0, 5.0), ("c", 3.0, None)):
        metadata = {"start": {"uid": uid, "time": began}} | ({"stop": {"time": ended}} if ended else {})
        runs.create_container(uid, metadata=metadata, specs=[Spec("BlueskyRun", version="3.0")])
    latest = latest_uid(runs)
    catalogue.delete_contents(["of times"], recursive=True, external_only=False)
    assert latest == "a"


def test_an_older_catalogue_has_its_streams_one_level_lower(station, catalogue):
    uid, expected = take(station, fly(station))
    run = catalogue[uid]
    old = catalogue.create_container("old", metadata=dict(run.metadata), specs=[Spec("BlueskyRun", version="3.0")])
    level = old.base.create_container("streams")
    for name in run:
        node = level.create_container(
            name, metadata=dict(run[name].metadata), specs=[Spec("BlueskyEventStream", version="3.0")]
        )
        for key, array in run[name].base.items():
            source = array.include_data_sources().data_sources()[0]
            source.id, source.structure = None, array.structure()
            node.base.new(key=key, structure_family="array", data_sources=[source], metadata={}, specs=[])
    collector = RunCollector()
    for name, document in documents_of_run(catalogue["old"]):
        collector(name, document)
    catalogue.delete_contents(["old"], recursive=True, external_only=False)
    assert essentials(collector.reference) == essentials(expected)


def test_a_watcher_finds_each_run_that_ended_once(station, catalogue):
    found = []
    watcher = TiledWatcher(catalogue, found.append, since=time.time())
    assert watcher.poll() == 0
    taken = [take(station, fly(station))[0] for _ in range(2)]
    mixed_up, _ = take(station, in_one_file(station, ("dark", 2), ("primary", 4)))
    assert watcher.poll() == 3  # one of which cannot be told
    taken.append(take(station, fly(station))[0])
    assert (watcher.poll(), watcher.poll()) == (1, 0)
    assert [reference["start"]["uid"] for reference in found] == taken
    assert mixed_up not in taken
    later = []
    assert TiledWatcher(catalogue, later.append, since=time.time()).poll() == 0


def test_the_command_queues_what_ends_and_keeps_the_key_to_itself(station, tiled, catalogue, tmp_path, monkeypatch):
    monkeypatch.setenv("TILED_API_KEY", tiled.api_key)
    before, _ = take(station, fly(station))  # while no watcher was there
    arguments = ["watch", "--tiled", catalogue.uri]
    watcher = subprocess.Popen(
        command(*arguments, "--queue", tmp_path / "jobs.db"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        lines = iter(watcher.stdout.readline, "")
        assert any(f"run {before}: queued: job" in line for line in lines)
        after, _ = take(station, fly(station))
        alignment, _ = take(station, bp.count([station.detector], 2))
        assert any(f"run {after}: queued: job" in line for line in lines)
        watcher.send_signal(signal.SIGTERM)
        out, errors = watcher.communicate(timeout=LONGEST)
    finally:
        watcher.kill()
    assert watcher.returncode == 0
    assert tiled.api_key not in out + errors
    with JobQueue(tmp_path / "jobs.db") as queue:
        assert [job.run_uid for job in queue.jobs()][:2] == [after, before]
        assert queue.run(alignment) is None


def test_a_catalogue_out_of_reach_is_told_without_the_key():
    with pytest.raises(WatchError, match="no answer from Tiled") as told:
        connected("http://127.0.0.1:9/?api_key=verysecret").__enter__()
    assert "verysecret" not in str(told.value)
    with pytest.raises(WatchError, match="nosuchprofile: no answer from Tiled"):
        connected("nosuchprofile").__enter__()
