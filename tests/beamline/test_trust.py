"""A plan's metadata open no path of their choice on the worker's machine; a person may."""

from pathlib import Path
from typing import get_args

import pytest

from quietbeam.beamline.hook import PostScan
from quietbeam.beamline.jobs.queue import JobQueue
from quietbeam.beamline.jobs.trust import refusal
from quietbeam.beamline.settings import ReductionSettings

from .hook_documents import documents, tell
from .workers import light_submission, printing, work

RESULT = printing('{"result": {"output": "here"}}')


def asked(folder, source="hook", profile="default", **settings):
    named = {name.replace("__", "."): value for name, value in settings.items()}
    return light_submission(folder, "a.h5", source=source, profile=profile, settings=named)


def is_of_paths(annotation):
    return annotation is Path or any(map(is_of_paths, get_args(annotation)))


def fields():
    """All settings, with the type of each."""
    for stage, model in ReductionSettings.model_fields.items():
        for name, field in type(model.default).model_fields.items():
            yield f"{stage}.{name}", field.annotation


def test_no_setting_that_is_a_path_is_taken(tmp_path):
    paths = {name for name, annotation in fields() if is_of_paths(annotation)}
    assert {"scan.flats", "scan.allowed_link_roots", "scan.dark_flat_run", "warm_start.registry"} <= paths
    for name in paths | {"scan.path_map", "scan.angles", "compute.device", "scan.wait_seconds"}:
        assert name in refusal(asked(tmp_path, **{name: "/etc/passwd"}))


@pytest.mark.parametrize("source", ["hook", "watch", "catch-up", "end-of-run", "", "Console"])
def test_who_is_no_person_may_only_ask_for_what_opens_no_file(source, tmp_path):
    harmless = {"training.epochs": 3, "codec.options": {"x": 1}, "scan.angles": "0:180", "scan": {"channel": 1}}
    assert refusal(asked(tmp_path, source, profile="fast", **harmless)) is None
    for settings in (
        {"scan": {"flats": "/f"}},
        {"scan": 1},
        {"codec": {"trained": "/f"}},
        {"light.do": "x"},
        {"scan.angles": "/a:1"},
        {"": 1},
    ):
        assert "might open any file" in refusal(asked(tmp_path, source, **settings))
    for profile in ("/etc/x.toml", "../x", "x.toml"):
        assert "only the name of a profile" in refusal(asked(tmp_path, source, profile=profile))


def test_worker_refuses_and_says_what_to_do_but_a_person_may(tmp_path):
    (tmp_path / "own.toml").write_text("[training]\nepochs = 3\n")
    with JobQueue(tmp_path / "jobs.db") as queue:
        for number, source in enumerate(("hook", "console")):
            for kind, more in (("set", {"scan__flats": "/f"}), ("file", {"profile": str(tmp_path / "own.toml")})):
                submission = asked(tmp_path, source, **more)
                queue.put(type(submission)(**{**vars(submission), "key": f"{number}{kind}"}))
        work(queue, tmp_path, command=RESULT)
        assert [queue.find(number).state for number in (1, 2, 3, 4)] == ["failed", "failed", "done", "done"]
        assert "scan.flats might open any file" in queue.find(1).reason
        assert "submit --profile" in queue.find(1).reason
        assert "own.toml" in queue.find(2).reason


def test_who_submits_a_run_in_a_session_has_not_vouched_for_its_metadata(tmp_path, caplog):
    hook = PostScan(tmp_path / "jobs.db", profile=str(tmp_path / "own.toml"))
    asked = {"enabled": False, "profile": "../x.toml", "params": {"scan": {"darks": "/f"}, "training": {"epochs": 3}}}
    try:
        tell(hook, documents(tomo_denoise=asked))
        job = hook.submit(-1)
        assert (job.source, job.profile) == ("console", str(tmp_path / "own.toml"))
        assert dict(job.submission.settings) == {"training.epochs": 3}
        assert "scan.darks might open any file: left out" in caplog.text
        tell(hook, documents(tomo_denoise=asked))
        assert dict(hook.submit(-1, settings={"scan.darks": "/mine"}).submission.settings) == {"scan.darks": "/mine"}
    finally:
        hook.close()
