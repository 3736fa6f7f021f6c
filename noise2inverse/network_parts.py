"""A network as the files of other MS-D programs hold it: weights and biases, and a gain and an offset for each channel.

They scale data by gain * x + offset at both ends of the network, where `MSD` takes (x - mean) / std at its input and
std * x + mean at its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .msd import MSD, NetworkSettings, Padding

__all__ = ["NetworkParts", "join_network", "split_network"]

_SMALLEST = 1e-30


@dataclass(frozen=True)
class NetworkParts:
    """Everything in a network that is a number.

    Attributes
    ----------
    weights : list of float32 Tensor, shape (width, c_in + width * layer, 3, 3)
        Of each layer; tap [0, 0] belongs to the pixel above and left of the middle (cross-correlation).
    bias : float32 Tensor, shape (depth * width,)
        Of all layers.
    final_weight, final_bias : float32 Tensor, shapes (c_out, c_in + depth * width) and (c_out,)
        Of the output.
    input_gain, input_offset : float32 Tensor, shape (c_in,)
        From data to the network: 1 / std and -mean / std.
    output_gain, output_offset : float32 Tensor, shape (c_out,)
        From the network to data: std and mean.
    """

    weights: list[Tensor]
    bias: Tensor
    final_weight: Tensor
    final_bias: Tensor
    input_gain: Tensor
    input_offset: Tensor
    output_gain: Tensor
    output_offset: Tensor


def join_network(parts: NetworkParts, *, dilations: Sequence[int], padding: Padding) -> MSD:
    """Make a network of its parts.

    Parameters
    ----------
    parts : NetworkParts
        All numbers, of shapes that fit.
    dilations : sequence of int
        Dilations of the layers, taken in turn, pixels.
    padding : {"symmetric", "reflect"}
        How images go on beyond the border.

    Returns
    -------
    MSD
        The network, on the CPU. Weights are bit by bit those of the parts; a mean or deviation is the nearest float32.

    Raises
    ------
    ValueError
        If a number is not finite, a gain is not above 0 by at least 1e-30, or a dilation lies outside [1, 255].
    """
    _check_finite(parts)
    if not dilations or not all(1 <= dilation <= 255 for dilation in dilations):
        raise ValueError(f"dilations must lie in [1, 255], got {list(dilations)}")
    width = len(parts.weights[0])
    settings = NetworkSettings(depth=len(parts.weights), width=width, dilations=tuple(dilations), padding=padding)
    model = MSD(len(parts.input_gain), len(parts.final_bias), settings, generator=torch.Generator())
    with torch.no_grad():
        for target, source in zip(model.weights, parts.weights, strict=True):
            target.copy_(source)
        for name in ("bias", "final_weight", "final_bias"):
            getattr(model, name).copy_(getattr(parts, name))
    gain = _above_zero(parts.input_gain, "input gain")
    model.input_std.copy_(1 / gain)
    model.input_mean.copy_(-parts.input_offset.double() / gain + 0)  # + 0 makes 0 of -0
    model.output_std.copy_(_above_zero(parts.output_gain, "output gain"))
    model.output_mean.copy_(parts.output_offset)
    return model


def split_network(model: MSD) -> NetworkParts:
    """Take a network apart.

    Parameters
    ----------
    model : MSD
        The network.

    Returns
    -------
    NetworkParts
        Copies of its numbers, float32 on the CPU.

    Raises
    ------
    ValueError
        If a number is not finite, or a standard deviation not above 0 by at least 1e-30.
    """
    std = _above_zero(model.input_std.cpu(), "standard deviation of the input")
    parts = NetworkParts(
        weights=[weight.detach().cpu().float().clone() for weight in model.weights],
        bias=model.bias,
        final_weight=model.final_weight,
        final_bias=model.final_bias,
        input_gain=1 / std,
        input_offset=-model.input_mean.cpu().double() / std,
        output_gain=_above_zero(model.output_std.cpu(), "standard deviation of the output"),
        output_offset=model.output_mean,
    )
    weights, *others = (getattr(parts, field.name) for field in fields(parts))
    parts = NetworkParts(weights, *(tensor.detach().cpu().float().clone() for tensor in others))
    _check_finite(parts)
    return parts


def _check_finite(parts: NetworkParts) -> None:
    for field in fields(parts):
        values = getattr(parts, field.name)
        if not all(tensor.isfinite().all() for tensor in (values if field.name == "weights" else [values])):
            raise ValueError(f"{field.name.replace('_', ' ')}: there are numbers that are not finite")


def _above_zero(values: Tensor, name: str) -> Tensor:
    """Give the values as float64; of less than the smallest the inverse is beyond float32."""
    if not (values >= _SMALLEST).all():
        raise ValueError(f"{name} must be at least {_SMALLEST}, got {values.tolist()}")
    return values.double()
