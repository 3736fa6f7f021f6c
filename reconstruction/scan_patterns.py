"""Scans by the order of their angles: equal steps, interlaced, golden-angle, and turn after turn.

References
----------
.. [1] Mohan et al., TIMBIR: a method for time-space reconstruction from interlaced views, IEEE Transactions on
   Computational Imaging 1(2), 96-111, 2015, doi 10.1109/TCI.2015.2431913.
.. [2] Winkelmann et al., An optimal radial profile order based on the golden ratio for time-resolved MRI, IEEE
   Transactions on Medical Imaging 26(1), 68-76, 2007, doi 10.1109/TMI.2006.885337.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .acquisition import Acquisition
from .errors import ScanError

__all__ = ["GOLDEN_SECTION", "golden_scan", "interlaced_scan", "static_scan", "steps_of_turns"]

GOLDEN_SECTION = (math.sqrt(5) - 1) / 2
"""Share of the turn between one projection of a golden-angle scan and the next: 111.246 degrees of a half turn."""
INCOMPLETE = 1e-3
"""Share of a turn by which jitter of the encoder may leave the last turn short."""
TURNED_BACK = 0.5
"""Share of a turn that a stage may go back before it no longer rotates on and on."""


def static_scan(num_projections: int, *, turn: float = math.pi, start: float = 0.0) -> Acquisition:
    """Make a scan of equal steps over the turn, its end not measured again.

    Parameters
    ----------
    num_projections : int
        Number of projections.
    turn : float
        Radians that they cover: pi or 2 pi.
    start : float
        First angle in radians.

    Returns
    -------
    Acquisition
        One time step.
    """
    return Acquisition.from_angles(start + np.arange(num_projections) * turn / num_projections)


def interlaced_scan(
    angles_per_subscan: int,
    num_subscans: int,
    *,
    num_frames: int = 1,
    subscans_per_step: int = 1,
    turn: float = math.pi,
    start: float = 0.0,
) -> Acquisition:
    """Make an interlaced scan: subscans of few angles each, shifted so that together they fill a frame evenly.

    With L angles in a subscan and K subscans in a frame, projection i stands at [1]_

        theta_i = start + (i K + B(floor(i / L) mod K)) turn / (K L)

    where B reverses the log2(K) bits of its argument: after 2, 4, 8, ... subscans the angles are equally spaced, and
    the stage never turns back.

    Parameters
    ----------
    angles_per_subscan : int
        Number L of projections in a subscan, which takes one turn.
    num_subscans : int
        Number K of subscans in a frame, a power of two.
    num_frames : int
        How often the K subscans are repeated.
    subscans_per_step : int
        Consecutive subscans that make one time step.
    turn : float
        Radians of a subscan: pi or 2 pi.
    start : float
        First angle in radians.

    Returns
    -------
    Acquisition
        ``num_frames * num_subscans / subscans_per_step`` time steps.

    Raises
    ------
    ValueError
        If `num_subscans` is no power of two or `subscans_per_step` does not divide the number of subscans.
    """
    if num_subscans < 1 or num_subscans & (num_subscans - 1):
        raise ValueError(f"num_subscans must be a power of two, got {num_subscans}: bits are reversed to order them")
    total = num_frames * num_subscans
    if subscans_per_step < 1 or total % subscans_per_step:
        raise ValueError(f"subscans_per_step must divide the {total} subscans, got {subscans_per_step}")
    index = np.arange(total * angles_per_subscan)
    subscan = index // angles_per_subscan
    offset = _reversed_bits(num_subscans)[subscan % num_subscans]
    theta = start + (index * num_subscans + offset) * turn / (num_subscans * angles_per_subscan)
    return Acquisition.from_angles(theta, time_step=subscan // subscans_per_step)


def _reversed_bits(count: int) -> NDArray[np.intp]:
    """Numbers 0 to count - 1, a power of two, each with its bits in reverse order."""
    order = np.zeros(1, np.intp)
    while order.size < count:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


def golden_scan(
    num_projections: int, projections_per_step: int, *, turn: float = math.pi, start: float = 0.0
) -> Acquisition:
    """Make a golden-angle scan: any run of consecutive projections covers the turn nearly evenly.

    Projection i stands at ``theta_i = start + i turn (sqrt(5) - 1) / 2`` [2]_, 111.246 degrees apart on a half turn;
    runs of a Fibonacci number of projections are the most even.

    Parameters
    ----------
    num_projections : int
        Number of projections.
    projections_per_step : int
        Consecutive projections of a time step; what is left over at the end belongs to the last.
    turn : float
        Period in radians: pi, or 2 pi for a half-acquisition.
    start : float
        First angle in radians.

    Returns
    -------
    Acquisition
        ``num_projections // projections_per_step`` time steps.

    Raises
    ------
    ValueError
        If there are fewer projections than in one time step.
    """
    if not 1 <= projections_per_step <= num_projections:
        raise ValueError(f"projections_per_step must lie in [1, {num_projections}], got {projections_per_step}")
    index = np.arange(num_projections)
    time_step = np.minimum(index // projections_per_step, num_projections // projections_per_step - 1)
    theta = start + index * (turn * GOLDEN_SECTION)
    return Acquisition.from_angles(theta.astype(np.float64), time_step=time_step)


def steps_of_turns(theta: NDArray[np.float64], turn: float = math.pi) -> NDArray[np.intp]:
    """Count the turns of a stage that rotates on and on, as the time steps of a dynamic scan.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians in the order of acquisition, steps below half of `turn`; of either sign, counted on from turn
        to turn or beginning again.
    turn : float
        Radians of a time step: pi or 2 pi.

    Returns
    -------
    intp, shape (angle,)
        Time step of each projection; what follows the last complete turn belongs to that turn.

    Raises
    ------
    ScanError
        If the stage turns back.
    """
    from_first = np.unwrap(theta, period=turn) - theta[0]
    travelled = from_first * np.sign(from_first[np.abs(from_first).argmax()])
    _check_direction(travelled, turn)
    covered = travelled.max() * theta.size / max(theta.size - 1, 1)
    complete = max(math.floor(covered / turn + INCOMPLETE), 1)
    steps = np.floor(np.round(travelled / turn, 9)).astype(np.intp)
    return np.asarray(np.minimum(steps, complete - 1))


def _check_direction(travelled: NDArray[np.float64], turn: float) -> None:
    behind = np.maximum.accumulate(travelled) - travelled
    if travelled.min() < -TURNED_BACK * turn or behind.max() > TURNED_BACK * turn:
        raise ScanError(
            f"the stage turns back about projection {int(behind.argmax())}: turns can be time steps only of a stage "
            "that rotates on and on; number the time steps of this scan by other means"
        )
