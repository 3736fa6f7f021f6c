"""Mean and deviation of the data, with which the network is made independent of their unit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .network_inputs import Sections, with_channel_axis

__all__ = ["section_statistics"]

ROUNDING = 1e-6
"""Deviation over the mean up to which a channel counts as constant; float32 rounds to 6e-8."""


def section_statistics(sections: Sections, *, num_slices: int = 16) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel, from slices spread over the volume, averaged over the sections.

    Parameters
    ----------
    sections : Sections
        Reconstructions, shape (slice, section, channel, y, x), or (slice, section, y, x) of one channel.
    num_slices : int
        How many slices are looked at.

    Returns
    -------
    mean, std : float64, shape (channel,)
        In the unit of the data; std is 1 for a channel that is constant but for rounding.

    Raises
    ------
    ValueError
        If a value of those slices is not finite.
    """
    sections = with_channel_axis(sections)
    everything = slice(None)
    total, squares, count = np.zeros(sections.shape[2]), np.zeros(sections.shape[2]), 0
    for row in np.unique(np.linspace(0, sections.shape[0] - 1, num_slices).astype(int)):
        block = sections[row : row + 1, everything, everything, everything, everything]
        _check_finite(block[0], int(row))
        values = block.mean(axis=1, dtype=np.float64)[0]  # (channel, y, x)
        total, squares = total + values.sum(axis=(1, 2)), squares + (values**2).sum(axis=(1, 2))
        count += values[0].size
    mean = total / count
    variance = squares / count - mean**2
    varies = variance > (ROUNDING * mean) ** 2
    return mean, np.sqrt(np.where(varies, variance, 1.0))


def _check_finite(sections: NDArray[np.float32], row: int) -> None:
    bad = np.argwhere(~np.isfinite(sections))
    if len(bad):
        raise ValueError(
            f"slice {row} has {len(bad)} values that are not finite, the first in section {bad[0][0]}, of which "
            "no mean and deviation can be taken: mend the projections it comes from, or leave them or this slice out"
        )
