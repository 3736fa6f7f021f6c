"""Folders of results: named after the run, below the output folder, and each of one job only."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from quietbeam.beamline.jobs.output_folder import claim_output, output_name
from quietbeam.beamline.jobs.submission import submission_of_run, submission_of_scan
from quietbeam.reconstruction.errors import ReductionError

TEMPLATE = "{data_session}/scan_{scan_id:05d}_{uid8}"


def run_of(uid="1a2b3c4d-5e6f", profile="default", **start):
    run = {"format": "quietbeam-run-1", "start": {"uid": uid, **start}, "stop": None, "streams": []}
    return submission_of_run(run, profile=profile)


def test_folder_is_named_after_the_run():
    assert str(output_name(run_of(data_session="pass-1", scan_id=12), TEMPLATE)) == "pass-1/scan_00012_1a2b3c4d"
    assert str(output_name(run_of(), TEMPLATE)) == "unknown/scan_unknown_1a2b3c4d"
    assert output_name(run_of(profile="fast"), TEMPLATE).name == "scan_unknown_1a2b3c4d_fast"
    assert output_name(run_of(profile="/p/foam.toml"), TEMPLATE).name == "scan_unknown_1a2b3c4d_foam"


HOSTILE = [
    "../../etc",
    "..",
    ".",
    "",
    "/",
    "a/b",
    "a\0b",
    "~",
    " ",
    "\n",
    "x" * 5000,
    "ä" * 300,
    "\udc80",
    "{uid}",
    ".ssh",
]
HOSTILE += [None, -1, 1.5, True, {"a": 1}, ["../"], "con:", "*"]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:12])
def test_hostile_metadata_stay_below_the_output_folder(value, tmp_path):
    submission = run_of(uid="abcdefgh", data_session=value, scan_id=value, sample=value)
    template = "{data_session}/{sample}/scan_{scan_id:05d}_{uid8}"
    name = output_name(submission, template)
    assert len(name.parts) == 3
    assert not any(part.startswith(".") or "/" in part or "\0" in part for part in name.parts)
    folder = claim_output(tmp_path / "out", submission, template)
    assert folder.resolve().relative_to(tmp_path / "out").parts == name.parts
    assert folder.is_dir()


def test_uid_is_hostile_too(tmp_path):
    folder = claim_output(tmp_path, run_of(uid="../../../x"), "{uid}")
    assert folder.parent == tmp_path


def test_same_job_gets_the_same_folder_and_others_never(tmp_path):
    jobs = [
        run_of(uid=uid, profile=profile)
        for uid in ("aaaaaaaa1", "aaaaaaaa2", "b")
        for profile in ("default", "/x/p.toml", "/y/p.toml")
    ]
    folders = [claim_output(tmp_path, job, "scan") for job in jobs]
    assert len(set(folders)) == len(jobs)
    assert [claim_output(tmp_path, job, "scan") for job in reversed(jobs)] == folders[::-1]


def test_scans_of_one_name_in_two_folders(tmp_path):
    first, second = (submission_of_scan(tmp_path / folder / "scan.h5") for folder in ("a", "b"))
    assert output_name(first, TEMPLATE) != output_name(second, TEMPLATE)
    assert output_name(first, TEMPLATE).name.startswith("scan_")


def test_folder_of_somebody_else_is_not_taken(tmp_path):
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "notes.txt").write_text("mine")
    assert claim_output(tmp_path, run_of(uid="abcdefgh"), "scan") == tmp_path / "scan_abcdefgh"
    for name in ("taken", "taken_abcdefgh"):
        (tmp_path / name).write_text("a file")
    assert claim_output(tmp_path, run_of(uid="abcdefgh"), "taken").name.startswith("taken_")
    (claim_output(tmp_path, run_of(uid="abcdefgh"), "taken") / "job.json").write_text("")
    with pytest.raises(ReductionError, match="holds other files"):
        claim_output(tmp_path, run_of(uid="abcdefgh"), "taken")


@pytest.mark.parametrize("attempt", range(20))
def test_many_workers_at_once_give_each_job_one_folder(attempt, tmp_path):
    jobs = [run_of(uid=f"same-uid-{number}") for number in range(2)]
    together = threading.Barrier(16)

    def take(number):
        together.wait(10)
        return number, claim_output(tmp_path, jobs[number], "scan")

    with ThreadPoolExecutor(16) as threads:
        taken = set(threads.map(take, [0, 1] * 8))
    assert sorted(number for number, _ in taken) == [0, 1]
    assert len({folder for _, folder in taken}) == 2
    assert all([path.name for path in folder.iterdir()] == ["job.json"] for _, folder in taken)
