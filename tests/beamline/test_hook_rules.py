from __future__ import annotations

import pytest

from quietbeam.beamline.hook import PostScan

from .hook_documents import documents, keys, tell

TOMO = {"tomo": {}}
OFF, ON = {"tomo_denoise": {"enabled": False}}, {"tomo_denoise": {"enabled": True}}


@pytest.mark.parametrize(
    ("metadata", "streams", "is_job"),
    [
        ({}, ("dark", "flat", "primary"), True),  # tomography by its streams
        ({}, ("white", "tomo"), True),
        ({}, ("primary",), None),  # a camera picture
        ({}, ("proj",), False),
        ({}, ("dark", "flat"), False),
        (TOMO, ("primary",), True),
        (TOMO, ("dark", "flat"), False),  # for others
        (ON, ("primary",), True),
        (ON, ("dark", "flat"), False),
        (TOMO | OFF, ("dark", "flat", "primary"), False),
        ({"tomo_denoise": False}, ("dark", "flat", "primary"), False),
        ({"tomo_denoise": "yes"}, ("flat", "primary"), True),  # nonsense says nothing
        ({"tomo_scanning_mode": "tomo_flyscan", "current_dark_flat_scan_uid": "u"}, ("tomo",), True),
        ({"tomo_scanning_mode": "edxd", "current_dark_flat_scan_uid": "u"}, ("primary",), None),
        ({"tomo": {"streams": {"projections": "look", "flat": "bright"}}}, ("bright", "look"), True),
        ({"tomo": {"streams": {"projections": "look"}}}, ("primary",), False),
    ],
)
def test_which_runs_become_jobs_or_are_remembered(hook, queue, metadata, streams, is_job):
    """None: a run that is no tomography leaves no trace."""
    uid = tell(hook, documents(streams, **metadata))
    assert keys(queue) == [f"{uid}:default"] * bool(is_job)
    assert (queue.run(uid) is None) == (is_job is None)
    assert hook.errors == 0


def test_the_predicate_is_asked_only_of_runs_that_say_nothing(tmp_path, queue):
    asked = []

    def wants(start, reference):
        asked.append((start["uid"], [stream["name"] for stream in reference["streams"]]))
        return start["plan_name"] == "mine"

    hook = PostScan(tmp_path / "jobs.db", wants=wants)
    mine = tell(hook, documents(("primary",), plan_name="mine"))
    other = tell(hook, documents(plan_name="other"))
    told = tell(hook, documents(plan_name="other", tomo={}))
    assert keys(queue) == [f"{mine}:default", f"{told}:default"]
    assert asked == [(mine, ["primary"]), (other, ["dark", "flat", "primary"])]
    hook.close()


def test_metadata_win_over_the_hook_and_nonsense_does_not(tmp_path, queue, caplog):
    hook = PostScan(tmp_path / "jobs.db", profile="gentle", priority=2)
    asked = {"profile": "fast", "priority": 7, "params": {"training": {"epochs": 3}, "codec": {"options": {"x": 1}}}}
    tell(hook, documents(tomo={}, tomo_denoise=asked))
    tell(hook, documents(tomo={}, tomo_denoise={"profile": 3, "priority": True, "params": [1]}))
    fast, plain = reversed(queue.jobs())
    assert (fast.profile, fast.priority) == ("fast", 7)
    assert fast.submission.settings == {"training.epochs": 3, "codec.options.x": 1}
    assert (plain.profile, plain.priority, plain.submission.settings) == ("gentle", 2, {})
    assert sum("expected" in record.message for record in caplog.records) == 3
    tell(hook, documents(tomo={}, tomo_denoise={"priority": 2**70}))
    assert (queue.find(-1).priority, hook.errors) == (2, 0)
    assert "a number of 71 bits; 2 is taken" in caplog.text
    hook.close()
    with pytest.raises(ValueError, match="priority of a submission"):
        PostScan(tmp_path / "jobs.db", priority=-(2**70))


def test_keys_that_mean_nothing_are_told_once_for_a_run(hook, caplog):
    uid = tell(hook, documents(tomo={}, tomo_denoise={"profil": "fast", "colour": 1, "priority": 1}))
    hook.submit(uid)
    (record,) = caplog.records
    told = "'profil' (meant 'profile'?), 'colour'; known are enabled, profile, priority, params"
    assert record.message == f"run {uid}: tomo_denoise: unknown and passed over: {told}"
    tell(hook, documents(tomo={}, tomo_denoise={"enabled": True, "profile": "fast", "priority": 1, "params": {}}))
    assert len(caplog.records) == 1


def test_fewer_projections_than_planned_are_told_and_queued(hook, queue, caplog):
    uid = tell(hook, documents(tomo={"num_projections": 5}, frames=3))
    (job,) = queue.jobs()
    assert job.name == f"run {uid[:8]}, 3 of 5 projections"
    assert "3 of 5 projections" in caplog.text
