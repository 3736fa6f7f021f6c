"""The MS-D network on a GPU: blocks by kernels in Triton, blocks by the framework, the definition, msd_pytorch.

Depth 100, 5 input channels, 2048 x 2048 pixels, random numbers. Times are medians of CUDA events after a warm-up.
Operations are two for each multiplication with its addition, three times the forward pass for a training step; they are
compared with a square matrix product of the same type, timed in the same run (float32: without tf32). Memory is the
largest that the framework's allocator handed out, the weights and images included. Each network is first compared with
the definition in float64 on a small image. A method that does not fit into memory is left out.

Without a GPU only ``--tiny`` runs, in Triton's interpreter.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from rows import Row, arguments, report
from torch import Tensor

from quietbeam.noise2inverse.block_structure import Network, Planes
from quietbeam.noise2inverse.msd import MSD, NetworkSettings, mixed_scale_dense
from quietbeam.noise2inverse.tensor_planes import TensorPlanes

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
CHANNELS = 5
BLOCK_SIZES = (10, 16, 20)
Pass = Callable[[Tensor], Any]


def main() -> None:
    """Measure everything there is a device for."""
    options = arguments(__doc__)
    if not (CUDA or options.tiny):
        sys.exit("no CUDA device: run on a machine that has one, or with --tiny")
    if not CUDA:
        os.environ["TRITON_INTERPRET"] = "1"  # before the first import of triton
    if find_spec("triton") is None:
        sys.exit("triton is not installed: pip install triton")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    size, small, depth = (6, 6, 3) if options.tiny else (2048, 96, 100)
    rows = []
    for kind in (torch.float32,) if options.tiny else (torch.bfloat16, torch.float32):
        rows += [*_differences(small, depth, kind), *_speeds(size, depth, kind, repeats=1 if options.tiny else 5)]
        rows += _kernels(size, kind, repeats=1 if options.tiny else 20)
    report(rows, options.json)


def _differences(size: int, depth: int, kind: torch.dtype) -> Iterator[Row]:
    """Output and derivative by the weights, against the definition in float64."""
    network, images = _network(depth), _images(size, torch.float64)
    expected = _results(_definition(network.double()), images)
    for method, training in _methods(network.to(kind)):
        for name, found, wanted in zip(
            ("output", "gradient"), _results(training, images.to(kind)), expected, strict=True
        ):
            error = (found.double() - wanted).norm() / wanted.norm()
            yield Row(f"{_name(kind)}, {size} x {size}", method, f"difference of the {name}", error.item(), "")


def _results(training: tuple[Pass, Pass], images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        output = training[0](images).detach().clone()
    return output, training[1](images)


def _speeds(size: int, depth: int, kind: torch.dtype, repeats: int) -> Iterator[Row]:
    network, images = _network(depth).to(kind), _images(size, kind)
    multiplications = network.num_parameters - network.bias.numel() - network.final_bias.numel()
    peak = _product_rate(kind)
    for method, passes in _methods(network):
        for name, work, factor in zip(("forward", "training step"), passes, (1, 3), strict=True):
            case = f"{_name(kind)}, {size} x {size}, depth {depth}, {name}"
            try:
                seconds, memory = _measure(lambda work=work: work(images), repeats)
            except torch.OutOfMemoryError:
                continue
            rate = factor * 2 * multiplications * size**2 / seconds
            yield Row(case, method, "slices", 1 / seconds, "1/s")
            yield Row(case, method, "speed", rate / 1e12, "TFLOP/s")
            yield Row(case, method, "of a matrix product", 100 * rate / peak, "%")
            yield Row(case, method, "memory", memory / 2**30, "GiB")


def _methods(network: MSD) -> Iterator[tuple[str, tuple[Pass, Pass]]]:
    """Forward pass and training step of every method; the latter gives a layer's derivative by its weights."""
    from quietbeam.noise2inverse.triton_planes import TritonPlanes

    yield "quietbeam", _module(network)
    for size in BLOCK_SIZES if CUDA else (2,):
        yield f"quietbeam (Triton, blocks of {size})", _planes(network, TritonPlanes, size)
    yield "quietbeam (torch convolutions)", _planes(network, TensorPlanes, 10)
    yield "definition", _definition(network)
    if CUDA and find_spec("msd_pytorch") and next(network.parameters()).dtype == torch.float32:
        yield "msd_pytorch", _msd_pytorch(network)


def _module(network: MSD) -> tuple[Pass, Pass]:
    return _without_gradient(network), lambda images: _derive(network, network(images))


def _definition(network: MSD) -> tuple[Pass, Pass]:
    def apply(images: Tensor) -> Tensor:
        weights = list(network.weights)
        rest = (network.bias, network.final_weight, network.final_bias)
        return mixed_scale_dense(images, weights, *rest, dilations=network.dilations)

    return _without_gradient(apply), lambda images: _derive(network, apply(images))


def _planes(network: MSD, kind: Callable[..., Planes], block_size: int) -> tuple[Pass, Pass]:
    structure = Network(CHANNELS, 1, network.dilations, "symmetric", block_size)

    def forward(images: Tensor) -> tuple[Planes, Tensor]:
        planes = kind(images, list(network.weights), network.bias, structure)
        planes.run()
        return planes, planes.combine(network.final_weight) + network.final_bias[:, None, None]

    @torch.no_grad()
    def train(images: Tensor) -> Tensor:
        planes, output = forward(images)
        upstream = 2 * output / output.numel()
        planes.correlate(upstream)
        return planes.run_back(upstream, network.final_weight, wants_images=False).weights[-1]

    return torch.no_grad()(lambda images: forward(images)[1]), train


def _msd_pytorch(network: MSD) -> tuple[Pass, Pass]:
    """With its own weights: its differences mean nothing, and are seen as such."""
    from msd_pytorch.msd_module import MSDModule

    peer = MSDModule(CHANNELS, 1, len(network.dilations), 1, list(network.dilations)).to(DEVICE)

    def train(images: Tensor) -> Tensor:
        peer(images).square().mean().backward()
        return torch.zeros_like(network.weights[-1])

    return _without_gradient(peer), train


def _without_gradient(apply: Pass) -> Pass:
    return torch.no_grad()(lambda images: apply(images))


def _derive(network: MSD, output: Tensor) -> Tensor:
    network.zero_grad()
    output.square().mean().backward()
    gradient = network.weights[-1].grad
    if gradient is None:
        raise RuntimeError("the last layer got no gradient")
    return gradient


def _kernels(size: int, kind: torch.dtype, repeats: int) -> Iterator[Row]:
    """Each kernel alone: a block of 10 channels, 5 layers that see it, dilation 5."""
    from quietbeam.noise2inverse import msd_triton

    dilation, count, seen_by = min(5, size), 10 if CUDA else 2, 5 if CUDA else 2
    features = torch.randn(count + seen_by + 1, 1, size, size, device=DEVICE).to(kind)
    targets = torch.arange(count, count + seen_by, device=DEVICE)
    weight = torch.randn(seen_by, count, 3, 3, device=DEVICE) / 1000
    gradient = torch.zeros(count, 1, size, size, device=DEVICE)
    block, layer, nothing = slice(0, count), slice(count, count + 1), torch.zeros(1, device=DEVICE)
    distances = torch.full((seen_by,), dilation, device=DEVICE)
    value = features.element_size()
    for name, planes, multiplications, work in (
        (
            "add_convolution",
            value * (count + 2 * seen_by),
            count * seen_by,
            lambda: msd_triton.add_convolution(features, block, targets, weight, dilation, "symmetric"),
        ),
        (
            "add_adjoint",
            8 * count + value * seen_by,
            count * seen_by,
            lambda: msd_triton.add_adjoint(gradient, features, targets, weight, dilation, "symmetric"),
        ),
        (
            "weight_gradient",
            value * (count + seen_by),
            count * seen_by,
            lambda: msd_triton.weight_gradient(features, block, targets, dilation, "symmetric"),
        ),
        (
            "finish_layer",
            value * (count + 2),
            count,
            lambda: msd_triton.finish_layer(features, block, layer, weight[:1], nothing, dilation, "symmetric"),
        ),
        (
            "finish_gradient",
            value * (seen_by + 2) + 4,
            seen_by,
            lambda: msd_triton.finish_gradient(gradient[0], features, 0, targets, weight[:, 0], distances, "symmetric"),
        ),
    ):
        seconds, _ = _measure(work, repeats)
        case, method = f"{_name(kind)}, {size} x {size}, single kernels", f"quietbeam ({name})"
        yield Row(case, method, "time", 1e3 * seconds, "ms")
        yield Row(case, method, "least bytes", planes * size**2 / seconds / 1e12, "TB/s")
        yield Row(case, method, "speed", 18 * multiplications * size**2 / seconds / 1e12, "TFLOP/s")
    source, target = torch.randn(2, 2**28 if CUDA else 2**10, device=DEVICE)
    seconds, _ = _measure(lambda: target.copy_(source), repeats)
    yield Row(case, "copy", "time", 1e3 * seconds, "ms")
    yield Row(case, "copy", "least bytes", 8 * source.numel() / seconds / 1e12, "TB/s")


def _product_rate(kind: torch.dtype) -> float:
    """Operations a second of a large matrix product of random numbers."""
    size = 8192 if CUDA else 64
    left, right = torch.randn(2, size, size, device=DEVICE).to(kind)
    return 2 * size**3 / _measure(lambda: left @ right, 5)[0]


def _measure(work: Callable[[], Any], repeats: int) -> tuple[float, int]:
    """Median seconds of a call after warming up, and the most bytes allocated."""
    if not CUDA:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start, 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        work()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start_event, end_event in events:
        start_event.record()
        work()
        end_event.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in events) / 1e3, torch.cuda.max_memory_allocated()


def _network(depth: int) -> MSD:
    generator = torch.Generator().manual_seed(0)
    settings = NetworkSettings(depth=depth) if CUDA else NetworkSettings(depth=depth, dilations=(1, 2))
    network = MSD(CHANNELS, 1, settings, generator=generator)
    torch.nn.init.normal_(network.final_weight, 0, 0.1, generator=generator)
    return network.to(DEVICE)


def _images(size: int, kind: torch.dtype) -> Tensor:
    return torch.randn(1, CHANNELS, size, size, generator=torch.Generator().manual_seed(1)).to(DEVICE, kind)


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


if __name__ == "__main__":
    main()
