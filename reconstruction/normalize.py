"""From counts to line integrals: flats, darks, minus logarithm."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["NormalizeSettings", "dead_pixels", "line_integrals", "transmission"]


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
        Pixels that saw no beam.
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
    dead = dead_pixels(open_beam, settings.dead_below)
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
