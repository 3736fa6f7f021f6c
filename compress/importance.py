"""Importance by region: where in a slice the structure is, and what that means for latents and loss.

A latent position is important, level 1 instead of 0, where the mean absolute difference of neighbouring pixels in its
tile belongs to the highest third of the volume's tiles. Latents of a level are rounded to multiples of `STEPS`, in
training as in coding, and the squared error is weighted by `WEIGHTS`, whose mean over the tiles is 1. An error of
weight w is coded best with a step proportional to 1 / sqrt(w): the two belong together.

Measured on 32 slices of a foam with codec ``cnn``: at equal size the error at edges is the same at 0.12 bits per voxel
and 0.8 dB lower at 0.16, in one short training each. With the tiles of 32 pixels of ``crae2`` nothing was gained.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .codec import SliceSource
from .slices import enlarged, mean_and_std, sample_slices

__all__ = ["STEPS", "WEIGHTS", "Statistics", "activity", "by_level", "levels_of"]

STEPS = (2, 1)
"""What latents are rounded to multiples of, by level of importance."""
WEIGHTS = (0.5, 2.0)
"""Weight of the squared error, by level of importance."""

_SHARE_BELOW = 2 / 3


class Statistics(NamedTuple):
    """What is known of a volume before training.

    Attributes
    ----------
    mean, std : float
        In the volume's units.
    num_voxels : int
        Slices times rows times columns.
    threshold : float
        Mean absolute difference above which a tile is important, in units of `std`.
    """

    mean: float
    std: float
    num_voxels: int
    threshold: float

    @classmethod
    def of(cls, source: SliceSource, stride: int) -> Self:
        """Look at no more than 16 slices, evenly spaced; `ValueError` if they are not finite."""
        planes = sample_slices(source)
        mean, std = mean_and_std(planes, np.float32)
        normalised = (enlarged(planes, stride) - np.float32(mean)) / np.float32(std)
        found = activity(torch.from_numpy(normalised[:, None]), stride).numpy()
        return cls(mean, std, int(np.prod(source.shape)), float(np.quantile(found, _SHARE_BELOW)))


def by_level(values: tuple[float, ...], levels: Tensor) -> Tensor:
    """Give the value of each level, float32, in the shape of the levels."""
    return torch.tensor(values, dtype=torch.float32, device=levels.device)[levels]


def levels_of(crops: Tensor, stride: int, threshold: float) -> Tensor:
    """Give the level of each tile, int64, shape (crop, 1, y / stride, x / stride)."""
    return (activity(crops, stride) > threshold).long()


def activity(crops: Tensor, stride: int) -> Tensor:
    """Give the mean absolute difference of neighbouring pixels in each tile."""
    along_y = F.pad((crops[:, :, 1:] - crops[:, :, :-1]).abs(), (0, 0, 0, 1))
    along_x = F.pad((crops[:, :, :, 1:] - crops[:, :, :, :-1]).abs(), (0, 1))
    return F.avg_pool2d(along_y + along_x, stride)
