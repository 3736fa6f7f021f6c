"""Documents over ZMQ: JSON from a real RunEngine is taken; what is none does no harm, and least of all a pickle."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bluesky.callbacks.zmq import Publisher

from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.request import json_text
from quietbeam.beamline.plans import tomo_fly_scan
from quietbeam.beamline.watching.zmq_documents import DocumentReceiver, check_address, parse_message

from .jobs import command

PROXY = "import sys; from bluesky.callbacks.zmq import Proxy; Proxy(sys.argv[1], sys.argv[2]).start()"
LONGEST = 20.0
"""Seconds until a process or a socket has done its part, on a busy machine."""


def serializer(document):
    return json_text(document).encode()


@pytest.fixture
def publisher(tmp_path):
    """Make bluesky's own publishers."""
    made = []

    def make(address, **options):
        made.append(Publisher(address, **options))
        return made[-1]

    yield make
    for publisher in made:
        publisher.close()


@pytest.fixture
def processes():
    """Processes that are ended after the test."""
    started = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def until(condition, step=lambda: time.sleep(0.05)):
    deadline = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        step()


def handshake(publisher, receiver):
    """Wait until messages come through: the first ones of a publisher are lost."""

    def send():
        publisher._socket.send(b"hello")
        receiver.poll(0.05)

    before = receiver.malformed
    until(lambda: receiver.malformed > before, send)


def drain(receiver):
    while receiver.poll(0.3):
        pass


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)

    def __deepcopy__(self, memo):
        return self


def test_a_pickle_is_counted_and_never_run_and_what_follows_it_is_heard(tmp_path, publisher, caplog):
    heard = []
    address = f"ipc://{tmp_path}/documents"
    with DocumentReceiver(address, lambda name, doc: heard.append((name, doc)), bind=True) as receiver:
        pickling = publisher(address)  # as bluesky does unless told otherwise
        handshake(pickling, receiver)
        drain(receiver)
        before = receiver.malformed
        pickling("start", {"uid": "1", "payload": Harmful(tmp_path / "harm")})
        drain(receiver)
        assert receiver.malformed == before + 1
        json_one = publisher(address, serializer=serializer)
        handshake(json_one, receiver)
        json_one("start", {"uid": "2"})
        drain(receiver)
    assert not (tmp_path / "harm").exists()
    assert heard == [("start", {"uid": "2"})]
    assert "the start document is not JSON; tell the Publisher its serializer" in caplog.text


@pytest.mark.parametrize(
    "message",
    [b"", b"x", b" start", b" start {", b" start []", b" nonsense {}", b" st\xffart {}", b" start " + b"[" * 10**5],
    ids=lambda message: repr(message[:12]),
)
def test_malformed_messages_are_refused(message):
    with pytest.raises(ValueError, match="document"):
        parse_message(message)


def test_prefixes_tell_publishers_apart():
    message = b"hex stop " + json.dumps({"text": "a b"}).encode()
    assert parse_message(message) == ("stop", {"text": "a b"}) == parse_message(message, b"hex")
    assert parse_message(message, b"he") is None


@pytest.mark.parametrize(
    "address", ["0.0.0.0:5578", "tcp://*:5578", "[::]:5578", "tcp://10.1.2.3:5578", "beamline:5578"]
)
def test_an_address_beyond_this_host_is_refused_unless_allowed(address):
    with pytest.raises(ValueError, match="--allow-remote"):
        check_address(address)
    assert check_address(address, allow_remote=True) == f"tcp://{address.removeprefix('tcp://')}"


def test_addresses_of_this_host_are_taken():
    for address in ("tcp://127.0.0.1:5578", "ipc:///run/documents", "tcp://localhost:5578", "tcp://[::1]:5578"):
        assert check_address(address) == address
    for address in ("", "ipc://", "5578", "http://127.0.0.1:5578", "127.0.0.1:"):
        with pytest.raises(ValueError, match="expected an address"):
            check_address(address, allow_remote=True)


def test_a_document_that_cannot_be_taken_does_not_end_it(tmp_path, publisher, caplog):
    def receive(name, document):
        return document["uid"]

    with DocumentReceiver(f"ipc://{tmp_path}/a", receive, bind=True) as receiver:
        sender = publisher(receiver.address, serializer=serializer)
        handshake(sender, receiver)
        sender("start", {"no": "uid"})
        sender("start", {"uid": "1"})
        drain(receiver)
        assert (receiver.failed, receiver.received) == (1, 1)
    assert "a start document could not be taken" in caplog.text


def test_a_scan_of_a_run_engine_becomes_a_job_through_a_proxy_and_the_command(station, tmp_path, publisher, processes):
    inside, outside = f"ipc://{tmp_path}/in", f"ipc://{tmp_path}/out"
    processes.append(subprocess.Popen([sys.executable, "-c", PROXY, inside, outside]))
    arguments = command("watch", "--zmq", outside, "--queue", tmp_path / "jobs.db", "--profile", "fast")
    watcher = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    processes.append(watcher)
    assert watcher.stdout.readline() == f"listening to {outside}\n"
    sender = publisher(inside, serializer=serializer)
    station.RE.subscribe(sender)
    with JobQueue(tmp_path / "jobs.db") as queue:

        def scan():
            plan = tomo_fly_scan(
                station.detector, station.rotation, station.x, station.shutter, num=5, num_darks=2, num_flats=2,
                out_of_beam=20.0, exposure=0.001, md={"tomo_denoise": {"priority": 3}},
            )  # fmt: skip
            scan.uid = station.RE(plan)[0]
            time.sleep(0.2)

        until(queue.jobs, scan)  # runs that nobody hears yet are lost
        (job,) = queue.jobs()
        assert (job.run_uid, job.profile, job.priority, job.source) == (scan.uid, "fast", 3, "watch")
        roles = {stream["name"]: stream["resources"][0]["ranges"] for stream in job.submission.run["streams"]}
        assert roles == {"dark": [[0, 2, 1]], "flat": [[0, 2, 1]], "primary": [[0, 5, 1]]}
    watcher.terminate()
    out, errors = watcher.communicate(timeout=LONGEST)
    assert (watcher.returncode, errors) == (0, "")
    assert f"run {scan.uid}: queued: job 1" in out
