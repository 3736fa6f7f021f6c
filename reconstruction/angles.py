"""How much of the turn each projection stands for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST_GAP", "angular_weights", "direction_order"]

LARGEST_GAP = 4.0
"""A gap wider than this many typical gaps is a missing wedge, not one wide step."""
SAME_DIRECTION = 0.1
"""Directions nearer than this share of the typical gap count as one: turns never repeat their angles exactly."""
NUM_WEDGES = 2
"""Widest gaps that say nothing of the typical one: they may be wedges."""


def direction_order(theta: NDArray[np.float64]) -> NDArray[np.intp]:
    """Order projections by the direction of their rays, theta modulo pi.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians.

    Returns
    -------
    intp, shape (angle,)
        Indices of the projections, from direction 0 towards pi.
    """
    return np.argsort(_directions(theta), kind="stable")


def angular_weights(theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weigh each projection by its share of the half turn (Voronoi cells on the circle of directions).

    Equal steps over any number of half turns give ``pi / num_angles``; projections of one direction share its weight
    equally, also where the turns differ by much less than a step. The weight of a gap wider than `LARGEST_GAP` typical
    gaps is cut to that: nothing was measured in it. Half of the measured directions lie in gaps up to the typical one,
    so the tiny gaps between the turns of one direction do not count.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians, in any order.

    Returns
    -------
    float64, shape (angle,)
        Weights in radians; their sum is pi when no wedge is missing.
    """
    order = direction_order(theta)
    direction = _directions(theta)[order]
    gaps = np.diff(direction, append=direction[:1] + np.pi)
    typical = _typical_gap(gaps)
    group = _same_direction(gaps > SAME_DIRECTION * typical)
    gaps = np.minimum(gaps, LARGEST_GAP * typical)
    cells = (gaps + np.roll(gaps, 1)) / 2
    weights = np.empty(theta.size)
    weights[order] = (np.bincount(group, cells) / np.bincount(group))[group]
    return weights


def _typical_gap(gaps: NDArray[np.float64]) -> float:
    """Median of the gaps, each counted by its length, without the widest few."""
    ascending = np.sort(gaps[gaps > 0])
    if ascending.size > NUM_WEDGES:
        ascending = ascending[:-NUM_WEDGES]
    covered = np.cumsum(ascending)
    return float(ascending[np.searchsorted(covered, covered[-1] / 2)])


def _same_direction(apart: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Give each projection the number of its direction; `apart` says where the next one on the circle is another."""
    group = np.cumsum(np.roll(apart, 1))
    return np.asarray(group % group[-1])


def _directions(theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Theta modulo pi; an angle that is pi up to rounding is direction 0, wherever the rounding went."""
    return np.asarray(np.round(theta / np.pi % 1.0, 9) % 1.0 * np.pi)
