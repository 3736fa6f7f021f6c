"""What a job's process is told: settings, device, and the run with its darks and flats."""

import time

from quietbeam.beamline.jobs.child_process import device_environment
from quietbeam.beamline.jobs.spool import Spool
from quietbeam.beamline.jobs.submission import submission_of_run

from .workers import light_submission, printing, wait_until, work, working


def test_jobs_are_taken_from_spools(queue, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    Spool(tmp_path / "elsewhere" / "spool").write(light_submission(tmp_path, "a.h5"))
    work(queue, tmp_path, spools=(tmp_path / "elsewhere" / "spool",))
    assert queue.find(1).state == "done"


def test_each_device_does_one_job_at_a_time(queue, tmp_path):
    for number in range(4):
        queue.put(light_submission(tmp_path, f"{number}.h5", seconds=0.4))
    work(queue, tmp_path, devices=("cuda:0", "cuda:1"))
    jobs = sorted(queue.jobs(), key=lambda job: job.started)
    assert {job.device for job in jobs[:2]} == {job.device for job in jobs[2:]} == {"cuda:0", "cuda:1"}
    assert jobs[1].started < jobs[0].finished
    assert jobs[2].started >= min(job.finished for job in jobs[:2])


def test_environment_of_a_device():
    assert device_environment("cuda:1", 2, {})["CUDA_VISIBLE_DEVICES"] == "1"
    assert device_environment("cuda:1", 2, {"CUDA_VISIBLE_DEVICES": "4,GPU-7"})["CUDA_VISIBLE_DEVICES"] == "GPU-7"
    assert device_environment("cpu", 1, {"CUDA_VISIBLE_DEVICES": "4"}) == {"CUDA_VISIBLE_DEVICES": ""}
    assert device_environment("auto", 1, {"A": "b"}) == {"A": "b"}
    assert device_environment("cpu", 2, {"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"
    assert int(device_environment("cpu", 1000, {})["OMP_NUM_THREADS"]) == 1


def told(queue, tmp_path, **changes):
    """What the process of the latest job is told."""
    echo = "import json; print(json.dumps({'result': {'output': '', 'told': json.loads(sys.stdin.readline())}}))"
    work(queue, tmp_path, command=printing(then=echo), **changes)
    return queue.find(-1).result["told"]


def test_settings_of_worker_profile_device_and_submission(queue, tmp_path):
    (tmp_path / "foam.toml").write_text(
        'extends = "fast"\n[training]\nminutes = 7\n[compute]\ndevice = "auto"\nthreads = 3\n[scan]\nwait_seconds = 5\n'
    )
    queue.put(light_submission(tmp_path, "a.h5", profile="foam", settings={"compute.threads": 1}))
    path_map = [["/detector", "/mnt/detector"]]
    settings = told(queue, tmp_path, profiles=tmp_path, devices=("cpu",), path_map=path_map, wait_seconds=50)[
        "settings"
    ]
    assert settings["training.minutes"] == 7
    assert settings["network.depth"] == 50  # of fast
    assert settings["compute.device"] == "cpu"
    assert settings["compute.threads"] == 1
    assert settings["scan.path_map"] == path_map
    assert settings["scan.wait_seconds"] == 5


def reference(uid, **start):
    """A run of no frames."""
    return {
        "format": "quietbeam-run-1",
        "start": {"uid": uid, **start},
        "stop": {"exit_status": "success"},
        "streams": [],
    }


def test_reference_of_darks_and_flats_is_put_into_the_run(queue, tmp_path):
    queue.put(submission_of_run(reference("darks-and-flats"), is_job=False))
    queue.put(submission_of_run(reference("projections", tomo={"dark_flat_uid": "darks-and-flats"})))
    run = told(queue, tmp_path)["run"]
    assert run["start"]["uid"] == "projections"
    assert run["dark_flat"]["start"]["uid"] == "darks-and-flats"


def test_job_waits_for_its_darks_and_flats(queue, tmp_path):
    queue.put(submission_of_run(reference("projections", tomo={"dark_flat_uid": "late"})))
    with working(queue, tmp_path):
        wait_until(lambda: queue.find(1).reason)
    job = queue.find(1)
    assert (job.state, job.attempts) == ("queued", 0)
    assert "waits for the run late" in job.reason
    assert 30 < job.not_before - time.time() < 90
    queue.put(submission_of_run(reference("late"), is_job=False))
    queue.retry(1)
    assert told(queue, tmp_path)["run"]["dark_flat"]["start"]["uid"] == "late"


def test_job_without_its_darks_and_flats_fails_after_a_while(queue, tmp_path):
    queue.put(submission_of_run(reference("projections", tomo={"dark_flat_uid": "never"})))
    work(queue, tmp_path, calibration_wait_minutes=0)
    job = queue.find(1)
    assert (job.state, job.attempts) == ("failed", 1)
    assert "run never" in job.reason
    assert "scan.flats" in job.reason


def test_job_with_flats_of_its_own_waits_for_nothing(queue, tmp_path):
    run = reference("projections", tomo={"dark_flat_uid": "never"})
    queue.put(submission_of_run(run, settings={"scan.flats": "/flats.h5:/data"}))
    assert told(queue, tmp_path)["run"] == run


def test_run_that_is_none_fails_for_good(queue, tmp_path):
    queue.put(submission_of_run({"start": {"uid": "x"}, "streams": []}))
    work(queue, tmp_path)
    assert (queue.find(1).state, queue.find(1).attempts) == ("failed", 1)
    assert "run reference" in queue.find(1).reason
