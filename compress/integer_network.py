"""Trained feed-forward networks in whole numbers: the same bits on every machine, thread count and device.

Activations are integers: a value times 2^F, F the *fraction bits*, limited to +-2^23. Weights are integers: a value
times 2^s, s the *shift* of the layer, chosen such that none exceeds 16 bits and the sizes of the weights of one output
sum to at most 2^24. Biases have the fraction bits of the activations. Layers compute in float64 on these integers:

- All partial sums of a convolution stay below 2^23 2^24 + 2^47 = 2^48, and float64 holds integers below 2^53 exactly.
  So a direct sum is exact in any order; a faster algorithm (Winograd, FFT) whose error stays below 1/2 is made exact by
  rounding to the next integer.
- A *rescaling* divides by a power of two and takes ``floor(x + 1/2)``, both exact.
- Smooth functions are tables of integers with linear interpolation in integers; the tables are part of the format.

What is exact may be cut into bands at will: convolutions run over a few rows at a time, so that torch's float64
convolution, which copies each input once per weight of the kernel, stays in the cache.

The integers are stored by `IntegerEncoder`, in the module's order: shapes follow from the module and are not stored.

References
----------
.. [1] Ballé, Johnston, Minnen, Integer networks for data compression with latent-variable models, ICLR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial, reduce
from typing import TypeAlias, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quietbeam.reconstruction.errors import ArchiveError

from .entropy import IntegerDecoder, IntegerEncoder

__all__ = ["FRACTION_BITS", "LARGEST_ACTIVATION", "IntegerNetwork", "PixelShuffle3d", "Residual", "SineOfTurns"]
__all__ += ["TableFunction", "exact_conv", "exact_conv_transpose", "exact_linear", "gelu", "integer_tensors", "limit"]
__all__ += ["rescale", "sigmoid", "sine_of_turns", "tensors_from_bytes", "tensors_to_bytes", "to_fixed"]

FRACTION_BITS = 12
"""Of activations, where nothing else is asked for."""
LARGEST_ACTIVATION = 2.0**23
_LARGEST_SUM = 2.0**24
_MOST_SHIFT = 24
_WEIGHT_BITS = 16
_SLOPE_BITS = 16
_LARGEST_SLOPE = 2**24
_TABLE_BITS = 20
_BUFFER = 2**19
_WEIGHTS, _BIASES, _SHIFTS = range(3)

Step: TypeAlias = Callable[[Tensor], Tensor]
_Convolution: TypeAlias = nn.Conv2d | nn.Conv3d
_Transposed: TypeAlias = nn.ConvTranspose2d | nn.ConvTranspose3d
_Affine: TypeAlias = _Convolution | _Transposed | nn.Linear


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


_TABLES: dict[type[nn.Module], Callable[[Tensor, int], Tensor]] = {
    nn.Sigmoid: sigmoid,
    SineOfTurns: sine_of_turns,
    nn.GELU: gelu,
}


def integer_tensors(
    module: nn.Module, *, fraction_bits: int = FRACTION_BITS, weight_bits: int = _WEIGHT_BITS
) -> dict[str, Tensor]:
    """Round the parameters of a trained module to integers.

    Parameters
    ----------
    module : nn.Module
        Of layers that `IntegerNetwork` knows.
    fraction_bits : int
        Of activations and biases.
    weight_bits : int
        Of the largest weight of a layer with its sign, 2 to 16: fewer make smaller files.

    Returns
    -------
    dict of str to int32 Tensor
        On the CPU. For each layer ``NAME.weight``, ``NAME.bias`` and the scalar ``NAME.shift``; for each PReLU
        ``NAME.weight``, with 16 fraction bits.

    Raises
    ------
    ValueError
        If a parameter is not finite or a weight too large, as after training that diverged.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in _layers(module):
        if isinstance(layer, nn.PReLU):
            tensors[f"{name}weight"] = _rounded(layer.weight, _SLOPE_BITS, _LARGEST_SLOPE)
            continue
        weight, shift = _rounded_weight(layer, weight_bits)
        tensors |= {f"{name}weight": weight, f"{name}shift": torch.tensor(shift, dtype=torch.int32)}
        if layer.bias is not None:
            tensors[f"{name}bias"] = _rounded(layer.bias, fraction_bits, int(LARGEST_ACTIVATION))
    return tensors


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
        _check(module, tensors)
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


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Store integer tensors, from `integer_tensors`, in their order; names and shapes are left out."""
    encoder = IntegerEncoder(3)
    values = np.concatenate([tensor.numpy().ravel() for tensor in tensors.values()] or [np.empty(0)])
    contexts = [np.full(tensor.numel(), _context(name, tensor.ndim)) for name, tensor in tensors.items()]
    encoder.add(values.astype(np.int32), np.concatenate([*contexts, np.empty(0, np.int64)]))
    return encoder.to_bytes()


def tensors_from_bytes(module: nn.Module, data: bytes) -> dict[str, Tensor]:
    """Read back what `tensors_to_bytes` stored.

    Parameters
    ----------
    module : nn.Module
        Of the same layers, on any device, for names and shapes.
    data : bytes
        From `tensors_to_bytes`.

    Returns
    -------
    dict of str to int32 Tensor
        For `IntegerNetwork`, which checks them further.

    Raises
    ------
    ArchiveError
        If the data is damaged, as far as that shows.
    """
    shapes = _shapes(module)
    contexts = [np.full(math.prod(shape), _context(name, len(shape))) for name, shape in shapes.items()]
    values = IntegerDecoder(data, 3).take(np.concatenate([*contexts, np.empty(0, np.int64)]))
    parts = torch.split(torch.from_numpy(values), [math.prod(shape) for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _layers(module: nn.Module) -> Iterator[tuple[str, _Affine | nn.PReLU]]:
    """List the layers with parameters, in the module's order; names end with a dot."""
    for name, layer in module.named_modules():
        if isinstance(layer, _Affine | nn.PReLU):
            yield f"{name}." if name else "", layer


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Give name and shape of each integer tensor, in the order in which they are stored."""
    shapes: dict[str, torch.Size] = {}
    for name, layer in _layers(module):
        shapes[f"{name}weight"] = layer.weight.shape
        if not isinstance(layer, nn.PReLU):
            shapes[f"{name}shift"] = torch.Size([])
            if layer.bias is not None:
                shapes[f"{name}bias"] = layer.bias.shape
    return shapes


def _context(name: str, num_axes: int) -> int:
    """Tell weights, biases with slopes, and shifts apart: one frequency table each."""
    if name.endswith("shift"):
        return _SHIFTS
    return _WEIGHTS if num_axes > 1 else _BIASES


def _rounded(values: Tensor, bits: int, largest: int) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ValueError("a network to store has a parameter that is not finite: its training diverged")
    scaled = torch.round(values.detach().double().cpu() * 2.0**bits)
    return scaled.clamp(-largest, largest).to(torch.int32)


def _rounded_weight(layer: _Affine, weight_bits: int) -> tuple[Tensor, int]:
    """Take the largest shift whose integers are allowed."""
    for shift in range(_MOST_SHIFT, -1, -1):
        weight = _rounded(layer.weight, shift, 2**_WEIGHT_BITS)
        if int(weight.abs().max()) < 2 ** (weight_bits - 1) and _sum_of_sizes(layer, weight) <= _LARGEST_SUM:
            return weight, shift
    raise ValueError(
        f"weights to store must stay below {2 ** (weight_bits - 1)} and those of one output sum to at most 2^24, "
        f"got {float(layer.weight.detach().abs().max()):g}: training diverged, take a smaller learning rate"
    )


def _sum_of_sizes(layer: nn.Module, weight: Tensor) -> float:
    """Add up the sizes of the weights of each output, and give the largest sum."""
    axes = [axis for axis in range(weight.ndim) if axis != isinstance(layer, _Transposed)]
    return float(weight.double().abs().sum(axes).max())


def _check(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise `ArchiveError` unless the tensors have the right names, shapes and sizes for exact sums."""
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != (expected := _shapes(module)):
        wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ArchiveError(f"a stored network does not fit its layers, first at {wrong[0]}: restore it from a copy")
    for name, layer in _layers(module):
        largest = {"weight": 2 ** (_WEIGHT_BITS - 1) - 1, "bias": int(LARGEST_ACTIVATION), "shift": _MOST_SHIFT}
        if isinstance(layer, nn.PReLU):
            largest["weight"] = _LARGEST_SLOPE
        elif _sum_of_sizes(layer, tensors[f"{name}weight"]) > _LARGEST_SUM:
            raise ArchiveError(f"the weights of {name}weight in a stored network are too large: it is damaged")
        for part, most in largest.items():
            tensor = tensors.get(f"{name}{part}")
            if tensor is not None and not (-most * (part != "shift") <= int(tensor.min()) <= int(tensor.max()) <= most):
                raise ArchiveError(f"{name}{part} of a stored network exceeds {most}: it is damaged")


def _step(module: nn.Module, name: str, tensors: Mapping[str, Tensor], fraction_bits: int) -> Step:
    """Make the function of one module; `name` ends with a dot or is empty."""
    if isinstance(module, nn.Sequential) and type(module).forward in (nn.Sequential.forward, Residual.forward):
        steps = [_step(child, f"{name}{key}.", tensors, fraction_bits) for key, child in module.named_children()]
        chain = partial(_chain, steps)
        return (lambda values: limit(values + chain(values))) if isinstance(module, Residual) else chain
    if isinstance(module, _Affine):
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


def _linear_map(layer: _Affine, weight: Tensor) -> Step:
    """Make the function of a layer without its bias."""
    if isinstance(layer, nn.Linear):
        return partial(exact_linear, weight=weight)
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise TypeError(f"a network in whole numbers needs zero padding in numbers and one group, got {layer}")
    if isinstance(layer, _Convolution):
        options = _options(layer, "stride", "padding", "dilation")
        return lambda values: exact_conv(values, weight, **options)
    if set(layer.dilation) != {1}:
        raise TypeError(f"a transposed convolution in whole numbers cannot be dilated, got {layer}")
    options = _options(layer, "stride", "padding", "output_padding")
    return lambda values: exact_conv_transpose(values, weight, **options)


def _options(layer: _Convolution | _Transposed, *names: str) -> dict[str, int]:
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
    return torch.where(values >= 0, values, rescale(values * slope, _SLOPE_BITS))
