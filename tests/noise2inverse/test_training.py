import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from quietbeam.noise2inverse.averaging import decay_at
from quietbeam.noise2inverse.checkpoint import load_network, network_bytes
from quietbeam.noise2inverse.inference import denoise_slice
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.noise2inverse.pairs import Pairs, PairSettings
from quietbeam.noise2inverse.statistics import section_statistics
from quietbeam.noise2inverse.training import NoiseTrainer, TrainingSettings
from quietbeam.reconstruction.errors import ReductionError
from quietbeam.reconstruction.quality import psnr

from .numbered_sections import Recorded

GAIN = 6.0
"""Decibel by which a short training must beat the average of the noisy sections."""
WIENER = 0.03
"""Distance from the known optimum that a short training on few pixels leaves."""
FLOAT32 = 1e-5
"""Relative rounding of float32."""
RICH = {"schedule": "cosine", "warmup_steps": 7, "averaging": 0.9, "clip": 0.5}
"""Everything that keeps a state or depends on the step's number."""


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


@pytest.mark.parametrize("settings", [{}, RICH])
def test_a_restored_trainer_goes_on_as_if_never_stopped(blobs, settings):
    _, sections = blobs
    straight, first, second = (trainer(sections[:, :, :32, :32], epochs=3, seed=3, **settings) for _ in range(3))
    for epoch in range(3):
        metrics = straight.train_epoch(epoch)
    first.train_epoch(0)
    second.restore(first.state())
    second.train_epoch(1)
    assert second.train_epoch(2) == metrics
    assert straight.state().keys() == second.state().keys()
    assert all(torch.equal(value, second.state()[name]) for name, value in straight.state().items())


def pixels(truth_std=1.0, noise_std=1.0, seed=0):
    """Independent Gaussian pixels, clean and in four sections: nothing is to be learnt but the share of the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(5, truth_std, (8, 1, 64, 64)).astype(np.float32)
    return truth, truth + rng.normal(0, noise_std, (8, 4, 64, 64)).astype(np.float32)


def pixel_trainer(sections, **settings):
    pairs = Pairs(sections, np.full(4, 0.25, np.float32), PairSettings(context_slices=0, crop_size=64, batch_size=2))
    return NoiseTrainer(pairs, TrainingSettings(**settings), NetworkSettings(depth=1))


@pytest.mark.parametrize("averaging", [None, 0.98])
def test_noisy_targets_lead_to_the_clean_mean(averaging):
    """The mean of Gaussian pixels given noisy ones is Wiener's: g (x - 5) + 5 with g = 1 / (1 + 1 / 3)."""
    truth, sections = pixels()
    learner = pixel_trainer(sections, learning_rate=0.02, steps_per_epoch=120, averaging=averaging)
    metrics = [learner.train_epoch(epoch) for epoch in range(2)][-1]
    inputs = torch.from_numpy(sections[:, :3].mean(axis=1, keepdims=True))
    with torch.inference_mode():
        denoised = learner.measured(inputs).numpy()
    gain = 3 / 4
    assert np.polyfit(inputs.numpy().ravel(), denoised.ravel(), 1) == pytest.approx((gain, 5 * (1 - gain)), abs=WIENER)
    assert np.mean((denoised - truth) ** 2) == pytest.approx(1 - gain, rel=WIENER)
    variance = 1 + 1 / 4  # of the average of all sections
    assert metrics.held_out == pytest.approx((1 - gain + 1) / variance, rel=2 * WIENER)


def test_the_trainer_takes_its_step_sizes():
    """The first step of Adam moves each weight by the step size, whatever the gradient and the step's number."""
    _, sections = pixels()
    with pytest.raises(ValueError, match="num_epochs"):
        pixel_trainer(sections, schedule="cosine")
    for epoch, step_size in ((0, 0.02), (2, 0.06), (7, 0.1)):
        learner = pixel_trainer(sections, learning_rate=0.1, warmup_steps=5, steps_per_epoch=1)
        before = learner.model.final_weight.detach().clone()
        assert learner.train_epoch(epoch).learning_rate == pytest.approx(step_size)
        moved = (learner.model.final_weight.detach() - before).abs()
        assert moved.numpy() == pytest.approx(step_size, rel=1e-3)


def test_the_average_counts_the_steps_of_all_epochs():
    learner = pixel_trainer(pixels()[1], steps_per_epoch=1, averaging=0.3, learning_rate=0.1)
    expected = learner.model.final_weight.detach().clone()
    for epoch in range(4):
        learner.train_epoch(epoch)
        expected = torch.lerp(expected, learner.model.final_weight.detach(), 1 - decay_at(epoch, 0.3))
    assert learner.measured.final_weight.numpy() == pytest.approx(expected.numpy(), rel=FLOAT32)


def test_the_averaged_network_is_the_one_that_is_measured(blobs):
    _, sections = blobs
    averaged, plain = trainer(sections, averaging=0.9), trainer(sections, averaging=None)
    metrics, other = averaged.train_epoch(0), plain.train_epoch(0)
    assert metrics.loss == other.loss  # the average does not act on training
    assert metrics.held_out != other.held_out
    plain.model.load_state_dict(averaged.measured.state_dict())
    assert plain.held_out_loss() == metrics.held_out


def test_large_gradients_are_clipped_and_small_ones_left():
    def norm(clip):
        learner = pixel_trainer(pixels()[1], steps_per_epoch=1, clip=clip)
        learner.train_epoch(0)
        return float(torch.stack([weight.grad.square().sum() for weight in learner.model.parameters()]).sum().sqrt())

    free = norm(None)
    assert norm(free / 4) == pytest.approx(free / 4, rel=1e-4)
    assert norm(free * 4) == free


def test_a_warm_start_takes_the_weights_and_not_the_unit(blobs):
    _, sections = blobs
    trained = trainer(sections)
    trained.train_epoch(0)
    pairs = Pairs(3 * sections + 7, np.full(4, 0.25, np.float32))
    again = NoiseTrainer(pairs, network=NetworkSettings(depth=20), start=trained.model)
    images = torch.from_numpy(sections[None, :5, 0])
    with torch.inference_mode():
        expected, got = 3 * trained.model(images) + 7, again.model(3 * images + 7)
    assert got.numpy() == pytest.approx(expected.numpy(), rel=1e-4)
    fresh = NoiseTrainer(pairs, network=NetworkSettings(depth=20))
    assert again.held_out_loss() < fresh.held_out_loss()
    with pytest.raises(ValueError, match="the network to start with has"):
        NoiseTrainer(pairs, network=NetworkSettings(depth=10), start=trained.model)


def test_the_network_to_start_with_is_left_as_it_is(blobs):
    start = trainer(blobs[1]).model
    before = {name: value.clone() for name, value in start.state_dict().items()}
    pairs = Pairs(blobs[1], np.full(4, 0.25, np.float32), PairSettings(crop_size=48))
    NoiseTrainer(pairs, TrainingSettings(steps_per_epoch=2), NetworkSettings(depth=20), start=start).train_epoch(0)
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in before.items())


def test_every_epoch_draws_crops_of_its_own(blobs):
    """What is read of the sections: the crops of the epoch, and those that measure, always the same."""

    def read(learner, epoch):
        learner.pairs.sections.keys.clear()
        learner.train_epoch(epoch)
        return learner.pairs.sections.keys

    learner = NoiseTrainer(
        Pairs(Recorded(blobs[1][:, :, None]), np.full(4, 0.25, np.float32), PairSettings(crop_size=16)),
        TrainingSettings(steps_per_epoch=3, held_out_batches=1),
        NetworkSettings(depth=1),
    )
    first, second, third, again = (list(read(learner, epoch)) for epoch in (0, 1, 2, 0))
    assert first != second != third != first
    assert first == again


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("name", ["minutes", "learning_rate", "clip"])
def test_settings_are_finite(name, value):
    with pytest.raises(ValidationError, match=rf"{name}\n.*finite number"):
        TrainingSettings(**{name: value})


def test_seeds_differ(blobs):
    _, sections = blobs
    a, b = trainer(sections, seed=1), trainer(sections, seed=2)
    assert not torch.equal(a.model.weights[0], b.model.weights[0])


def test_each_channel_is_normalised_by_itself():
    """Diffraction: two channels of different units in one slice with a neighbour on each side."""
    rng = np.random.default_rng(0)
    sections = rng.normal([[[1]], [[-50]]], [[[0.1]], [[20]]], (4, 3, 2, 32, 32)).astype(np.float32)
    pairs = Pairs(sections, np.full(3, 1 / 3, np.float32), PairSettings(context_slices=1, crop_size=16))
    learner = NoiseTrainer(pairs, TrainingSettings(steps_per_epoch=3), NetworkSettings(depth=4))
    mean, std = section_statistics(sections)
    for channel in range(6):
        assert learner.model.input_mean[channel] == pytest.approx(mean[channel % 2], rel=FLOAT32)
        assert learner.model.input_std[channel] == pytest.approx(std[channel % 2], rel=FLOAT32)
    inputs, _ = pairs.training_batch(rng)
    normalised = (inputs - learner.model.input_mean.numpy()[:, None, None]) / learner.model.input_std.numpy()[
        :, None, None
    ]
    assert np.abs(normalised.mean(axis=(0, 2, 3))).max() < 0.3
    metrics = learner.train_epoch(0)
    assert learner.model.out_channels == 2
    assert 1 < metrics.held_out < 6  # noise of one section over that of the average of three: 3, in both channels


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


@pytest.mark.parametrize("num_channels", [1, 3])
def test_channels_must_fit(num_channels):
    """One channel too, which would be taken for all five."""
    with pytest.raises(ValueError, match=rf"shape \(batch, 5, y, x\), got \(2, {num_channels}, 16, 16\)"):
        MSD(5, 1, NetworkSettings(depth=2))(torch.zeros(2, num_channels, 16, 16))


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


def test_a_state_is_a_copy_and_is_copied(blobs):
    """Going back to a state that was taken gives the same epoch again."""
    _, sections = blobs
    learner = trainer(sections, averaging=0.9)
    learner.train_epoch(0)
    taken = learner.state()
    first = learner.train_epoch(1)
    learner.restore(taken)
    assert learner.train_epoch(1) == first


def test_a_state_of_averaged_weights_needs_averaging(blobs):
    _, sections = blobs
    state = trainer(sections, averaging=0.9).state()
    with pytest.raises(ValueError, match="set averaging as it was"):
        trainer(sections, averaging=None).restore(state)
