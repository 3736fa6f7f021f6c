"""The mixed-scale dense (MS-D) network of Pelt and Sethian.

Every layer sees the input and the features of all layers before it, through 3 x 3 convolutions of its own dilation,

    z_i = relu(b_i + sum_{j < c_in + w i} h_ij *_{s_i} z_j),        s_i = 1, 2, ..., 10, 1, 2, ...

and the output is a linear combination of all features [1]_: no normalisation between layers, no pooling. The function
`mixed_scale_dense` is this definition, layer by layer; it keeps all joined features, O(depth^2) planes, and each
convolution to one channel is slow. The network itself computes the same in blocks, see `msd_blocks`.

References
----------
.. [1] Pelt and Sethian, A mixed-scale dense convolutional neural network for image analysis, PNAS 115(2), 254-259,
   2018, doi 10.1073/pnas.1715832114.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import conv2d

from .msd_blocks import mixed_scale_dense_in_blocks
from .plane_layout import mirror

__all__ = ["MSD", "NetworkSettings", "Padding", "beyond_border", "mixed_scale_dense"]

Padding = Literal["symmetric", "reflect"]


class NetworkSettings(BaseModel):
    """Size of the MS-D network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: int = Field(100, ge=1, description="Number of layers.")
    width: int = Field(1, ge=1, description="Channels of each layer.")
    dilations: tuple[Annotated[int, Field(ge=1, le=255)], ...] = Field(
        tuple(range(1, 11)), min_length=1, description="Dilations of the layers, taken in turn, in pixels."
    )
    padding: Padding = Field(
        "symmetric", description="How images go on beyond the border: with their last row again (symmetric), or not."
    )

    @property
    def largest_dilation(self) -> int:
        """Largest dilation of any layer, pixels."""
        return max(self.dilations[: self.depth])


class MSD(nn.Module):
    """Mixed-scale dense network between images in physical units.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and the output.
    settings : NetworkSettings, optional
        Depth, width, dilations and border.
    generator : torch.Generator, optional
        Source of the random weights.

    Attributes
    ----------
    weights : list of Tensor, shape (width, in_channels + width * layer, 3, 3)
        Of each layer.
    bias : Tensor, shape (depth * width,)
        Of all layers.
    final_weight, final_bias : Tensor, shapes (out_channels, in_channels + depth * width) and (out_channels,)
        Of the output.
    input_mean, input_std, output_mean, output_std : Tensor, shape (channel,)
        Of the data: the network computes on (x - mean) / std, and its output is scaled back.

    Notes
    -----
    Convolutions start from a normal distribution of standard deviation sqrt(2 / (9 (c_in + w (d - 1)) + c_out)), all
    else from 0, as in msd_pytorch: an untrained network gives the mean.
    """

    input_mean: Tensor
    input_std: Tensor
    output_mean: Tensor
    output_std: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        settings: NetworkSettings | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or NetworkSettings()
        depth, width = self.settings.depth, self.settings.width
        self.in_channels, self.out_channels = in_channels, out_channels
        self.dilations = tuple(self.settings.dilations[i % len(self.settings.dilations)] for i in range(depth))
        std = math.sqrt(2 / (9 * (in_channels + width * (depth - 1)) + out_channels))
        channels_before = range(in_channels, in_channels + depth * width, width)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.normal(0.0, std, (width, channels, 3, 3), generator=generator))
            for channels in channels_before
        )
        self.bias = nn.Parameter(torch.zeros(depth * width))
        self.final_weight = nn.Parameter(torch.zeros(out_channels, in_channels + depth * width))
        self.final_bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("input_mean", torch.zeros(in_channels))
        self.register_buffer("input_std", torch.ones(in_channels))
        self.register_buffer("output_mean", torch.zeros(out_channels))
        self.register_buffer("output_std", torch.ones(out_channels))

    def forward(self, images: Tensor) -> Tensor:
        """Apply the network.

        Parameters
        ----------
        images : Tensor, shape (batch, in_channels, y, x)
            Images, in the unit of the data; y and x at least as large as the largest dilation, with padding "reflect"
            larger.

        Returns
        -------
        Tensor, shape (batch, out_channels, y, x)
            Images of the unit of the output.

        Raises
        ------
        ValueError
            If the images have another number of channels, or are too small.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"images must have the shape (batch, {self.in_channels}, y, x), got {tuple(images.shape)}")
        smallest = self.settings.largest_dilation + (self.settings.padding == "reflect")
        if min(images.shape[-2:]) < smallest:
            raise ValueError(f"images must be at least {smallest} pixels wide and high, got {min(images.shape[-2:])}")
        normalised = (images - _each_channel(self.input_mean)) / _each_channel(self.input_std)
        output = mixed_scale_dense_in_blocks(
            normalised.to(self.bias.dtype),
            list(self.weights),
            self.bias,
            self.final_weight,
            self.final_bias,
            dilations=self.dilations,
            padding=self.settings.padding,
        )
        return output * _each_channel(self.output_std) + _each_channel(self.output_mean)

    @property
    def num_parameters(self) -> int:
        """Number of trained weights and biases."""
        return sum(parameter.numel() for parameter in self.parameters())


def mixed_scale_dense(
    images: Tensor,
    weights: Sequence[Tensor],
    bias: Tensor,
    final_weight: Tensor,
    final_bias: Tensor,
    *,
    dilations: Sequence[int],
    padding: Padding = "symmetric",
) -> Tensor:
    """Compute the network by its definition, layer by layer.

    Parameters
    ----------
    images : Tensor, shape (batch, c_in, y, x)
        Normalised input.
    weights, bias, final_weight, final_bias : Tensor
        As in `MSD`.
    dilations : sequence of int
        Dilation of each layer, pixels.
    padding : {"symmetric", "reflect"}
        How images go on beyond the border.

    Returns
    -------
    Tensor, shape (batch, c_out, y, x)
        Normalised output.
    """
    width = weights[0].shape[0]
    features = images  # (batch, c_in, y, x)
    for weight, shift, dilation in zip(weights, torch.split(bias, width), dilations, strict=True):
        padded = beyond_border(features, dilation, padding)  # (batch, c_in + w i, y + 2 s, x + 2 s)
        new = torch.relu(conv2d(padded, weight, shift, dilation=dilation))  # (batch, w, y, x)
        features = torch.cat([features, new], dim=1)  # (batch, c_in + w (i + 1), y, x)
    return conv2d(features, final_weight[:, :, None, None], final_bias)  # (batch, c_out, y, x)


def beyond_border(images: Tensor, margin: int, padding: Padding) -> Tensor:
    """Continue images beyond their border by mirroring them.

    Parameters
    ----------
    images : Tensor, shape (..., y, x)
        Images.
    margin : int
        Pixels on each side: at most the size for "symmetric" (.. 1 0 | 0 1 ..), less for "reflect" (.. 2 1 | 0 1 ..).
    padding : {"symmetric", "reflect"}
        Whether the mirror lies at the edge of the outermost pixel or in its middle.

    Returns
    -------
    Tensor, shape (..., y + 2 * margin, x + 2 * margin)
        The larger images.
    """
    for axis in (-2, -1):
        size = images.shape[axis]
        index = mirror(np.arange(-margin, size + margin), size, edge_twice=padding == "symmetric")
        images = images.index_select(axis, torch.from_numpy(index).to(images.device))
    return images


def _each_channel(values: Tensor) -> Tensor:
    return values[:, None, None]
