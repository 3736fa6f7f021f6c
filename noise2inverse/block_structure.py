"""What the ways to compute the network in blocks have in common."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

__all__ = ["Gradients", "Network", "Planes"]


class Gradients(NamedTuple):
    """Derivatives of a loss.

    Attributes
    ----------
    images : Tensor or None
        By the images, shape (batch, channel, y, x).
    weights : list of Tensor
        By the weights of each layer.
    bias : Tensor
        By the biases of all layers.
    """

    images: Tensor | None
    weights: list[Tensor]
    bias: Tensor


class Network(NamedTuple):
    """What the planes of a network depend on, but for the weights.

    Attributes
    ----------
    num_inputs, width : int
        Channels of the input and of each layer.
    dilations : tuple of int
        Dilation of each layer, pixels.
    padding : str
        How images go on beyond the border, see `quietbeam.noise2inverse.msd.beyond_border`.
    block_size : int
        Layers of a block.
    """

    num_inputs: int
    width: int
    dilations: tuple[int, ...]
    padding: str
    block_size: int

    @property
    def num_planes(self) -> int:
        """Channels of input and layers."""
        return self.num_inputs + self.width * len(self.dilations)

    @property
    def blocks(self) -> list[range]:
        """Layers of each block."""
        layers = range(len(self.dilations))
        return [layers[start : start + self.block_size] for start in layers[:: self.block_size]]

    def planes_of(self, layers: range) -> range:
        """Planes of some consecutive layers."""
        return range(self.num_inputs + layers.start * self.width, self.num_inputs + layers.stop * self.width)


class Planes(Protocol):
    """All planes of a network for one batch of images, and the steps from block to block."""

    def run(self) -> None:
        """Compute all features."""

    def combine(self, weight: Tensor) -> Tensor:
        """Combine all planes linearly: from shape (output, plane) to (batch, output, y, x)."""

    def correlate(self, output: Tensor) -> Tensor:
        """Derive by the coefficients of `combine`; before `run_back`, which takes the features away.

        From the gradient of the combinations, shape (batch, output, y, x), to shape (output, plane).
        """

    def run_back(self, output: Tensor, weight: Tensor, *, wants_images: bool) -> Gradients:
        """Go back through all blocks, from the gradient of the combinations and their coefficients."""
