import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from quietbeam.noise2inverse.checkpoint import load_network, network_bytes
from quietbeam.noise2inverse.inference import denoise_slice
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.noise2inverse.pairs import Pairs, PairSettings
from quietbeam.noise2inverse.training import NoiseTrainer, TrainingSettings, section_statistics
from quietbeam.reconstruction.errors import ReductionError
from quietbeam.reconstruction.quality import psnr

GAIN = 6.0
"""Decibel by which a short training must beat the average of the noisy sections."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def blobs():
    """Truth and four noisy sections of a smooth binary volume."""
    rng = np.random.default_rng(0)
    truth = (gaussian_filter(rng.normal(size=(8, 64, 64)), (1, 4, 4)) > 0).astype(np.float32)
    sections = truth[:, None] + rng.normal(0, 1.6, (8, 4, 64, 64)).astype(np.float32)
    return truth, sections


def trainer(sections, **settings):
    pairs = Pairs(sections, np.full(4, 0.25, np.float32), PairSettings(crop_size=48, batch_size=2))
    return NoiseTrainer(pairs, TrainingSettings(steps_per_epoch=30, **settings), NetworkSettings(depth=20))


@pytest.mark.slow
def test_learns_to_denoise_from_noise_alone(blobs):
    truth, sections = blobs
    learner = trainer(sections)
    first = learner.held_out_loss()
    for epoch in range(4):
        metrics = learner.train_epoch(epoch)
    assert metrics.held_out < first
    noisy = sections.mean(axis=1)
    denoised = np.stack([denoise_slice(learner.model, np.take(noisy, range(i - 2, i + 3), 0)) for i in range(2, 6)])
    assert psnr(truth[2:6], denoised) > psnr(truth[2:6], noisy[2:6]) + GAIN


def test_a_restored_trainer_goes_on_as_if_never_stopped(blobs):
    _, sections = blobs
    straight, first, second = (trainer(sections[:, :, :32, :32], seed=3) for _ in range(3))
    for epoch in range(2):
        straight.train_epoch(epoch)
    first.train_epoch(0)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.train_epoch(1)
    for a, b in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_seeds_differ(blobs):
    _, sections = blobs
    a, b = trainer(sections, seed=1), trainer(sections, seed=2)
    assert not torch.equal(a.model.weights[0], b.model.weights[0])


def test_statistics():
    sections = np.random.default_rng(0).normal(5, 2, (4, 1, 50, 50)).astype(np.float32)
    assert section_statistics(sections) == pytest.approx((5, 2), abs=0.05)
    assert section_statistics(np.full((2, 2, 4, 4), 3, np.float32)) == (3, 1)


def test_network_file_round_trip_and_determinism(tmp_path, blobs):
    model = trainer(blobs[1]).model
    content = network_bytes(model, {"scan": "x"})
    assert content == network_bytes(model, {"scan": "x"})
    (tmp_path / "network.safetensors").write_bytes(content)
    loaded, provenance = load_network(tmp_path / "network.safetensors")
    assert provenance == {"scan": "x"}
    image = torch.rand(1, 5, 16, 16)
    assert torch.equal(loaded(image), model(image))


@pytest.mark.parametrize("content", [b"", b"not a network at all", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_is_no_network_is_refused(tmp_path, content):
    path = tmp_path / "network.safetensors"
    path.write_bytes(content)
    with pytest.raises(ReductionError, match=r"network\.safetensors"):
        load_network(path)


def test_channels_must_fit():
    with pytest.raises(RuntimeError):
        denoise_slice(MSD(5, 1, NetworkSettings(depth=2)), np.zeros((3, 16, 16), np.float32))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_as_the_cpu_does(blobs):
    """The first losses agree; later ones drift apart by rounding."""
    losses = {}
    for device in ("cpu", "cuda"):
        pairs = Pairs(blobs[1], np.full(4, 0.25, np.float32), PairSettings(crop_size=48, batch_size=2))
        settings, network = TrainingSettings(steps_per_epoch=5), NetworkSettings(depth=20)
        learner = NoiseTrainer(pairs, settings, network, device=torch.device(device))
        losses[device] = learner.train_epoch(0)
        context = blobs[1][:5, 0]
        denoised = denoise_slice(learner.model, context, device=torch.device(device))
        assert denoised.shape == (64, 64)
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-2)
