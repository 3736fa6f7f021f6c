"""From counts to line integrals: flats, darks, minus logarithm."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .outliers import MAD_TO_STD, mask_unmeasured

__all__ = [
    "NormalizeSettings",
    "Transmission",
    "average_frames",
    "dead_pixels",
    "flat_groups",
    "line_integrals",
    "transmission",
    "unlit_rows",
]

LIT = 3.0
"""Open beam, in standard errors of its average, from which it is no noise."""
BRIGHT = 0.9
"""Quantile of a row's open beam that is its level: the beam may reach a part of the columns only."""


class NormalizeSettings(BaseModel):
    """How counts become line integrals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    average: Literal["mean", "median"] = Field(
        "mean", description="How flats and darks are averaged; the median bears zingers and takes a quarter more noise."
    )
    interpolate_flats: bool = Field(
        True, description="Follow the beam in time between flats taken before, during and after; else average them all."
    )
    min_transmission: float = Field(
        1e-3, gt=0, lt=1, description="Transmission that photon-starved pixels are set to before the logarithm."
    )
    dead_below: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="A pixel is dead whose open beam is below this share of the brightest tenth of its row; 0 = none.",
    )


class Transmission(NamedTuple):
    """Flat-corrected projections.

    Attributes
    ----------
    values : float32, shape (angle, row, column)
        Share of the beam that came through; nan at dead pixels.
    dead : bool, shape (row, column)
        Pixels that saw no beam; all of an unlit row.
    inverted : bool, shape (row, column)
        Those of the dead pixels of lit rows that are brighter without beam than with it, by more than noise.
    """

    values: NDArray[np.float32]
    dead: NDArray[np.bool_]
    inverted: NDArray[np.bool_]


def average_frames(frames: NDArray[np.float32], average: Literal["mean", "median"] = "mean") -> NDArray[np.float32]:
    """Average frames pixel by pixel over what is finite.

    Parameters
    ----------
    frames : float32, shape (frame, row, column)
        Counts.
    average : {'mean', 'median'}
        Which average.

    Returns
    -------
    float32, shape (row, column)
        nan where no frame has a finite value.
    """
    measured = np.isfinite(frames)
    never = ~measured.any(axis=0)
    known = frames if measured.all() else np.where(measured, frames, np.where(never, np.float32(0), np.float32(np.nan)))
    mean = np.nanmean(known, axis=0, dtype=np.float64) if average == "mean" else np.nanmedian(known, axis=0)
    return np.where(never, np.float32(np.nan), mean.astype(np.float32))


def dead_pixels(open_beam: NDArray[np.float32], dead_below: float) -> NDArray[np.bool_]:
    """Find pixels that see next to nothing of the open beam, or nothing finite.

    Parameters
    ----------
    open_beam : float32, shape (row, column)
        Mean flat minus mean dark, in counts.
    dead_below : float
        Share of the row's level, the `BRIGHT` quantile, below which a pixel counts as dead.

    Returns
    -------
    bool, shape (row, column)
        True at dead pixels.
    """
    finite = np.where(np.isfinite(open_beam), open_beam, 0)
    level = np.quantile(finite, BRIGHT, axis=1, keepdims=True)
    return np.asarray((finite <= dead_below * level) | (finite <= 0))


def unlit_rows(flats: NDArray[np.float32], darks: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find the detector rows that the beam did not reach: behind slits, or above and below a flat beam.

    A row is unlit if the `BRIGHT` quantile of its average open beam is within `LIT` standard errors, or within one
    standard deviation of a single frame without light, as much as an offset may drift however many frames there are.

    Parameters
    ----------
    flats, darks : float32, shape (frame, row, column)
        Counts.

    Returns
    -------
    bool, shape (row,)
        True at unlit rows; each row is judged by itself.
    """
    return _find_unlit(flats, darks)[0]


def _find_unlit(
    flats: NDArray[np.float32], darks: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Tell unlit rows, and how much open beam noise and a drift of the offset explain in each: shapes (row,)."""
    flats, darks = _fill_with_average(flats), _fill_with_average(darks)
    level = np.quantile(average_frames(flats) - average_frames(darks), BRIGHT, axis=1)
    flat_variance, dark_variance = _frame_variance(flats), _frame_variance(darks)
    error = np.sqrt(flat_variance / len(flats) + dark_variance / len(darks))
    noise = np.maximum(LIT * error, np.sqrt(np.minimum(flat_variance, dark_variance)))
    return np.asarray(~(level > noise)), np.asarray(noise)


def _fill_with_average(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put the other frames' average where a frame is not finite; 0 where none is."""
    finite = np.isfinite(frames)
    return frames if finite.all() else np.where(finite, frames, np.nan_to_num(average_frames(frames), nan=0.0))


def _frame_variance(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Variance of one frame's pixels, shape (row,): from how frames differ, of a single one how neighbours differ.

    What changes a whole row is no noise: the current of the ring may change.
    """
    if len(frames) == 1 and frames.shape[2] > 1:
        steps = np.median(np.abs(np.diff(frames[0], axis=1)), axis=1)
        return np.asarray(np.square(MAD_TO_STD * steps) / 2)
    if len(frames) == 1:
        return np.zeros(frames.shape[1], np.float32)
    pattern = frames - np.median(frames, axis=2, keepdims=True)
    return np.asarray(np.median(pattern.var(axis=0, ddof=1), axis=1))


def flat_groups(flat_positions: NDArray[np.float64], positions: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Split the flats into those taken one after the other: between two groups lie projections.

    Parameters
    ----------
    flat_positions : float64, shape (frame,)
        When each flat was taken, in frames of the acquisition; darks among them do not part a group.
    positions : float64, shape (angle,)
        When each projection was taken.

    Returns
    -------
    list of int arrays
        Indices of the flats of each group, in the order of acquisition.
    """
    taken_before = np.searchsorted(np.sort(positions), flat_positions)
    return [np.flatnonzero(taken_before == count) for count in np.unique(taken_before)]


def transmission(
    projections: NDArray[np.float32],
    flats: NDArray[np.float32],
    darks: NDArray[np.float32],
    settings: NormalizeSettings | None = None,
    *,
    flat_positions: NDArray[np.float64] | None = None,
    positions: NDArray[np.float64] | None = None,
) -> Transmission:
    """Divide the projections by the open beam, (p - dark) / (flat - dark).

    Flats taken before, during and after the projections are averaged group by group; between the middles of two
    groups, the flat goes linearly from one to the other, and it is constant before the first and after the last.

    Parameters
    ----------
    projections, flats, darks : float32, shapes (angle, row, column), (frame, row, column), (frame, row, column)
        Counts. Values of flats and darks that are not finite are left out where other frames have one.
    settings : NormalizeSettings, optional
        Averages, and which pixels count as dead.
    flat_positions, positions : float64, shapes (frame,), (angle,), optional
        When each flat and each projection was taken, in frames of the acquisition; without them all flats are one
        group.

    Returns
    -------
    Transmission
        Transmission and the dead pixels, which are nan in it: also those that one group of flats did not see.

    Raises
    ------
    ValueError
        If there is not one position for each flat and each projection.
    """
    settings = settings or NormalizeSettings()
    groups, lower, share = _place_in_time(flats, projections, flat_positions, positions, settings)
    dark = average_frames(darks, settings.average)
    open_beams = np.stack([average_frames(flats[group], settings.average) - dark for group in groups])
    unlit, noise = _find_unlit(flats, darks)
    dead = unlit[:, None] | np.any([dead_pixels(beam, settings.dead_below) for beam in open_beams], axis=0)
    inverted = ~unlit[:, None] & (open_beams.mean(axis=0) < -noise[:, None])
    open_beams[:, dead] = np.nan
    upper = np.minimum(lower + 1, len(groups) - 1)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is filled with its neighbours later
        values = projections - dark
        for image, before, after, weight in zip(values, lower, upper, share, strict=True):
            image /= open_beams[before] + weight * (open_beams[after] - open_beams[before])
    return Transmission(mask_unmeasured(values), dead, inverted)


def _place_in_time(
    flats: NDArray[np.float32],
    projections: NDArray[np.float32],
    flat_positions: NDArray[np.float64] | None,
    positions: NDArray[np.float64] | None,
    settings: NormalizeSettings,
) -> tuple[list[NDArray[np.intp]], NDArray[np.intp], NDArray[np.float32]]:
    """Give the groups of flats, and for each projection the group before it and the share of the next one."""
    if (flat_positions is None) != (positions is None):
        raise ValueError("transmission expects the positions of both flats and projections, or of neither")
    if flat_positions is None or positions is None or not settings.interpolate_flats:
        flat_positions, positions = np.zeros(len(flats)), np.zeros(len(projections))
    if (len(flat_positions), len(positions)) != (len(flats), len(projections)):
        raise ValueError(
            f"transmission expects a position for each of {len(flats)} flats and {len(projections)} projections, got "
            f"{len(flat_positions)} and {len(positions)}"
        )
    groups = flat_groups(flat_positions, positions)
    centres = np.array([flat_positions[group].mean() for group in groups])
    place = np.interp(positions, centres, np.arange(len(groups)))
    lower = np.floor(place).astype(np.intp)
    return groups, lower, (place - lower).astype(np.float32)


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
