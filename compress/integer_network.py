"""Trained feed-forward networks in whole numbers: the same bits on every machine, thread count and device.

Activations, weights and biases are integers as in `quietbeam.compress.fixed_point`; the integers of a trained module
come from `quietbeam.compress.integer_tensors`.

References
----------
.. [1] Ballé, Johnston, Minnen, Integer networks for data compression with latent-variable models, ICLR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from .fixed_point import (
    FRACTION_BITS,
    exact_conv,
    exact_conv_transpose,
    exact_linear,
    gelu,
    limit,
    rescale,
    sigmoid,
    sine_of_turns,
)
from .integer_tensors import SLOPE_BITS, Affine, Convolution, TransposedConvolution, check_tensors

__all__ = ["IntegerNetwork", "PixelShuffle3d", "Residual", "SineOfTurns"]

Step: TypeAlias = Callable[[Tensor], Tensor]


class Residual(nn.Sequential):
    """Layers whose output is added to their input."""

    def forward(self, values: Tensor) -> Tensor:
        """Keep the shape."""
        return values + reduce(lambda current, layer: layer(current), self, values)


class PixelShuffle3d(nn.Module):
    """Channels to voxels: (batch, s^3 C, z, y, x) to (batch, C, s z, s y, s x); the x offset runs fastest.

    Parameters
    ----------
    scale : int
        The s above.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, values: Tensor) -> Tensor:
        """Rearrange; nothing is computed."""
        batch, channels, depth, height, width = values.shape
        s = self.scale
        split = values.reshape(batch, channels // s**3, s, s, s, depth, height, width)
        return split.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, channels // s**3, s * depth, s * height, s * width)


class SineOfTurns(nn.Module):
    """The function sin(2 pi t) of an angle t in turns, which is exact to wrap in fixed point."""

    def forward(self, turns: Tensor) -> Tensor:
        """Keep the shape."""
        return torch.sin(2 * math.pi * turns)


_EXACT_AS_THEY_ARE = (nn.ReLU, nn.PixelShuffle, PixelShuffle3d, nn.Identity, nn.MaxPool2d)
_TABLES: dict[type[nn.Module], Callable[[Tensor, int], Tensor]] = {
    nn.Sigmoid: sigmoid,
    SineOfTurns: sine_of_turns,
    nn.GELU: gelu,
}


class IntegerNetwork:
    """A feed-forward network in whole numbers.

    Parameters
    ----------
    module : nn.Module
        What is computed; its own parameters are not looked at and may be on the ``meta`` device. Known are
        `Sequential`, `Residual`, `Conv2d`, `Conv3d`, `ConvTranspose2d`, `ConvTranspose3d` (zero padding, one group,
        square), `Linear`, `ReLU`, `PReLU`, `Sigmoid`, `GELU`, `SineOfTurns`, `Upsample` (nearest, whole factors),
        `PixelShuffle`, `PixelShuffle3d`, `MaxPool2d` and `Identity`.
    tensors : mapping of str to integer Tensor
        From `integer_tensors` of such a module.
    fraction_bits : int
        As given to `integer_tensors`.
    device : str or torch.device
        Where to compute.

    Raises
    ------
    ArchiveError
        If the tensors do not belong to the module, or are too large for exact sums.
    TypeError
        If the module has a layer of another kind.
    """

    def __init__(
        self,
        module: nn.Module,
        tensors: Mapping[str, Tensor],
        *,
        fraction_bits: int = FRACTION_BITS,
        device: str | torch.device = "cpu",
    ) -> None:
        check_tensors(module, tensors)
        placed = {name: tensor.to(device, torch.float64) for name, tensor in tensors.items()}
        self._step = _step(module, "", placed, fraction_bits)

    @torch.inference_mode()
    def __call__(self, values: Tensor) -> Tensor:
        """Compute the network.

        Parameters
        ----------
        values : float64, shape as of the module's input
            Integers with `fraction_bits` fraction bits, as from `to_fixed`, on the network's device; limited to +-2^23.

        Returns
        -------
        float64, shape as of the module's output
            Integers with as many fraction bits.
        """
        return self._step(limit(values))


def _step(module: nn.Module, name: str, tensors: Mapping[str, Tensor], fraction_bits: int) -> Step:
    """Make the function of one module; `name` ends with a dot or is empty."""
    if isinstance(module, nn.Sequential) and type(module).forward in (nn.Sequential.forward, Residual.forward):
        steps = [_step(child, f"{name}{key}.", tensors, fraction_bits) for key, child in module.named_children()]
        chain = partial(_chain, steps)
        return (lambda values: limit(values + chain(values))) if isinstance(module, Residual) else chain
    if isinstance(module, Affine):
        shift, bias = int(tensors[f"{name}shift"]), tensors.get(f"{name}bias")
        if bias is not None and not isinstance(module, nn.Linear):
            bias = bias.reshape(-1, *(1 for _ in module.kernel_size))
        return partial(_affine, _linear_map(module, tensors[f"{name}weight"]), shift, bias)
    if isinstance(module, nn.PReLU):
        return partial(_prelu, tensors[f"{name}weight"])
    if type(module) in _TABLES and getattr(module, "approximate", "none") == "none":
        table = _TABLES[type(module)]
        return lambda values: table(values, fraction_bits)
    if isinstance(module, _EXACT_AS_THEY_ARE) or _is_whole_upsampling(module):
        return cast(Step, module)
    raise TypeError(f"a network in whole numbers cannot have the layer {module}, see IntegerNetwork for the known ones")


def _is_whole_upsampling(module: nn.Module) -> bool:
    """Tell whether a layer repeats each value a whole number of times."""
    if not isinstance(module, nn.Upsample) or module.mode != "nearest":
        return False
    return isinstance(module.scale_factor, float) and module.scale_factor % 1 == 0


def _linear_map(layer: Affine, weight: Tensor) -> Step:
    """Make the function of a layer without its bias."""
    if isinstance(layer, nn.Linear):
        return partial(exact_linear, weight=weight)
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise TypeError(f"a network in whole numbers needs zero padding in numbers and one group, got {layer}")
    if isinstance(layer, Convolution):
        options = _options(layer, "stride", "padding", "dilation")
        return lambda values: exact_conv(values, weight, **options)
    if set(layer.dilation) != {1}:
        raise TypeError(f"a transposed convolution in whole numbers cannot be dilated, got {layer}")
    options = _options(layer, "stride", "padding", "output_padding")
    return lambda values: exact_conv_transpose(values, weight, **options)


def _options(layer: Convolution | TransposedConvolution, *names: str) -> dict[str, int]:
    """Read options that must be the same on each axis."""
    options = {name: set(getattr(layer, name)) for name in names}
    if any(len(values) > 1 for values in options.values()):
        raise TypeError(f"a convolution in whole numbers needs the same {', '.join(names)} on each axis, got {layer}")
    return {name: values.pop() for name, values in options.items()}


def _chain(steps: list[Step], values: Tensor) -> Tensor:
    return reduce(lambda current, step: step(current), steps, values)


def _affine(linear: Step, shift: int, bias: Tensor | None, values: Tensor) -> Tensor:
    sums = linear(values)
    return rescale(sums if bias is None else sums + bias * 2.0**shift, shift)


def _prelu(slope: Tensor, values: Tensor) -> Tensor:
    slope = slope.reshape([-1 if axis == 1 else 1 for axis in range(values.ndim)]) if slope.numel() > 1 else slope
    return torch.where(values >= 0, values, rescale(values * slope, SLOPE_BITS))
