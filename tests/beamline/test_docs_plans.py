"""The Python code of the page on plans and the console runs at a simulated end station, and does what the page says."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from quietbeam.beamline.jobs.queue import JobQueue

PAGE = Path(__file__).parents[2] / "docs/how-to/plans-and-console.md"
ELSEWHERE = {"/data/quietbeam/jobs.db": "{folder}/jobs.db", "timeout=600.0": "timeout=0.2"}
"""What is another way here: where the queue is, and that no worker is waited for."""


@pytest.fixture
def shell():
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def code_of(page, folder):
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))
    for text, other in ELSEWHERE.items():
        assert code.count(text) == 1
        code = code.replace(text, other.format(folder=folder))
    return code


def test_the_code_of_the_page_runs(station, tmp_path, shell, capsys):
    program = tmp_path / "page.py"
    program.write_text(code_of(PAGE, tmp_path))
    starts = []
    station.RE.subscribe(lambda name, doc: starts.append(doc), "start")
    devices = {name: getattr(station, name) for name in ("RE", "detector", "rotation", "x", "shutter")}
    denoise = runpy.run_path(str(program), devices)["denoise"]
    try:
        check_jobs(JobQueue(tmp_path / "jobs.db"), starts)
        assert (denoise.errors, denoise.last_error, denoise.enabled) == (0, "", False)
        capsys.readouterr()
        shell.run_line_magic("denoise", "last")
        assert capsys.readouterr().out == f"job {denoise.last.id} ({denoise.last.name}) is queued\n"
    finally:
        denoise.close()


def check_jobs(queue, starts):
    """Eleven runs, one of which is not to be reduced; the last is so under two profiles."""
    uids = [start["uid"] for start in starts]
    jobs = queue.jobs()[::-1]
    assert {job.run_uid for job in jobs} == set(uids) - {uids[5]}
    assert Counter(job.profile for job in jobs) == {"default": 5, "fast": 3, "strong": 3}
    assert [job.priority for job in jobs if job.profile == "strong"] == [2, 2, 0]
    assert [start.get("tomo", {}).get("pixel_size_um") for start in starts[:5]] == [0.65, 0.65, 0.65, 0.65, None]
    assert jobs[4].submission.settings == jobs[5].submission.settings == {"training.epochs": 20}
    assert (jobs[-1].state, jobs[-1].submission.settings["training.minutes"]) == ("queued", 30.0)
    queue.close()
