"""Phase retrieval: from the bright and dark edges that the way to the detector makes back to the absorption."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import constants, fft

from .errors import ScanError
from .tomopy_backend import tomopy_paganin

__all__ = [
    "PhaseOptics",
    "PhaseSettings",
    "blur_length",
    "paganin",
    "phase_halo",
    "phase_optics",
    "retrieve_phase",
    "wavelength",
]

HALO = 16.0
"""Reach of the filter in its lengths: what lies beyond weighs exp(-16) / 2, less than float32 rounds."""
MIN_HALO = 96
"""Least reach, pixels: a short filter rings about a sharp pixel by 2 L² / ((1 + π²L²)² n²) n pixels away, since its
frequencies end at that of the pixels."""


class PhaseSettings(BaseModel):
    """Phase retrieval by Paganin's method; what the scan tells need not be given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    delta_beta: float | None = Field(
        None, gt=0, description="Ratio of refraction to absorption, delta over beta, of the sample; None = off."
    )
    method: Literal["paganin", "tomopy-paganin"] = Field(
        "paganin", description="Paganin's filter as it is here, or as tomopy has it, where tomopy is installed."
    )
    energy: float | None = Field(None, gt=0, description="Photon energy, keV; None: of the scan.")
    distance: float | None = Field(None, gt=0, description="From sample to detector, metres; None: of the scan.")
    pixel_size: float | None = Field(None, gt=0, description="Pixel size at the sample, metres; None: of the scan.")
    padding: Literal["edge", "symmetric"] = Field(
        "edge",
        description="Beyond the detector, the last pixel goes on (edge) or the image is mirrored (symmetric).",
    )


class PhaseOptics(NamedTuple):
    """All that Paganin's filter depends on; an argument list of `paganin` and `phase_halo`.

    Attributes
    ----------
    delta_beta : float
        Refractive index decrement over absorption index.
    energy : float
        keV.
    distance, pixel_size : float
        Metres.
    """

    delta_beta: float
    energy: float
    distance: float
    pixel_size: float


def phase_optics(
    settings: PhaseSettings, *, energy: float | None, distance: float | None, pixel_size: float | None
) -> PhaseOptics | None:
    """Take what the user gave before what the scan tells.

    Parameters
    ----------
    settings : PhaseSettings
        The user's.
    energy, distance, pixel_size : float or None
        Of the scan, in keV and metres.

    Returns
    -------
    PhaseOptics or None
        None if phase retrieval is off.

    Raises
    ------
    ScanError
        If neither user nor scan tells one of them; the message names the option.
    """
    if settings.delta_beta is None:
        return None
    found = {
        "energy": (settings.energy or energy, "keV"),
        "distance": (settings.distance or distance, "metres"),
        "pixel_size": (settings.pixel_size or pixel_size, "metres"),
    }
    missing = [f"--set phase.{name}=VALUE ({unit})" for name, (value, unit) in found.items() if value is None]
    if missing:
        raise ScanError(f"phase retrieval needs what the scan does not tell: give {' and '.join(missing)}")
    return PhaseOptics(settings.delta_beta, *(float(value or 0) for value, _ in found.values()))


def wavelength(energy: float) -> float:
    """Wavelength in metres of photons of an energy in keV, h c / E."""
    return constants.h * constants.c / (energy * 1e3 * constants.e)


def blur_length(*, delta_beta: float, energy: float, distance: float, pixel_size: float) -> float:
    """Length L of Paganin's filter 1 / (1 + L² k²), in pixels.

    With µ = 4π beta / λ, L² = distance · delta / µ = distance · λ · (delta / beta) / 4π. In space the filter is
    K0(r / L) / (2π L²), summed over one axis exp(-|y| / L) / (2L).

    Parameters
    ----------
    delta_beta : float
        Refractive index decrement over absorption index.
    energy : float
        keV.
    distance, pixel_size : float
        Metres.

    Returns
    -------
    float
        Pixels.

    Raises
    ------
    ValueError
        If one of them is negative, or energy or pixel size are 0.
    """
    if not (energy > 0 and pixel_size > 0 and delta_beta >= 0 and distance >= 0):
        raise ValueError(
            "Paganin's filter expects energy (keV) and pixel_size (m) above 0, delta_beta and distance (m) not below, "
            f"got energy={energy}, pixel_size={pixel_size}, delta_beta={delta_beta}, distance={distance}"
        )
    return math.sqrt(distance * wavelength(energy) * delta_beta / (4 * math.pi)) / pixel_size


def phase_halo(*, delta_beta: float, energy: float, distance: float, pixel_size: float) -> int:
    """Count the rows on either side that a row of filtered projections depends on.

    Parameters
    ----------
    delta_beta, energy, distance, pixel_size : float
        As of `blur_length`.

    Returns
    -------
    int
        Rows; 0 if the filter does nothing. What lies beyond changes the transmission by about the rounding of float32
        where L is 6 pixels or more; of a shorter filter, by up to 1e-4 of the noise there.
    """
    length = blur_length(delta_beta=delta_beta, energy=energy, distance=distance, pixel_size=pixel_size)
    return 0 if length == 0 else max(MIN_HALO, math.ceil(HALO * length))


def retrieve_phase(
    transmission: NDArray[np.float32], optics: PhaseOptics, settings: PhaseSettings, *, num_threads: int = 1
) -> NDArray[np.float32]:
    """Filter projections with the method of the settings.

    Parameters
    ----------
    transmission : float32, shape (angle, row, column)
        Flat-corrected projections, finite.
    optics : PhaseOptics
        Of `phase_optics`.
    settings : PhaseSettings
        Method and padding.
    num_threads : int
        Threads of our own method.

    Returns
    -------
    float32, the same shape
        Filtered transmission; its minus logarithm is the line integral of the attenuation.

    Raises
    ------
    ReductionError
        If tomopy is asked for and not installed.
    """
    if settings.method == "tomopy-paganin":
        return tomopy_paganin(transmission, **optics._asdict())
    return paganin(transmission, **optics._asdict(), padding=settings.padding, num_threads=num_threads)


def paganin(
    transmission: NDArray[np.float32],
    *,
    delta_beta: float,
    energy: float,
    distance: float,
    pixel_size: float,
    padding: Literal["edge", "symmetric"] = "edge",
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Undo the bright and dark edges that propagation gave a sample of one material.

    The filter of [1]_ on each projection, I -> F⁻¹{ F{I} / (1 + (distance · delta / µ) k²) } with the angular frequency
    k = (2π f_row, 2π f_column). Its minus logarithm is the absorption along the ray, µ times thickness, without unit.

    Parameters
    ----------
    transmission : float32, shape (angle, row, column)
        Share of the beam that came through, finite everywhere: dead pixels and zingers would be smeared.
    delta_beta : float
        Refractive index decrement over absorption index of the material; 0 leaves the transmission as it is.
    energy : float
        keV.
    distance : float
        From sample to detector in a parallel beam, metres.
    pixel_size : float
        Metres.
    padding : {'edge', 'symmetric'}
        What is beyond the detector: its last pixels again and again, or its mirror image.
    num_threads : int
        Of the transforms; the result does not depend on it.

    Returns
    -------
    float32, shape (angle, row, column)
        Filtered transmission; its mean over a wide image is that of the input.

    References
    ----------
    .. [1] Paganin, Mayo, Gureyev, Miller, Wilkins, Simultaneous phase and amplitude extraction from a single defocused
       image of a homogeneous object, Journal of Microscopy 206(1), 33-40, 2002, doi 10.1046/j.1365-2818.2002.01010.x.
    """
    optics = PhaseOptics(delta_beta, energy, distance, pixel_size)._asdict()
    length, halo = blur_length(**optics), phase_halo(**optics)
    if length == 0:
        return np.array(transmission, np.float32)
    pads = [(halo, fft.next_fast_len(size + 2 * halo, real=True) - size - halo) for size in transmission.shape[1:]]
    shape = [size + sum(pad) for size, pad in zip(transmission.shape[1:], pads, strict=True)]
    k_row, k_column = 2 * np.pi * fft.fftfreq(shape[0])[:, None], 2 * np.pi * fft.rfftfreq(shape[1])
    response = 1 / (1 + length**2 * (k_row**2 + k_column**2))
    filtered = np.empty(transmission.shape, np.float32)
    inside = tuple(slice(halo, halo + size) for size in transmission.shape[1:])
    for image, result in zip(transmission, filtered, strict=True):
        padded = np.pad(image.astype(np.float64), pads, mode=padding)
        spectrum = fft.rfft2(padded, workers=num_threads)
        result[:] = fft.irfft2(spectrum * response, shape, workers=num_threads)[inside]
    return filtered
