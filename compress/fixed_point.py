"""Arithmetic in fixed point: whole numbers in float64, the same bits on every machine, thread count and device.

A number is an integer times 2^-F, F its *fraction bits*. Activations are limited to +-2^23; the sizes of the weights of
one output sum to at most 2^24, so that all partial sums of a convolution with its bias stay below 2^23 2^24 + 2^47 =
2^48. Since float64 holds integers below 2^53 exactly:

- A direct sum is exact in any order; a faster algorithm (Winograd, FFT) whose error stays below 1/2 is made exact by
  rounding to the next integer.
- A *rescaling* divides by a power of two and takes ``floor(x + 1/2)``, both exact.
- Smooth functions are tables of integers with linear interpolation in integers; the tables are part of the format.

What is exact may be cut into bands at will: convolutions run over a few rows at a time, so that torch's float64
convolution, which copies each input once per weight of the kernel, stays in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "FRACTION_BITS",
    "LARGEST_ACTIVATION",
    "TableFunction",
    "exact_conv",
    "exact_conv_transpose",
    "exact_linear",
    "gelu",
    "limit",
    "rescale",
    "sigmoid",
    "sine_of_turns",
    "to_fixed",
]

FRACTION_BITS = 12
"""Of activations, where nothing else is asked for."""
LARGEST_ACTIVATION = 2.0**23
_TABLE_BITS = 20
_BUFFER = 2**19


def to_fixed(values: Tensor, fraction_bits: int = FRACTION_BITS) -> Tensor:
    """Round values to fixed point: integers in float64, limited to +-2^23."""
    return limit(torch.floor(values.double() * 2.0**fraction_bits + 0.5))


def limit(values: Tensor) -> Tensor:
    """Limit integers to what an activation may be, +-2^23."""
    return values.clamp(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)


def rescale(values: Tensor, shift: int) -> Tensor:
    """Divide integers by 2^shift, shift >= 0, halves rounded up: exact for sizes below 2^51; limited to +-2^23."""
    return limit(torch.floor(values * 2.0**-shift + 0.5))


def exact_linear(values: Tensor, weight: Tensor) -> Tensor:
    """Multiply integers (..., in) by weights (out, in)."""
    return torch.round(F.linear(values, weight))


def exact_conv(values: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    """Convolve integers in bands of rows (2D) or planes (3D).

    Parameters
    ----------
    values : float64, shape (batch, in, ...)
        Integers of size at most 2^23.
    weight : float64, shape (out, in, ...)
        Integers; for each output their sizes sum to at most 2^24.
    stride, padding, dilation : int
        The same on each axis; the padding is zeros.

    Returns
    -------
    float64, shape (batch, out, ...)
        The exact sums.
    """
    convolve = F.conv2d if weight.ndim == 4 else F.conv3d
    padded = F.pad(values, (padding,) * (2 * (weight.ndim - 2)))
    reach = [dilation * (size - 1) + 1 for size in weight.shape[2:]]
    out = [(size - need) // stride + 1 for size, need in zip(padded.shape[2:], reach, strict=True)]
    copied = values.shape[0] * weight[0].numel() * math.prod(out[1:])
    band = max(1, _BUFFER // max(1, copied))
    bands = [
        padded[:, :, stride * row : stride * (min(row + band, out[0]) - 1) + reach[0]] for row in range(0, out[0], band)
    ]
    return torch.round(torch.cat([convolve(rows, weight, stride=stride, dilation=dilation) for rows in bands], 2))


def exact_conv_transpose(
    values: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> Tensor:
    """Convolve integers transposed, a few output channels at a time.

    As `exact_conv`, with a weight of shape (in, out, ...); `output_padding` as in torch.
    """
    convolve = F.conv_transpose2d if weight.ndim == 4 else F.conv_transpose3d
    copied = values[:, 0].numel() * weight[0, 0].numel()
    group = max(1, 16 * _BUFFER // max(1, copied))
    options = {"stride": stride, "padding": padding, "output_padding": output_padding}
    parts = [convolve(values, weight[:, c : c + group], None, **options) for c in range(0, weight.shape[1], group)]
    return torch.round(torch.cat(parts, 1))


class TableFunction:
    """A function as a table of integers, between whose knots it is linear; constant beyond them.

    Parameters
    ----------
    function : callable
        From float to float, in [-8, 8].
    first, last : int
        First and last knot.
    knot_bits : int
        Knots lie 2^-knot_bits apart.

    Attributes
    ----------
    knots : int64, shape (k,)
        The function at the knots times 2^20.
    """

    def __init__(self, function: Callable[[float], float], first: int, last: int, *, knot_bits: int) -> None:
        spacing = 2**knot_bits
        values = [function(knot / spacing) for knot in range(first * spacing, last * spacing + 1)]
        self.knots = torch.tensor([math.floor(value * 2**_TABLE_BITS + 0.5) for value in values])
        self._first, self._knot_bits = first, knot_bits

    def __call__(self, values: Tensor, fraction_bits: int = FRACTION_BITS) -> Tensor:
        """Give the function of integers in fixed point, as such; at least as many fraction bits as the knots have."""
        between = fraction_bits - self._knot_bits
        if between < 0:
            raise ValueError(f"fraction_bits must be at least {self._knot_bits} for this table, got {fraction_bits}")
        last = (len(self.knots) - 1) * 2.0**between
        places = (values - self._first * 2.0**fraction_bits).clamp(0, last)
        index = torch.floor(places * 2.0**-between).clamp(max=len(self.knots) - 2)
        knots = self.knots.to(values.device).double()
        left, right = knots[index.long()], knots[index.long() + 1]
        interpolated = left * 2.0**between + (right - left) * (places - index * 2.0**between)
        return rescale(interpolated, _TABLE_BITS - self._knot_bits)


@cache
def _sigmoid_table() -> TableFunction:
    return TableFunction(lambda x: 1 / (1 + math.exp(-x)), -16, 16, knot_bits=7)


@cache
def _sine_table() -> TableFunction:
    return TableFunction(lambda turns: math.sin(2 * math.pi * turns), 0, 1, knot_bits=12)


@cache
def _gelu_table() -> TableFunction:
    return TableFunction(lambda x: x * math.erfc(x / math.sqrt(2)) / 2, 0, 8, knot_bits=7)


def sigmoid(values: Tensor, fraction_bits: int = FRACTION_BITS) -> Tensor:
    """Give 1 / (1 + exp(-x)) of integers; off by less than 2e-6 and half a unit."""
    return _sigmoid_table()(values, fraction_bits)


def sine_of_turns(values: Tensor, fraction_bits: int = FRACTION_BITS) -> Tensor:
    """Give sin(2 pi t) of integers with 12 fraction bits or more; off by less than 2e-6 and half a unit."""
    whole = torch.floor(values * 2.0**-fraction_bits) * 2.0**fraction_bits
    return _sine_table()(values - whole, fraction_bits)


def gelu(values: Tensor, fraction_bits: int = FRACTION_BITS) -> Tensor:
    """Give x Phi(x) = max(x, 0) - |x| (1 - Phi(|x|)) of integers; off by less than 1e-5 and half a unit."""
    return values.clamp(min=0) - _gelu_table()(values.abs(), fraction_bits)
