from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise

import pytest
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.plans import count

from quietbeam.beamline.plan_hooks import DenoisePreprocessor, denoise_decorator, denoise_wrapper, submit, wait_result
from quietbeam.beamline.plans import tomo_step_scan
from quietbeam.reconstruction.errors import QueueError, QuietbeamError

POLL = 0.02


def scan(station, **settings):
    return tomo_step_scan(station.detector, station.rotation, num=2, num_darks=0, num_flats=0, **settings)


def test_the_wrapper_asks_for_one_plan_alone(station, hook, queue):
    (uid,) = station.RE(denoise_wrapper(scan(station), hook, profile="fast", priority=4, training={"epochs": 2}))
    station.RE(scan(station))
    assert hook.flush()
    (job,) = queue.jobs()
    assert (job.run_uid, job.profile, job.priority) == (uid, "fast", 4)
    assert job.submission.settings == {"training.epochs": 2}
    assert hook.errors == 0


def test_a_hook_that_is_subscribed_and_wrapped_makes_one_job(station, hook, queue):
    station.RE.subscribe(hook)
    (uid,) = station.RE(denoise_wrapper(scan(station), hook, profile="fast"))
    assert hook.flush()
    (job,) = queue.jobs()
    assert job.key == f"{uid}:fast"
    assert [len(stream["seq_nums"]) for stream in job.submission.run["streams"]] == [2]
    (later,) = station.RE(scan(station))  # the session is still subscribed
    assert hook.flush()
    assert {job.run_uid for job in queue.jobs()} == {later, uid}
    assert hook.errors == 0


def test_waiting_in_a_queue_that_is_not_there_is_refused(station, tmp_path):
    with pytest.raises(QueueError, match="there is no queue"):
        station.RE(wait_result("abcdef", tmp_path / "gone" / "jobs.db", timeout=1))
    assert not (tmp_path / "gone").exists()


def test_the_decorator(station, hook, queue):
    plan = denoise_decorator(hook, profile="strong")(scan)
    station.RE(plan(station))
    assert hook.flush()
    assert [job.profile for job in queue.jobs()] == ["strong"]


def test_the_preprocessor_tags_tomography_alone(station, hook, queue):
    preprocessor = DenoisePreprocessor(profile="session", priority=1)
    station.RE.preprocessors.append(preprocessor)
    station.RE.subscribe(hook)
    starts = []
    station.RE.subscribe(lambda name, doc: starts.append(doc), "start")
    station.RE(scan(station))
    station.RE(count([station.detector]))
    station.RE(scan(station, md={"tomo_denoise": {"enabled": False}}))
    preprocessor.enabled = False
    station.RE(scan(station))
    session = {"enabled": True, "profile": "session", "priority": 1}
    assert [doc.get("tomo_denoise") for doc in starts] == [session, None, {"enabled": False}, None]
    assert hook.flush()
    assert [(job.run_uid, job.profile) for job in reversed(queue.jobs())] == [
        (starts[0]["uid"], "session"),
        (starts[3]["uid"], "default"),
    ]


def test_the_wrapper_passes_on_what_the_plan_returns_and_raises(station, hook, queue):
    results = []

    def whole():
        results.append((yield from denoise_wrapper(scan(station), hook)))

    (uid,) = station.RE(whole())
    assert results == [uid]

    @bpp.run_decorator(md={"tomo": {}})
    def failing():
        yield from bps.null()
        raise RuntimeError("no beam")

    with pytest.raises(RuntimeError, match="no beam"):
        station.RE(denoise_wrapper(failing(), hook))
    assert hook.flush()
    assert [job.run_uid for job in queue.jobs()] == [uid]


def work(queue, seconds):
    """A worker's part for one job."""

    def once():
        deadline = time.monotonic() + 10
        while (job := queue.claim("worker")) is None and time.monotonic() < deadline:
            time.sleep(POLL)
        time.sleep(seconds)
        queue.finish(job, {"output": "there", "numbers": {"snr": 12.5}})

    thread = threading.Thread(target=once)
    thread.start()
    return thread


def test_a_plan_waits_for_its_result_while_the_run_engine_lives(station, hook, queue):
    seen, ticks = [], []

    async def tick():
        while not seen:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    def adaptive():
        uid = yield from denoise_wrapper(scan(station), hook)
        yield from bps.wait_for([start_ticking])
        seen.append((yield from wait_result(uid, hook, timeout=10, poll=POLL)))

    async def start_ticking():
        ticking.append(asyncio.ensure_future(tick()))

    ticking = []
    worker = work(queue, seconds=0.8)
    station.RE(adaptive())
    worker.join()
    assert seen[0].state == "done"
    assert seen[0].result["numbers"] == {"snr": 12.5}
    assert len(ticks) > 20
    assert max(b - a for a, b in pairwise(ticks)) < 0.4  # seconds; the loop was never held up


def test_time_that_is_up_gives_the_job_as_it_stands(station, hook, queue):
    seen = []

    def plan():
        uid = yield from denoise_wrapper(scan(station), hook)
        seen.append((yield from wait_result(uid, queue, timeout=0.3, poll=POLL)))
        seen.append((yield from wait_result("nobody", queue.path, timeout=0.05, poll=POLL)))

    begin = time.monotonic()
    station.RE(plan())
    assert seen[0].state == "queued"
    assert seen[1] is None
    assert time.monotonic() - begin < 5


def test_submitting_in_a_plan(station, hook, queue):
    station.RE.subscribe(hook)
    seen = []

    def plan():
        uid = yield from scan(station, md={"tomo_denoise": {"enabled": False}})
        seen.append((yield from submit(hook, uid, profile="strong", settings={"training.epochs": 4})))

    (uid,) = station.RE(plan())
    assert (seen[0].run_uid, seen[0].profile) == (uid, "strong")
    assert [job.submission.settings for job in queue.jobs()] == [{"training.epochs": 4}]
    with pytest.raises(QuietbeamError, match="no run of uid 'nobody'"):
        station.RE(submit(hook, "nobody"))


def test_a_dry_run_touches_nothing(station, hook, queue):
    messages = [*denoise_wrapper(scan(station), hook), *wait_result("u", hook), *submit(hook, "u")]
    assert {"subscribe", "open_run", "unsubscribe", "wait_for"} <= {message.command for message in messages}
    assert queue.jobs() == []
