"""Projections that cannot be used, found once for a scan by a few rows of all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.bad_frames import describe_bad_frames, judge_projections
from quietbeam.reconstruction.caveats import Caveat
from quietbeam.reconstruction.normalize import transmission, unlit_rows
from quietbeam.reconstruction.outliers import mask_unmeasured

from .calibration import brightest_row
from .scan import Scan

__all__ = ["find_bad_projections"]

NUM_ROWS = 5
"""Rows beside each other that are read, so that a file of whole frames is gone through once."""


def find_bad_projections(scan: Scan) -> tuple[NDArray[np.bool_], tuple[Caveat, ...]]:
    """Find projections without beam or without finite values, to be left out with their angles.

    Parameters
    ----------
    scan : Scan
        The measurement; some rows in the middle of all projections are read, or about the brightest one if those in
        the middle are not lit.

    Returns
    -------
    bad : bool, shape (angle,)
        True at bad projections, in the order of `scan.theta`; for `scan.without`.
    caveats : tuple of Caveat
        ``bad-projections``, which names the first ones in the order of acquisition; none if all are good.
    """
    acquired = np.argsort(scan.order if scan.positions is None else scan.positions, kind="stable")
    verdict = judge_projections(_probe(scan)[acquired], scan.normalised or "transmission")
    bad = np.zeros(scan.num_projections, np.bool_)
    bad[acquired] = verdict.bad
    return bad, describe_bad_frames("projections", verdict)


def _probe(scan: Scan) -> NDArray[np.float32]:
    """Read a few rows, flat-corrected unless they are so: float32, shape (angle, row, column)."""
    rows = _about(scan.num_rows // 2, scan.num_rows)
    if scan.normalised is not None:
        return mask_unmeasured(scan.projections(rows))
    flats, darks = _beam(scan, rows)
    if scan.flat_frames is not None and unlit_rows(flats, darks).all():
        rows = _about(brightest_row(scan.flat_frames, scan.dark_frames), scan.num_rows)
        flats, darks = _beam(scan, rows)
    return transmission(mask_unmeasured(scan.projections(rows)), flats, darks).values


def _beam(scan: Scan, rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return mask_unmeasured(scan.flats(rows)), mask_unmeasured(scan.darks(rows))


def _about(row: int, num_rows: int) -> slice:
    first = max(0, min(row - NUM_ROWS // 2, num_rows - NUM_ROWS))
    return slice(first, min(first + NUM_ROWS, num_rows))
