from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import h5py
import numpy as np
import pytest
from bluesky_tiled_plugins import TiledWriter
from tiled.queries import Key

from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.submission import submission_of_scan
from quietbeam.beamline.publishing.derived_run import derived_run
from quietbeam.beamline.publishing.provenance import read_provenance
from quietbeam.beamline.publishing.publish import PublishError, PublishSettings, publish_pending, publish_result
from quietbeam.beamline.verifying.results import verify_output
from quietbeam.beamline.workspace import ARCHIVE
from quietbeam.compress.archive import open_archive

from .finished_result import RAW_UID, finished_result, raw_run

PROMPT = 20.0
"""Seconds within which a server that is gone, or errs, must be told of; a client that is not limited takes longer."""


@pytest.fixture
def settings(tiled, tmp_path, monkeypatch) -> PublishSettings:
    """Publish into a container of the test's own."""
    monkeypatch.setenv("TILED_API_KEY", tiled.api_key)
    return PublishSettings(tiled_uri=tiled.uri, tiled_path=f"processed/{tmp_path.name}", tiled_archive=True)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return finished_result(tmp_path / "out 1")


@contextmanager
def silent_server(*, accepts: bool) -> Iterator[str]:
    """Give the address of a server that takes connections and never answers, or of none at all."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if accepts:
            listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_derived_run_is_found_by_the_raw_run_and_reads_back_bit_for_bit(tiled, output, settings):
    published = publish_result(output, settings, raw_run())
    assert published["tiled"] == {
        "uri": tiled.uri,
        "path": f"{settings.tiled_path}/{published['uid']}",
        "state": "written",
    }
    found = tiled.client[settings.tiled_path].search(Key("start.raw_uid") == RAW_UID)
    assert list(found) == [published["uid"]]
    run = found[published["uid"]]
    with open_archive(output / ARCHIVE) as archive:
        volume = archive[:]
    for name in ("volume", "archive"):
        array = run["primary"][name]
        assert array.shape == volume.shape
        np.testing.assert_array_equal(array[:], volume)
        np.testing.assert_array_equal(array[5], volume[5])
        np.testing.assert_array_equal(array[3:7, 2:9, ::3], volume[3:7, 2:9, ::3])
        assert array[-1].dtype == volume.dtype
    assert run.metadata["stop"]["num_events"] == {"primary": len(volume), "quality": 1}
    assert float(run["quality"].read()["held_out_loss"][0]) == 0.25
    back = {name: document for name, document in run.documents() if name in ("start", "event", "stop")}
    given = dict(derived_documents(output, settings))
    assert back["start"] == given["start"]
    assert back["event"]["data"] == given["event"]["data"]
    assert back["stop"]["num_events"] == given["stop"]["num_events"]


def derived_documents(output: Path, settings: PublishSettings) -> list:
    return derived_run(read_provenance(output, raw_run()), settings)


def test_complete_run_is_left_as_it_is(tiled, output, settings):
    uid = publish_result(output, settings, raw_run())["uid"]
    made = tiled.client[settings.tiled_path][uid].item["attributes"]
    assert publish_result(output, settings, raw_run())["tiled"]["state"] == "there already"
    assert tiled.client[settings.tiled_path][uid].item["attributes"] == made


def test_run_written_in_part_is_written_anew(tiled, output, settings):
    parent = tiled.client
    for name in settings.tiled_path.split("/"):
        parent = parent[name] if name in parent else parent.create_container(name)
    publish_result(output, PublishSettings())  # the file must be there for the first half
    writer = TiledWriter(parent, batch_size=1)
    documents = derived_documents(output, settings)
    for name, document in documents[:-1]:
        writer(name, document | ({"uri": unquote(document["uri"])} if name == "stream_resource" else {}))
    assert "stop" not in parent[documents[0][1]["uid"]].metadata
    assert publish_result(output, settings, raw_run())["tiled"]["state"] == "written"
    run = parent[documents[0][1]["uid"]]
    assert run.metadata["stop"]["exit_status"] == "success"
    assert len(run["quality"].read()["noise"]) == 1
    assert (output / "published" / "volume.nxs").exists()


def test_same_key_but_another_archive_is_written_anew(tiled, output, settings):
    uid = publish_result(output, settings, raw_run())["uid"]
    finished_result(output, seed=1)
    assert publish_result(output, settings, raw_run())["tiled"]["state"] == "written"
    with open_archive(output / ARCHIVE) as archive:
        np.testing.assert_array_equal(tiled.client[settings.tiled_path][uid]["primary"]["archive"][:], archive[:])


def test_file_that_the_server_does_not_see_is_told(output, settings, tmp_path):
    elsewhere = settings.model_copy(update={"path_map": ((str(tmp_path), str(tmp_path / "elsewhere")),)})
    began = time.monotonic()
    with pytest.raises(PublishError, match="was written, but the server cannot read its volume"):
        publish_result(output, elsewhere.model_copy(update={"tiled_archive": False}), raw_run())
    assert time.monotonic() - began < PROMPT
    assert publish_result(output, settings, raw_run())["tiled"]["state"] == "written"


@pytest.mark.parametrize("accepts", [False, True])
def test_server_that_is_gone_is_told_soon_and_nothing_is_lost(output, tmp_path, monkeypatch, accepts):
    monkeypatch.setenv("TILED_API_KEY", "top-secret")
    with silent_server(accepts=accepts) as uri:
        dead = PublishSettings(tiled_uri=uri, tiled_timeout=2.0, backup=tmp_path / "backup")
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(PublishError, match="could not be written") as caught:
                publish_result(output, dead, raw_run())
    assert time.monotonic() - began < PROMPT
    assert "top-secret" not in str(caught.value)
    assert verify_output(output).damaged == []
    (backup,) = (tmp_path / "backup").iterdir()
    entries = [json.loads(line) for line in backup.read_text().splitlines()]
    assert [(entry["name"], entry["doc"]) for entry in entries] == derived_documents(output, dead)


def test_key_is_needed_and_a_wrong_one_is_told(output, settings, monkeypatch):
    monkeypatch.setenv("TILED_API_KEY", "0123")
    with pytest.raises(PublishError, match="401"):
        publish_result(output, settings)
    monkeypatch.delenv("TILED_API_KEY")
    with pytest.raises(PublishError, match="set TILED_API_KEY"):
        publish_result(output, settings)


def test_pending_results_are_published_when_the_server_is_back(tiled, output, settings, tmp_path):
    queue = JobQueue(tmp_path / "jobs.db")
    for name in ("gone", "out 1"):
        queue.put(submission_of_scan(tmp_path / f"{name}.h5"))
        job = queue.claim("worker")
        queue.finish(job, {"output": str(tmp_path / name), "numbers": {"psnr": 50.0}}, state="done_unpublished")
    with silent_server(accepts=False) as uri:
        dead = publish_pending(queue, PublishSettings(tiled_uri=uri, tiled_timeout=2.0))
    assert all(outcome.error for outcome in dead)
    assert queue.counts()["done_unpublished"] == 2
    assert len(list((output / "published").glob("*.jsonl"))) == 1
    outcomes = {outcome.name: outcome.error for outcome in publish_pending(queue, settings)}
    assert [error is None for error in outcomes.values()].count(True) == 1
    assert "no manifest here" in next(filter(None, outcomes.values()))
    (done,) = queue.jobs(states=("done",))
    assert done.result["numbers"] == {"psnr": 50.0}
    assert done.result["published"]["tiled"]["state"] == "written"
    assert list((output / "published").glob("*.jsonl")) == []
    assert [outcome.error is None for outcome in publish_pending(queue, settings)] == [False]


def test_key_is_nowhere_in_the_files(tiled, output, settings, tmp_path):
    documents = settings.model_copy(update={"documents": tmp_path / "runs"})
    published = publish_result(output, documents, raw_run())
    files = [path for folder in (output, tmp_path / "runs") for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if tiled.api_key.encode() in path.read_bytes()] == []
    assert tiled.api_key not in json.dumps(published)
    with h5py.File(output / "published" / "volume.nxs") as file:
        assert file["entry/entry_identifier_uuid"].asstr()[()] == published["uid"]
