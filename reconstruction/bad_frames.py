"""Frames that cannot be used: flats without beam, darks with light, projections of a closed shutter.

Frames are judged on a few rows of all of them, once for a scan, so that no result depends on what is read together.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .caveats import Caveat

__all__ = ["Verdict", "describe_bad_frames", "judge_darks", "judge_flats", "judge_projections"]

BLANK, DIM = 0.1, 0.5
"""Light of a frame, over that of those beside it, below which it is blank, and below which it is dim."""
LEAK = 0.05
"""Light of a dark, over that of the flats, from which the shutter was open."""
LONGEST_DIM = 3
"""Dim frames in a row that the shutter may explain; more of them are a change of the beam, which can be corrected."""
STEADY, STEADY_BEFORE_DIM = 1.5, 1.25
"""Largest over smallest of the levels before a fall that the sample does not explain: it darkens slowly as it turns."""
NUM_BEFORE = 3
"""Frames that a fall is measured from."""
BRIGHT_SHARE = 0.9
"""Quantile of a projection's transmission that is its level: most often air, whatever the sample does."""
NUM_BLOCKS, MIN_BLOCK = 8, 16
"""Blocks of columns that a flat is looked at in, and the least columns of one."""
NUM_NAMED = 5
"""Frames that a message names."""


class Verdict(NamedTuple):
    """Which frames cannot be used.

    Attributes
    ----------
    bad : bool, shape (frame,)
        True where the frame is to be left out.
    levels : float64, shape (frame,)
        Light of each frame; nan where it has no finite values. Of flats, at the darkest place, over the brightest flat;
        of darks, at the brightest place, over the flats; of projections, the transmission of the brightest tenth.
    """

    bad: NDArray[np.bool_]
    levels: NDArray[np.float64]


def judge_flats(flats: NDArray[np.float32], darks: NDArray[np.float32]) -> Verdict:
    """Find flats taken with the beam off, the shutter closed or on its way, or that hold nothing finite.

    A flat is bad that is somewhere darker than a tenth of the brightest, or than half of the good ones before and
    after it. A beam that decays or changes between two groups of flats makes none of them bad.

    Parameters
    ----------
    flats, darks : float32, shape (frame, row, column)
        Counts of a few rows, in the order of acquisition.

    Returns
    -------
    Verdict
        Of the flats.
    """
    light = _block_means(flats) - _lowest(_block_means(darks))
    brightest = _highest(light)
    lit = _lit(brightest)
    levels = (light[:, lit] / brightest[lit]).min(axis=1) if lit.any() else np.zeros(len(flats))
    levels[np.isnan(light).all(axis=1)] = np.nan
    bad = ~(levels >= BLANK)
    while (dim := ~bad & _darker_than_neighbours(levels, bad)).any():
        bad |= dim
    return Verdict(bad, levels)


def judge_darks(flats: NDArray[np.float32], darks: NDArray[np.float32]) -> Verdict:
    """Find darks that saw light, or that hold nothing finite.

    Parameters
    ----------
    flats, darks : float32, shape (frame, row, column)
        Counts of a few rows.

    Returns
    -------
    Verdict
        Of the darks.
    """
    counts = _block_means(darks)
    lowest = _lowest(counts)
    brightest = _highest(_block_means(flats)) - lowest
    lit = _lit(brightest)
    levels = ((counts - lowest)[:, lit] / brightest[lit]).max(axis=1, initial=0)
    levels[np.isnan(counts).all(axis=1)] = np.nan
    return Verdict(~(levels <= LEAK), levels)


def judge_projections(values: NDArray[np.float32], kind: Literal["transmission", "attenuation"]) -> Verdict:
    """Find projections without beam: blank ones, those that hold nothing finite or one value only.

    Blank is a run of frames of any length that falls suddenly to less than a tenth of the steady level before or after
    it; so is a run of up to three that falls to less than half of both. A sample that darkens the whole field of view
    as it turns, such as a plate seen edge on, does so from frame to frame and is none. Attenuation is judged only by
    being finite and not constant, since its scale is not known.

    Parameters
    ----------
    values : float32, shape (frame, row, column)
        A few rows of all projections, in the order of acquisition; nan at dead pixels.
    kind : {'transmission', 'attenuation'}
        What the values are.

    Returns
    -------
    Verdict
        Of the projections.
    """
    finite = np.isfinite(values)
    measurable = int(finite.any(axis=0).sum())
    empty = 2 * finite.sum(axis=(1, 2)) <= measurable
    levels = np.full(len(values), np.nan)
    constant = np.zeros(len(values), np.bool_)
    for frame in np.flatnonzero(~empty):
        pixels = values[frame][finite[frame]]
        levels[frame] = np.quantile(pixels, BRIGHT_SHARE)
        constant[frame] = pixels.size > 1 and pixels.min() == pixels.max()
    bad = empty | (constant & ~constant[~empty].all())
    if kind == "transmission":
        bad[~bad] |= _blank_runs(levels[~bad])
    return Verdict(bad, levels)


def describe_bad_frames(kind: Literal["flats", "darks", "projections"], verdict: Verdict) -> tuple[Caveat, ...]:
    """Tell which frames are left out, and what they show.

    Parameters
    ----------
    kind : {'flats', 'darks', 'projections'}
        What was judged.
    verdict : Verdict
        The judgement.

    Returns
    -------
    tuple of Caveat
        ``bad-flats``, ``bad-darks`` or ``bad-projections`` with the first frames, counted from 0; none if all are good.
    """
    numbers = np.flatnonzero(verdict.bad)
    if not numbers.size:
        return ()
    whole = "of the brightest's light" if kind == "flats" else "of the open beam's light"
    good = verdict.levels[~verdict.bad]
    others = f"; the others have {good.min():.2f} to {good.max():.2f}" if good.size else ""
    verb = "is" if numbers.size == 1 else "are"
    shown = _name_frames(numbers, verdict.levels, whole)
    message = f"{numbers.size} of {verdict.bad.size} {kind} {verb} left out: {shown}{others}"
    return (Caveat(f"bad-{kind}", message),)


def _name_frames(numbers: NDArray[np.intp], levels: NDArray[np.float64], whole: str) -> str:
    """Name the first frames and what they have of the whole."""
    seen = ["not finite" if np.isnan(levels[number]) else f"{levels[number]:.2f}" for number in numbers]
    if numbers.size == 1:
        return f"frame {numbers[0]} " + (f"has {seen[0]} {whole}" if seen[0] != "not finite" else "is not finite")
    named = [f"{number} ({level})" for number, level in zip(numbers, seen, strict=True)][:NUM_NAMED]
    more = ", ..." if numbers.size > NUM_NAMED else ""
    return f"frames {', '.join(named)}{more} {whole}"


def _block_means(frames: NDArray[np.float32]) -> NDArray[np.float64]:
    """Average each frame over blocks of columns in each row: shape (frame, block); nan where half is not finite."""
    num_blocks = int(np.clip(frames.shape[2] // MIN_BLOCK, 1, NUM_BLOCKS))
    means = []
    for block in np.array_split(frames, num_blocks, axis=2):
        finite = np.isfinite(block)
        count = finite.sum(axis=2)
        total = np.where(finite, block, 0).sum(axis=2, dtype=np.float64)
        means.append(np.where(2 * count > block.shape[2], total / np.maximum(count, 1), np.nan))
    return np.concatenate(means, axis=1)


def _lowest(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lowest of the finite levels over the frames; nan where there is none."""
    return -_highest(-levels)


def _highest(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    highest = np.where(np.isnan(levels), -np.inf, levels).max(axis=0)
    return np.where(np.isinf(highest), np.nan, highest)


def _lit(brightest: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell the blocks in the bright part of the beam, where its edge cannot come and go."""
    light = np.nan_to_num(brightest, nan=0.0)
    return np.asarray((light > DIM * light.max()) & (light > 0))


def _darker_than_neighbours(levels: NDArray[np.float64], bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell frames with less than `DIM` of the good frame before and of the one after them, of those that there are."""
    good = np.flatnonzero(~bad)
    known = np.concatenate([[np.inf], levels[good], [np.inf]])
    beside = np.minimum(known[:-2], known[2:])
    darker = np.zeros_like(bad)
    darker[good] = np.isfinite(beside) & (levels[good] < DIM * beside)
    return darker


def _blank_runs(levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find falls of the light in both directions of time: what is dim must be so from both sides."""
    blank, dim = _falls(levels)
    blank_backwards, dim_backwards = (found[::-1] for found in _falls(levels[::-1]))
    return np.asarray(blank | blank_backwards | (dim & dim_backwards))


def _falls(levels: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Walk along the levels and mark sudden falls to blank frames, and short runs of dim ones.

    On the way to a blank frame the shutter may take some dim ones. A run of more dim frames is the new level.
    """
    blank, dim = np.zeros(levels.size, np.bool_), np.zeros(levels.size, np.bool_)
    before, start = levels[:0], 0
    while start < levels.size:
        reference = float(np.median(before)) if before.size else 0.0
        below = _run_length(levels[start:] < DIM * reference) if reference > 0 else 0
        lead = _run_length(levels[start : start + below] >= BLANK * reference)
        core = _run_length(levels[start + lead : start + below] < BLANK * reference)
        stop = start + max(lead + core, 1)
        if below and lead <= LONGEST_DIM:
            blank[start:stop] = core > 0 and _spread(before) < STEADY
            dim[start:stop] = core == 0 and _spread(before) < STEADY_BEFORE_DIM
        light = levels[start:stop][~(blank | dim)[start:stop]]
        before, start = np.concatenate([before, light])[-NUM_BEFORE:], stop
    return blank, dim


def _run_length(condition: NDArray[np.bool_]) -> int:
    """Count the elements up to the first that is False."""
    return condition.size if condition.all() else int(np.argmin(condition))


def _spread(levels: NDArray[np.float64]) -> float:
    return float(levels.max() / levels.min()) if levels.min() > 0 else np.inf
