import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter
from torch.nn.functional import mse_loss

from quietbeam.noise2inverse.inference import (
    InferenceSettings,
    denoise_passes,
    denoise_slice,
    denoise_time_steps,
    denoise_volume,
    plan_passes,
)
from quietbeam.noise2inverse.msd import MSD, NetworkSettings, mixed_scale_dense
from quietbeam.noise2inverse.network_inputs import NetworkInputs
from quietbeam.reconstruction.pairing import pair_sections

TILE_ERROR = 1e-5
"""Largest difference between tiles and the whole slice, over the output's standard deviation."""
ROUNDING = 1e-5
"""Of sums in another order, over the output's standard deviation."""
HALF_ERROR = {"bfloat16": 0.02, "float16": 0.005}
"""Root mean square error of 8 and 11 bits through all layers, over the output's standard deviation."""
GROWTH = 4 * 2**20
"""Bytes by which eight times the slices may raise the peak; their sections differ by 16 MiB, their results by 11."""
SPARE = 2 * 2**20
"""Bytes that a process takes by itself while the network is applied."""


def network(in_channels=1, out_channels=1, **settings):
    """Random weights, of the size that training gives them or larger, and data far from mean 0 and deviation 1."""
    generator = torch.Generator().manual_seed(0)
    net = MSD(in_channels, out_channels, NetworkSettings(**settings), generator=generator)
    with torch.no_grad():
        for values in (net.final_weight, net.bias, net.final_bias):
            values.normal_(0, 0.2, generator=generator)
    for mean, std in ((net.input_mean, net.input_std), (net.output_mean, net.output_std)):
        mean.copy_(5 + torch.arange(len(mean)))
        std.fill_(2)
    return net


def blobs(size, seed=0):
    """Two noisy pictures of the same blobs, about as large as attenuation in 1/m."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(size=(size, size)), 5) > 0
    noise = gaussian_filter(rng.normal(0, 6, (2, size, size)), (0, 1, 1))
    return (1000 + 3 * (truth + noise)).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    """A network that reaches 220 pixels, trained for a second on one noisy picture to give the other."""
    noisy, target = torch.from_numpy(blobs(256))
    net = MSD(1, 1, NetworkSettings(depth=40), generator=torch.Generator().manual_seed(0))
    for mean, std in ((net.input_mean, net.input_std), (net.output_mean, net.output_std)):
        mean.fill_(noisy.mean())
        std.fill_(noisy.std())
    optimizer, rng = torch.optim.Adam(net.parameters(), lr=2e-3), np.random.default_rng(0)
    for _ in range(40):
        y, x = rng.integers(192, size=2)
        loss = mse_loss(net(noisy[None, None, y : y + 64, x : x + 64]), target[None, None, y : y + 64, x : x + 64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


@pytest.fixture
def inputs():
    sections = np.random.default_rng(1).normal(5, 2, (4, 3, 40, 44)).astype(np.float32)
    return NetworkInputs(sections, np.array([0.2, 0.3, 0.5]), context_slices=1)


PASSES = [(1, 2), (0, 2), (0, 1)]


def largest_difference(a, b):
    return np.abs(a - b).max() / b.std()


@pytest.mark.parametrize("halo", [16, None])
def test_tiles_give_what_the_whole_slice_gives_and_need_their_halo(trained, monkeypatch, halo):
    image = blobs(360, seed=1)[:1]
    if halo:
        monkeypatch.setattr("quietbeam.noise2inverse.tiled_network.halo_of", lambda dilations: halo)
    random = network(depth=40)
    random.input_mean.fill_(1000)
    for net in (trained, random):
        whole, tiled = (denoise_slice(net, image, tile_size=size) for size in (360, 100))
        assert (largest_difference(tiled, whole) < TILE_ERROR) == (halo is None)


def test_the_network_learnt_something(trained):
    noisy, target = blobs(256)
    denoised = denoise_slice(trained, noisy[None])
    assert ((denoised - target) ** 2).mean() < 0.7 * ((noisy - target) ** 2).mean()


def test_full_is_the_network_on_the_mean_of_all_sections(inputs):
    net = network(3, depth=5)
    passes = plan_passes("full", pair_sections([range(3)]))
    target = np.empty((4, 40, 44), np.float32)
    denoise_volume(net, inputs, passes, target, tile_size=16)
    mean = np.einsum("skcyx,k->syx", inputs.sections[:,], inputs.shares)
    for centre, context in ((0, (1, 0, 1)), (2, (1, 2, 3)), (3, (2, 3, 2))):
        with torch.inference_mode():
            expected = net(torch.from_numpy(mean[list(context)])[None])[0, 0].numpy()
        assert largest_difference(target[centre], expected) < ROUNDING


def test_average_and_disagreement_are_mean_and_deviation_of_the_passes(inputs):
    net = network(3, depth=5)
    assert plan_passes("average", pair_sections([range(3)])) == PASSES
    target, disagreement = np.empty((2, 4, 1, 40, 44), np.float32)
    denoise_volume(net, inputs, PASSES, target, disagreement=disagreement)
    for centre in range(4):
        images = [inputs.images(numbers, centre, slice(0, 40), slice(0, 44)) for numbers in PASSES]
        answers = np.stack([denoise_slice(net, image) for image in images])
        assert largest_difference(target[centre, 0], answers.mean(axis=0)) < ROUNDING
        assert largest_difference(disagreement[centre, 0], answers.std(axis=0, ddof=1)) < ROUNDING
        one = denoise_passes(net, inputs, PASSES, centre, disagreement=True, tile_size=30)
        assert largest_difference(one.mean, target[centre]) < ROUNDING
        assert largest_difference(one.disagreement, disagreement[centre]) < ROUNDING


def test_equal_sections_agree_exactly():
    sections = np.repeat(blobs(48)[:1, None], 4, axis=1)
    alike = NetworkInputs(sections, np.array([0.25] * 4), context_slices=0)
    net = network(depth=5)
    net.output_mean.fill_(1000)
    denoised = denoise_passes(net, alike, [(0,), (1,), (3,)], 0, disagreement=True)
    assert np.abs(denoised.mean).max() > 0
    assert not denoised.disagreement.any()


def test_channels_of_diffraction(inputs):
    sections = np.random.default_rng(2).normal(5, 2, (2, 3, 4, 24, 26)).astype(np.float32)
    several = NetworkInputs(sections, np.ones(3), context_slices=0)
    net = network(4, 4, depth=3)
    target = np.empty((2, 4, 24, 26), np.float32)
    denoise_volume(net, several, [(0, 1, 2)], target, tile_size=10)
    with torch.inference_mode():
        expected = net(torch.from_numpy(sections.mean(axis=1))).numpy()
    assert largest_difference(target, expected) < ROUNDING
    with pytest.raises(ValueError, match="expected a network with one output, got 4"):
        denoise_slice(net, sections[0, 0])


@pytest.mark.parametrize("channels", [(), (1,)])
def test_each_time_step_is_denoised_from_its_own_section(inputs, channels):
    net = network(3, depth=3)
    target, disagreement = np.empty((2, 4, 2, *channels, 40, 44), np.float32)
    denoise_time_steps(net, inputs, [[(0,), (1,)], [(2,), (0,)]], target, disagreement=disagreement)
    for step, passes in enumerate([[(0,), (1,)], [(2,), (0,)]]):
        alone, apart = np.empty((2, 4, *channels, 40, 44), np.float32)
        denoise_volume(net, inputs, passes, alone, disagreement=apart)
        np.testing.assert_array_equal(target[:, step], alone)
        np.testing.assert_array_equal(disagreement[:, step], apart)
    assert largest_difference(target[:, 0], target[:, 1]) > 0.1


def test_only_the_slices_asked_for_are_written_and_told(inputs, tmp_path):
    net, told = network(3, depth=3), []
    whole = np.empty((4, 40, 44), np.float32)
    denoise_volume(net, inputs, PASSES, whole)
    with h5py.File(tmp_path / "denoised.h5", "w") as file:
        target = file.create_dataset("volume", (4, 40, 44), np.float32)
        denoise_volume(net, inputs, PASSES, target, slices=(3, 1), tile_size=17, on_slice=told.append)
        assert told == [3, 1]
        assert largest_difference(target[1::2], whole[1::2]) < ROUNDING
        assert not target[::2].any()
    chunk = np.empty((2, 40, 44), np.float32)
    denoise_volume(net, inputs, PASSES, chunk, slices=(2, 3), first=2)
    np.testing.assert_array_equal(chunk, whole[2:])


def test_results_do_not_depend_on_threads(inputs):
    net, results = network(3, depth=8), []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(denoise_passes(net, inputs, PASSES, 1, disagreement=True))
    torch.set_num_threads(before)
    assert largest_difference(results[0].mean, results[1].mean) < ROUNDING
    assert largest_difference(results[0].disagreement, results[1].disagreement) < ROUNDING


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_near(trained, monkeypatch, precision):
    """By the network's definition, and where the data are hundreds of times as large as what they differ by."""
    monkeypatch.setattr("quietbeam.noise2inverse.msd.mixed_scale_dense_in_blocks", mixed_scale_dense)
    monkeypatch.setattr("quietbeam.noise2inverse.tiled_network.dtype_on", lambda device, name: getattr(torch, name))
    assert_half_is_near(trained, precision, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_near_on_a_gpu(trained, precision):
    assert_half_is_near(trained, precision, torch.device("cuda"))


def assert_half_is_near(net, precision, device):
    image = blobs(128, seed=2)[:1]
    exact, half = (denoise_slice(net, image, precision=name, device=device) for name in ("float32", precision))
    error = np.sqrt(((half - exact) ** 2).mean()) / exact.std()
    assert 0 < error < HALF_ERROR[precision]


def test_the_cpu_computes_in_float32_whatever_the_precision(trained):
    image = blobs(64)[:1]
    np.testing.assert_array_equal(denoise_slice(trained, image, precision="float16"), denoise_slice(trained, image))


def test_the_network_is_not_changed(inputs):
    net = network(3, depth=3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    denoise_passes(net, inputs, PASSES, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("passes", "shape", "message"),
    [
        ([], (4, 40, 44), "expected 2 passes or more, got 0"),
        ([(0, 1, 2)], (4, 40, 44), "expected 2 passes or more, got 1: take mode average"),
        (PASSES, (4, 44, 40), r"target must have the shape \(1, 40, 44\) or \(40, 44\), got \(44, 40\)"),
    ],
)
def test_what_cannot_be_is_refused(inputs, passes, shape, message):
    target = np.empty(shape, np.float32)
    with pytest.raises(ValueError, match=message):
        denoise_volume(network(3, depth=2), inputs, passes, target, disagreement=target)
    with pytest.raises(ValueError, match="the disagreement must have the target's shape"):
        denoise_volume(network(3, depth=2), inputs, PASSES, np.empty((4, 40, 44)), disagreement=np.empty((4, 40)))


def test_passes_of_any_strategy():
    assert plan_passes("average", pair_sections([range(3)], "1:X")) == [(0,), (1,), (2,)]
    assert plan_passes("full", pair_sections([range(3)], "1:X")) == [(0, 1, 2)]
    assert plan_passes("average", pair_sections([(0, 1), (1, 2)])) == [(1,), (0,), (2,)]


def test_disagreement_needs_several_passes():
    with pytest.raises(ValidationError, match=r"set inference\.mode to average"):
        InferenceSettings(disagreement=True)
    assert InferenceSettings(mode="average", disagreement=True).disagreement


class Recorder:
    """Sections that note how much is read at a time."""

    def __init__(self, sections):
        self.sections, self.shape, self.largest = sections, sections.shape, 0

    def __getitem__(self, key):
        part = self.sections[key]
        self.largest = max(self.largest, part.size)
        return part


@pytest.mark.parametrize("num_slices", [3, 12])
def test_a_tile_is_read_with_its_halo_and_no_more(num_slices):
    sections = Recorder(np.zeros((num_slices, 4, 100, 90), np.float32))
    seen = NetworkInputs(sections, np.ones(4), context_slices=1)
    target = np.empty((num_slices, 100, 90), np.float32)
    denoise_volume(network(3, depth=2), seen, [range(4)], target, tile_size=20)  # reaches 3 pixels
    assert sections.largest == 3 * 4 * 26**2


MEASURED = """
import json, re, sys
from pathlib import Path
import h5py, numpy as np, torch
from quietbeam.noise2inverse.inference import denoise_slice, denoise_volume
from quietbeam.noise2inverse.msd import MSD, NetworkSettings, mixed_scale_dense
from quietbeam.noise2inverse.network_inputs import NetworkInputs
from quietbeam.noise2inverse.tiles import bytes_of_tile

def memory(name):
    return 1024 * int(re.search(name + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])

def peak_of(task, *arguments):
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before = memory("VmRSS")
    task(*arguments)
    return memory("VmHWM") - before

def make(num_slices):
    with h5py.File(f"{sys.argv[1]}/{num_slices}.h5", "w") as file:
        sections = file.create_dataset("sections", (num_slices, 3, 160, 160), np.float32)
        for index in range(num_slices):
            sections[index] = index
        for name in ("denoised", "disagreement"):
            file.create_dataset(name, (num_slices, 160, 160), np.float32, fillvalue=1)

def denoise(num_slices):
    with h5py.File(f"{sys.argv[1]}/{num_slices}.h5", "r+") as file:
        inputs = NetworkInputs(file["sections"], np.ones(3), context_slices=1)
        passes, disagreement = [(0, 1), (1, 2)], file["disagreement"]
        denoise_volume(shallow, inputs, passes, file["denoised"], disagreement=disagreement, tile_size=80)

def denoise_tile():
    denoise_slice(deep, image, tile_size=1000)

torch.set_num_threads(1)
shallow, deep = MSD(3, 1, NetworkSettings(depth=8)), MSD(1, 1, NetworkSettings(depth=20))
image = np.ones((1, 1000, 1000), np.float32)  # what a tile of 1000 - 2 * 96 pixels sees
for num_slices in (2, 8, 64):
    make(num_slices)
denoise(2)
peaks = [peak_of(denoise, 8), peak_of(denoise, 64), peak_of(denoise_tile)]
print(json.dumps([*peaks, image.nbytes, bytes_of_tile(deep, 1000 - 2 * 96)]))
"""


def test_memory_is_bounded_by_the_tile_and_foretold(tmp_path):
    done = subprocess.run([sys.executable, "-c", MEASURED, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    few, many, one_tile, output, bound = json.loads(done.stdout)
    assert many - few < GROWTH
    assert 0.7 * bound < one_tile - output < bound + SPARE


def test_images_of_another_number_of_channels_are_refused():
    net = MSD(3, 1, NetworkSettings(depth=2))
    with pytest.raises(ValueError, match="expected images of 3 channels, got 1"):
        denoise_slice(net, np.zeros((1, 16, 16), np.float32))


def test_time_steps_are_not_averaged_by_accident():
    with pytest.raises(ValueError, match="of time steps, see denoise_time_steps"):
        plan_passes("full", pair_sections([range(3), range(3, 6)], "1:X"))
