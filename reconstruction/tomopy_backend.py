"""The reconstruction and phase retrieval of tomopy, in the units and conventions of this package.

tomopy is not on PyPI, so it is imported only when called for: ``conda install -c conda-forge tomopy``. Its results are
given as they are, for those who compare with earlier work; `gridrec` and `paganin` of this package are more exact.

Facts about tomopy 1.15 [1]_ that matter here, each shown by a test:

- its gridrec takes the centre as this package does, 0 for the centre of the first pixel, but puts it on a pixel of the
  slice, right of and above the middle: the rows are shifted before;
- it works on the next power of two of columns, without padding beyond, and drops the mean of each row: a wide object is
  cupped and surrounded by negative values. Padding to twice the width leaves a small part of it;
- its values are a tenth or more too high at any width;
- its Hann window needs the parameter 1; the default cuts at half of the highest frequency and rises again beyond;
- its phase filter lies half a frequency step beside the transform for an even number of pixels, a whole one for an odd
  number, and for some odd ones it pads by nothing, which ruins the image: images get an even number before.

References
----------
.. [1] Gürsoy et al., TomoPy: a framework for the analysis of synchrotron tomographic data, J. Synchrotron Rad. 21,
   1188-1193, 2014, doi 10.1107/S1600577514013939.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .angles import angular_weights
from .errors import ReductionError
from .filters import BUTTERWORTH_CUTOFF, BUTTERWORTH_ORDER, FilterName, padded_length

__all__ = ["tomopy_gridrec", "tomopy_is_installed", "tomopy_paganin"]

_FILTERS: dict[str, tuple[str, tuple[float, ...]]] = {
    # tomopy's name and parameters
    "ram-lak": ("ramlak", (1.0,)),
    "shepp-logan": ("shepp", (1.0,)),
    "cosine": ("cosine", (1.0,)),
    "hann": ("hann", (1.0,)),
    "butterworth": ("butterworth", (BUTTERWORTH_CUTOFF, BUTTERWORTH_ORDER)),
}
_CM_PER_M = 100.0


def tomopy_is_installed() -> bool:
    """Whether tomopy can be imported, with its compiled libraries."""
    try:
        _tomopy()
    except ReductionError:
        return False
    return True


def tomopy_gridrec(
    sinograms: NDArray[np.float32],
    theta: NDArray[np.float64],
    rotation_axis: float,
    *,
    filter_name: FilterName = "ram-lak",
    weights: NDArray[np.float64] | None = None,
    num_threads: int = 1,
    padded: bool = True,
) -> NDArray[np.float32]:
    """Reconstruct slices with tomopy's gridrec.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals.
    theta : float64, shape (angle,)
        Angles in radians.
    rotation_axis : float
        Column of the axis; 0 is the centre of the first pixel.
    filter_name : {"ram-lak", "shepp-logan", "cosine", "hann", "butterworth"}
        Window of the ramp filter.
    weights : float64, shape (angle,), optional
        Share of the turn of each projection in radians; `angular_weights` of `theta` if not given.
    num_threads : int
        Threads of tomopy.
    padded : bool
        Pad the rows with zeros to twice their width. Without it, it is faster and as most call it, and all but the
        middle of a wide object is wrong, or all of it where the axis is not in the middle.

    Returns
    -------
    float32, shape (row, column, column)
        Slices in the unit of `sinograms` per pixel, a tenth or more too high, the axis in their middle.

    Raises
    ------
    ReductionError
        If tomopy is not installed.
    """
    tomopy = _tomopy()
    size = sinograms.shape[-1]
    name, parameters = _FILTERS[filter_name]
    weights = angular_weights(theta) if weights is None else weights
    # tomopy gives each projection pi / num_angles.
    shares = (weights * theta.size / np.pi)[:, None].astype(np.float32)
    rows = _shift(sinograms * shares, theta, padded_length(size) if padded else size, num_threads)
    slices = tomopy.recon(
        rows,
        theta,
        center=rotation_axis,
        sinogram_order=True,
        algorithm="gridrec",
        filter_name=name,
        filter_par=parameters,
        num_gridx=size,
        num_gridy=size,
        ncore=num_threads,
    )
    return np.asarray(slices, dtype=np.float32)


def tomopy_paganin(
    transmission: NDArray[np.float32], *, delta_beta: float, energy: float, distance: float, pixel_size: float
) -> NDArray[np.float32]:
    """Filter projections with tomopy's single-distance phase retrieval for one material.

    Parameters
    ----------
    transmission : float32, shape (angle, row, column)
        Flat-corrected projections.
    delta_beta : float
        Ratio of the refractive index's decrement to its imaginary part.
    energy : float
        Photon energy in keV.
    distance : float
        From the sample to the detector, in metres.
    pixel_size : float
        Size of a pixel in metres.

    Returns
    -------
    float32, shape (angle, row, column)
        Filtered transmission, its mean kept; the minus logarithm of it is the line integral of the attenuation.

    Raises
    ------
    ReductionError
        If tomopy is not installed.
    ValueError
        If one of the four numbers is not above 0.

    References
    ----------
    .. [1] Paganin et al., Simultaneous phase and amplitude extraction from a single defocused image of a homogeneous
       object, J. Microscopy 206, 33-40, 2002, doi 10.1046/j.1365-2818.2002.01010.x.
    """
    if not min(delta_beta, energy, distance, pixel_size) > 0:
        raise ValueError(
            "tomopy's phase retrieval expects delta_beta, energy (keV), distance (m) and pixel_size (m) above 0, "
            f"got {delta_beta}, {energy}, {distance}, {pixel_size}"
        )
    tomopy = _tomopy()
    num_rows, num_columns = transmission.shape[1:]
    even = np.pad(transmission, ((0, 0), (0, num_rows % 2), (0, num_columns % 2)), mode="edge")
    filtered = tomopy.retrieve_phase(
        even,
        pixel_size=_CM_PER_M * pixel_size,
        dist=_CM_PER_M * distance,
        energy=energy,
        alpha=_alpha(delta_beta),
        ncore=1,
    )
    return np.ascontiguousarray(filtered[:, :num_rows, :num_columns], dtype=np.float32)


def _alpha(delta_beta: float) -> float:
    """Give the parameter with which tomopy's phase filter is Paganin's."""
    # tomopy's is 1 / (1 + wavelength distance w^2 / (4 pi alpha)) at w in cycles per length.
    return 1 / (4 * math.pi**2 * delta_beta)


def _tomopy() -> Any:
    try:
        return importlib.import_module("tomopy")
    except ImportError as error:
        raise ReductionError(
            f"the method needs tomopy, which cannot be imported here ({error}): install it with "
            "'conda install -c conda-forge tomopy', or choose the method gridrec"
        ) from error


def _shift(
    sinograms: NDArray[np.float32], theta: NDArray[np.float64], length: int, num_threads: int
) -> NDArray[np.float32]:
    """Pad the rows and move the sample down and left, from tomopy's axis on a pixel to ours in the middle."""
    offset = 0.5 if sinograms.shape[-1] % 2 == 0 else 1.0
    columns = offset * (np.cos(theta) + np.sin(theta))
    phase = np.exp(2j * np.pi * np.outer(columns, fft.rfftfreq(length))).astype(np.complex64)
    spectrum = fft.rfft(sinograms, n=length, axis=-1, workers=num_threads)
    spectrum *= phase
    return np.asarray(fft.irfft(spectrum, n=length, axis=-1, workers=num_threads), dtype=np.float32)
