"""Workers for a series: how many, what each may take, and where they come from."""

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import Client
from pydantic import ValidationError

from quietbeam.beamline.cluster import ClusterSettings, check_scheduler, job_script, needs_dask, open_pool
from quietbeam.beamline.series.worker_check import WorkerCheck, complaint_about
from quietbeam.beamline.series.worker_plan import MachineFacts, WorkerPlan, memory_of_job, plan_workers
from quietbeam.reconstruction.errors import ClusterError

from .series_work import shout, sleep, variables

ROOT = Path(__file__).parents[2]
GIB = 2**30
ALONE = WorkerPlan(1, 1, GIB, (), "for a test")
SLURM = {"queue": "long", "account": "tomo", "gres": "gpu:2", "walltime": "12:00:00", "cores": 16, "memory_gib": 60.5}


@pytest.fixture(autouse=True)
def _tests_are_found(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # workers import what is sent from the same places


@pytest.mark.parametrize(
    ("facts", "num_scans", "needed", "settings", "expected"),
    [
        # cores, free memory, GPUs   scans  each      asked for                workers, threads, GPUs
        ((8, 64 * GIB), 100, 2 * GIB, {}, (8, 1, ())),
        ((8, 64 * GIB), 3, 2 * GIB, {}, (3, 2, ())),
        ((8, 64 * GIB), 1, 2 * GIB, {}, (1, 8, ())),
        ((8, 64 * GIB), 100, 10 * GIB, {}, (4, 2, ())),
        ((8, 4 * GIB), 100, 10 * GIB, {}, (1, 8, ())),
        ((8, 64 * GIB), 100, 2 * GIB, {"threads_per_worker": 4}, (2, 4, ())),
        ((8, 64 * GIB), 100, 2 * GIB, {"memory_gib": 20}, (2, 4, ())),
        ((8, 64 * GIB), 1, 99 * GIB, {"workers": 5}, (5, 1, ())),
        ((8, 64 * GIB, ("2", "3")), 100, 2 * GIB, {}, (2, 4, ("2", "3"))),
        ((8, 64 * GIB, ("0", "1")), 1, 2 * GIB, {}, (1, 8, ("0",))),
        ((8, 64 * GIB, ("0", "1")), 9, 2 * GIB, {"workers": 3}, (3, 2, ("0", "1", "0"))),
        ((8, 64 * GIB, ("0", "1", "2", "3")), 9, 2 * GIB, {"training_processes": 2}, (2, 4, ("0,1", "2,3"))),
        ((1, 0), 0, 0, {}, (1, 1, ())),
    ],
)
def test_workers_fit_the_machine(facts, num_scans, needed, settings, expected):
    plan = plan_workers(MachineFacts(*facts), num_scans, needed, ClusterSettings(**settings))
    assert (plan.num_workers, plan.threads, plan.gpus) == expected
    if not settings:
        assert plan.num_workers * plan.memory <= facts[1]
        assert plan.num_workers == 1 or memory_of_job(plan.memory) * GIB >= needed


def test_each_worker_is_told_its_threads_and_gpu():
    plan = WorkerPlan(2, 3, GIB, ("5", "7"), "for a test")
    told = plan.environment(1)
    assert told.pop("CUDA_VISIBLE_DEVICES") == "7"
    assert told == {f"{name}_NUM_THREADS": "3" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}


def test_one_worker_is_this_process(tmp_path):
    assert not needs_dask(None, ALONE)
    with open_pool("local", ClusterSettings(), ALONE, tmp_path) as pool:
        pool.submit(sleep, 0)
        assert pool.next_done()[1] == os.getpid()


def test_without_dask_a_second_worker_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # as where the extra is not installed
    with (
        pytest.raises(ClusterError, match=r"pip install 'quietbeam\[cluster\]', or set cluster\.workers=1"),
        open_pool(None, ClusterSettings(), WorkerPlan(2, 1, GIB, (), ""), tmp_path),
    ):
        pass


@pytest.mark.parametrize("scheduler", ["", "tcp:8786", "ssh://host", "SLURM"])
def test_an_unknown_scheduler_is_refused(scheduler):
    with pytest.raises(ValueError, match="--scheduler: expected local, slurm, tcp://HOST:PORT or tls://HOST:PORT"):
        check_scheduler(scheduler)


def test_workers_have_their_threads_and_keep_the_terminal_clean(tmp_path, capfd):
    before = dict(os.environ)
    with open_pool(None, ClusterSettings(spill=tmp_path / "spill"), WorkerPlan(2, 3, GIB, (), ""), tmp_path) as pool:
        assert (pool.num_workers, pool.threads, pool.memory) == (2, 3, GIB)
        for function in (variables, shout, variables):
            pool.submit(function)
        answers = [pool.next_done()[1] for _ in range(3)]
        assert (tmp_path / "spill").is_dir()
    expected = {f"{name}_NUM_THREADS": "3" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    assert sorted(answers, key=str) == [None, expected, expected]
    assert capfd.readouterr() == ("", "")
    assert "stray words" in (tmp_path / "cluster.log").read_text()
    assert os.environ == before


# -- a scheduler that runs already -----------------------------------------------------------------------------------


@contextmanager
def running_scheduler(folder):
    """Run a scheduler and a worker as a site would, on 127.0.0.1, and give the address."""
    file = folder / "scheduler.json"
    common = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
    start = [sys.executable, "-m"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "site.log").open("wb") as log:
        options = {"stdout": log, "stderr": log, "env": environment, "cwd": folder}
        scheduler = subprocess.Popen([*start, "distributed.cli.dask_scheduler", *common, "--port", "0"], **options)
        worker = subprocess.Popen([*start, "distributed.cli.dask_worker", *common, "--nthreads", "1"], **options)
        try:
            yield scheduler, file
        finally:
            for process in (worker, scheduler):
                process.send_signal(signal.SIGTERM)
            for process in (worker, scheduler):
                process.wait(30)


def address_in(file, timeout=60):
    until = time.monotonic() + timeout
    while not file.exists():
        assert time.monotonic() < until, "the scheduler did not start"
        time.sleep(0.1)
    return json.loads(file.read_text())["address"]


ABANDONED = """
import os, sys
from pathlib import Path
from quietbeam.beamline.cluster import ClusterSettings, open_pool
from quietbeam.beamline.series.worker_plan import WorkerPlan
from tests.beamline.series_work import sleep, tell
folder = Path(sys.argv[2])
with open_pool(sys.argv[1], ClusterSettings(), WorkerPlan(1, 1, 2**30, (), ""), folder) as pool:
    pool.submit(tell, folder, {})
    pool.next_done()
    pool.submit(sleep, 5)
    pool._send()
    while not any(pool._client.processing().values()):
        pass
    sleep(0.5)
    os._exit(0)
"""


def test_a_running_scheduler_is_used_and_its_end_is_told(tmp_path):
    settings, said = ClusterSettings(wait_seconds=60, lost_seconds=1, scratch=tmp_path / "scratch"), []
    with running_scheduler(tmp_path) as (scheduler, file):
        address = address_in(file)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", ABANDONED, address, tmp_path], env=environment, check=True)
        for left in tmp_path.glob(".seen-by-workers*"):
            left.unlink()
        until_free = time.monotonic() + 30
        with (
            pytest.raises(ClusterError, match="is still at work for an earlier command"),
            open_pool(address, settings, ALONE, tmp_path),
        ):
            pass
        with Client(address, set_as_default=False) as client:
            check, (worker,) = WorkerCheck(client, {}), client.scheduler_info()["workers"]
            while check([worker]):
                assert time.monotonic() < until_free
                time.sleep(0.2)
        with open_pool(address, settings, ALONE, tmp_path, said.append) as pool:
            assert said == [f"waiting for the Dask scheduler at {address}, up to 60 s"]
            pool.submit(sleep, 0)
            assert pool.next_done()[1] not in (os.getpid(), scheduler.pid)
            check = WorkerCheck(pool._client, {tmp_path / "another machine's folder" / "file": "text"})
            (complaint,) = check(pool._workers).values()
            assert "does not see" in complaint and "a folder that all machines share" in complaint
            scheduler.kill()
            pool.submit(sleep, 0)
            with pytest.raises(ClusterError, match="the Dask scheduler cannot be reached any more"):
                pool.next_done()
    assert not list(tmp_path.glob("**/.seen-by-workers*"))


HERE = {"quietbeam": "1.0", "Python": "3.11", "seen": [], "at work": False, "threads": 1}
TOKENS = {Path("/shared/token"): "text"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (HERE | {"seen": ["text"]}, r"^$"),
        (HERE | {"seen": ["text"], "threads": 2}, "makes 2 calls at a time: start it with --nthreads 1"),
        (HERE | {"seen": [None]}, "does not see /shared: choose a folder that all machines share"),
        (HERE | {"seen": ["another"]}, "does not see /shared"),
        (HERE | {"quietbeam": "0.9"}, "has quietbeam 0.9, here it is 1.0: install the version of here"),
        (HERE | {"Python": "3.12"}, "has Python 3.12, here it is 3.11"),
        (ModuleNotFoundError("No module named 'quietbeam'"), "cannot be run there .*No module named 'quietbeam'"),
        (ConnectionError("it has gone"), r"^$"),
        (TimeoutError(), "does not answer within 60 s: restart it"),
    ],
)
def test_a_worker_must_do_as_this_process_would(answer, expected):
    assert re.search(expected, complaint_about(answer, HERE, TOKENS))


def test_no_scheduler_is_an_error(tmp_path):
    pool = open_pool("tcp://127.0.0.1:9", ClusterSettings(wait_seconds=1), ALONE, tmp_path)
    with pytest.raises(ClusterError, match=r"tcp://127\.0\.0\.1:9: no Dask scheduler answers there"), pool:
        pass


# -- SLURM -----------------------------------------------------------------------------------------------------------


def test_the_job_script_asks_for_what_the_table_says(tmp_path):
    settings = ClusterSettings(
        **SLURM, job_extra=("--constraint=fast",), prologue=("module load cuda",), spill=Path("/fast disk"), tls=False
    )
    script = job_script(settings, tmp_path)
    head = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert head == [
        *("-J quietbeam", "-p long", "-A tomo", "-n 1", "--cpus-per-task=16", "--mem=61952M", "-t 12:00:00"),
        *(f'--output="{tmp_path}/slurm-%j.log"', "--gres=gpu:2", "--constraint=fast"),
    ]
    assert script.startswith("#!/usr/bin/env bash\n")
    lines = script.splitlines()
    assert {"export OMP_NUM_THREADS=16", "export NUMBA_NUM_THREADS=16", "module load cuda"} <= set(lines)
    command = shlex.split(lines[-1])
    assert command[:3] == [sys.executable, "-m", "distributed.cli.dask_worker"]
    options = dict(zip(command[4::2], command[5::2], strict=False))
    assert options["--nthreads"] == "1" and options["--memory-limit"] == "60.50GiB"
    assert "--preload quietbeam.beamline.series.worker_setup" in lines[-1]
    assert "'/fast disk'" in lines[-1]


def test_what_was_not_asked_for_is_left_to_the_site(tmp_path):
    script = job_script(ClusterSettings(cores=4, memory_gib=8), tmp_path)
    head = [line.split()[1] for line in script.splitlines() if line.startswith("#SBATCH")]
    assert not {"-p", "-A", "-t"} & set(head) and "--gres" not in script


@pytest.mark.parametrize("missing", ["cores", "memory_gib"])
def test_slurm_needs_cores_and_memory(missing, tmp_path):
    table = {name: value for name, value in SLURM.items() if name != missing}
    with pytest.raises(ClusterError, match=rf"cluster\.{missing} is missing"):
        job_script(ClusterSettings(**table), tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("queue", "long\n#SBATCH --uid=0"), ("gres", "gpu; rm"), ("jobs", 0), ("wall", "1:00")]
)
def test_a_bad_value_is_told_by_name(name, value):
    with pytest.raises(ValidationError, match=name):
        ClusterSettings(**{name: value})


SBATCH = """#!/usr/bin/env bash
# The job of a batch system, at once and here. It reads the script from a file, or tests it.
if [ "$1" = --test-only ]; then grep -q -- '-p long' && exit 0; echo 'invalid partition' >&2; exit 1; fi
cp "$1" "$(dirname "$0")/job.sh"
setsid bash "$(dirname "$0")/job.sh" > "$(dirname "$0")/job.log" 2>&1 < /dev/null &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/usr/bin/env bash
kill -- -"$1"
"""


@pytest.fixture
def batch_system(tmp_path, monkeypatch):
    """Programs that take jobs as those of SLURM do."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.usefixtures("batch_system")
def test_a_series_gets_its_worker_from_the_batch_system(tmp_path):
    settings = ClusterSettings(**SLURM | {"memory_gib": 1}, threads_per_worker=2, interface="lo")
    with open_pool("slurm", settings, ALONE, tmp_path) as pool:
        pool.submit(variables)
        assert pool.next_done()[1]["NUMBA_NUM_THREADS"] == "2"


@pytest.mark.usefixtures("batch_system")
def test_what_the_batch_system_refuses_is_told(tmp_path):
    settings = ClusterSettings(**SLURM | {"queue": "lonng"})
    pool = open_pool("slurm", settings, ALONE, tmp_path)
    with pytest.raises(ClusterError, match=r"SLURM refuses the job of the \[cluster\] table: invalid partition"), pool:
        pass
