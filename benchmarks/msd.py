"""The MS-D network against the same network written with the framework's convolutions.

Depth 100, 5 input channels, float32, one CPU thread. The peer pads by half-sample symmetry, convolves all features so
far to one channel, and joins it: what a plain implementation does. Operations are counted as two for each
multiplication with its addition, three times the forward pass for forward and backward together. Each case runs in a
process of its own; memory is the peak of that process beyond the imported libraries.
"""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import torch
from rows import Row, arguments, cpu_seconds, in_child, report
from torch import Tensor

from quietbeam.noise2inverse.msd import MSD, NetworkSettings, mixed_scale_dense

CHANNELS = 5
# image size, forward alone?; joined features of the peer that a backward pass needs: 16 GB at 512
CASES = ((128, True), (128, False), (256, True), (256, False), (512, True))


def main() -> None:
    """Measure all cases."""
    options = arguments(__doc__)
    depth, cases = (12, ((32, False),)) if options.tiny else (100, CASES)
    rows = [row for size, forward in cases for row in _compare(size, forward, depth)]
    report(rows, options.json)


def _compare(size: int, forward: bool, depth: int) -> list[Row]:
    case = f"{size} x {size}, depth {depth}, {'forward' if forward else 'forward and backward'}"
    ours, plain = (in_child(_measure, name, size, forward, depth)[0] for name in ("quietbeam", "convolutions"))
    difference = float(np.abs(ours["output"] - plain["output"]).max() / plain["output"].std())
    rows = [Row(case, "quietbeam", "largest difference", difference, "of the output's std")]
    for method, found in (("quietbeam", ours), ("torch convolutions", plain)):
        rows += [
            Row(case, method, "CPU time", found["seconds"], "s"),
            Row(case, method, "speed", found["operations"] / found["seconds"] / 1e9, "GFLOP/s"),
            Row(case, method, "memory", found["bytes"] / 2**20, "MiB"),
        ]
    return rows


def _measure(name: str, size: int, forward: bool, depth: int) -> dict[str, Any]:
    network, images = _network(depth), _images(size)
    apply = network if name == "quietbeam" else lambda images: by_convolutions(network, images)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = cpu_seconds(lambda: _run(apply, images, forward), repeats=2)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    operations = 2 * _multiplications(network) * size**2 * (1 if forward else 3)
    with torch.inference_mode():
        output = apply(images).numpy()
    return {"seconds": seconds, "bytes": 1024 * taken, "operations": operations, "output": output}


def _run(apply: Any, images: Tensor, forward: bool) -> None:
    if forward:
        with torch.inference_mode():
            apply(images)
    else:
        apply(images).square().mean().backward()


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


def by_convolutions(network: MSD, images: Tensor) -> Tensor:
    """Apply the same weights by the definition; the statistics of the data are 0 and 1 here."""
    return mixed_scale_dense(
        images,
        list(network.weights),
        network.bias,
        network.final_weight,
        network.final_bias,
        dilations=network.dilations,
    )


if __name__ == "__main__":
    main()
