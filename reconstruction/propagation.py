"""What a detector some way behind the sample sees: Fresnel propagation, the known truth for phase retrieval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .phase import wavelength

__all__ = ["propagate"]


def propagate(
    absorption: NDArray[np.floating],
    *,
    delta_beta: float,
    energy: float,
    distance: float,
    pixel_size: float,
) -> NDArray[np.float32]:
    """Propagate a parallel wave behind a thin sample of one material, and give its intensity.

    With the index 1 - delta + i beta and µ = 4π beta / λ, a ray through the thickness T leaves the sample as
    exp(-(1 + i delta / beta) µT / 2); free space multiplies its spectrum by exp(-iπ λ · distance · f²) [1]_.

    Parameters
    ----------
    absorption : float, shape (..., row, column)
        µ times T, without unit. The field is periodic: leave air around the sample. The phase, delta / beta times
        µT / 2, must change by less than π from pixel to pixel; use smaller pixels and average the intensity if not.
    delta_beta : float
        Refractive index decrement over absorption index.
    energy : float
        keV.
    distance : float
        From sample to detector, metres; 0 gives exp(-absorption).
    pixel_size : float
        Metres.

    Returns
    -------
    float32, shape (..., row, column)
        Intensity over that of the beam; its sum does not change with the distance.

    Raises
    ------
    ValueError
        If the field is too small for the distance, so that the wave would come in again on the other side.

    References
    ----------
    .. [1] Paganin, Coherent X-Ray Optics, Oxford University Press, 2006, doi 10.1093/acprof:oso/9780198567288.001.0001.
    """
    rows, columns = absorption.shape[-2:]
    reach = wavelength(energy) * distance / pixel_size**2
    if reach > min(rows, columns):
        raise ValueError(
            f"a field of {rows} x {columns} pixels is too small for the distance {distance} m: expected at least "
            f"{reach:.0f} pixels, wavelength times distance over the pixel size squared"
        )
    wave = np.exp(-(1 + 1j * delta_beta) / 2 * absorption.astype(np.float64))
    squared = fft.fftfreq(rows)[:, None] ** 2 + fft.fftfreq(columns) ** 2
    wave = fft.ifft2(fft.fft2(wave) * np.exp(-1j * np.pi * reach * squared))
    return np.asarray(np.abs(wave) ** 2, dtype=np.float32)
