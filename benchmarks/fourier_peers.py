"""What other libraries make of the sinograms that gridrec reconstructs, as well as they can."""

from __future__ import annotations

import finufft
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from quietbeam.reconstruction.angles import angular_weights
from quietbeam.reconstruction.filters import padded_length, ramp_filter

__all__ = ["FinufftPlan"]

PAIRS = 8
"""Complex transforms at a time."""


class FinufftPlan:
    """The same sum as gridrec's by finufft, two real slices as one complex transform, with its fastest fitting options.

    A tolerance of 1e-3 is as good as any here: what is left is how the slice is drawn on pixels.
    """

    def __init__(self, theta: NDArray[np.float64], num_columns: int, rotation_axis: float) -> None:
        self.num_columns, self.length = num_columns, padded_length(num_columns)
        frequency = fft.fftfreq(self.length)
        x, y = 2 * np.pi * np.outer(np.cos(theta), frequency), -2 * np.pi * np.outer(np.sin(theta), frequency)
        offset = num_columns // 2 - (num_columns - 1) / 2
        ramp = ramp_filter(self.length)[np.abs(np.rint(frequency * self.length)).astype(int)]
        factors = ramp * np.exp(1j * (2 * np.pi * frequency * rotation_axis + offset * (x + y)))
        factors[:, self.length // 2] = 0  # the highest frequency has no partner
        self.factors = (factors * angular_weights(theta)[:, None] / self.length).astype(np.complex64)
        shape, options = (num_columns, num_columns), {"dtype": "complex64", "upsampfac": 1.25, "showwarn": 0}
        self.plan = finufft.Plan(1, shape, PAIRS, 1e-3, 1, nthreads=1, **options)
        self.plan.setpts(y.ravel().astype(np.float32), x.ravel().astype(np.float32))

    def reconstruct(self, sinograms: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstruct a multiple of 2 `PAIRS` slices."""
        slices = np.empty((len(sinograms), self.num_columns, self.num_columns), np.float32)
        for first in range(0, len(sinograms), 2 * PAIRS):
            rows = sinograms[first : first + 2 * PAIRS]
            spectra = fft.fft(rows[0::2] + 1j * rows[1::2], n=self.length, axis=-1, overwrite_x=True)
            spectra *= self.factors
            images = self.plan.execute(spectra.reshape(PAIRS, -1))
            slices[first : first + 2 * PAIRS : 2], slices[first + 1 : first + 2 * PAIRS : 2] = images.real, images.imag
        return slices
