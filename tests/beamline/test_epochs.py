import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from quietbeam.beamline.calibrate import epochs_for, fastest_threads
from quietbeam.beamline.epochs import train
from quietbeam.beamline.progress import LineProgress
from quietbeam.noise2inverse.msd import NetworkSettings
from quietbeam.noise2inverse.pairs import Pairs, PairSettings
from quietbeam.noise2inverse.training import EpochMetrics, NoiseTrainer, TrainingSettings
from quietbeam.reconstruction.errors import ReductionError


class Line:
    """Fits a line with random points; the epoch's number is its only seed."""

    steps_per_epoch = 4
    looking = 0.0
    """Seconds that the loss on what is held out takes."""

    def __init__(self, held_out=None, seconds=0.0):
        self.model = self.measured = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.model.weight)
        torch.nn.init.zeros_(self.model.bias)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.held_out, self.seconds, self.epochs = held_out, seconds, []

    def train_epoch(self, epoch, on_step):
        import time

        self.epochs.append(epoch)
        generator = torch.Generator().manual_seed(epoch)
        for step in range(self.steps_per_epoch):
            time.sleep(self.seconds)
            x = torch.rand(8, 1, generator=generator)
            loss = (self.model(x) - 3 * x - 1).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            on_step(step + 1, loss.item())
        held_out = loss.item() if self.held_out is None else self.held_out[epoch]
        return EpochMetrics(loss.item(), held_out, 0.1)

    def held_out_loss(self):
        import time

        time.sleep(self.looking)
        return 0.0

    def state(self):
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"{number}.{name}": value for number in moments for name, value in moments[number].items()}
        return self.model.state_dict() | tensors

    def restore(self, state):
        self.model.load_state_dict({name: state[name] for name in self.model.state_dict()})
        names = ("step", "exp_avg", "exp_avg_sq")
        moments = {number: {name: state[f"{number}.{name}"] for name in names} for number in (0, 1)}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})


class Hearing(LineProgress):
    """Keeps what is said."""

    def __init__(self):
        from rich.console import Console

        super().__init__(Console(quiet=True))
        self.heard = []

    def say(self, text):
        self.heard.append(text)


@pytest.fixture
def progress():
    return Hearing()


def test_stopped_after_any_epoch_it_ends_the_same(tmp_path, progress):
    straight = Line()
    history = train(straight, 6, tmp_path / "straight", "key", name="train", progress=progress)
    for stop in range(1, 6):
        path = tmp_path / f"stopped{stop}"
        train(Line(), stop, path, "key", name="train", progress=progress)
        again = Line()
        assert train(again, 6, path, "key", name="train", progress=progress) == history
        assert again.epochs == list(range(stop, 6))
        assert torch.equal(again.model.weight, straight.model.weight)


def test_the_best_weights_are_kept_across_a_stop(tmp_path, progress):
    losses = [3.0, 1.0, 2.0, 4.0]
    best = Line(losses)
    train(best, 2, tmp_path / "best", "key", name="train", progress=progress)
    for stops in ([4], [2, 4], [3, 4]):
        path = tmp_path / str(stops)
        for stop in stops:
            line = Line(losses)
            train(line, stop, path, "key", name="train", progress=progress)
        assert torch.equal(line.model.weight, best.model.weight)


def test_a_checkpoint_of_another_key_or_a_broken_one_is_not_used(tmp_path, progress):
    path = tmp_path / "checkpoint"
    train(Line(), 2, path, "key", name="train", progress=progress)
    whole = path.read_bytes()
    for content, key in ((whole, "other"), (whole[:-1], "key"), (b"", "key"), (b"\xff" * 64, "key")):
        path.write_bytes(content)
        line = Line()
        train(line, 2, path, key, name="train", progress=progress)
        assert line.epochs == [0, 1]
    save_file({"a": torch.zeros(1)}, path)
    train(Line(), 1, path, "key", name="train", progress=progress)


def test_a_loss_that_is_not_finite_stops_the_job(tmp_path, progress):
    with pytest.raises(ReductionError, match=r"train: the loss of epoch 2 .*lower the learning_rate"):
        train(Line([1.0, np.nan]), 3, tmp_path / "c", "key", name="train", progress=progress)


def noise_trainer(group=None):
    sections = np.random.default_rng(0).normal(1, 2, (4, 4, 24, 24)).astype(np.float32)
    pairs = Pairs(sections, np.full(4, 0.25, np.float32), PairSettings(crop_size=16, batch_size=2))
    settings = TrainingSettings(steps_per_epoch=3, schedule="cosine", warmup_steps=2, averaging=0.9, clip=1.0)
    return NoiseTrainer(pairs, settings, NetworkSettings(depth=4), num_epochs=4, group=group)


def test_a_network_with_averaged_weights_and_schedule_goes_on_to_the_same_bits(tmp_path, progress):
    straight = noise_trainer()
    history = train(straight, 4, tmp_path / "straight", "key", name="train", progress=progress)
    for stop in (1, 3):
        path = tmp_path / f"stopped{stop}"
        train(noise_trainer(), stop, path, "key", name="train", progress=progress)
        again = noise_trainer()
        assert train(again, 4, path, "key", name="train", progress=progress) == history
        assert all(torch.equal(value, again.state()[name]) for name, value in straight.state().items())
    rates = [record["learning_rate"] for record in history]
    assert rates == [straight.learning_rate(step) for step in (2, 5, 8, 11)]


def test_the_best_averaged_weights_are_kept(tmp_path, progress):
    trainer = noise_trainer()
    history = train(trainer, 4, tmp_path / "c", "key", name="train", progress=progress)
    trainer.measured.load_state_dict(trainer.model.state_dict())
    assert trainer.held_out_loss() == min(record["held_out"] for record in history)


def test_it_stops_when_the_held_out_loss_comes_down_no_further(tmp_path, progress):
    losses = [5.0, 4.0, 4.5, 4.2, 3.0, 3.0, 3.1, 3.2, 3.3, 1.0]

    def epochs_done(patience, losses=losses, path=tmp_path / "none"):
        path.unlink(missing_ok=True)
        return len(train(Line(losses), 10, path, "key", name="train", progress=progress, patience=patience))

    assert [epochs_done(patience) for patience in (1, 2, 3, 4, 5, None)] == [3, 4, 9, 10, 10, 10]
    assert progress.heard[0].startswith("train: done")
    told = [text for text in progress.heard if "stopped" in text]
    assert told[0].startswith("train: stopped after 3 of 10 epochs, which saves 28 steps")
    assert len(told) == 3
    assert epochs_done(1, [1.0] * 10) == 10  # an equal loss is no worse


def test_an_early_stop_stays_one_after_a_restart(tmp_path, progress):
    losses = [3.0, 1.0, 2.0, 4.0, 0.5]
    straight = Line(losses)
    options = {"name": "train", "progress": progress, "patience": 2}
    history = train(straight, 5, tmp_path / "c", "key", **options)
    assert len(history) == 4
    again = Line(losses)
    assert train(again, 5, tmp_path / "c", "key", **options) == history
    assert again.epochs == []
    assert torch.equal(again.model.weight, straight.model.weight)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_epoch_is_a_line_of_the_metrics(tmp_path, progress):
    path = tmp_path / "metrics.jsonl"
    line = Line(seconds=0.01)
    history = train(line, 3, tmp_path / "c", "key", name="train", progress=progress, metrics=path)
    assert [record.pop("epoch") for record in lines(path)] == [1, 2, 3]
    assert [{name: one[name] for name in ("loss", "held_out", "learning_rate")} for one in lines(path)] == history
    assert all(0.04 <= record["seconds"] < 5 for record in lines(path))


@pytest.mark.parametrize("damage", ["whole", "torn", "lost", "twice", "gone"])
def test_a_restart_leaves_no_line_twice_or_torn(tmp_path, progress, damage):
    path = tmp_path / "metrics.jsonl"
    train(Line(), 2, tmp_path / "c", "key", name="train", progress=progress, metrics=path)
    before = path.read_text()
    first, second = before.splitlines(keepends=True)
    path.write_text(
        {"whole": before, "torn": first + second[:9], "lost": first, "twice": before + second, "gone": ""}[damage]
    )
    train(Line(), 4, tmp_path / "c", "key", name="train", progress=progress, metrics=path)
    assert path.read_text().startswith(before)
    assert [record["epoch"] for record in lines(path)] == [1, 2, 3, 4]
    train(Line(), 1, tmp_path / "c", "other key", name="train", progress=progress, metrics=path)
    assert [record["epoch"] for record in lines(path)] == [1]


def test_the_caller_is_called_after_each_epoch(tmp_path, progress):
    seen = []

    def on_epoch(epoch):
        seen.append((epoch, (tmp_path / "c").exists()))

    train(Line(), 2, tmp_path / "c", "key", name="train", progress=progress, on_epoch=on_epoch)
    train(Line(), 3, tmp_path / "c", "key", name="train", progress=progress, on_epoch=on_epoch)
    assert seen == [(0, True), (1, True), (2, True)]


TOGETHER = """
import json
import sys
from pathlib import Path
import torch
from rich.console import Console
from quietbeam.beamline.calibrate import epochs_for
from quietbeam.beamline.epochs import train
from quietbeam.beamline.progress import LineProgress
from quietbeam.noise2inverse.distributed import process_group
sys.path.insert(0, sys.argv[2])
from test_epochs import noise_trainer

torch.set_num_threads(1)
folder = Path(sys.argv[1])
with process_group(timeout_seconds=60) as group:
    epochs = epochs_for(0.02, lambda: noise_trainer(group), group=group)
    calls = []
    # each process has a folder of its own, as on machines that share no disk
    own = folder / str(group.rank)
    own.mkdir()
    for stop in (2, 4):
        trainer = noise_trainer(group)
        history = train(
            trainer, stop, own / "c", "key", name="train", progress=LineProgress(Console(quiet=True)),
            metrics=own / "metrics.jsonl", on_epoch=calls.append, group=group,
        )
    weights = [value.flatten().tolist() for value in trainer.model.parameters()]
    (folder / f"{group.rank}.json").write_text(json.dumps([epochs, calls, history, weights]))
"""


@pytest.mark.slow
def test_processes_go_on_together_from_the_checkpoint_of_the_first(tmp_path, progress):
    (tmp_path / "script.py").write_text(TOGETHER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command += ["--nproc-per-node", "2", tmp_path / "script.py", tmp_path, Path(__file__).parent]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    (epochs, calls, history, weights), other = (json.loads((tmp_path / f"{i}.json").read_text()) for i in (0, 1))
    assert (calls, other[1]) == ([0, 1, 2, 3], [])
    assert other[0] == epochs
    assert other[2:] == [history, weights]
    assert [path.name for path in sorted(tmp_path.glob("[01]/*"))] == ["c", "metrics.jsonl"]
    assert [record["epoch"] for record in lines(tmp_path / "0" / "metrics.jsonl")] == [1, 2, 3, 4]
    alone = train(noise_trainer(), 4, tmp_path / "c", "key", name="train", progress=progress)
    for one, both in zip(alone, history, strict=True):
        assert both == pytest.approx(one, rel=1e-5)


def test_time_becomes_epochs():
    assert epochs_for(1e-9, Line) == 1
    assert 4 <= epochs_for(10 * 4 * 0.02 / 60, lambda: Line(seconds=0.02)) <= 10


def test_the_held_out_loss_counts_in_the_time():
    class Looking(Line):
        looking = 0.24  # three times the four steps

    assert 1 <= epochs_for(10 * 4 * 0.02 / 60, lambda: Looking(seconds=0.02)) <= 3


def test_the_fastest_number_of_threads_is_taken():
    class Crowded(Line):
        """Slower the more threads there are, as on cores that others use too."""

        def __init__(self):
            super().__init__(seconds=0.03 * torch.get_num_threads())

    before = torch.get_num_threads()
    try:
        assert fastest_threads(3, Crowded) == 1
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
