"""The blocks of the mixed-scale dense network on a GPU, by kernels in Triton."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .block_structure import Gradients, Network
from .msd_triton import add_adjoint, add_convolution, finish_gradient, finish_layer, weight_gradient

__all__ = ["TritonPlanes"]


class TritonPlanes:
    """All planes of a network for one batch of images, and the steps from block to block.

    There is one buffer (plane, batch, y, x). Forward, a plane of a layer collects contributions until its turn comes,
    and is then rectified in place; backward, the gradient before rectification is written over the features. Beside it
    there are only the gradients of one block, in float32.

    Parameters
    ----------
    images : float32, float16 or bfloat16, shape (batch, channel, y, x)
        Normalised input; all features are kept in its type.
    weights : sequence of Tensor
        Of each layer, shape (width, channel + width * layer, 3, 3).
    bias : Tensor, shape (width * layer,)
        Of all layers.
    network : Network
        Dilations, border and blocks.
    """

    def __init__(self, images: Tensor, weights: Sequence[Tensor], bias: Tensor, network: Network) -> None:
        batch, _, height, width = images.shape
        self.network, self.bias = network, bias
        self.weights = _join(weights, network)
        self.features = images.new_zeros(network.num_planes, batch, height, width)
        self.features[: network.num_inputs] = images.transpose(0, 1)
        self._blocks = _plan(network, images.device)

    def run(self) -> None:
        """Compute all features."""
        with torch.cuda.device_of(self.features):  # type: ignore[no-untyped-call]  # where kernels start
            for block in self._blocks:
                self._finish(block)
                self._spread(block)

    def _finish(self, block: _Block) -> None:
        padding = self.network.padding
        for layer, dilation in zip(block.layers, block.dilations, strict=True):
            before, own = slice(block.channels.start, layer.start), self._rows(layer)
            weight = self.weights[own, before]
            finish_layer(self.features, before, layer, weight, self.bias[own], dilation, padding)

    def _spread(self, block: _Block) -> None:
        for later in block.later:
            weight = self.weights[later.rows, block.channels]
            add_convolution(self.features, block.channels, later.planes, weight, later.dilation, self.network.padding)

    def combine(self, weight: Tensor) -> Tensor:
        """Combine all planes linearly: from shape (output, plane) to (batch, output, y, x)."""
        combined = weight.to(self.features.dtype) @ self.features.flatten(1)
        return combined.view(-1, *self.features.shape[1:]).transpose(0, 1)

    def correlate(self, output: Tensor) -> Tensor:
        """Derive by the coefficients of `combine`; before `run_back`, which takes the features away.

        From the gradient of the combinations, shape (batch, output, y, x), to shape (output, plane).
        """
        return output.to(self.features.dtype).transpose(0, 1).flatten(1) @ self.features.flatten(1).T

    def run_back(self, output: Tensor, weight: Tensor, *, wants_images: bool) -> Gradients:
        """Go back through all blocks; the features are gone afterwards.

        Parameters
        ----------
        output : Tensor, shape (batch, output, y, x)
            Gradient of the combinations.
        weight : Tensor, shape (output, plane)
            Their coefficients.
        wants_images : bool
            Whether the gradient by the images is needed.

        Returns
        -------
        Gradients
        """
        derivatives = torch.zeros_like(self.weights)
        bias = torch.zeros_like(self.bias, dtype=torch.float32)
        gradient = None
        with torch.cuda.device_of(self.features):  # type: ignore[no-untyped-call]
            for block in reversed(self._blocks):
                self._derive_later(block, derivatives)
                if wants_images or block.layers:
                    gradient = self._gather(block, output, weight)
                    self._unwind(block, gradient, derivatives, bias)
        images = gradient.transpose(0, 1) if wants_images and gradient is not None else None
        return Gradients(images, _split(derivatives, self.network), bias)

    def _derive_later(self, block: _Block, derivatives: Tensor) -> None:
        for later in block.later:
            found = weight_gradient(self.features, block.channels, later.planes, later.dilation, self.network.padding)
            derivatives[later.rows, block.channels] = found

    def _gather(self, block: _Block, output: Tensor, weight: Tensor) -> Tensor:
        """Gradient of a block's channels from the combinations and all later blocks."""
        back = weight[:, block.channels].T.float() @ output.transpose(0, 1).flatten(1).float()
        gradient = back.view(-1, *self.features.shape[1:])
        for later in block.later:
            weight = self.weights[later.rows, block.channels]
            add_adjoint(gradient, self.features, later.planes, weight, later.dilation, self.network.padding)
        return gradient

    def _unwind(self, block: _Block, gradient: Tensor, derivatives: Tensor, bias: Tensor) -> None:
        """Go back through the layers of a block, the last one first."""
        start, padding = block.channels.start, self.network.padding
        for layer, dilation in zip(reversed(block.layers), reversed(block.dilations), strict=True):
            behind, before, own = layer.stop - start, slice(start, layer.start), self._rows(layer)
            for plane in range(layer.start, layer.stop):
                finish_gradient(
                    gradient[plane - start],
                    self.features,
                    plane,
                    block.planes[behind:],
                    self.weights[self._rows(slice(layer.stop, block.channels.stop)), plane],
                    block.plane_dilations[behind:],
                    padding,
                )
            bias[own] = self.features[layer].sum((1, 2, 3), dtype=torch.float32)
            if before.stop > before.start:
                planes = block.planes[layer.start - start : behind]
                derivatives[own, before] = weight_gradient(self.features, before, planes, dilation, padding)

    def _rows(self, planes: slice) -> slice:
        """Rows of the joined weights that lead to some planes."""
        return slice(planes.start - self.network.num_inputs, planes.stop - self.network.num_inputs)


class _Later(NamedTuple):
    """Planes of all layers of one dilation behind a block, and their rows of the joined weights."""

    dilation: int
    planes: Tensor
    rows: Tensor


class _Block(NamedTuple):
    """Channels of the input or of some layers, those layers, and who sees them."""

    channels: slice
    planes: Tensor
    plane_dilations: Tensor
    layers: list[slice]
    dilations: list[int]
    later: list[_Later]


@lru_cache(maxsize=64)
def _plan(network: Network, device: torch.device) -> list[_Block]:
    return [_block(network, layers, device) for layers in (range(0), *network.blocks)]


def _block(network: Network, layers: range, device: torch.device) -> _Block:
    channels = network.planes_of(layers) or range(network.num_inputs)
    dilations = [network.dilations[layer] for layer in layers]
    own = [network.planes_of(range(layer, layer + 1)) for layer in layers]
    return _Block(
        slice(channels.start, channels.stop),
        torch.tensor(channels, device=device),
        torch.tensor([dilation for dilation in dilations for _ in range(network.width)], device=device),
        [slice(planes.start, planes.stop) for planes in own],
        dilations,
        _later(network, layers.stop, device),
    )


def _later(network: Network, first: int, device: torch.device) -> list[_Later]:
    groups: dict[int, list[int]] = {}
    for layer in range(first, len(network.dilations)):
        groups.setdefault(network.dilations[layer], []).extend(network.planes_of(range(layer, layer + 1)))
    found = []
    for dilation, numbers in sorted(groups.items()):
        planes = torch.tensor(numbers, device=device)
        found.append(_Later(dilation, planes, planes - network.num_inputs))
    return found


def _join(weights: Sequence[Tensor], network: Network) -> Tensor:
    """Put all weights into one tensor (plane of a layer, plane, 3, 3), zero where there is none."""
    joined = weights[0].new_zeros(
        network.num_planes - network.num_inputs, network.num_planes, 3, 3, dtype=torch.float32
    )
    for layer, weight in enumerate(weights):
        joined[layer * network.width : (layer + 1) * network.width, : weight.shape[1]] = weight.detach()
    return joined


def _split(joined: Tensor, network: Network) -> list[Tensor]:
    """Undo `_join`."""
    rows = torch.split(joined, network.width)
    return [row[:, : network.num_inputs + network.width * layer] for layer, row in enumerate(rows)]
