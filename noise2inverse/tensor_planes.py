"""The blocks of the mixed-scale dense network with a framework's convolutions: any device, any precision.

Contributions are added up in float32 (float64 for float64), whatever the precision of the features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d
from torch.nn.grad import conv2d_weight

from .block_structure import Gradients, Network
from .plane_layout import mirror

__all__ = ["TensorPlanes"]


class TensorPlanes:
    """All planes of a network for one batch of images, and the steps from block to block; see `Planes`.

    Parameters
    ----------
    images : Tensor, shape (batch, channel, y, x)
        Normalised input; its device and precision are those of the features.
    weights : sequence of Tensor
        Of each layer, shape (width, channel + width * layer, 3, 3).
    bias : Tensor, shape (width * layer,)
        Of all layers.
    network : Network
        Dilations, border and blocks.
    """

    def __init__(self, images: Tensor, weights: Sequence[Tensor], bias: Tensor, network: Network) -> None:
        self.network, self.weights, self.dtype = network, weights, images.dtype
        self.precise = torch.promote_types(images.dtype, torch.float32)
        self.shape = images.shape
        self.sums = [self._begin(bias[self._layer_planes(block)]) for block in network.blocks]
        self.features = [images]
        """Finished blocks, (batch, plane, y, x), that of the input first; going back, gradients."""

    def _begin(self, bias: Tensor) -> Tensor:
        batch, _, *size = self.shape
        return bias.to(self.precise)[:, None, None].repeat(batch, 1, *size)

    def _layer_planes(self, layers: range) -> slice:
        """Planes of layers, counted without the input."""
        return slice(layers.start * self.network.width, layers.stop * self.network.width)

    # -- forward ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Compute all features."""
        for number, layers in enumerate(self.network.blocks):
            self._spread(number)
            self.features.append(self._finish(layers, self.sums[number]))
        self.sums = []

    def _spread(self, number: int) -> None:
        """Add what the last finished block contributes to all later layers, dilation by dilation."""
        planes, first = self.features[-1], self._first_plane(number)
        for dilation, layers in self._later(number):
            weight = torch.cat([self.weights[i][:, first : first + planes.shape[1]] for i in layers])
            new = conv2d(self._beyond_border(planes, dilation), weight, dilation=dilation)
            for layer, part in zip(layers, torch.split(new, self.network.width, dim=1), strict=True):
                block, at = divmod(layer, self.network.block_size)
                at *= self.network.width
                self.sums[block][:, at : at + self.network.width] += part

    def _finish(self, layers: range, sums: Tensor) -> Tensor:
        """Compute the layers of a block from what they collected, and from one another."""
        width = self.network.width
        planes = sums if self.dtype == self.precise else torch.empty_like(sums, dtype=self.dtype)
        first = self.network.planes_of(layers).start
        for number, layer in enumerate(layers):
            done, total = number * width, sums[:, number * width : (number + 1) * width]
            if done:
                dilation, weight = self.network.dilations[layer], self.weights[layer][:, first:]
                total += conv2d(self._beyond_border(planes[:, :done], dilation), weight, dilation=dilation)
            planes[:, done : done + width] = total.relu_()
        return planes

    def combine(self, weight: Tensor) -> Tensor:
        """Combine all planes linearly; see `Planes`."""
        parts = torch.split(weight, [planes.shape[1] for planes in self.features], dim=1)
        pairs = zip(parts, self.features, strict=True)
        return sum((conv2d(planes, part[:, :, None, None]).to(self.precise) for part, planes in pairs), torch.tensor(0))

    # -- backward --------------------------------------------------------------------------------------------------

    def correlate(self, output: Tensor) -> Tensor:
        """Derive by the coefficients of `combine`; see `Planes`."""
        output = output.to(self.dtype)
        return torch.cat([torch.einsum("boyx,bcyx->oc", output, planes) for planes in self.features], dim=1)

    def run_back(self, output: Tensor, weight: Tensor, *, wants_images: bool) -> Gradients:
        """Go back through all blocks; the features are gone afterwards; see `Planes`."""
        self.derivatives = [torch.zeros_like(weight, dtype=self.precise) for weight in self.weights]
        parts = torch.split(weight, [planes.shape[1] for planes in self.features], dim=1)
        output, bias, images = output.to(self.dtype), [], None
        for number in reversed(range(len(self.features))):
            if number == 0 and not wants_images:
                self._gather(0, None)
                break
            gradient = torch.einsum("boyx,oc->bcyx", output, parts[number]).to(self.precise)
            self._gather(number, gradient)
            if number == 0:
                images = gradient.to(self.dtype)
            else:
                self._unwind(self.network.blocks[number - 1], self.features[number], gradient)
                bias.append(self.features[number].sum((0, 2, 3), dtype=self.precise))
        weights = [found.to(weight.dtype) for found, weight in zip(self.derivatives, self.weights, strict=True)]
        return Gradients(images, weights, torch.cat(bias[::-1]).to(self.weights[0].dtype))

    def _gather(self, number: int, gradient: Tensor | None) -> None:
        """Take what all later layers hand back to a block and to its taps."""
        planes, first = self.features[number], self._first_plane(number)
        for dilation, layers in self._later(number):
            back = torch.cat([self._plane_of(layer) for layer in layers], dim=1)
            weight = torch.cat([self.weights[i][:, first : first + planes.shape[1]] for i in layers])
            found = self._hand_back(back, planes, weight, dilation, gradient)
            for layer, part in zip(layers, torch.split(found, self.network.width), strict=True):
                self.derivatives[layer][:, first : first + planes.shape[1]] = part

    def _unwind(self, layers: range, planes: Tensor, gradient: Tensor) -> None:
        """Go back through the layers of a block: in `planes`, gradients take the place of the features."""
        first, width = self.network.planes_of(layers).start, self.network.width
        for number, layer in reversed(list(enumerate(layers))):
            done = number * width
            own = planes[:, done : done + width]
            own.copy_(gradient[:, done : done + width] * (own > 0))
            if done:
                dilation, weight = self.network.dilations[layer], self.weights[layer][:, first:]
                found = self._hand_back(own, planes[:, :done], weight, dilation, gradient[:, :done])
                self.derivatives[layer][:, first:] = found

    def _hand_back(
        self, back: Tensor, planes: Tensor, weight: Tensor, dilation: int, gradient: Tensor | None
    ) -> Tensor:
        """Transpose one convolution: add to the gradient of its input, and return the derivative by its weights."""
        padded = self._beyond_border(planes, dilation)
        if gradient is not None:
            wide = conv_transpose2d(back, weight, dilation=dilation)
            gradient += self._fold_border(wide.to(self.precise), dilation)
        found: Tensor = conv2d_weight(padded, weight.shape, back, dilation=dilation)  # type: ignore[no-untyped-call]
        return found.to(self.precise)

    # -- places ----------------------------------------------------------------------------------------------------

    def _first_plane(self, number: int) -> int:
        return self.network.planes_of(self.network.blocks[number - 1]).start if number else 0

    def _later(self, number: int) -> Iterator[tuple[int, list[int]]]:
        """Layers after a finished block (0 is the input), by dilation."""
        later = range(number * self.network.block_size, len(self.weights))
        for dilation in sorted({self.network.dilations[layer] for layer in later}):
            yield dilation, [layer for layer in later if self.network.dilations[layer] == dilation]

    def _plane_of(self, layer: int) -> Tensor:
        block, at = divmod(layer, self.network.block_size)
        return self.features[1 + block][:, at * self.network.width : (at + 1) * self.network.width]

    # -- border ----------------------------------------------------------------------------------------------------

    def _mirrored(self, size: int, margin: int) -> Tensor:
        index = mirror(np.arange(-margin, size + margin), size, edge_twice=self.network.padding == "symmetric")
        return torch.from_numpy(index).to(self.features[0].device)

    def _beyond_border(self, planes: Tensor, margin: int) -> Tensor:
        for axis in (-2, -1):
            planes = planes.index_select(axis, self._mirrored(planes.shape[axis], margin))
        return planes

    def _fold_border(self, wide: Tensor, margin: int) -> Tensor:
        """Transpose `_beyond_border`."""
        for axis in (-2, -1):
            size = wide.shape[axis] - 2 * margin
            narrow = wide.narrow(axis, margin, size).clone()
            for place in (slice(0, margin), slice(margin + size, None)):
                edge = wide.movedim(axis, 0)[place].movedim(0, axis)
                narrow.index_add_(axis, self._mirrored(size, margin)[place], edge)
            wide = narrow
        return wide
