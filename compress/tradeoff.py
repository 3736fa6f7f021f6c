"""Which of several configurations pays: the point that balances size against quality, and figures of it.

Sheibanifard et al. [1]_ choose among sizes of their networks, the downsampling DS, the channels NC and the hidden
neurons h, the trade-off point: where more size no longer buys quality in proportion. As read here: of the
configurations that no other one beats, both axes are brought to 0 to 1, and the point nearest to the ideal corner
(size 0, quality 1) is chosen. The knee is given beside it: the point furthest above the chord from the smallest to
the best configuration, where the gain in quality falls behind the growth of size. The two often agree.

References
----------
.. [1] Sheibanifard et al., implicit neural representation of volumes with Fourier downsampling and super-resolution,
   2025.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .rate_distortion import RatePoint

__all__ = [
    "Configuration",
    "Tradeoff",
    "configurations",
    "draw_rates",
    "draw_tradeoff",
    "find_tradeoff",
    "pareto_front",
]

_INCHES = (6.4, 4.4)
_DOTS_PER_INCH = 150


class Configuration(NamedTuple):
    """One way to encode, and what came of it.

    Attributes
    ----------
    name : str
        What it is called in figures.
    size : float
        In any unit; smaller is better.
    quality : float
        In any unit; larger is better.
    """

    name: str
    size: float
    quality: float


class Tradeoff(NamedTuple):
    """What `find_tradeoff` found.

    Attributes
    ----------
    nearest : Configuration
        The trade-off point: nearest to the ideal corner.
    knee : Configuration
        Furthest above the chord of the front.
    front : tuple of Configuration
        Those that no other one beats, by size.
    """

    nearest: Configuration
    knee: Configuration
    front: tuple[Configuration, ...]


def configurations(points: Iterable[RatePoint]) -> list[Configuration]:
    """Take bits per voxel of measured codecs for the size, and PSNR for the quality; lossless ones are left out."""
    return [
        Configuration(f"{point.codec} {point.setting}".rstrip(), point.bits_per_voxel, point.psnr)
        for point in points
        if math.isfinite(point.psnr)
    ]


def pareto_front(points: Iterable[Configuration]) -> list[Configuration]:
    """Keep the points that no other one beats.

    Parameters
    ----------
    points : iterable of Configuration
        In any order, finite.

    Returns
    -------
    list of Configuration
        Growing in size and in quality; of equal points the first.

    Raises
    ------
    ValueError
        If there are no points, or one is not finite.
    """
    given = list(points)
    if not given or not all(math.isfinite(point.size) and math.isfinite(point.quality) for point in given):
        raise ValueError(f"a trade-off needs at least one point, all of finite size and quality, got {given}")
    front: list[Configuration] = []
    for point in sorted(given, key=lambda point: (point.size, -point.quality)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front


def find_tradeoff(points: Iterable[Configuration]) -> Tradeoff:
    """Find the point that balances size and quality.

    Parameters
    ----------
    points : iterable of Configuration
        In any order. Another unit, or another zero, of an axis does not change what is found; nor do points that are
        beaten by others.

    Returns
    -------
    Tradeoff
        `nearest` is the trade-off point; of points that are equally near, or equally far from the chord, the smaller
        one.

    Raises
    ------
    ValueError
        If there are no points, or one is not finite.
    """
    front = pareto_front(points)
    size, quality = (_to_unit_range(np.array(values, np.float64)) for values in zip(*_numbers(front), strict=True))
    nearest, knee = _first_least(np.hypot(size, 1 - quality)), _first_least(size - quality)
    return Tradeoff(front[nearest], front[knee], tuple(front))


def draw_tradeoff(points: Sequence[Configuration], chosen: Configuration, path: Path | BinaryIO) -> None:
    """Draw all configurations, those that no other one beats as a line, and the chosen one with its name.

    Parameters
    ----------
    points : sequence of Configuration
        In any order.
    chosen : Configuration
        For example `Tradeoff.nearest`.
    path : Path or binary file
        Where the PNG goes.
    """
    figure, axes = _empty_figure()
    front = pareto_front(points)
    axes.plot(*zip(*_numbers(points), strict=True), "o", color="#9aa3aa", label="configurations")
    axes.plot(*zip(*_numbers(front), strict=True), "o-", color="#0b6a7f", label="not beaten by another")
    axes.plot(chosen.size, chosen.quality, "D", color="#b4632a", markersize=9, label=chosen.name)
    axes.set(xlabel="size", ylabel="quality")
    _save(figure, axes, path)


def draw_rates(points: Sequence[RatePoint], path: Path | BinaryIO) -> None:
    """Draw the PSNR against the bits per voxel, one line for each codec; lossless points are left out.

    Parameters
    ----------
    points : sequence of RatePoint
        Of any codecs, in any order.
    path : Path or binary file
        Where the PNG goes.
    """
    figure, axes = _empty_figure()
    for name, group in groupby(sorted(points, key=_codec_of), key=_codec_of):
        line = sorted(_numbers(configurations(group)))
        if line:
            axes.plot(*zip(*line, strict=True), ".-", label=name)
    axes.set(xlabel="bits per voxel", ylabel="PSNR (dB)", xscale="log")
    _save(figure, axes, path)


def _codec_of(point: RatePoint) -> str:
    return point.codec


def _numbers(points: Iterable[Configuration]) -> list[tuple[float, float]]:
    return [(point.size, point.quality) for point in points]


def _to_unit_range(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((values - values.min()) / (np.ptp(values) or 1.0))


def _first_least(values: NDArray[np.float64]) -> int:
    """Find the first of the smallest values; differences that only rounding makes do not count."""
    return int(np.flatnonzero(values <= values.min() + 1e-9)[0])


def _empty_figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(color="#e4e1da")
    return figure, axes


def _save(figure: Figure, axes: Axes, path: Path | BinaryIO) -> None:
    if axes.lines:
        axes.legend()
    figure.savefig(path, format="png", metadata={"Software": None})
