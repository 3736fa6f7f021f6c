"""Training as a stage of the reduction: alone, and with processes that torchrun started."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from quietbeam.beamline.network_training import NetworkTraining
from quietbeam.beamline.preview import Preview
from quietbeam.beamline.progress import Silence
from quietbeam.beamline.reduce import reduce_scan
from quietbeam.beamline.workspace import METRICS, PREVIEW
from quietbeam.noise2inverse.checkpoint import load_network
from quietbeam.noise2inverse.distributed import Group
from quietbeam.noise2inverse.pairs import Pairs
from quietbeam.reconstruction.errors import ReductionError

from .jobs import reduce_command, run, small_scan, small_settings
from .test_reduce import Recorder

TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
    *("--nproc-per-node", "2", "--no-python"),
]
ROUNDING = 1e-4
"""Of weights after 18 steps of Adam, relative to the largest: sums over a batch in another order."""


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return small_scan(tmp_path_factory.mktemp("scan") / "scan.h5")


def pairs_of(settings, num_slices=4):
    sections = np.random.default_rng(0).normal(size=(num_slices, 4, 32, 32)).astype(np.float32)
    return Pairs(sections, np.full(4, 0.25, np.float32), settings.pairs)


def training(**changes):
    settings = small_settings(**changes)
    return NetworkTraining(pairs_of(settings), settings, group=Group(), progress=Silence())


def test_what_was_found_before_is_not_looked_for_again(monkeypatch):
    monkeypatch.setattr("quietbeam.beamline.network_training.epochs_for", None)
    monkeypatch.setattr("quietbeam.beamline.network_training.fastest_threads", None)
    stage = training(training__epochs=None, compute__threads=None)
    assert stage.plan_epochs(7) == 7
    assert stage.choose_threads(4, 1) == 1
    assert training(training__epochs=3).plan_epochs() == 3


def test_a_schedule_falls_over_the_planned_epochs(tmp_path):
    stage = training(training__schedule="cosine", training__epochs=None)
    _, history = stage.run(3, tmp_path / "state", "key")
    rates = [record["learning_rate"] for record in history]
    assert rates[0] > rates[1] > rates[2]
    assert rates[2] < 0.05 * rates[0]


def test_training_stops_early(tmp_path):
    stage = training(training__patience=1, training__learning_rate=1e-2)  # of noise there is nothing to learn
    model, history = stage.run(50, tmp_path / "state", "key")
    assert 1 < len(history) < 50
    assert not model.training


def test_too_small_a_batch_for_the_processes_is_told():
    settings = small_settings()
    stage = NetworkTraining(pairs_of(settings), settings, group=Group(0, 2), progress=Silence())
    with pytest.raises(ReductionError, match=r"pairs.batch_size=2 or a multiple"):
        stage._trainer()


def test_a_value_that_is_not_finite_is_refused_with_the_scan(tmp_path):
    settings = small_settings()
    sections = np.ones((4, 4, 32, 32), np.float32)
    sections[2, 1, 4, 4] = np.nan
    pairs = Pairs(sections, np.full(4, 0.25, np.float32), settings.pairs)
    stage = NetworkTraining(pairs, settings, group=Group(), progress=Silence(), scan=tmp_path / "scan.h5")
    with pytest.raises(ReductionError, match=r"scan\.h5: slice 2 has 1 values that are not finite, .*section 1"):
        stage.run(1, tmp_path / "state", "key")


def test_sections_that_are_not_finite_end_a_reduction_with_the_scan(scan, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        reduce_scan(scan, tmp_path, small_settings(), progress=Recorder("train", 1))
    path = min(tmp_path.glob("work/sections/*/*.npy"))
    np.lib.format.open_memmap(path, mode="r+")[3, 1, 20, 20] = np.nan
    with pytest.raises(ReductionError, match=r"scan\.h5: slice 3 has 1 values that are not finite, .*section 1"):
        reduce_scan(scan, tmp_path, small_settings(), progress=Silence())


def test_numbers_and_a_picture_are_written_while_it_learns(scan, tmp_path):
    reduce_scan(scan, tmp_path / "out", small_settings(), progress=Silence())
    lines = [json.loads(line) for line in (tmp_path / "out" / METRICS).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(set(line) == {"epoch", "loss", "held_out", "learning_rate", "seconds"} for line in lines)
    with Image.open(tmp_path / "out" / PREVIEW) as picture:
        assert picture.size == (2 * 48 + 4, 48)


def test_a_preview_takes_a_small_part_of_the_time(tmp_path, monkeypatch):
    now = iter([0.0, 10.0, 12.0, 20.0, 60.0, 62.0])  # made, drawn from 10 to 12, asked at 20, drawn from 60 to 62
    monkeypatch.setattr("quietbeam.beamline.preview.time.monotonic", lambda: next(now))
    drawn = []
    preview = Preview(tmp_path / "a.png", np.zeros((3, 20, 30), np.float32), lambda net, x: drawn.append(net) or x[1])
    for number in (1, 2, 3):
        preview.update(number)
    assert drawn == [1, 3]


def weights(output):
    return dict(load_network(output / "network.safetensors")[0].state_dict())


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(scan, tmp_path):
    batch = ("--set", "pairs.batch_size=3")
    alone = run(reduce_command(scan, tmp_path / "alone", *batch))
    together = run([*TORCHRUN, *reduce_command(scan, tmp_path / "together", *batch)])
    assert (alone.returncode, together.returncode) == (0, 0), alone.stderr + together.stderr
    assert together.stdout.count("report.html") == 1
    one, two = weights(tmp_path / "alone"), weights(tmp_path / "together")
    for name, weight in one.items():
        assert float((two[name] - weight).abs().max()) <= ROUNDING * float(weight.abs().max()), name
    again = run([*TORCHRUN, *reduce_command(scan, tmp_path / "together", *batch)])
    assert again.returncode == 0, again.stderr
    assert "nothing left to do" in again.stdout


@pytest.mark.slow
def test_a_bad_scan_ends_all_processes(tmp_path):
    (tmp_path / "scan.h5").write_bytes(b"nothing")
    batch = ("--set", "pairs.batch_size=2")
    done = run([*TORCHRUN, *reduce_command(tmp_path / "scan.h5", tmp_path / "out", *batch)])
    assert done.returncode != 0
    assert "scan.h5" in done.stderr


@pytest.mark.slow
def test_too_small_a_batch_is_refused_before_anything_is_computed(scan, tmp_path):
    done = run([*TORCHRUN, *reduce_command(scan, tmp_path / "out")])
    assert done.returncode != 0
    assert done.stderr.count("pairs.batch_size must be at least the number of processes, 2, got 1") == 1
    assert "reconstruct" not in done.stdout
