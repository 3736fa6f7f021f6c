"""From counts to line integrals: flats, darks, minus logarithm."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .outliers import MAD_TO_STD

__all__ = ["NormalizeSettings", "dead_pixels", "line_integrals", "transmission", "unlit_rows"]

LIT = 3.0
"""Median open beam of a row, in standard deviations of one frame's pixel, from which the row saw the beam."""


class NormalizeSettings(BaseModel):
    """How counts become line integrals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_transmission: float = Field(
        1e-3, gt=0, lt=1, description="Transmission that photon-starved pixels are set to before the logarithm."
    )
    dead_below: float = Field(
        0.1, ge=0, lt=1, description="A pixel is dead whose open beam is below this share of the median one; 0 = none."
    )


class Transmission(NamedTuple):
    """Flat-corrected projections.

    Attributes
    ----------
    values : float32, shape (angle, row, column)
        Share of the beam that came through; nan at dead pixels.
    dead : bool, shape (row, column)
        Pixels that saw no beam; all of an unlit row.
    """

    values: NDArray[np.float32]
    dead: NDArray[np.bool_]


def dead_pixels(open_beam: NDArray[np.float32], dead_below: float) -> NDArray[np.bool_]:
    """Find pixels that see next to nothing of the open beam, or nothing finite.

    Parameters
    ----------
    open_beam : float32, shape (row, column)
        Mean flat minus mean dark, in counts.
    dead_below : float
        Share of the row's median below which a pixel counts as dead.

    Returns
    -------
    bool, shape (row, column)
        True at dead pixels.
    """
    finite = np.where(np.isfinite(open_beam), open_beam, 0)
    level = np.median(finite, axis=1, keepdims=True)
    return np.asarray((finite <= dead_below * level) | (finite <= 0))


def unlit_rows(flats: NDArray[np.float32], darks: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find the detector rows that the beam did not reach: behind slits, or above and below a flat beam.

    A row is unlit if the median of its open beam is not above `LIT` standard deviations of one frame. They come from
    how the frames differ, apart from what changes a whole row; of single frames, from how neighbouring columns differ.

    Parameters
    ----------
    flats, darks : float32, shape (frame, row, column)
        Counts.

    Returns
    -------
    bool, shape (row,)
        True at unlit rows; each row is judged by itself.
    """
    flats, darks = (np.where(np.isfinite(frames), frames, np.float32(0)) for frames in (flats, darks))
    open_beam = flats.mean(axis=0) - darks.mean(axis=0)
    variance = _frame_variance(flats) + _frame_variance(darks)
    if len(flats) == len(darks) == 1 and flats.shape[2] > 1:
        steps = np.median(np.abs(np.diff(open_beam, axis=1)), axis=1)
        variance = np.square(MAD_TO_STD * steps) / 2
    return np.asarray(~(np.median(open_beam, axis=1) > LIT * np.sqrt(variance)))


def _frame_variance(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Variance of one frame's pixels, shape (row,); 0 of a single frame. The current of the ring may change."""
    if len(frames) == 1:
        return np.zeros(frames.shape[1], np.float32)
    pattern = frames - np.median(frames, axis=2, keepdims=True)
    return np.asarray(np.median(pattern.var(axis=0, ddof=1), axis=1))


def transmission(
    projections: NDArray[np.float32],
    flats: NDArray[np.float32],
    darks: NDArray[np.float32],
    settings: NormalizeSettings | None = None,
) -> Transmission:
    """Divide the projections by the open beam, (p - dark) / (flat - dark).

    Parameters
    ----------
    projections, flats, darks : float32, shapes (angle, row, column), (frame, row, column), (frame, row, column)
        Counts.
    settings : NormalizeSettings, optional
        Which pixels count as dead.

    Returns
    -------
    Transmission
        Transmission and the dead pixels, which are nan in it.
    """
    settings = settings or NormalizeSettings()
    dark = darks.mean(axis=0)
    open_beam = flats.mean(axis=0) - dark
    dead = dead_pixels(open_beam, settings.dead_below) | unlit_rows(flats, darks)[:, None]
    open_beam[dead] = np.nan
    return Transmission((projections - dark) / open_beam, dead)


def line_integrals(
    values: NDArray[np.float32], settings: NormalizeSettings | None = None
) -> tuple[NDArray[np.float32], int]:
    """Take the minus logarithm of a transmission (Beer-Lambert).

    Parameters
    ----------
    values : float32, any shape
        Transmission.
    settings : NormalizeSettings, optional
        Floor of photon-starved pixels.

    Returns
    -------
    float32, the same shape
        Attenuation times path length, without unit.
    int
        How many values were at or below the floor and were set to it.
    """
    settings = settings or NormalizeSettings()
    starved = values <= settings.min_transmission
    return -np.log(np.where(starved, np.float32(settings.min_transmission), values)), int(starved.sum())
