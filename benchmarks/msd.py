"""The MS-D network in blocks against the same network written plainly, and against a peer's.

Depth 100, 5 input channels, float32, one CPU thread. "torch.cat" is the definition: it pads by half-sample symmetry,
convolves all features so far to one channel, and joins it. dlsia (where it can be imported) has a network of the same
name and size, but another one: it rectifies and normalises all features again at each layer, so its output cannot be
compared. Operations are counted as two for each multiplication with its addition, three times the forward pass for
forward and backward together; the product of two matrices of 2048 x 2048 is measured in the same run. Each case runs in
a process of its own; memory is the growth of its peak from the imported libraries and one pass over a small image.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Row, arguments, cpu_seconds, in_child, report
from torch import Tensor

from quietbeam.noise2inverse.msd import MSD, NetworkSettings, mixed_scale_dense

CHANNELS = 5
# image size, forward alone?; joined features of the peer that a backward pass needs: 16 GB at 512
CASES = ((128, True), (128, False), (256, True), (256, False), (512, True), (512, False))
LARGEST_PLAIN = 256
"""Size of the largest image for which the peers are trained."""
Apply = Callable[[Tensor], Tensor]


def main() -> None:
    """Measure all cases."""
    options = arguments(__doc__)
    depth, matrix, cases = (12, 256, ((32, False),)) if options.tiny else (100, 2048, CASES)
    peak, _ = in_child(_product_speed, matrix)
    rows = [Row("one thread", "matrix product", "speed", peak, "GFLOP/s")]
    report(rows + [row for size, forward in cases for row in _compare(size, forward, depth, peak)], options.json)


def _product_speed(size: int) -> float:
    """Speed of a matrix product, GFLOP/s."""
    matrix = torch.rand(size, size)
    return 2 * size**3 / cpu_seconds(lambda: matrix @ matrix) / 1e9


def _compare(size: int, forward: bool, depth: int, peak: float) -> list[Row]:
    case = f"{size} x {size}, depth {depth}, {'forward' if forward else 'forward and backward'}"
    methods = ["quietbeam"]
    if forward or size <= LARGEST_PLAIN:
        methods += ["torch.cat"] + ["dlsia"] * bool(importlib.util.find_spec("dlsia"))
    found = {method: in_child(_measure, method, size, forward, depth)[0] for method in methods}
    ours, rows = found["quietbeam"], []
    for method, values in found.items():
        speed = ours["operations"] / values["seconds"] / 1e9
        rows += [
            Row(case, method, "CPU time", values["seconds"], "s"),
            Row(case, method, "time over ours", values["seconds"] / ours["seconds"], ""),
            Row(case, method, "speed", speed, "GFLOP/s"),
            Row(case, method, "speed over a matrix product's", speed / peak, ""),
            Row(case, method, "memory", values["bytes"] / 2**20, "MiB"),
        ]
    if "torch.cat" in found:
        plain = found["torch.cat"]["output"]
        difference = float(np.abs(ours["output"] - plain).max() / plain.std())
        rows.append(Row(case, "quietbeam", "largest difference", difference, "of the output's std"))
    return rows


def _measure(method: str, size: int, forward: bool, depth: int) -> dict[str, Any]:
    network = _network(depth)
    apply = _dlsia(depth) if method == "dlsia" else network if method == "quietbeam" else _by_definition(network)
    images = _images(size)
    _run(apply, _images(32), forward)
    before = _peak_bytes()
    seconds = cpu_seconds(lambda: _run(apply, images, forward), repeats=2)
    taken = _peak_bytes() - before
    operations = 2 * _multiplications(network) * size**2 * (1 if forward else 3)
    with torch.inference_mode():
        output = apply(images).numpy()
    return {"seconds": seconds, "bytes": taken, "operations": operations, "output": output}


def _run(apply: Apply, images: Tensor, forward: bool) -> None:
    if forward:
        with torch.inference_mode():
            apply(images)
    else:
        apply(images).square().mean().backward()


def _peak_bytes() -> int:
    """Largest memory of this process so far; that of resource.getrusage begins with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _network(depth: int) -> MSD:
    generator = torch.Generator().manual_seed(0)
    network = MSD(CHANNELS, 1, NetworkSettings(depth=depth), generator=generator)
    torch.nn.init.normal_(network.final_weight, 0, 0.1, generator=generator)
    return network


def _images(size: int) -> Tensor:
    return torch.rand(1, CHANNELS, size, size, generator=torch.Generator().manual_seed(1))


def _multiplications(network: MSD) -> int:
    """Multiplications for each pixel of the forward pass: every weight once."""
    return network.num_parameters - network.bias.numel() - network.final_bias.numel()


def _by_definition(network: MSD) -> Apply:
    """Apply the same weights by the definition; the statistics of the data are 0 and 1 here."""
    weights = list(network.weights)
    return lambda images: mixed_scale_dense(
        images, weights, network.bias, network.final_weight, network.final_bias, dilations=network.dilations
    )


def _dlsia(depth: int) -> Apply:
    from dlsia.core.networks.msdnet import MixedScaleDenseNetwork

    network: Apply = MixedScaleDenseNetwork(CHANNELS, 1, num_layers=depth, layer_width=1, max_dilation=10)
    return network


if __name__ == "__main__":
    main()
