"""The share of a sample that is empty: one number that users take from a volume, and that denoising must not move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .reconstructors import circle

__all__ = ["otsu_threshold", "porosity"]


def porosity(
    slices: NDArray[np.floating], threshold: float | None = None, *, mask: NDArray[np.bool_] | None = None
) -> float:
    """Share of the voxels whose attenuation is at or below a threshold: the pores, which absorb less than the solid.

    Parameters
    ----------
    slices : float, shape (..., y, x)
        Attenuation, in any unit.
    threshold : float, optional
        Attenuation that parts pores from solid; `otsu_threshold` of the slices if not given. Two volumes compare best
        at one threshold.
    mask : bool, shape (y, x), optional
        Where the sample is, the same in each slice; the inscribed circle if not given. Air around a sample that does
        not fill the circle would count as pores.

    Returns
    -------
    float
        0 (all solid) to 1 (all pore).

    Raises
    ------
    ValueError
        If the slices inside the mask are constant and no threshold is given, not finite, or none; if the threshold is
        not finite.
    TypeError
        If the mask is not bool.
    """
    if threshold is not None and not np.isfinite(threshold):
        raise ValueError(f"threshold must be a finite attenuation, got {threshold}")
    values = _inside(slices, mask)
    limit = _otsu(values) if threshold is None else threshold
    return float(np.mean(values <= limit))


def otsu_threshold(slices: NDArray[np.floating], *, mask: NDArray[np.bool_] | None = None) -> float:
    """Attenuation that parts the voxels into two classes with the least variance within them [1]_.

    With w the share of each class and m its mean, that is the largest w_1 w_2 (m_1 - m_2)^2 over a histogram of 256
    bins. A few outliers stretch the bins: take them off first.

    Parameters
    ----------
    slices : float, shape (..., y, x)
        Attenuation, in any unit.
    mask : bool, shape (y, x), optional
        Where the sample is; the inscribed circle if not given.

    Returns
    -------
    float
        In the unit of the slices.

    Raises
    ------
    ValueError
        If the slices inside the mask are constant, not finite, or none.
    TypeError
        If the mask is not bool.

    References
    ----------
    .. [1] Otsu, A threshold selection method from gray-level histograms, IEEE Transactions on Systems, Man, and
       Cybernetics 9(1), 62-66, 1979, doi 10.1109/TSMC.1979.4310076.
    """
    return _otsu(_inside(slices, mask))


def _inside(slices: NDArray[np.floating], mask: NDArray[np.bool_] | None) -> NDArray[np.floating]:
    inside = circle(slices.shape[-1]) > 0 if mask is None else np.asarray(mask)
    if inside.dtype != bool:
        raise TypeError(f"mask must be bool, got {inside.dtype}: compare it with 0 first")
    if inside.shape != slices.shape[-2:]:
        raise ValueError(f"mask must have the shape of a slice, {slices.shape[-2:]}, got {inside.shape}")
    values = slices[..., inside]
    if not values.size or not np.isfinite(values).all():
        raise ValueError("slices must be finite inside the mask, with one voxel at least")
    return values


def _otsu(values: NDArray[np.floating]) -> float:
    from skimage.filters import threshold_otsu

    if values.min() == values.max():
        raise ValueError(f"all voxels are {values.flat[0]}: no threshold parts pores from solid; give one")
    return float(threshold_otsu(values))  # type: ignore[no-untyped-call]
