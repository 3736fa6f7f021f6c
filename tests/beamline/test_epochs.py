import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from quietbeam.beamline.calibrate import epochs_for, fastest_threads
from quietbeam.beamline.epochs import train
from quietbeam.beamline.progress import LineProgress
from quietbeam.noise2inverse.training import EpochMetrics
from quietbeam.reconstruction.errors import ReductionError


class Line:
    """Fits a line with random points; the epoch's number is its only seed."""

    steps_per_epoch = 4

    def __init__(self, held_out=None, seconds=0.0):
        self.model = torch.nn.Linear(1, 1)
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
        return EpochMetrics(loss.item(), held_out)


@pytest.fixture
def progress():
    from rich.console import Console

    return LineProgress(Console(quiet=True))


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


def test_time_becomes_epochs():
    assert epochs_for(1e-9, Line) == 1
    assert 4 <= epochs_for(10 * 4 * 0.02 / 60, lambda: Line(seconds=0.02)) <= 10


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
