"""Whether the noise of sections is independent, as far as their reconstructions tell.

A network that predicts one section from others learns all that they share, noise included. Two sections made from the
same data are refused; sections whose noise correlates are told of. The correlation is taken at the finest details, from
0.4 / pixel on, where the noise of a reconstruction is strongest and its signal weakest, as Fourier ring correlation is
(`reconstruction.resolution`). Signal that reaches so far correlates as well. It goes on from slice to slice, which
noise does not: a quarter of it and more in foams, whatever the dose and the number of angles. So four times the
covariance of neighbouring slices is taken for signal,

    correlation = (C(0) - S) / (P - S),    S = 4 C(1)

with C(d) the covariance of slice z of one section and z + d of the other, and P the geometric mean of their powers.
Noise that goes on from slice to slice as well, as a thick scintillator spreads it, passes for signal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from quietbeam.reconstruction.caveats import Caveat
from quietbeam.reconstruction.pairing import SectionPair

from .network_inputs import Sections, with_channel_axis

__all__ = ["CORRELATED", "independence_caveats", "noise_correlation"]

CORRELATED = 0.25
"""Correlation of noise from which the user is told. In foams of 128 pixels, 64 to 512 angles, 30 to 300,000 photons,
independent sections stay below 0.18; those that share half of their projections reach 0.36 to 0.52 up to 3000 photons,
and less where there is hardly any noise."""
SAME = 1e-5
"""Largest difference, relative to the slice's standard deviation, of slices taken as equal up to a factor."""
FINEST = 0.4
"""Lowest frequency looked at, 1/pixel."""
SLICES_PER_SIGNAL = 4.0
"""Covariance of the signal within a slice over that with the next slice, at `FINEST` and above."""
MOST_SIGNAL = 0.8
"""Share of signal in the power from which on nothing is said of the noise."""
WINDOW = 256
"""Side of the part in the middle of the slices that is looked at, pixels."""

Meetings = Sequence[tuple[int, int]]


def independence_caveats(
    sections: Sections, pairs: Iterable[SectionPair] | None = None, *, num_slices: int = 8
) -> list[Caveat]:
    """Tell of sections whose noise is not independent.

    Parameters
    ----------
    sections : Sections
        Reconstructions, shape (slice, section, channel, y, x) or (slice, section, y, x).
    pairs : iterable of SectionPair, optional
        Only input and target sections of one pair are compared; None compares all with all.
    num_slices : int
        Slices looked at, two neighbours at a time, spread over the volume.

    Returns
    -------
    list of Caveat
        ``correlated-sections``, or nothing; constant slices say nothing.

    Raises
    ------
    ValueError
        If two sections are equal, or equal up to a factor, in a slice; it names them.
    """
    sections = with_channel_axis(sections)
    meetings = _meetings(sections.shape[1], pairs)
    spectra = []
    for block in _blocks(sections, num_slices):
        _refuse_equals(block, meetings)
        spectra.append(_finest_details(block))
    correlation = noise_correlation(spectra)
    found = [(correlation[a, b], a, b) for a, b in meetings if correlation[a, b] > CORRELATED]
    return [_caveat(found)] if found else []


def noise_correlation(spectra: Sequence[NDArray[np.complexfloating]]) -> NDArray[np.float64]:
    """Estimate the correlation of the noise of sections.

    Parameters
    ----------
    spectra : sequence of complex arrays, shape (slice, section, sample)
        Fourier samples of the finest details, of neighbouring slices each. Of single slices, the least covariance of
        two sections is taken for signal.

    Returns
    -------
    float64, shape (section, section)
        0 where there is no power, or hardly anything but signal.
    """
    within = np.sum([_covariance(block, block) for block in spectra], axis=0)
    power = np.sqrt(np.outer(np.diag(within), np.diag(within)))
    beside = [_covariance(block[1:], block[:-1]) for block in spectra if len(block) > 1]
    if beside:
        weight = sum(len(block) for block in spectra) / sum(len(block) - 1 for block in spectra)
        signal = SLICES_PER_SIGNAL * weight * np.maximum(np.sum([c + c.T for c in beside], axis=0) / 2, 0)
    else:
        signal = np.full_like(power, max(within.min(), 0))
    sound = (power > 0) & (signal < MOST_SIGNAL * power)
    correlation = np.zeros_like(power)
    np.divide(within - signal, power - signal, out=correlation, where=sound)
    return np.asarray(correlation)


def _covariance(first: NDArray[np.complexfloating], second: NDArray[np.complexfloating]) -> NDArray[np.float64]:
    """Sum over slices and samples, shape (section, section)."""
    products = [(a @ b.conj().T).real for a, b in zip(first, second, strict=True)]
    return np.asarray(np.sum(products, axis=0, dtype=np.float64))


def _meetings(num_sections: int, pairs: Iterable[SectionPair] | None) -> Meetings:
    """Sections that are on the two sides of a pair, each two once."""
    if pairs is None:
        return list(combinations(range(num_sections), 2))
    return sorted({(min(a, b), max(a, b)) for pair in pairs for a in pair.inputs for b in pair.targets})


def _blocks(sections: Sections, num_slices: int) -> Iterable[NDArray[np.float32]]:
    """Read the middles of two neighbouring slices at a time, of some channels."""
    count, _, channels, height, width = sections.shape
    firsts = np.unique(np.linspace(0, max(count - 2, 0), max(num_slices // 2, 1)).round().astype(int))
    some = slice(None, None, max(channels // 4, 1))
    starts = [max(size - WINDOW, 0) // 2 for size in (height, width)]
    rows, columns = (slice(start, start + WINDOW) for start in starts)
    for first in firsts:
        yield sections[first : first + 2, slice(None), some, rows, columns]


def _refuse_equals(block: NDArray[np.float32], meetings: Meetings) -> None:
    for planes in block:  # (section, channel, y, x)
        flat = planes.reshape(len(planes), -1).astype(np.float64)
        flat -= flat.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(flat, axis=1, keepdims=True)
        flat /= np.where(lengths > 0, lengths, 1)
        for a, b in meetings:
            if (
                lengths[a] > 0
                and lengths[b] > 0
                and np.linalg.norm(flat[a] - np.sign(flat[a] @ flat[b]) * flat[b]) < SAME
            ):
                raise ValueError(
                    f"sections {a} and {b} have the same reconstruction, up to a factor: they are made from the same "
                    "projections, and the network would learn the noise; give sections of different projections"
                )


def _finest_details(block: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Fourier samples of the outermost ring, shape (slice, section, sample of all channels)."""
    height, width = block.shape[-2:]
    frequency = np.hypot(fft.fftfreq(height)[:, None], fft.rfftfreq(width))
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)
    spectra = fft.rfft2(window * (block - block.mean(axis=(-2, -1), keepdims=True)))
    samples = spectra[..., (frequency >= FINEST) & (frequency < 0.5)]
    return np.asarray(samples.reshape(*samples.shape[:2], -1))


def _caveat(found: list[tuple[float, int, int]]) -> Caveat:
    value, a, b = max(found)
    more = f", and of {len(found) - 1} more pairs of sections above {CORRELATED:g}" if len(found) > 1 else ""
    risk = "the network learns what they share: do they share projections, or rings from few flats?"
    return Caveat("correlated-sections", f"the noise of sections {a} and {b} correlates {value:.2f}{more}; {risk}")
