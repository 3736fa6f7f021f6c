"""How large a decoder may be for a volume."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

__all__ = ["choose_width", "num_parameters"]

_WIDTHS = (64, 32, 16, 8)
_BYTES_PER_WEIGHT = 2
_LARGEST_SHARE = 1 / 400


def num_parameters(module: nn.Module) -> int:
    """Count the numbers that a module is trained to."""
    return sum(parameter.numel() for parameter in module.parameters())


def choose_width(build: Callable[[int], nn.Module], num_voxels: int) -> int:
    """Take the widest of 64, 32, 16 and 8 whose decoder is a small share of the volume.

    Parameters
    ----------
    build : callable
        From a width to a decoder.
    num_voxels : int
        Size of the volume.

    Returns
    -------
    int
        The widest with two bytes per weight in at most 1/400 of the bytes of the float32 volume, else 8.
    """
    for width in _WIDTHS:
        with torch.device("meta"):
            decoder = build(width)
        if _BYTES_PER_WEIGHT * num_parameters(decoder) <= _LARGEST_SHARE * 4 * num_voxels:
            return width
    return _WIDTHS[-1]
