"""How well a scan mirrors about each column: the evidence for the rotation axis, for all columns at once.

The projection from behind is the mirror image of the one from the front, p(theta + pi, axis + s) = p(theta, axis - s).
What opposite projections have in common is a convolution, sum_x front(x) back(2 c - x), so one Fourier transform gives
it for every c in steps of half a pixel. A half turn has no opposite projections but at its ends; there the evidence is
that, continued by its own mirror image, it is the sinogram of a whole turn, whose spectrum is a double wedge [1]_.

References
----------
.. [1] Vo et al., Reliable method for calculating the center of rotation in parallel-beam tomography, Optics Express
   22(16), 19078, 2014, doi 10.1364/OE.22.019078.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from .angles import covers_full_turn
from .outliers import MAD_TO_STD

__all__ = [
    "Evidence",
    "evenly",
    "fill_static_columns",
    "mirror_evidence",
    "opposite_pairs",
    "opposite_rows",
    "wedge_evidence",
]

ENOUGH_PAIRS = 8
"""Opposite pairs from which their mean is taken off, and the rings with it; fewer share too much of the sample."""
MOST_SAMPLES = 2**23
"""Pixels looked at, of all there are: more make it slower, not better."""
NARROWEST, WIDEST, COLUMNS_PER_BLUR = 1.0, 4.0, 50
"""Gaussian that edges are seen through, pixels, and how it grows with the detector between the two."""
OVERLAP_FULL, OVERLAP_HALF = 0.05, 0.2
"""Least share of the columns seen from both sides: little will do for a full turn, which may be a half-acquisition."""
FEWEST_COLUMNS = 8
NEAR = 4
"""Half pixels between the tops of the weighted and of the plain correlation."""
WEDGE = 0.7
"""Radius of the sample, in widths of the detector, that bounds the wedge: above 0.5 for an axis beside the middle."""
SLOW_HARMONICS = 3
"""Angular harmonics that are left out: what changes so slowly with the angle may be the beam."""
FEWEST_ANGLES, MANY_ANGLES = 8, 30
"""Projections that a wedge is seen of, and whose mean over a half turn has lost the sample's fine structure."""
MOST_ANGLES = 720
"""Projections of a half turn for the wedge."""
SMOOTHING, MOST_COHERENT = 9, 0.5
"""Neighbouring frequencies that share one squared coherence, and its bound: no frequency shall decide alone."""
STATIC, FEW_STATIC = 0.05, 8
"""Change over the angles, in that of the median column, of columns that measure nothing; and how many may be side by
side: wider is air."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Correlation of a scan with its mirror image about each column.

    Attributes
    ----------
    columns : float64, shape (candidate,)
        Columns in steps of half a pixel, those that enough is seen about from both sides.
    correlation : float64, shape (candidate,)
        -1 to 1.
    weight : float64, shape (candidate,)
        Square root of the share of the columns seen from both sides: chance correlates few columns more easily.
    """

    columns: NDArray[np.float64]
    correlation: NDArray[np.float64]
    weight: NDArray[np.float64]

    def score(self, column: float) -> float:
        """Correlation about a column, -1 to 1; 0 outside of the range."""
        return _interpolate(column, self.columns, self.correlation)

    def prominence(self, column: float) -> float:
        """How far the weighted correlation stands out of that about all columns, in standard deviations of a normal."""
        return _interpolate(column, self.columns, self._standing())

    def best(self) -> float | None:
        """Give the column of the highest weighted correlation, by a parabola; None where nothing stands out."""
        standing = self._standing()
        if standing.size < 3 or not standing.max() > 0:
            return None
        # The weight, which helps to find the peak, would lead away from its top.
        peak = int(np.argmax(standing))
        near = slice(max(peak - NEAR, 0), peak + NEAR + 1)
        peak = int(np.clip(near.start + np.argmax(self.correlation[near]), 1, standing.size - 2))
        before, at, after = self.correlation[peak - 1 : peak + 2]
        curvature = before - 2 * at + after
        offset = 0.5 * (before - after) / curvature if curvature < 0 else 0.0
        return float(self.columns[peak] + 0.5 * np.clip(offset, -1, 1))

    def uncertainty(self, column: float) -> float:
        """Bound how far noise may have moved a peak, in pixels: its width over its height in deviations."""
        height, step = self.prominence(column), 1.0
        sides = self.prominence(column - step) + self.prominence(column + step)
        fall = (2 * height - sides) / step**2
        return float(1 / np.sqrt(fall * height)) if min(fall, height) > 0 else np.inf

    def _standing(self) -> NDArray[np.float64]:
        values = self.correlation * self.weight
        if values.size == 0:
            return values
        values = values - np.median(values)
        deviation = MAD_TO_STD * np.median(np.abs(values))
        return np.asarray(values / deviation if deviation > 0 else np.zeros_like(values))


def mirror_evidence(sinograms: NDArray[np.float32], theta: NDArray[np.float64]) -> Evidence:
    """Correlate the edges in opposite projections, all pairs of a full turn or the two ends of a half turn.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals of some detector rows.
    theta : float64, shape (angle,)
        Angles in radians, ascending.

    Returns
    -------
    Evidence
        Pearson's correlation, about each column, of the pixels that were seen from both sides.
    """
    front, back = opposite_rows(sinograms, theta)
    width, overlap = sinograms.shape[-1], OVERLAP_FULL if covers_full_turn(theta) else OVERLAP_HALF
    # The gradient of a mirror image is the mirror image of the gradient with the other sign.
    blur = _blur(width)
    return _evidence(_masked_correlation(_edges(front, blur), -_edges(back, blur)), width, overlap, weighted=True)


def wedge_evidence(sinograms: NDArray[np.float32], theta: NDArray[np.float64]) -> Evidence:
    """Continue a half turn by its mirror image about each column and look where its spectrum leaves the double wedge.

    With F(m, k) the spectrum of the half turn in a whole turn of zeros, m the angular harmonic and k the angular
    frequency along the columns, the continued one is ``F(m, k) + (-1)^m exp(-2 i k c) conj(F(-m, k))``. Outside of
    the wedge, ``abs(m) > R abs(k)`` for a sample of radius R, it is 0 about the axis [1]_. Its energy there depends on
    c through the product of the two terms alone; summed over m, a Fourier transform over k gives it for every c.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals of some detector rows.
    theta : float64, shape (angle,)
        Angles in radians, ascending; the first half turn is used.

    Returns
    -------
    Evidence
        Correlation of the two terms, 1 where they cancel; 0 for fewer than `FEWEST_ANGLES` projections.

    References
    ----------
    .. [1] Vo et al., Optics Express 22(16), 19078, 2014, doi 10.1364/OE.22.019078.
    """
    chosen, width = _half_turn(theta), sinograms.shape[-1]
    if chosen.size < FEWEST_ANGLES:
        return _evidence(np.zeros(2 * width - 1), width, OVERLAP_HALF, weighted=False)
    length = fft.next_fast_len(2 * width, real=True)
    harmonic, k = np.arange(chosen.size), 2 * np.pi * np.fft.rfftfreq(length)
    outside = harmonic[:, None] > np.maximum(WEDGE * width * k, SLOW_HARMONICS)
    signs = np.where(harmonic % 2, -1, 1)[:, None] * outside
    product, energy = np.zeros(k.size, np.complex128), np.zeros(k.size)
    sinograms = evenly(sinograms, MOST_SAMPLES // (chosen.size * width))
    for sinogram, rings in zip(sinograms, _rings(sinograms), strict=True):
        rows = fft.rfft(_edges(sinogram[chosen] - rings, NARROWEST), length, axis=-1)
        spectrum = fft.fft(rows, 2 * chosen.size, axis=0)
        positive, negative = spectrum[: chosen.size], spectrum[-harmonic]
        product += (signs * positive * negative).sum(axis=0)
        energy += (outside * (np.abs(positive) ** 2 + np.abs(negative) ** 2)).sum(axis=0) / 2
    weights = _coherence_weights(product, energy, outside.sum(axis=0) * len(sinograms))
    # Gradients change their sign in the mirror, so that the two terms cancel where their product is positive.
    common = length / 2 * fft.irfft(weights * product, length)[: 2 * width - 1]
    total = float((weights * energy).sum())
    return _evidence(common / total if total > 0 else 0 * common, width, OVERLAP_HALF, weighted=False)


def opposite_pairs(theta: NDArray[np.float64]) -> NDArray[np.intp]:
    """Find the projections that look along one line from opposite sides.

    Parameters
    ----------
    theta : float64, shape (angle,)
        Angles in radians, ascending.

    Returns
    -------
    intp, shape (pair, 2)
        Indices of the front and the back projection; of a half turn only its two ends, however near to opposite.
    """
    front = np.arange(theta.size)
    back = _nearest(theta, theta + np.pi)
    step = (theta[-1] - theta[0]) / max(theta.size - 1, 1)
    matched = np.abs(theta[back] - theta - np.pi) <= 0.51 * step
    if matched.sum() < 2:
        return np.array([[0, theta.size - 1]])
    return np.stack([front[matched], back[matched]], axis=1)


def opposite_rows(
    sinograms: NDArray[np.float32], theta: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Take the detector rows of opposite projections, of not more pairs than needed.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals of some detector rows.
    theta : float64, shape (angle,)
        Angles in radians, ascending.

    Returns
    -------
    front, back : float32, shape (row * pair, column)
        Rows seen from the front and from behind, not mirrored, without rings. With `ENOUGH_PAIRS` these go with the
        mean of all front and back rows, which but for the rings mirrors about the axis itself.
    """
    pairs = opposite_pairs(theta)
    pairs = evenly(pairs, MOST_SAMPLES // sinograms[:, 0].size)
    front, back = sinograms[:, pairs[:, 0]], sinograms[:, pairs[:, 1]]
    if len(pairs) >= ENOUGH_PAIRS:
        rings = (front.mean(axis=1, keepdims=True) + back.mean(axis=1, keepdims=True)) / 2
    else:
        rings = _rings(sinograms)
    front, back = front - rings, back - rings
    return front.reshape(-1, front.shape[-1]), back.reshape(-1, back.shape[-1])


def fill_static_columns(sinograms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fill narrow groups of columns that do not change over the angles: saturated ones mirror onto themselves.

    Parameters
    ----------
    sinograms : float32, shape (row, angle, column)
        Line integrals of some detector rows.

    Returns
    -------
    float32, shape (row, angle, column)
        The same, or a copy with those columns interpolated between their neighbours.
    """
    changes = sinograms.std(axis=1)
    static = changes < STATIC * np.median(changes, axis=1, keepdims=True)
    static &= ~ndimage.binary_opening(static, np.ones((1, FEW_STATIC + 1), bool))
    if not static.any():
        return sinograms
    filled = sinograms.copy()
    columns = np.arange(sinograms.shape[-1])
    for row in np.flatnonzero(static.any(axis=1)):
        kept = ~static[row]
        filled[row] = [np.interp(columns, columns[kept], values[kept]) for values in sinograms[row]]
    return filled


def evenly(items: NDArray[Any], most: int) -> NDArray[Any]:
    """Take not more than so many items along the first axis, but one at least, evenly from the first to the last."""
    chosen = np.linspace(0, len(items) - 1, max(1, min(most, len(items)))).astype(int)
    return np.asarray(items[chosen])


def _nearest(ascending: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.intp]:
    """Index of the nearest value, the first of several equally near."""
    above = np.minimum(np.searchsorted(ascending, wanted), ascending.size - 1)
    below = np.maximum(above - 1, 0)
    below_is_nearer = np.abs(ascending[below] - wanted) <= np.abs(ascending[above] - wanted)
    return np.searchsorted(ascending, ascending[np.where(below_is_nearer, below, above)])


def _half_turn(theta: NDArray[np.float64]) -> NDArray[np.intp]:
    """Choose the projections nearest to equal steps over the first half turn, its second end left out."""
    count = int(np.searchsorted(theta, theta[0] + np.pi * (1 - 0.5 / theta.size)))
    count = min(count, MOST_ANGLES)
    return _nearest(theta, theta[0] + np.pi / count * np.arange(count))


def _coherence_weights(
    product: NDArray[np.complex128], energy: NDArray[np.float64], count: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Weigh frequencies by how sure their phase is: coherence / (1 - coherence^2) / energy [1]_.

    References
    ----------
    .. [1] Knapp, Carter, The generalized correlation method for estimation of time delay, IEEE Trans. Acoustics,
       Speech, and Signal Processing 24(4), 320-327, 1976, doi 10.1109/TASSP.1976.1162830.
    """
    floor = 1e-9 * float(energy.max(initial=0))
    seen = energy > floor
    energy = np.where(seen, energy, 1.0)
    squared = ndimage.uniform_filter1d(seen * np.abs(product) ** 2 / energy**2, SMOOTHING)
    squared = np.clip(squared - 2 / np.maximum(count, 1), 0, MOST_COHERENT)  # that much is chance
    return np.asarray(seen * np.sqrt(squared) / (1 - squared) / energy)


def _blur(width: int) -> float:
    return float(np.clip(width / COLUMNS_PER_BLUR, NARROWEST, WIDEST))


def _rings(sinograms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fine structure of the mean over the angles, shape (row, 1, column); that of the sample is smooth."""
    mean = sinograms.mean(axis=1, keepdims=True)
    if sinograms.shape[1] < MANY_ANGLES:
        return np.zeros_like(mean)
    return np.asarray(mean - ndimage.gaussian_filter1d(mean, _blur(mean.shape[-1]), axis=-1, mode="nearest"))


def _edges(rows: NDArray[np.float32], blur: float) -> NDArray[np.float32]:
    """Gradient along the columns, blurred by a Gaussian of so many pixels."""
    return np.asarray(ndimage.gaussian_filter1d(rows, blur, axis=-1, order=1, mode="nearest"))


def _evidence(correlation: NDArray[np.float64], width: int, least_overlap: float, *, weighted: bool) -> Evidence:
    """Keep the columns with enough overlap, of all from 0 to width - 1 in half steps."""
    columns = np.arange(2 * width - 1) / 2
    overlap = 2 * np.minimum(columns, width - 1 - columns) + 1
    kept = overlap >= max(FEWEST_COLUMNS, least_overlap * width)
    weight = np.sqrt(overlap[kept] / width) if weighted else np.ones(kept.sum())
    return Evidence(columns[kept], correlation[kept], weight)


def _masked_correlation(front: NDArray[np.float32], back: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pearson's correlation of front(x) and back(t - x) over the columns x where both are, for t = 0 ... 2 width - 2.

    All sums over those columns are convolutions, with ones where a sum has one factor only [1]_.

    References
    ----------
    .. [1] Padfield, Masked object registration in the Fourier domain, IEEE Trans. Image Processing 21(5), 2706, 2012,
       doi 10.1109/TIP.2011.2181402.
    """
    width = front.shape[-1]
    length = fft.next_fast_len(2 * width, real=True)

    def convolve(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
        product = (fft.rfft(a, length) * fft.rfft(b, length)).sum(axis=0, dtype=np.complex128)
        return np.asarray(fft.irfft(product, length)[: 2 * width - 1])

    def total(rows: NDArray[np.floating]) -> NDArray[np.float64]:
        return convolve(rows.sum(axis=0, dtype=np.float64)[None], np.ones((1, width)))

    count = total(np.ones((1, width))) * len(front)
    front_sum, back_sum = total(front), total(back)
    covariance = convolve(front, back) - front_sum * back_sum / count
    spreads = [total(rows**2) - sums**2 / count for rows, sums in ((front, front_sum), (back, back_sum))]
    spread = np.sqrt(np.clip(spreads[0], 0, None) * np.clip(spreads[1], 0, None))
    floor = 1e-6 * np.sqrt(float((front**2).sum()) * float((back**2).sum()))  # below it there is rounding only
    return np.asarray(np.where(spread > floor, covariance / np.maximum(spread, floor or 1.0), 0.0))


def _interpolate(at: float, columns: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    return float(np.interp(at, columns, values, left=0.0, right=0.0)) if columns.size else 0.0
