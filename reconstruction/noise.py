"""How strong the noise of a reconstruction is, measured without the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .reconstructors import circle

__all__ = ["noise_of_sections"]


def noise_of_sections(slices: NDArray[np.float32], shares: NDArray[np.floating]) -> NDArray[np.float64]:
    """Estimate the noise of the full reconstruction from how much the reconstructions of its sections differ.

    A section that has the share s_k of the projections has the noise variance v / s_k, where v is that of the full
    reconstruction, sum_k s_k x_k. The mean of sum_k s_k (x_k - full)^2 is then (K - 1) v. Whatever differs between the
    sections counts as noise, also the streaks of sections with few projections: the estimate is then too high.

    Parameters
    ----------
    slices : float32, shape (slice, section, y, x)
        Reconstructions of the sections.
    shares : float, shape (section,)
        Share of the projections in each section, with sum 1.

    Returns
    -------
    float64, shape (slice,)
        Standard deviation inside the circle of each slice, in the unit of `slices`.

    Raises
    ------
    ValueError
        If there are fewer than two sections, or not as many shares.
    """
    num_sections = slices.shape[1]
    if num_sections < 2 or len(shares) != num_sections:
        raise ValueError(f"noise needs two or more sections and a share of each, got {num_sections} and {len(shares)}")
    inside = circle(slices.shape[-1]) > 0
    weights = np.asarray(shares, np.float64)
    return np.array([_noise_of_one(sections[:, inside], weights) for sections in slices])


def _noise_of_one(sections: NDArray[np.float32], shares: NDArray[np.float64]) -> float:
    full = shares @ sections
    spread = [share * np.square(section - full).mean() for share, section in zip(shares, sections, strict=True)]
    return float(np.sqrt(sum(spread) / (len(shares) - 1)))
