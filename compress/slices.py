"""Slices on their way into the networks of a codec, and out of them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .codec import SliceSource
from .fixed_point import FRACTION_BITS

__all__ = ["decode_slices", "enlarged", "mean_and_std", "sample_slices"]

_NUM_SAMPLED_SLICES = 16

Volume = NDArray[np.float32]


def sample_slices(source: SliceSource) -> Volume:
    """Read what a codec looks at before training: at most 16 slices, evenly spaced.

    Parameters
    ----------
    source : SliceSource
        The volume.

    Returns
    -------
    float32, shape (slice, y, x)
        The first slice and the last among them.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    num_slices = source.shape[0]
    picked = np.unique(np.linspace(0, num_slices - 1, min(num_slices, _NUM_SAMPLED_SLICES)).astype(int)).tolist()
    planes = np.concatenate([np.asarray(source[index : index + 1], np.float32) for index in picked])
    if not np.isfinite(planes).all():
        raise ValueError("the volume must be finite to be encoded, got nan or inf in the slices that were looked at")
    return planes


def mean_and_std(planes: Volume, precision: type[np.floating] = np.float64) -> tuple[float, float]:
    """Give mean and standard deviation, rounded to a type that they are stored in; 1 for that of a constant volume."""
    mean, std = (float(precision(value)) for value in (planes.mean(dtype=np.float64), planes.std(dtype=np.float64)))
    return mean, std or 1.0


def enlarged(planes: Volume, stride: int) -> Volume:
    """Repeat the edges until the last two sides are multiples of `stride`."""
    sides = [(0, -size % stride) for size in planes.shape[-2:]]
    return np.pad(planes, [(0, 0)] * (planes.ndim - 2) + sides, mode="edge")


def decode_slices(
    network: Callable[[Tensor], Tensor], latents: Iterable[Tensor], shape: tuple[int, ...], scale: float, offset: float
) -> Volume:
    """Apply a decoder in whole numbers, one slice at a time: all of a chunk would need many times its memory.

    Parameters
    ----------
    network : callable
        An `IntegerNetwork`.
    latents : iterable of Tensor
        What the network takes for each slice, shape (1, channel, y / stride, x / stride).
    shape : tuple of int
        Slices, rows, columns of the chunk; what was enlarged is cut off.
    scale, offset : float
        What brings its values to the volume's units.

    Returns
    -------
    float32, shape (slice, y, x)
        In the volume's units.
    """
    decoded = np.empty(shape, np.float32)
    for plane, of_plane in zip(decoded, latents, strict=True):
        values = network(of_plane)[0, 0, : shape[1], : shape[2]].numpy() * 2.0**-FRACTION_BITS
        plane[:] = values * scale + offset
    return decoded
