"""JPEG 2000 with a wavelet across the slices: a 9/7 wavelet along z, then JPEG 2000 on each of its planes.

With the scaling K = 1.1496 the lifting steps of the 9/7 wavelet [1]_ are close to an orthonormal transform: in each
step, white noise keeps its variance within 4 % in both bands. So an error of equal mean square in each plane, which is
what JPEG 2000 is asked for, gives about that error in the slices, at about the least rate (reverse water-filling). A
plane with less power than this error is left out.

References
----------
.. [1] Daubechies, Sweldens, Factoring wavelet transforms into lifting steps, Journal of Fourier Analysis and
   Applications 4, 247-269, 1998, doi 10.1007/BF02476026.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from .classical import ClassicalCodec, join_planes, split_planes
from .codec import register
from .image_codecs import PsnrSettings, decode_jpeg2000, encode_jpeg2000

__all__ = ["LEVELS", "Jpeg2000zCodec", "across_slices", "back_across_slices"]

LEVELS = 3
"""How often the low band is split again; a band of one plane is not."""
GROWTH = 4.0
"""No coefficient is larger than this times the largest absolute value of the slices, for any number of slices."""
_LIFTING = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
_SCALE = 1.149604398860241
_MIDDLE = 2**15

Planes = NDArray[np.float64]


@register("jpeg2000z")
class Jpeg2000zCodec(ClassicalCodec):
    """The codec ``jpeg2000z``: see the module; the planes are rounded to 16 bits before JPEG 2000."""

    settings_type: ClassVar[type[BaseModel]] = PsnrSettings
    library = "imagecodecs"

    def _compress(self, chunk: NDArray[np.float32]) -> bytes:
        planes = across_slices((chunk.astype(np.float64) - self._centre) / self._step)
        # Mean square error, in the square of the steps of the planes.
        allowed = (self.value_range.span / self._step) ** 2 * 10 ** (-self.settings.psnr / 10)
        psnr = float(20 * np.log10(2**16 - 1) - 10 * np.log10(allowed))
        return join_planes([_encode_plane(plane, psnr) if np.mean(plane**2) > allowed else b"" for plane in planes])

    def _expand(self, body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        planes = np.zeros(shape)
        for plane, codestream in zip(planes, split_planes(body, shape[0]), strict=True):
            if codestream:
                plane[:] = decode_jpeg2000(codestream).astype(np.float64) - _MIDDLE
        return (back_across_slices(planes) * self._step + self._centre).astype(np.float32)

    @property
    def _centre(self) -> float:
        return (self.value_range.low + self.value_range.high) / 2

    @property
    def _step(self) -> float:
        return GROWTH * self.value_range.step(16)


def across_slices(slices: Planes) -> Planes:
    """Transform along z.

    Parameters
    ----------
    slices : float64, shape (slice, y, x)
        Any number of slices; they go on mirrored beyond the first and the last one.

    Returns
    -------
    float64, shape (slice, y, x)
        The low band, then the high bands from coarse to fine.
    """
    low, highs = slices, []
    for _ in range(LEVELS):
        if len(low) > 1:
            low, high = _split(low)
            highs.append(high)
    return np.concatenate([low, *reversed(highs)])


def back_across_slices(planes: Planes) -> Planes:
    """Undo `across_slices`."""
    sizes = [len(planes)]
    while len(sizes) <= LEVELS and sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    low = planes[: sizes[-1]]
    for size in reversed(sizes[:-1]):
        low = _merge(low, planes[len(low) : size])
    return low


def _split(slices: Planes) -> tuple[Planes, Planes]:
    even, odd = slices[0::2].copy(), slices[1::2].copy()
    for number, weight in enumerate(_LIFTING):
        _lift(even, odd, weight, update_odd=number % 2 == 0)
    return even * _SCALE, odd / _SCALE


def _merge(low: Planes, high: Planes) -> Planes:
    even, odd = low / _SCALE, high * _SCALE
    for number, weight in reversed(list(enumerate(_LIFTING))):
        _lift(even, odd, -weight, update_odd=number % 2 == 0)
    slices = np.empty((len(even) + len(odd), *even.shape[1:]))
    slices[0::2], slices[1::2] = even, odd
    return slices


def _lift(even: Planes, odd: Planes, weight: float, *, update_odd: bool) -> None:
    """Add the weighted sum of both neighbours to the odd or the even planes, in place."""
    if update_odd:
        after = np.concatenate([even[1:], even[-1:]])[: len(odd)]
        odd += weight * (even[: len(odd)] + after)
    else:
        both = np.concatenate([odd[:1], odd, odd[-1:]])
        even += weight * (both[: len(even)] + both[1 : len(even) + 1])


def _encode_plane(plane: Planes, psnr: float) -> bytes:
    return encode_jpeg2000((np.clip(np.rint(plane), -_MIDDLE, _MIDDLE - 1) + _MIDDLE).astype(np.uint16), psnr)
