"""The one table of methods that find the rotation axis: our own evidence, and the methods of algotom [1]_.

References
----------
.. [1] Vo et al., Data processing methods and data acquisition for samples larger than the field of view in
   parallel-beam tomography, Optics Express 29(12), 17849-17874, 2021, doi 10.1364/OE.418448.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .angles import covers_full_turn
from .axis_evidence import Evidence, evenly, mirror_evidence, opposite_pairs, opposite_rows, wedge_evidence

__all__ = ["AXIS_METHODS", "AxisMethod", "AxisMethodName", "Views", "ask"]

AxisMethodName = Literal["mirror", "double wedge", "phase correlation", "Vo", "sliding window", "overlap"]

FEWEST_COLUMNS, FEWEST_ANGLES = 16, 8
"""Of a sinogram, below which algotom's searches have no room."""
MOST_ROWS = 400
"""Detector rows and angles that a window is slid over."""
MOST_ANGLES = 720
"""Projections of a half turn given to Vo's method: more take longer and find the same."""
WINDOW = 0.1
"""Width of the sliding window over that of the detector; its overlap is sought down to this."""
BIAS = 0.1
"""Share of the way, width times angle, by which ends that are not opposite move the axis at most."""


@dataclass(frozen=True, eq=False)
class Views:
    """What the methods look at, computed once.

    Attributes
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals of some detector rows.
    theta : float64, shape (angle,)
        Angles in radians, ascending.
    num_vo_rows : int
        Rows for Vo's method.
    """

    sinograms: NDArray[np.float32]
    theta: NDArray[np.float64]
    num_vo_rows: int = 3

    @cached_property
    def full_turn(self) -> bool:
        """Whether the sample was seen from all around."""
        return bool(self.theta.size >= FEWEST_ANGLES and covers_full_turn(self.theta))

    @cached_property
    def opposite(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Rows of opposite projections, front and back: float32, shape (row * pair, column)."""
        return opposite_rows(self.sinograms, self.theta)

    @cached_property
    def evidence(self) -> dict[str, Evidence]:
        """What each method of our own found; of a full turn, opposite projections tell all that a wedge could."""
        evidence = {"mirror": mirror_evidence(self.sinograms, self.theta)}
        return evidence if self.full_turn else evidence | {"double wedge": wedge_evidence(self.sinograms, self.theta)}

    @cached_property
    def not_opposite(self) -> float:
        """Radians, beyond a step, that the ends of a half turn are from opposite; 0 where other pairs are opposite."""
        pairs = opposite_pairs(self.theta)
        if len(pairs) > 1 or self.theta.size < FEWEST_ANGLES:
            return 0.0
        turn = float(self.theta[-1] - self.theta[0])
        return max(np.pi - turn - turn / (self.theta.size - 1), 0.0)

    @property
    def bias(self) -> float:
        """Pixels that ends which are not opposite may move the evidence, from simulated scans."""
        return float(BIAS * self.not_opposite * self.sinograms.shape[-1])

    def score(self, column: float) -> float:
        """Correlation of the edges in opposite projections about a column."""
        return self.evidence["mirror"].score(column)

    def prominence(self, column: float) -> float:
        """How far a column stands out, by the evidence it stands out of most."""
        return max(evidence.prominence(column) for evidence in self.evidence.values())

    def uncertainty(self, column: float) -> float:
        """How far off a column may be, in pixels, by the evidence that knows best."""
        return min(evidence.uncertainty(column) for evidence in self.evidence.values())

    @property
    def too_small(self) -> bool:
        """Whether algotom's searches have no room."""
        return self.sinograms.shape[2] < FEWEST_COLUMNS or self.theta.size < FEWEST_ANGLES


AxisMethod = Callable[[Views], float | None]
"""Gives a column, or None where the method cannot be asked or finds nothing."""


def ask(name: AxisMethodName, views: Views) -> float | None:
    """Ask one method for the column of the axis.

    Parameters
    ----------
    name : str
        A name of `AXIS_METHODS`.
    views : Views
        What it looks at.

    Returns
    -------
    float or None
        Column in pixels, on the detector; None where the method does not apply or its answer is none.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # an answer at the end of a range shows in its score
        warnings.simplefilter("ignore")
        column = AXIS_METHODS[name](views)
    return float(column) if column is not None and 0 <= column <= views.sinograms.shape[2] - 1 else None


def _by_mirror(views: Views) -> float | None:
    return views.evidence["mirror"].best()


def _by_wedge(views: Views) -> float | None:
    return None if views.full_turn else views.evidence["double wedge"].best()


def _by_phase_correlation(views: Views) -> float | None:
    from algotom.prep.calculation import find_center_based_phase_correlation

    front, back = views.opposite
    if front.shape[1] < FEWEST_COLUMNS:
        return None
    one_pair = len(front) == len(views.sinograms)
    if len(front) == 1:  # the method wants an image
        front, back = np.repeat(front, 2, axis=0), np.repeat(back, 2, axis=0)
    # A pair of projections shares slow shading, which its gradient has not; many pairs have lost it with their mean.
    return float(find_center_based_phase_correlation(front, back, gradient=one_pair))


def _by_vo(views: Views) -> float | None:
    from algotom.prep.calculation import find_center_vo

    if views.too_small:
        return None
    # The method expects both ends of the half turn: without the second, it is off by a pixel.
    last = int(np.abs(views.theta - views.theta[0] - np.pi).argmin())
    chosen = np.linspace(0, last, min(last + 1, MOST_ANGLES)).astype(int)
    rows = np.unique(np.linspace(0, len(views.sinograms) - 1, views.num_vo_rows + 2).astype(int)[1:-1])
    quarter = views.sinograms.shape[2] // 4
    found = [find_center_vo(views.sinograms[row, chosen], quarter, 3 * quarter, ncore=1) for row in rows]
    return float(np.median(found))


def _by_sliding_window(views: Views) -> float | None:
    from algotom.prep.calculation import find_center_projection

    front, back = (evenly(rows, MOST_ROWS) for rows in views.opposite)
    if views.too_small:
        return None
    if len(front) < 4:
        front, back = np.repeat(front, 4, axis=0), np.repeat(back, 4, axis=0)
    column = find_center_projection(front, back, chunk_height=len(front) - 1, ncore=1)
    return float(column) + 0.5  # it takes 1 off where find_center_360, on the same overlap, takes off 0.5


def _by_overlap(views: Views) -> float | None:
    from algotom.prep.calculation import find_center_360

    if views.too_small or not views.full_turn:
        return None
    last = int(np.abs(views.theta - views.theta[0] - 2 * np.pi).argmin())
    middle = views.sinograms[len(views.sinograms) // 2, : last + 1]
    sinogram = evenly(middle - middle.mean(axis=0), MOST_ROWS)
    return float(find_center_360(sinogram, WINDOW * sinogram.shape[1], ncore=1)[0])


AXIS_METHODS: dict[AxisMethodName, AxisMethod] = {
    "mirror": _by_mirror,
    "double wedge": _by_wedge,
    "phase correlation": _by_phase_correlation,
    "Vo": _by_vo,
    "sliding window": _by_sliding_window,
    "overlap": _by_overlap,
}
