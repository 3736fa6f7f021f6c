from __future__ import annotations

import subprocess
import sys

import event_model
import pytest
from IPython.core.interactiveshell import InteractiveShell

from quietbeam.beamline.hook import PostScan
from quietbeam.beamline.ipython_magic import register_magic
from quietbeam.beamline.jobs.queue import JobQueue


@pytest.fixture
def shell():
    yield InteractiveShell()
    InteractiveShell.clear_instance()


@pytest.fixture
def hook(tmp_path, shell):
    made = PostScan(tmp_path / "jobs.db")
    register_magic(made, shell)
    yield made
    made.close()


def tell_a_run(hook, **metadata):
    run = event_model.compose_run(metadata=metadata)
    hook("start", run.start_doc)
    hook("stop", run.compose_stop())
    return run.start_doc["uid"]


def test_the_magic_speaks_to_the_hook(hook, shell, capsys, tmp_path):
    def say(line):
        shell.run_line_magic("denoise", line)
        return capsys.readouterr().out

    assert say("last") == "no job in the database yet\n"
    assert say("off") == "denoise is off\n"
    assert hook.enabled is False
    assert say("on") == "denoise is on\n"
    assert hook.enabled is True
    uid = tell_a_run(hook)
    assert say("submit -1") == f"job 1 (run {uid[:8]}) is queued\n"
    assert say("cancel 1") == f"job 1 (run {uid[:8]}) is cancelled: cancelled\n"
    assert say(f"retry {uid[:8]}") == f"job 1 (run {uid[:8]}) is queued\n"
    assert say(f"submit {uid[:8]}") == f"job 1 (run {uid[:8]}) is queued\n"
    assert f"run {uid[:8]}" in say("")
    assert "hook on, profile default" in say("status")
    (tmp_path / "a scan.h5").touch()
    assert say(f"submit '{tmp_path}/a scan.h5'") == "job 2 (a scan.h5) is queued\n"
    with JobQueue(tmp_path / "jobs.db") as queue:
        assert [job.id for job in queue.jobs()] == [2, 1]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("dance", "usage: %denoise on | off"),
        ("cancel", "usage: %denoise on | off"),
        ("submit -1", "QuietbeamError: no run ended in this session"),
        ("retry 7", "UnknownJobError: "),
        ("submit 'open quote", "ValueError: No closing quotation"),
    ],
)
def test_errors_are_one_line(hook, shell, capsys, line, answer):
    shell.run_line_magic("denoise", line)
    printed = capsys.readouterr()
    assert printed.out.startswith(answer)
    assert printed.out.count("\n") == 1
    assert printed.err == ""


def test_a_damaged_queue_is_one_line_too(hook, shell, capsys, tmp_path):
    (tmp_path / "jobs.db").write_bytes(b"no database" * 1000)
    shell.run_line_magic("denoise", "status")
    printed = capsys.readouterr().out
    assert "the queue's file is damaged" in printed.splitlines()[0]
    assert printed.splitlines()[1:] == ["hook on, profile default"]
    shell.run_line_magic("denoise", "last")
    printed = capsys.readouterr().out
    assert "the queue's file is damaged" in printed
    assert printed.count("\n") == 1


def test_a_spool_has_no_last_job(shell, capsys, tmp_path):
    hook = PostScan(tmp_path / "inbox.spool")
    register_magic(hook, shell)
    tell_a_run(hook, tomo={})
    shell.run_line_magic("denoise", "last")
    assert capsys.readouterr().out == f"spool {tmp_path}/inbox.spool: the worker's database tells of the jobs\n"
    hook.close()


def test_outside_of_ipython_it_says_so():
    code = "from quietbeam.beamline.ipython_magic import register_magic; register_magic(None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "RuntimeError: register_magic needs an IPython session" in done.stderr
