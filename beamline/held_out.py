"""The network held against the section that it never had as a target: what can be known without a known truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.caveats import Caveat
from quietbeam.reconstruction.resolution import FRC

__all__ = ["THRESHOLD", "HeldOut", "caveats_of_denoising", "contrast", "finest_period", "name_held_out"]

THRESHOLD = 1 / 7
"""Correlation at which the Fourier ring correlation is read."""

CONTRAST_TOLERANCE = 0.1
"""How far from 1 the contrast may be before the user is told."""

ADVICE = "train longer, or lower training.learning_rate if the held-out loss (training.jsonl) has risen"
ADVICE_IF_APPLIED = "the network was trained on another scan: train one on this scan (training.reuse=per-scan)"


class HeldOut(NamedTuple):
    """Some slices, each float32, shape (slice, y, x).

    Attributes
    ----------
    noisy : float32, shape (slice, y, x)
        Average of the input sections of the last pair.
    denoised : float32, shape (slice, y, x)
        The network's answer to it.
    target : float32, shape (slice, y, x)
        The target of the last pair, whose noise neither of the others has.
    """

    noisy: NDArray[np.float32]
    denoised: NDArray[np.float32]
    target: NDArray[np.float32]


def name_held_out(group: range) -> str:
    """Say in words what is not trained on.

    Parameters
    ----------
    group : range
        Slices; none stand for the last pair of sections.

    Returns
    -------
    str
        As "slices 3 to 5".
    """
    if not group:
        return "the last pair of sections"
    return f"slice {group[0]}" if len(group) == 1 else f"slices {group[0]} to {group[-1]}"


def contrast(held_out: HeldOut) -> float:
    """Measure the contrast of the denoised slices: 1 / slope of the section not seen against them.

    The noise of that section is independent, so the slope of its regression on the denoised slices is that of
    the sample's true values. It is 1 for the best denoiser, which gives expected values; above 1, contrast was lost.

    Parameters
    ----------
    held_out : HeldOut
        Slices.

    Returns
    -------
    float
        Contrast of the denoised slices over that of the sample; 0 for constant slices.
    """
    denoised = held_out.denoised - held_out.denoised.mean(dtype=np.float64)
    target = held_out.target - held_out.target.mean(dtype=np.float64)
    power, common = float((denoised**2).mean()), float((denoised * target).mean())
    return power / common if common > 0 else 0.0


def finest_period(frc: FRC) -> float | None:
    """Give the finest detail up to which two images correlate.

    Parameters
    ----------
    frc : FRC
        Of the two.

    Returns
    -------
    float or None
        Period in pixels; None where the correlation falls below the threshold nowhere.
    """
    frequency = frc.resolution(THRESHOLD)
    return 1 / frequency if frequency < 0.5 else None


def caveats_of_denoising(held_out: HeldOut, *, applied: bool = False) -> list[Caveat]:
    """Say where the denoised slices are no better than the noisy ones, or of another contrast.

    Parameters
    ----------
    held_out : HeldOut
        Slices.
    applied : bool
        Whether the network was trained on another scan.

    Returns
    -------
    list of Caveat
        Empty if all is well.
    """
    advice = ADVICE_IF_APPLIED if applied else ADVICE
    before, after = (
        float(np.square(held_out.target - images, dtype=np.float64).mean())
        for images in (held_out.noisy, held_out.denoised)
    )
    found = []
    if after >= before:
        text = f"squared distance to a section not seen {after:.3g} after denoising, {before:.3g} before"
        found.append(Caveat("denoising-does-not-help", f"{text}: {advice}"))
    value = contrast(held_out)
    if abs(value - 1) > CONTRAST_TOLERANCE:
        text = f"the denoised slices have {value:.2f} times the contrast of a section not seen"
        found.append(Caveat("contrast-changed", f"{text}: {advice}; do not measure values"))
    return found
