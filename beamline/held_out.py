"""The network held against the section that it never had as a target: what can be known without a known truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.caveats import Caveat

__all__ = ["HeldOut", "caveats_of_denoising", "contrast"]

CONTRAST_TOLERANCE = 0.1
"""How far from 1 the contrast may be before the user is told."""


class HeldOut(NamedTuple):
    """Some slices, each float32, shape (slice, y, x).

    Attributes
    ----------
    noisy : float32, shape (slice, y, x)
        Average of all sections but the held-out one.
    denoised : float32, shape (slice, y, x)
        The network's answer to it.
    target : float32, shape (slice, y, x)
        The held-out section, whose noise neither of the others has.
    """

    noisy: NDArray[np.float32]
    denoised: NDArray[np.float32]
    target: NDArray[np.float32]


def contrast(held_out: HeldOut) -> float:
    """Measure the contrast of the denoised slices: 1 / slope of the held-out section against them.

    The noise of the held-out section is independent, so the slope of its regression on the denoised slices is that of
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


def caveats_of_denoising(held_out: HeldOut) -> list[Caveat]:
    """Say where the denoised slices are no better than the noisy ones, or of another contrast.

    Parameters
    ----------
    held_out : HeldOut
        Slices.

    Returns
    -------
    list of Caveat
        Empty if all is well.
    """
    before, after = (
        float(np.square(held_out.target - images, dtype=np.float64).mean())
        for images in (held_out.noisy, held_out.denoised)
    )
    found = []
    if after >= before:
        text = f"squared distance to the held-out section {after:.3g} after denoising, {before:.3g} before"
        found.append(Caveat("denoising-does-not-help", f"{text}: train longer (training.minutes)"))
    value = contrast(held_out)
    if abs(value - 1) > CONTRAST_TOLERANCE:
        text = f"the denoised slices have {value:.2f} times the contrast of the held-out section"
        found.append(Caveat("contrast-changed", f"{text}: train longer (training.minutes), and do not measure values"))
    return found
