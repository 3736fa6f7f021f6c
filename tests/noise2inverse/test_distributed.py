"""Processes started for real by torchrun, on this machine, with gloo between them."""

import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from quietbeam.noise2inverse.distributed import Group, process_group
from quietbeam.noise2inverse.pairs import Pairs, PairSettings
from quietbeam.noise2inverse.training import NoiseTrainer

PYTHON = [sys.executable]
TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"),
]
ROUNDING = 1e-6
"""Of weights, relative to the largest: sums over a batch in another order."""
LIMIT = 60
"""Seconds after which a process that lost another one must have ended; starting takes most of them."""

TRAIN = """
import sys
from pathlib import Path
import numpy as np
import torch
from safetensors.torch import save_file
from quietbeam.noise2inverse.distributed import process_group
from quietbeam.noise2inverse.msd import NetworkSettings
from quietbeam.noise2inverse.pairs import Pairs, PairSettings
from quietbeam.noise2inverse.training import NoiseTrainer, TrainingSettings

def full(model, inputs):  # as the memory of a GPU that has room for one crop
    if len(inputs[0]) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory")

torch.set_num_threads(1)
sections = np.random.default_rng(0).normal(1, 2, (6, 4, 32, 32)).astype(np.float32)
with process_group(timeout_seconds=60) as group:
    # five crops on two processes; three held-out batches
    pairs = Pairs(sections, np.full(4, 0.25, np.float32), PairSettings(crop_size=16, batch_size=5))
    settings = TrainingSettings(steps_per_epoch=4, held_out_batches=3, averaging=0.9, clip=1.0, warmup_steps=0)
    trainer = NoiseTrainer(pairs, settings, NetworkSettings(depth=6), group=group)
    if group.rank == 1:
        trainer.model.register_forward_pre_hook(full)
    metrics = [trainer.train_epoch(epoch) for epoch in range(2)]
    tensors = trainer.state() | {"metrics": torch.tensor(metrics, dtype=torch.float64)}
    save_file(tensors, Path(sys.argv[1]) / f"{group.size}-{group.rank}")
left = [path.read_text() for path in Path("/proc/self/task").glob("*/comm") if "gloo" in path.read_text()]
assert not left, left  # threads of the group that outlive it can abort the interpreter's end
"""

SHARE = """
from pathlib import Path
import sys
import torch
from quietbeam.noise2inverse.distributed import process_group

with process_group(timeout_seconds=60) as group:
    mine = [torch.full((2, 3), float(group.rank)), torch.tensor(group.rank + 1.0)]
    group.add(mine)
    assert mine[0].eq(1).all() and mine[1] == 3, mine
    group.share(other := [torch.full((2,), 5 + group.rank, dtype=torch.int64)])
    assert other[0].tolist() == [5, 5], other
    assert group.share_number(0.1 + group.rank) == 0.1
    assert group.share_bytes(b"from 0" if group.rank == 0 else b"longer, from 1") == b"from 0"
    assert group.share_bytes(b"" if group.rank == 0 else b"x") == b""
    assert group.part(range(5)) == [[0, 2, 4], [1, 3]][group.rank]
    Path(sys.argv[1], str(group.rank)).touch()
"""

DIE = """
import os
import torch
from quietbeam.noise2inverse.distributed import process_group

with process_group(timeout_seconds=60) as group:
    group.add([torch.zeros(1)])
    if group.rank == 1:
        os._exit(3)
    group.add([torch.zeros(1)])
"""


@pytest.fixture
def environment():
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in names} | {"OMP_NUM_THREADS": "1"}


def run(start, folder, script, environment):
    path = folder / "script.py"
    path.write_text(script)
    return subprocess.run([*start, path, folder], capture_output=True, text=True, env=environment, timeout=240)


@pytest.mark.slow
def test_two_processes_train_as_one_does_also_if_the_memory_of_one_runs_out(tmp_path, environment):
    for start in (PYTHON, TORCHRUN):
        done = run(start, tmp_path, TRAIN, environment)
        assert done.returncode == 0, done.stderr
    alone, first, second = (load_file(tmp_path / name) for name in ("1-0", "2-0", "2-1"))
    assert first.keys() == second.keys() == alone.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    for name in (name for name in alone if not name.startswith("optimizer")):
        largest = alone[name].abs().max()
        assert (alone[name] - first[name]).abs().max() <= ROUNDING * largest, name
    assert not torch.equal(alone["model.weights.0"], first["model.weights.0"])  # they did compute in parts


@pytest.mark.slow
def test_what_is_sent_arrives(tmp_path, environment):
    done = run(TORCHRUN, tmp_path, SHARE, environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()


@pytest.mark.slow
def test_a_process_that_dies_ends_all(tmp_path, environment):
    began = time.monotonic()
    done = run(TORCHRUN, tmp_path, DIE, environment)
    assert done.returncode == 1, done.stderr
    assert time.monotonic() - began < LIMIT


@pytest.mark.slow
def test_who_lost_another_process_says_so(tmp_path, environment):
    """Without torchrun, which may end the others before they notice."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (tmp_path / "script.py").write_text(DIE)
    environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, tmp_path / "script.py"], env=environment | {"RANK": rank}, stderr=subprocess.PIPE
        )
        for rank in ("0", "1")
    ]
    try:
        errors = [process.communicate(timeout=LIMIT)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [1, 3]
    assert "ReductionError: a process that trains along with this one has ended" in errors[0]
    assert "goes on from its last checkpoint" in errors[0]


def test_one_process_sends_nothing():
    with process_group() as group:
        assert (group.rank, group.size, group.is_first) == (0, 1, True)
        assert not torch.distributed.is_initialized()
        tensor = torch.ones(2)
        group.add([tensor])
        group.share([tensor])
        assert tensor.tolist() == [1, 1]
        assert group.share_bytes(b"abc") == b"abc"
        assert group.share_number(0.1) == 0.1
        assert group.part("abc") == ["a", "b", "c"]


def test_half_a_start_is_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with (
        pytest.raises(ValueError, match="not MASTER_ADDR, MASTER_PORT: start the processes with torchrun"),
        process_group(),
    ):
        pass


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"rank must lie in \[0, 2\), got 2"):
        Group(2, 2)
    pairs = Pairs(torch.rand(2, 4, 16, 16).numpy(), torch.full((4,), 0.25).numpy(), PairSettings(batch_size=2))
    with pytest.raises(ValueError, match=r"number of processes, 3, got 2: set pairs\.batch_size=3"):
        NoiseTrainer(pairs, group=Group(0, 3))
