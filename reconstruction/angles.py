"""How much of the turn each projection stands for.

Opposite projections of parallel rays see the same lines, so directions count modulo half a turn. Where the two differ,
on a half-acquisition, they count modulo a full one: every function takes that period as `turn`, in radians.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LARGEST_GAP",
    "SAME_DIRECTION",
    "angular_gaps",
    "angular_weights",
    "covers_full_turn",
    "direction_order",
    "largest_steps",
    "typical_gap",
    "unevenness",
]

LARGEST_GAP = 4.0
"""A gap wider than this many typical gaps, and than this many of those beside, is a missing wedge, not a wide step."""
SAME_DIRECTION = 0.1
"""Directions nearer than this share of the typical gap count as one: turns never repeat their angles exactly."""
NUM_WEDGES = 2
"""Widest gaps that say nothing of the typical one: they may be wedges."""
OPEN_TURN = np.deg2rad(10)
"""Radians beyond a typical gap from which a turn is not closed; half a turn with as much missing is a wedge too."""


def direction_order(theta: NDArray[np.float64], turn: float = np.pi) -> NDArray[np.intp]:
    """Order projections by the direction of their rays, theta modulo the turn.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians.
    turn : float
        Period in radians: pi, or 2 pi where opposite projections see different parts of the slice.

    Returns
    -------
    intp, shape (angle,)
        Indices of the projections, from direction 0 towards the turn.
    """
    return np.argsort(_directions(theta, turn), kind="stable")


def angular_gaps(theta: NDArray[np.float64], turn: float = np.pi) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure the gaps between neighbouring directions on the circle.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians, in any order.
    turn : float
        Period in radians.

    Returns
    -------
    directions : float64, shape (angle,)
        Theta modulo the turn, ascending.
    gaps : float64, shape (angle,)
        From each direction to the next, the last one's to the first; their sum is `turn`.
    """
    directions = np.sort(_directions(theta, turn))
    return directions, np.diff(directions, append=directions[:1] + turn)


def typical_gap(gaps: NDArray[np.float64]) -> float:
    """Median of the gaps, each counted by its length, without the widest few.

    Half of the measured directions lie in gaps up to it, so the tiny gaps between the turns of one direction do not
    count.

    Parameters
    ----------
    gaps : float64, shape (angle,)
        Gaps in radians, at least one above 0.

    Returns
    -------
    float
        Radians.
    """
    ascending = np.sort(gaps[gaps > 0])
    if ascending.size > NUM_WEDGES:
        ascending = ascending[:-NUM_WEDGES]
    covered = np.cumsum(ascending)
    return float(ascending[np.searchsorted(covered, covered[-1] / 2)])


def largest_steps(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bound the gaps that are steps of the scan: wider ones are wedges that were not measured.

    Parameters
    ----------
    gaps : float64, shape (angle,)
        Gaps of `angular_gaps`.

    Returns
    -------
    float64, shape (angle,)
        `LARGEST_GAP` typical gaps; where the scan went faster, `LARGEST_GAP` of the gaps that it made there: of the
        smaller of the two before, or of the two behind.
    """
    typical = typical_gap(gaps)
    apart = gaps > SAME_DIRECTION * typical
    before, behind = (np.minimum(np.roll(gaps[apart], k), np.roll(gaps[apart], 2 * k)) for k in (1, -1))
    largest = np.full(gaps.size, LARGEST_GAP * typical)
    largest[apart] = LARGEST_GAP * np.maximum(typical, np.maximum(before, behind))
    return largest


def angular_weights(theta: NDArray[np.float64], turn: float = np.pi) -> NDArray[np.float64]:
    """Weigh each projection by its share of the turn (Voronoi cells on the circle of directions).

    Equal steps over any number of turns give ``turn / num_angles``; projections of one direction share its weight
    equally, also where the turns differ by much less than a step. A gap wider than `largest_steps` counts as that much:
    nothing was measured in it.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians, in any order.
    turn : float
        Period in radians: pi, or 2 pi for the sinograms of `quietbeam.reconstruction.half_acquisition.extend`.

    Returns
    -------
    float64, shape (angle,)
        Weights in radians; their sum is `turn` when no wedge is missing.
    """
    order = direction_order(theta, turn)
    _, gaps = angular_gaps(theta, turn)
    typical = typical_gap(gaps)
    group = _same_direction(gaps > SAME_DIRECTION * typical)
    gaps = np.minimum(gaps, largest_steps(gaps))
    cells = (gaps + np.roll(gaps, 1)) / 2
    weights = np.empty(theta.size)
    weights[order] = (np.bincount(group, cells) / np.bincount(group))[group]
    return weights


def covers_full_turn(theta: NDArray[np.float64]) -> bool:
    """Tell whether the sample was seen from all around, not from one half turn.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians, in any order.

    Returns
    -------
    bool
        True if no gap of the full turn is wider than the typical one by `OPEN_TURN`, nor wider than `LARGEST_GAP` of
        them where these are more.
    """
    _, gaps = angular_gaps(theta, 2 * np.pi)
    typical = typical_gap(gaps)
    return bool(gaps.max() <= max(typical + OPEN_TURN, LARGEST_GAP * typical))


def unevenness(theta: NDArray[np.float64], turn: float = np.pi) -> float:
    """Measure how unevenly directions are spread: mean square of the gaps over the square of their mean.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians, in any order.
    turn : float
        Period in radians.

    Returns
    -------
    float
        1 for equal steps, about 1.7 for many directions at random; repeated directions count once.
    """
    _, gaps = angular_gaps(theta, turn)
    gaps = gaps[gaps > SAME_DIRECTION * typical_gap(gaps)]
    return float(np.mean(gaps**2) / np.mean(gaps) ** 2)


def _same_direction(apart: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Give each projection the number of its direction; `apart` says where the next one on the circle is another."""
    group = np.cumsum(np.roll(apart, 1))
    return np.asarray(group % group[-1])


def _directions(theta: NDArray[np.float64], turn: float) -> NDArray[np.float64]:
    """Theta modulo the turn; an angle that is the turn up to rounding is direction 0, wherever the rounding went."""
    return np.asarray(np.round(theta / turn % 1.0, 9) % 1.0 * turn)
