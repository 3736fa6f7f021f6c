"""A queue that cannot be used for a while costs no run that a watcher finds in that time, and does not end it."""

import logging
import os
import signal
import threading
import time
from functools import partial

import pytest
from bluesky.callbacks.zmq import Publisher
from bluesky_tiled_plugins import TiledWriter

from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.request import json_text
from quietbeam.beamline.jobs.submission import open_queue
from quietbeam.beamline.watching.folder import FolderWatcher
from quietbeam.beamline.watching.intake import Intake
from quietbeam.beamline.watching.undelivered import Undelivered
from quietbeam.beamline.watching.watch import watch_catalogue, watch_documents, watch_folder
from quietbeam.reconstruction.errors import QueueError

from .workers import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*streams")

LONGEST = 20.0
"""Seconds until a watcher has noticed, on a busy machine."""
KEPT = "what was found is kept and tried again"


@pytest.fixture
def documents(station):
    """Documents of a scan, as JSON holds them."""
    return station.fly(4)


def over_a_folder(tmp_path, documents, tiled, stop_telling):
    (tmp_path / "documents").mkdir()
    lines = "".join(json_text({"name": name, "doc": doc}) + "\n" for name, doc in documents)
    (tmp_path / "documents/run.jsonl").write_text(lines)
    watcher = FolderWatcher(tmp_path / "documents", "*.jsonl", settle=0.0)
    return lambda intake: watch_folder(intake, watcher, print)


def over_zmq(tmp_path, documents, tiled, stop_telling):
    address = f"ipc://{tmp_path}/documents"

    def tell():
        publisher = Publisher(address, serializer=lambda doc: json_text(doc).encode())
        while not stop_telling.wait(0.2):  # what nobody hears yet is lost
            for name, doc in documents:
                publisher(name, doc)
        publisher.close()

    threading.Thread(target=tell, daemon=True).start()
    return lambda intake: watch_documents(intake, address, print, bind=True)


def over_tiled(tmp_path, documents, tiled, stop_telling):
    container = tiled.client.create_container(f"kept-{time.time_ns()}")
    writer = TiledWriter(container)
    for name, doc in documents:
        writer(name, doc)
    return lambda intake: watch_catalogue(intake, container, print, since=0.0, seconds=0.1)


@pytest.mark.parametrize("over", [over_a_folder, over_zmq, over_tiled])
def test_what_is_found_while_the_queue_is_away_is_queued_later(over, tmp_path, documents, tiled, caplog):
    queue, stop_telling, problems = tmp_path / "jobs.db", threading.Event(), []
    queue.write_text("no database" * 1000)
    watch = over(tmp_path, documents, tiled, stop_telling)

    def repair():
        try:
            wait_until(lambda: KEPT in caplog.text, LONGEST)
            stop_telling.set()
            time.sleep(0.5)  # in which it is not told a second time
            problems.append(caplog.text.count(KEPT))
            queue.unlink()
            wait_until(lambda: "takes again" in caplog.text, LONGEST)
        finally:
            stop_telling.set()
            os.kill(os.getpid(), signal.SIGTERM)

    person = threading.Thread(target=repair)
    held = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    person.start()
    try:
        assert watch(Intake(open_queue(queue), "watch")) == 0
    finally:
        person.join()
        signal.signal(signal.SIGTERM, held)
    assert problems == [1]
    with JobQueue(queue) as opened:
        assert [job.run_uid for job in opened.jobs()] == [documents[0][1]["uid"]]


def refuse():
    raise QueueError("no disk")


def test_of_one_run_only_the_latest_is_kept_and_what_is_left_at_the_end_is_told(caplog):
    given = []
    found = Undelivered(0.0)
    found.deliver("run 1", refuse)
    found.deliver("run 2", refuse)
    found.deliver("run 1", partial(given.append, "latest"))
    assert (given, len(found)) == (["latest"], 1)
    found.retry()
    assert len(found) == 1
    with caplog.at_level(logging.ERROR):
        found.give_up()
    assert "1 not queued: quietbeam catch-up finds runs later; run 2" in caplog.text
