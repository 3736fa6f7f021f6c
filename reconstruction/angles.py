"""How much of the turn each projection stands for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST_GAP", "angular_weights", "direction_order"]

LARGEST_GAP = 4.0
"""A gap wider than this many median gaps is a missing wedge, not one wide step."""


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

    Equal steps over a half or a full turn give ``pi / num_angles``; two projections of one direction share its weight.
    The weight of a gap wider than `LARGEST_GAP` median gaps is cut to that: nothing was measured in it.

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
    gaps = np.minimum(gaps, LARGEST_GAP * np.pi / theta.size)
    weights = np.empty(theta.size)
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights


def _directions(theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Theta modulo pi; an angle that is pi up to rounding is direction 0, wherever the rounding went."""
    return np.asarray(np.round(theta / np.pi % 1.0, 9) % 1.0 * np.pi)
