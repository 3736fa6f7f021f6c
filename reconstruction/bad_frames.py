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
DIMMED = 0.8
"""Light after a fall, over that before it, from which a change of the beam that passes is told."""
NUM_STEADIER = 5
"""How much steadier the light before and after a step of the beam is than the step, in its logarithm."""
ALIKE = 0.25
"""Most that a step may differ between the parts of the image, over its height, in the logarithm of the light."""
BRIGHT_SHARE = 0.9
"""Quantile of a projection's transmission that is its level: most often air, whatever the sample does."""
NUM_BLOCKS, MIN_BLOCK = 8, 16
"""Blocks of columns that a flat is looked at in, and the least columns of one."""
NUM_NAMED = 5
"""Frames that a message names."""
_TINY = 1e-6
"""Transmission that has a logarithm."""


class Verdict(NamedTuple):
    """Which frames cannot be used.

    Attributes
    ----------
    bad : bool, shape (frame,)
        True where the frame is to be left out.
    levels : float64, shape (frame,)
        Light of each frame; nan where it has no finite values. Of flats, at the darkest place, over the brightest flat;
        of darks, at the brightest place, over the flats; of projections, the transmission of the brightest tenth.
    dimmed : bool, shape (frame,), optional
        Of projections, those that are used although the beam was dimmer and came back after them.
    """

    bad: NDArray[np.bool_]
    levels: NDArray[np.float64]
    dimmed: NDArray[np.bool_] | None = None


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
    light = _block_means(flats) - np.nan_to_num(_lowest(_block_means(darks)))  # not the flats' fault
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

    Longer runs that are dim at once in the whole image, and as bright as before at once, are `Verdict.dimmed`.

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
    dimmed = np.zeros_like(bad)
    if kind == "transmission":
        bad[~bad] |= _blank_runs(levels[~bad])
        dimmed[~bad] = _dimmed_runs(values[~bad], levels[~bad])
    return Verdict(bad, levels, dimmed)


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
        ``bad-flats``, ``bad-darks`` or ``bad-projections`` with the first frames, counted from 0, and ``beam-changes``
        with the frames of a dimmer beam; none if all are good.
    """
    numbers, dimmed = np.flatnonzero(verdict.bad), _describe_dimmed(verdict)
    if not numbers.size:
        return dimmed
    whole = "of the brightest's light" if kind == "flats" else "of the open beam's light"
    good = verdict.levels[~verdict.bad]
    others = f"; the others have {good.min():.2f} to {good.max():.2f}" if good.size else ""
    verb = "is" if numbers.size == 1 else "are"
    shown = _name_frames(numbers, verdict.levels, whole)
    message = f"{numbers.size} of {verdict.bad.size} {kind} {verb} left out: {shown}{others}"
    return (Caveat(f"bad-{kind}", message), *dimmed)


def _describe_dimmed(verdict: Verdict) -> tuple[Caveat, ...]:
    """Name the first runs of dimmed frames; bad ones within or beside them do not part a run."""
    if verdict.dimmed is None or not verdict.dimmed.any():
        return ()
    good = np.flatnonzero(~verdict.bad)
    dimmed, levels = verdict.dimmed[good], verdict.levels[good]
    starts, stops = np.flatnonzero(np.diff(np.r_[False, dimmed, False])).reshape(-1, 2).T
    named = []
    for start, stop in list(zip(starts, stops, strict=True))[:NUM_NAMED]:
        level = np.median(levels[start:stop]) / np.median(levels[max(start - NUM_BEFORE, 0) : start])
        named.append(f"{good[start]} to {good[stop - 1]} ({level:.2f})")
    more = ", ..." if len(starts) > NUM_NAMED else ""
    message = (
        f"projections {', '.join(named)}{more} have this share of the light of those before and after them: the beam "
        "seems to have been dimmer; they are used as they are, with too much attenuation"
    )
    return (Caveat("beam-changes", message),)


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


def _dimmed_runs(values: NDArray[np.float32], levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find runs between a step down and a step up to the former level; on each step, one frame may be in between."""
    dimmed = np.zeros(levels.size, np.bool_)
    heights, logs = _beam_steps(values, levels)
    falls = np.flatnonzero((heights < np.log(DIMMED)) & (heights > np.log(BLANK))).tolist()
    rises = np.flatnonzero(heights > -np.log(DIMMED)).tolist()
    end = 0
    for fall in falls:
        rise = next((frame for frame in rises if frame > fall), None)
        if fall < end or rise is None:
            continue
        before, after = np.median(logs[_beside(fall)[0]]), np.median(logs[_beside(rise)[1]])
        if abs(after - before) * NUM_STEADIER < -heights[fall]:
            end = rise
            inside = logs[fall : end + 1] < before + heights[fall] / 2
            dimmed[fall : end + 1] = inside & (inside.sum() > LONGEST_DIM)
    return dimmed


def _beam_steps(
    values: NDArray[np.float32], levels: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the steps of the light across each frame, 0 if not of the whole image or not sudden, and its logarithms."""
    blocks = _block_means(values)
    blocks = blocks[:, np.isfinite(blocks).all(axis=0)]
    logs, heights = np.log(np.maximum(levels, _TINY)), np.zeros(levels.size)
    if not blocks.size:
        return heights, logs
    light = np.log(np.maximum(blocks, _TINY))
    change = light[2:] - light[:-2]
    lowest, middle, highest = np.quantile(change, [0.1, 0.5, 0.9], axis=1)
    heights[1:-1] = np.where(highest - lowest < ALIKE * np.abs(middle), middle, 0)
    for frame in np.flatnonzero(np.abs(heights) > -np.log(DIMMED)).tolist():
        beside = [logs[window] for window in _beside(frame)]
        steady = all(part.size == NUM_BEFORE and NUM_STEADIER * np.ptp(part) < abs(heights[frame]) for part in beside)
        heights[frame] *= steady
    return heights, logs


def _beside(frame: int) -> list[slice]:
    """Frames before and after one; fewer at the ends."""
    return [slice(max(frame - NUM_BEFORE, 0), frame), slice(frame + 1, frame + 1 + NUM_BEFORE)]


def _run_length(condition: NDArray[np.bool_]) -> int:
    """Count the elements up to the first that is False."""
    return condition.size if condition.all() else int(np.argmin(condition))


def _spread(levels: NDArray[np.float64]) -> float:
    return float(levels.max() / levels.min()) if levels.min() > 0 else np.inf
