"""The parameters of a trained network as integers, and as bytes.

Weights are integers: a value times 2^s, s the *shift* of the layer, chosen such that none exceeds 16 bits and the sizes
of the weights of one output sum to at most 2^24. Biases have the fraction bits of the activations. Then all sums of
`quietbeam.compress.fixed_point` are exact.

The integers are stored by `IntegerEncoder`, in the module's order: shapes follow from the module and are not stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from quietbeam.reconstruction.errors import ArchiveError

from .entropy import IntegerDecoder, IntegerEncoder
from .fixed_point import FRACTION_BITS, LARGEST_ACTIVATION

__all__ = [
    "SLOPE_BITS",
    "Affine",
    "Convolution",
    "TransposedConvolution",
    "check_tensors",
    "integer_tensors",
    "tensors_from_bytes",
    "tensors_to_bytes",
]

SLOPE_BITS = 16
"""Fraction bits of the slope of a PReLU."""
_LARGEST_SUM = 2.0**24
_MOST_SHIFT = 24
_WEIGHT_BITS = 16
_LARGEST_SLOPE = 2**24
_WEIGHTS, _BIASES, _SHIFTS = range(3)

Convolution: TypeAlias = nn.Conv2d | nn.Conv3d
TransposedConvolution: TypeAlias = nn.ConvTranspose2d | nn.ConvTranspose3d
Affine: TypeAlias = Convolution | TransposedConvolution | nn.Linear


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
            tensors[f"{name}weight"] = _rounded(layer.weight, SLOPE_BITS, _LARGEST_SLOPE)
            continue
        weight, shift = _rounded_weight(layer, weight_bits)
        tensors |= {f"{name}weight": weight, f"{name}shift": torch.tensor(shift, dtype=torch.int32)}
        if layer.bias is not None:
            tensors[f"{name}bias"] = _rounded(layer.bias, fraction_bits, int(LARGEST_ACTIVATION))
    return tensors


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


def _layers(module: nn.Module) -> Iterator[tuple[str, Affine | nn.PReLU]]:
    """List the layers with parameters, in the module's order; names end with a dot."""
    for name, layer in module.named_modules():
        if isinstance(layer, Affine | nn.PReLU):
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


def _rounded_weight(layer: Affine, weight_bits: int) -> tuple[Tensor, int]:
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
    axes = [axis for axis in range(weight.ndim) if axis != isinstance(layer, TransposedConvolution)]
    return float(weight.double().abs().sum(axes).max())


def check_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise `ArchiveError` unless tensors have the names, shapes and sizes that make a module's sums exact.

    Parameters
    ----------
    module : nn.Module
        Of the layers that the tensors are for.
    tensors : mapping of str to integer Tensor
        As from `integer_tensors`.

    Raises
    ------
    ArchiveError
        If they do not belong to the module, or are too large.
    """
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
