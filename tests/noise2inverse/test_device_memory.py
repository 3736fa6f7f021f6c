"""A GPU whose memory runs out: the work goes on in smaller parts, with the same result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quietbeam.noise2inverse.device_memory import DeviceLimit
from quietbeam.noise2inverse.inference import denoise_volume
from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.noise2inverse.network_inputs import NetworkInputs
from quietbeam.noise2inverse.pairs import Pairs, PairSettings
from quietbeam.noise2inverse.training import NoiseTrainer, TrainingSettings
from quietbeam.reconstruction.errors import ReductionError

ROUNDING = 1e-5
"""Relative, of float32 sums in another order, through some steps of Adam."""
GPU_ROUNDING = 1e-3
"""The same, of kernels that add in another order each time."""
BATCH = 7
SHARES = np.full(4, 0.25, np.float32)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer(limit=None, device=None, **pairs):
    sections = np.random.default_rng(0).normal(1, 2, (6, 4, 32, 32)).astype(np.float32)
    drawn = Pairs(sections, SHARES, PairSettings(**({"crop_size": 16, "batch_size": BATCH} | pairs)))
    settings = TrainingSettings(steps_per_epoch=4, held_out_batches=2, averaging=0.9, warmup_steps=0)
    return NoiseTrainer(drawn, settings, NetworkSettings(depth=6), limit=limit, device=device)


class Memory:
    """Runs out, as a GPU's does, for more crops than fit; from a call of the network on, and forwards or backwards."""

    def __init__(self, learner, most, *, first_call=0, backwards=False):
        self.most, self.first_call = most, first_call
        self.calls, self.sizes, self.size = 0, [], 0
        for model in {learner.model, learner.measured}:
            model.register_forward_pre_hook(self.forwards)
        if backwards:
            for weight in learner.model.parameters():  # when a part of the gradient is there
                weight.register_post_accumulate_grad_hook(lambda weight: self.check(self.size))
        self.backwards = backwards

    def forwards(self, model, inputs):
        self.calls += 1
        self.size = len(inputs[0])
        self.sizes.append(self.size)
        if not self.backwards or not torch.is_grad_enabled():
            self.check(self.size)

    def check(self, size):
        if self.calls > self.first_call and size > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")


def same(state, expected):
    assert state.keys() == expected.keys()
    return all(torch.allclose(value, expected[name], rtol=0, atol=ROUNDING) for name, value in state.items())


@pytest.mark.parametrize(
    ("most", "first_call", "backwards", "halvings"),
    [(4, 0, False, [4]), (3, 2, False, [4, 2]), (1, 1, True, [4, 2, 1])],
)
def test_a_batch_that_does_not_fit_gives_the_same_gradient_in_parts(most, first_call, backwards, halvings):
    whole, told = trainer(), []
    halved = trainer(DeviceLimit(told.append))
    memory = Memory(halved, most, first_call=first_call, backwards=backwards)
    expected, metrics = ([one.train_epoch(epoch) for epoch in range(2)] for one in (whole, halved))
    np.testing.assert_allclose(metrics, expected, rtol=ROUNDING)
    assert same(halved.state(), whole.state())
    assert told == halvings
    assert max(memory.sizes[first_call + len(halvings) + 2 * BATCH :]) == halvings[-1] <= most  # it stays so


def test_a_limit_is_kept_for_the_next_training():
    limit = DeviceLimit()
    Memory(first := trainer(limit), 2)
    first.train_epoch(0)
    memory = Memory(again := trainer(limit), 2)
    again.train_epoch(0)
    assert limit.most == 2
    assert max(memory.sizes) == 2


def test_a_crop_that_does_not_fit_says_what_to_lower():
    Memory(learner := trainer(), 0)
    with pytest.raises(ReductionError, match=r"a single crop: lower pairs\.crop_size"):
        learner.train_epoch(0)


@pytest.mark.parametrize("error", [MemoryError("host"), RuntimeError("CUDA error: an illegal memory access")])
def test_other_errors_are_not_taken_for_it(error):
    calls = []

    def attempt(size):
        calls.append(size)
        raise error

    with pytest.raises(type(error), match=str(error)):
        DeviceLimit().run(8, attempt, least=1, what="anything")
    assert calls == [8]


def volume_of(net, limit=None):
    sections = np.random.default_rng(1).normal(5, 2, (2, 3, 70, 100)).astype(np.float32)
    inputs = NetworkInputs(sections, np.array([0.2, 0.3, 0.5]), context_slices=0)
    target, disagreement = np.full((2, 2, 70, 100), np.nan, np.float32)
    passes = [(1, 2), (0, 2), (0, 1)]
    denoise_volume(net, inputs, passes, target, disagreement=disagreement, tile_size=128, limit=limit)
    return target, disagreement


class TileMemory:
    """Runs out for tiles that are seen with more pixels than fit, from a call of a network on."""

    def __init__(self, most, first_call):
        self.most, self.first_call, self.calls = most, first_call, 0

    def __call__(self, module, inputs):
        self.calls += isinstance(module, MSD)
        if isinstance(module, MSD) and self.calls > self.first_call and inputs[0][0, 0].numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("first_call", [0, 4])
def test_a_tile_that_does_not_fit_is_halved_without_changing_the_result(first_call):
    net = MSD(1, 1, NetworkSettings(depth=4), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.final_weight.normal_(generator=torch.Generator().manual_seed(1))
    expected = volume_of(net)
    told = []
    limit = DeviceLimit(told.append)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(TileMemory(60 * 60, first_call))
    try:
        found = volume_of(net, limit)
    finally:
        hook.remove()
    assert told == [50]
    for got, wanted in zip(found, expected, strict=True):
        assert np.abs(got - wanted).max() < ROUNDING * wanted.std()


def test_the_smallest_tile_that_does_not_fit_says_what_to_lower():
    net = MSD(1, 1, NetworkSettings(depth=4))
    hook = torch.nn.modules.module.register_module_forward_pre_hook(TileMemory(10, 0))
    try:
        with pytest.raises(ReductionError, match=r"a tile of 32 pixels: lower network\.depth"):
            volume_of(net)
    finally:
        hook.remove()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_that_is_nearly_full_trains_the_same():
    device = torch.device("cuda")
    shape = {"crop_size": 32, "batch_size": 512}
    whole = trainer(device=device, **shape)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    expected = whole.train_epoch(0)
    needed = torch.cuda.max_memory_allocated() - before
    halved = trainer(limit := DeviceLimit(), device=device, **shape)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 0.6 * needed) / total)
    try:
        metrics = halved.train_epoch(0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert limit.most in (256, 128, 64)
    np.testing.assert_allclose(metrics, expected, rtol=GPU_ROUNDING)
    for got, wanted in zip(halved.model.parameters(), whole.model.parameters(), strict=True):
        assert (got - wanted).abs().max() < GPU_ROUNDING
