"""Classical denoisers at their best: the strength of each is the one with the highest PSNR against the truth.

Nobody knows it of a real scan: that favours them. Where two things are chosen, it is one after the other or on a coarse
grid. The search goes from the middle of the strengths
to better neighbours, until none is better.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from rows import Row
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means

from quietbeam.reconstruction.quality import psnr, ssim
from quietbeam.reconstruction.reconstructors import circle
from quietbeam.reconstruction.tv import tv_min

__all__ = [
    "Answer",
    "Truth",
    "best_bm3d",
    "best_gaussian",
    "best_nlm",
    "best_stretched_gaussian",
    "best_tv",
    "climb",
    "half_noise",
    "timed",
]

Array = NDArray[np.float32]

SIGMAS = tuple(np.geomspace(0.25, 4, 17))
"""Of the Gaussian, pixels."""
WEIGHTS = tuple(np.geomspace(0.125, 32, 17))
"""Of the total variation, pixels."""
TV_ITERATIONS = 150
"""At the best weight, 200 instead of 100 changed the PSNR of a foam by 0 to 0.15 dB."""
FACTORS = tuple(np.geomspace(0.5, 2, 9))
"""On the noise that BM3D is told."""
NLM_FACTORS = tuple(np.geomspace(0.2, 1.6, 10))
"""On the noise, as the strength of non-local means."""


class Answer(NamedTuple):
    """Slices, shape (..., y, x), the strength that gave them, and the CPU seconds that they took."""

    slices: Array
    seconds: float
    strength: float = 0.0


class Truth:
    """Known slices, and how near others are to them: inside the circle, the truth's range as the peak.

    Parameters
    ----------
    slices : float32, shape (..., y, x)
        The truth. SSIM is taken in the largest square inside the circle.
    """

    def __init__(self, slices: Array) -> None:
        size = slices.shape[-1]
        self.slices, self.inside = slices, circle(size) > 0
        self.span = float(slices.max() - slices.min())
        margin = int(np.ceil(size * (1 - 0.5**0.5) / 2))
        self._square = (..., slice(margin, size - margin), slice(margin, size - margin))

    def psnr(self, slices: Array) -> float:
        """Peak signal-to-noise ratio in decibel."""
        return psnr(self.slices[..., self.inside], slices[..., self.inside], data_range=self.span)

    def ssim(self, slices: Array) -> float:
        """Structural similarity."""
        return ssim(self.slices[self._square], slices[self._square], data_range=self.span)

    def rows(self, case: str, method: str, answer: Answer, **more: tuple[float, str]) -> list[Row]:
        """Make the rows of one method; `more` are values with units, named with underscores for spaces."""
        found = {
            "PSNR": (self.psnr(answer.slices), "dB"),
            "SSIM": (self.ssim(answer.slices), ""),
            "CPU time of a slice": (answer.seconds * self.slices.shape[-1] ** 2 / self.slices.size, "s"),
        }
        found |= {name.replace("_", " "): value for name, value in more.items()}
        return [Row(case, method, name, value, unit) for name, (value, unit) in found.items()]


def timed(work: Callable[[], Array]) -> Answer:
    """Call a function and take its CPU time."""
    start = time.process_time()
    slices = work()
    return Answer(slices, time.process_time() - start)


def climb(strengths: Sequence[float], attempt: Callable[[float], Array], quality: Callable[[Array], float]) -> Answer:
    """Find the best of rising strengths, whose quality has one peak.

    Parameters
    ----------
    strengths : sequence of float
        Rising.
    attempt : callable
        Slices of a strength.
    quality : callable
        What to make large, of slices.

    Returns
    -------
    Answer
        The best, with the time of that one attempt.
    """
    tried: dict[int, tuple[float, Answer]] = {}

    def value(index: int) -> float:
        if index not in tried:
            answer = timed(lambda: attempt(strengths[index]))
            tried[index] = quality(answer.slices), answer._replace(strength=float(strengths[index]))
        return tried[index][0]

    best, better = -1, len(strengths) // 2
    while better != best:
        best = better
        better = max(range(max(best - 1, 0), min(best + 2, len(strengths))), key=value)
    return tried[best][1]


def best_gaussian(
    noisy: Array, truth: Truth, *, axes: Sequence[float], measured: NDArray[np.intp] | slice = slice(None)
) -> Answer:
    """Smooth with a Gaussian.

    Parameters
    ----------
    noisy : float32, shape (slice, ..., y, x)
        All slices.
    truth : Truth
        Of the measured slices.
    axes : sequence of float
        For each axis, standard deviation of the Gaussian over that along y and x; 0 leaves the axis alone.
    measured : intp array or slice
        Slices that are measured.

    Returns
    -------
    Answer
        Measured slices; the time is that of all slices.
    """
    return climb(SIGMAS, lambda sigma: gaussian_filter(noisy, sigma * np.array(axes))[measured], truth.psnr)


def best_stretched_gaussian(
    noisy: Array, truth: Truth, *, axes: Sequence[float], axis: int, ratios: Sequence[float]
) -> tuple[Answer, float]:
    """Smooth with a Gaussian of a width of its own along one axis.

    Parameters
    ----------
    noisy : float32, shape (slice, ..., y, x)
        All slices.
    truth : Truth
        Of all slices.
    axes : sequence of float
        As in `best_gaussian`, with 0 for this axis.
    axis : int
        The axis.
    ratios : sequence of float
        Standard deviations along it to try, over that along y and x.

    Returns
    -------
    Answer
        The best.
    float
        Its standard deviation along the axis.
    """
    along = np.eye(noisy.ndim)[axis]
    answers = [(best_gaussian(noisy, truth, axes=tuple(axes + ratio * along)), ratio) for ratio in ratios]
    answer, ratio = max(answers, key=lambda one: truth.psnr(one[0].slices))
    return answer, ratio * answer.strength


def best_tv(sinograms: Array, theta: NDArray[np.float64], rotation_axis: float, truth: Truth) -> Answer:
    """Minimise the total variation of each slice; its sinograms have the shape (slice, angle, column)."""
    return climb(
        WEIGHTS,
        lambda w: tv_min(sinograms, theta, rotation_axis, weight=w, num_iterations=TV_ITERATIONS).slices,
        truth.psnr,
    )


def half_noise(sections: Array) -> Array:
    """Make images of the noise alone, as strong as that of the average of an even number of equal sections.

    Parameters
    ----------
    sections : float32, shape (slice, section, y, x)
        Reconstructions.

    Returns
    -------
    float32, shape (slice, y, x)
        Half of the sections minus the other half: the sample is no more in it, but streaks of few angles are.
    """
    signs = (-1.0) ** np.arange(sections.shape[1]) / sections.shape[1]
    return np.asarray(np.einsum("k,skyx->syx", signs.astype(np.float32), sections))


def best_bm3d(noisy: Array, noise: Array, truth: Truth) -> Answer | None:
    """Denoise each slice by BM3D, told the spectrum of the noise or its deviation, whichever is better.

    Parameters
    ----------
    noisy : float32, shape (slice, y, x)
        Reconstructions.
    noise : float32, shape (image, y, x)
        Noise alone, inside the circle.
    truth : Truth
        Of the slices.

    Returns
    -------
    Answer or None
        None if bm3d is not installed.
    """
    if importlib.util.find_spec("bm3d") is None:
        print("BM3D is left out: bm3d is not installed")
        return None
    # Of white noise the spectrum is variance x pixels; corners without noise are made up for.
    spectrum = np.mean(np.abs(np.fft.fft2(noise / truth.span)) ** 2, axis=0) / truth.inside.mean()
    deviation = float(noise[:, truth.inside].std() / truth.span)
    answers = [
        climb(FACTORS, lambda f: _bm3d(noisy, spectrum * f**2, truth.span), truth.psnr),
        climb(FACTORS, lambda f: _bm3d(noisy, deviation * f, truth.span), truth.psnr),
    ]
    return max(answers, key=lambda answer: truth.psnr(answer.slices))


def _bm3d(noisy: Array, noise: NDArray[np.float64] | float, span: float) -> Array:
    import bm3d  # type: ignore[import-untyped]

    # bm3d 4.0.3, told a spectrum, asks numpy for trapz, which numpy 2.4.6 does not have.
    with patch.object(np, "trapz", np.trapezoid, create=True):
        return np.stack([bm3d.bm3d(image / span, noise) * span for image in noisy]).astype(np.float32)


def best_nlm(noisy: Array, noise: Array, truth: Truth) -> Answer:
    """Denoise each slice by the non-local means of scikit-image; see `best_bm3d`."""
    deviation = float(noise[:, truth.inside].std())

    def attempt(factor: float) -> Array:
        h = factor * deviation
        return np.stack([denoise_nl_means(image, 5, 7, h, sigma=deviation) for image in noisy])

    return climb(NLM_FACTORS, attempt, truth.psnr)
