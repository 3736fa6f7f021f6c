"""What was measured when: the angle, the time step and the soundness of each projection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .angles import SAME_DIRECTION, angular_gaps, covers_full_turn, largest_steps, typical_gap
from .caveats import Caveat
from .errors import ScanError
from .half_acquisition import missing_of_full_turn

__all__ = ["Acquisition", "angle_caveats"]

MOST_MISSING = np.deg2rad(60) + 1e-6  # for rounding
"""Radians of the full turn that a half-acquisition may lack when it is asked for."""


@dataclass(frozen=True, eq=False)
class Acquisition:
    """The projections of one scan, in the order of acquisition; `from_angles` fills in what is not given.

    Attributes
    ----------
    theta : float64, shape (angle,)
        Angle of each projection in radians; several turns may be counted on or begin again at 0.
    time_step : intp, shape (angle,)
        Time step that each projection belongs to, from 0 without a gap; all 0 if the sample stands still.
    good : bool, shape (angle,)
        False for projections that must not be used anywhere.
    num_channels : int
        Channels (energies, diffraction angles) measured together in each projection; they share its angle and section.
    half_acquisition : bool
        True if the axis is near the edge of the detector, so that opposite projections see different parts.

    Raises
    ------
    ValueError
        If shapes, types or values do not fit together.
    ScanError
        If a time step has no good projection, or if a half-acquisition lacks more than `MOST_MISSING` of the turn.
    """

    theta: NDArray[np.float64]
    time_step: NDArray[np.intp]
    good: NDArray[np.bool_]
    num_channels: int = 1
    half_acquisition: bool = False

    def __post_init__(self) -> None:
        _check_arrays(self)
        _check_time_steps(self)
        if self.half_acquisition:
            _check_full_turns(self)

    @classmethod
    def from_angles(
        cls,
        theta: NDArray[np.float64],
        *,
        time_step: NDArray[np.intp] | None = None,
        good: NDArray[np.bool_] | None = None,
        num_channels: int = 1,
        half_acquisition: bool = False,
    ) -> Acquisition:
        """Make an acquisition of angles alone: one time step, all projections good, unless told otherwise.

        Parameters
        ----------
        theta : float64, shape (angle,)
            Angles in radians.
        time_step : intp, shape (angle,), optional
            Time step of each projection.
        good : bool, shape (angle,), optional
            Which projections may be used.
        num_channels, half_acquisition
            See the attributes.

        Returns
        -------
        Acquisition
            Checked.
        """
        time_step = np.zeros(len(theta), np.intp) if time_step is None else time_step
        good = np.ones(len(theta), np.bool_) if good is None else good
        return cls(theta, time_step, good, num_channels, half_acquisition)

    @property
    def num_projections(self) -> int:
        """Number of projections, the bad ones too."""
        return self.theta.size

    @property
    def num_time_steps(self) -> int:
        """Number of time steps; 1 for a static scan."""
        return int(self.time_step.max()) + 1

    @property
    def turn(self) -> float:
        """Period of the angles in radians: pi, or 2 pi for a half-acquisition."""
        return 2 * math.pi if self.half_acquisition else math.pi

    @property
    def step(self) -> float:
        """Typical angle in radians between neighbouring directions of the first time step."""
        return typical_gap(angular_gaps(self.theta[self.projections_of(0)], self.turn)[1])

    @property
    def covers_full_turn(self) -> bool:
        """Whether each time step saw the sample from all around, not from one half turn."""
        return all(covers_full_turn(self.theta[self.projections_of(step)]) for step in range(self.num_time_steps))

    def projections_of(self, time_step: int) -> NDArray[np.intp]:
        """List the good projections of a time step.

        Parameters
        ----------
        time_step : int
            Which one.

        Returns
        -------
        intp, shape (angle of the time step,)
            Indices, ascending.
        """
        return np.flatnonzero(self.good & (self.time_step == time_step))


def _check_arrays(scan: Acquisition) -> None:
    if scan.theta.ndim != 1 or scan.theta.size == 0:
        raise ValueError(f"theta must have shape (angle,) with at least one angle, got shape {scan.theta.shape}")
    for name, array in (("time_step", scan.time_step), ("good", scan.good)):
        if array.shape != scan.theta.shape:
            raise ValueError(f"{name} must have the shape of theta, {scan.theta.shape}, got {array.shape}")
    if not np.isfinite(scan.theta).all():
        first = int(np.flatnonzero(~np.isfinite(scan.theta))[0])
        raise ValueError(f"theta must be finite, got {scan.theta[first]} for projection {first}; give its angle")
    if scan.good.dtype != np.bool_:
        raise ValueError(f"good must be bool, got {scan.good.dtype}; indices of good projections are no mask")
    if scan.num_channels < 1:
        raise ValueError(f"num_channels must be at least 1, got {scan.num_channels}")


def _check_time_steps(scan: Acquisition) -> None:
    if not np.issubdtype(scan.time_step.dtype, np.integer):
        raise ValueError(f"time_step must hold integers, got {scan.time_step.dtype}")
    found = np.unique(scan.time_step)
    gap = np.flatnonzero(found != np.arange(found.size))
    if gap.size:
        expected, got = int(gap[0]), int(found[gap[0]])
        raise ValueError(f"time steps must be numbered from 0 without a gap; expected a step {expected}, got {got}")
    empty = np.flatnonzero(np.bincount(scan.time_step, scan.good) == 0)
    if empty.size:
        raise ScanError(f"time step {empty[0]} has no good projection; leave the step out and number the others on")


def _check_full_turns(scan: Acquisition) -> None:
    for step in range(scan.num_time_steps):
        theta = scan.theta[scan.projections_of(step)]
        missing, most = math.degrees(missing_of_full_turn(theta)), math.degrees(MOST_MISSING)
        if missing > most:
            where = f"time step {step} lacks" if scan.num_time_steps > 1 else "the angles lack"
            raise ScanError(
                f"a half-acquisition needs projections over the full turn, at least over {360 - most:.0f} degrees; "
                f"{where} {missing:.1f} of 360: leave reconstruction.half_acquisition out, or give the right angles"
            )


def angle_caveats(scan: Acquisition) -> tuple[Caveat, ...]:
    """Tell of angles that were measured twice and of those that were not.

    Parameters
    ----------
    scan : Acquisition
        Each time step is looked at on its own; bad projections do not count.

    Returns
    -------
    tuple of Caveat
        ``repeated-angles``: projections nearer than a tenth of a step, and of the steps beside, to an earlier one of
        their time step, as a stage that was wound back leaves them. ``missing-angles``: gaps wider than
        `largest_steps`, left empty by reconstruction; modulo half a turn, for a half-acquisition modulo a full one.
    """
    steps = [scan.projections_of(step) for step in range(scan.num_time_steps)]
    return (*_repeated(scan, steps), *_missing(scan, steps))


def _repeated(scan: Acquisition, steps: list[NDArray[np.intp]]) -> tuple[Caveat, ...]:
    pairs = np.concatenate([_repeats(scan.theta, step, scan.turn) for step in steps])
    if not len(pairs):
        return ()
    earlier, later = pairs[pairs[:, 1].argmin()]
    message = (
        f"{len(pairs)} of {scan.num_projections} projections repeat the angle of an earlier one of their time step, "
        f"first projection {later} that of {earlier} at {math.degrees(scan.theta[later]):.2f} degrees: if the stage "
        "was wound back, leave the earlier ones out"
    )
    return (Caveat("repeated-angles", message),)


def _repeats(theta: NDArray[np.float64], step: NDArray[np.intp], turn: float) -> NDArray[np.intp]:
    """Pairs of an earlier and a later projection of one time step at one angle, shape (pair, 2)."""
    order = step[np.argsort(theta[step], kind="stable")]
    gaps = np.diff(theta[order])
    # Where the stage starts slowly, the steps beside are small, too.
    beside = ndimage.maximum_filter1d(gaps, 3) if gaps.size else gaps
    same = gaps <= SAME_DIRECTION * np.minimum(beside, typical_gap(angular_gaps(theta[step], turn)[1]))
    return np.sort(np.stack([order[:-1][same], order[1:][same]], axis=1), axis=1)


class _Hole(NamedTuple):
    """Radians without a projection, all and the widest one's place, in the worst of some time steps."""

    missing: float
    first: float
    last: float
    time_step: int


def _missing(scan: Acquisition, steps: list[NDArray[np.intp]]) -> tuple[Caveat, ...]:
    holes = [_hole(scan.theta[step], scan.turn, number) for number, step in enumerate(steps)]
    found = [hole for hole in holes if hole.missing > 0]
    if not found:
        return ()
    worst = max(found)
    missing, first, last, turn = (math.degrees(angle) for angle in (*worst[:3], scan.turn))
    where = "" if len(steps) == 1 else f"{len(found)} of {len(steps)} time steps have gaps; in step {worst.time_step}, "
    message = (
        f"{where}{missing:.2f} of {turn:.0f} degrees have no projection, the widest gap from {first:.2f} to "
        f"{last:.2f}: expect streaks along them"
    )
    return (Caveat("missing-angles", message),)


def _hole(theta: NDArray[np.float64], turn: float, time_step: int) -> _Hole:
    directions, gaps = angular_gaps(theta, turn)
    typical = typical_gap(gaps)
    widest = int(gaps.argmax())
    missing = float((gaps - typical)[gaps > largest_steps(gaps)].sum())
    return _Hole(missing, float(directions[widest]), float(directions[widest] + gaps[widest]), time_step)
