"""Corrections of the predictions on a lattice: their choice, their binary decisions and the contexts of these.

A correction is coded as a magnitude and a sign. The magnitude, less its lowest bits where large ones are expected, is
coded in unary, by an exponent from 14 on. Each decision is seen in nine contexts of what is known around the point.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.compiled import compiled

from .binary_coder import INLINE, BinaryCoder, code_raw, is_decoder, reserve
from .context_mixing import NUM_MODELS, Mixer, code_mixed, code_predicted, predict_bit
from .lattice import Geometry, Grid
from .lattice_prediction import (
    CAUSAL_FAR,
    CAUSAL_NEAR,
    CLASS,
    CURVATURE,
    DEVIATION,
    FAR,
    GRADIENT,
    NEAR,
    NUM_FEATURES,
    PREDICTED,
    PassModel,
    describe,
    expected_size,
)

__all__ = ["Pass", "Quantiser", "code_corrections", "new_quantiser", "quarter_octave_table"]

_ZERO, _SIGN, _UNARY, _EXPONENT = 0, 1, 2, 15
_NUM_UNARY = 13
_MOST_EXPONENT_BINS = 17
_LARGEST_EXPONENT = 29
_SECOND_SIGN, _SECOND_UNARY = 128, 160
_LARGEST_SIZE = 1 << 30
_LARGEST_MAGNITUDE = 1 << 30
_MOST_SIGNED = 100
_BATCH = 8192
_MOST_DECISIONS = 120
_KNOWN, _SIZE, _SCALE, _TONE, _PLACE, _LEVEL = range(6)

Ints = NDArray[np.int64]


class Quantiser(NamedTuple):
    """The values that corrections lead to.

    Attributes
    ----------
    step : int
        Distance of values that a point can take.
    reciprocal : int
        2^40 // step.
    weight : float
        What a bit may cost in squared error, in units of `step` squared; 0 takes the nearest value. For the encoder.
    low, high : int
        Smallest and largest value.
    shift : int
        Bits above the lowest six of the range.
    octaves : uint8, shape (4096,)
        Four times the logarithm to the base of 2.
    """

    step: int
    reciprocal: int
    weight: float
    low: int
    high: int
    shift: int
    octaves: NDArray[np.uint8]


class Pass(NamedTuple):
    """All that the points of a pass are coded with.

    Attributes
    ----------
    grid : Grid
        With mirrored edges; is filled in.
    geometry : Geometry
    model : PassModel
    quantiser : Quantiser
    """

    grid: Grid
    geometry: Geometry
    model: PassModel
    quantiser: Quantiser


class _View(NamedTuple):
    """What is known at a point: see `describe`, `_KNOWN`, and the contexts of magnitude and sign."""

    features: Ints
    known: Ints
    contexts: Ints
    sign_contexts: Ints


def new_quantiser(step: int, weight: float, limits: tuple[int, int]) -> Quantiser:
    """Make the quantiser of a pass."""
    low, high = limits
    shift = max((high - low).bit_length() - 6, 0)
    return Quantiser(step, (1 << 40) // step, weight, low, high, shift, quarter_octave_table())


@cache
def quarter_octave_table() -> NDArray[np.uint8]:
    """Give for n = 0, ... 4095 four times the exponent of n plus the two bits below its highest; 0 for 0."""
    exponents = [max(n.bit_length() - 1, 0) for n in range(4096)]
    return np.array([4 * e + (((n << 2) >> e) & 3 if n else 0) for n, e in enumerate(exponents)], np.uint8)


def code_corrections(
    coder: BinaryCoder, mixer: Mixer, work: Pass, original: NDArray[np.int32] | None = None
) -> BinaryCoder:
    """Code the points of a pass, or decode them, into its grid.

    Parameters
    ----------
    coder : BinaryCoder
        Encoder or decoder.
    mixer : Mixer
        Is changed.
    work : Pass
        Its grid is changed.
    original : int32, shape (point,), optional
        What to encode.

    Returns
    -------
    BinaryCoder
        `coder`, which has more room if it needed some.
    """
    num_points = len(work.geometry.places)
    wanted = np.zeros(num_points, np.int32) if original is None else original
    view = _View(*(np.zeros(size, np.int64) for size in (NUM_FEATURES, 6, NUM_MODELS, NUM_MODELS)))
    for first in range(0, num_points, _BATCH):
        points = (first, min(first + _BATCH, num_points))
        coder = reserve(coder, (points[1] - points[0]) * _MOST_DECISIONS)
        _code_points(coder, mixer, work, view, wanted, points)
    return coder


@compiled(**(INLINE | {"forceinline": False}))
def _code_points(
    coder: BinaryCoder, mixer: Mixer, work: Pass, view: _View, wanted: NDArray[np.int32], points: tuple[int, int]
) -> None:
    grid, geometry, quantiser = work.grid, work.geometry, work.quantiser
    limits = (quantiser.low, quantiser.high)
    features = view.features
    for point in range(points[0], points[1]):
        place = geometry.places[point]
        describe(grid, geometry, work.model, limits, point, features)
        predicted = int(features[PREDICTED])
        _see(work, view, place)
        difference = int(wanted[point]) - predicted
        magnitude = _code_magnitude(coder, mixer, quantiser, view, abs(difference))
        sign = _code_sign(coder, mixer, work, view, (place, difference)) if magnitude else 0
        size = min(magnitude * quantiser.step, _LARGEST_SIZE)
        grid.signed[place] = sign * min(magnitude, _MOST_SIGNED)
        grid.sizes[place] = size
        grid.values[place] = min(max(predicted + sign * size, limits[0]), limits[1])


@compiled(**INLINE)
def _quarter_octaves(quantiser: Quantiser, value: int) -> int:
    """Four times the logarithm to the base of 2 of 256 value / step, rounded down; at most 2^15 steps count."""
    scaled = (min(value, quantiser.step << 15) * quantiser.reciprocal) >> 32
    if scaled < 4096:
        return int(quantiser.octaves[scaled])
    return int(quantiser.octaves[scaled >> 12]) + 48


@compiled(**INLINE)
def _limit(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)


@compiled(**INLINE)
def _see(work: Pass, view: _View, place: int) -> None:
    """Fill in what is known at a point, and the contexts of its magnitude."""
    quantiser, features, known, contexts = work.quantiser, view.features, view.known, view.contexts
    level, position = min(work.geometry.level, 2), work.geometry.position
    size = expected_size(work.model.scales, features, quantiser.step)
    octaves = _quarter_octaves(quantiser, size)
    scale = _limit(octaves - 10, 0, 63)
    tone = (2 * (int(features[PREDICTED]) - quantiser.low)) >> quantiser.shift
    known[_KNOWN], known[_SIZE], known[_SCALE], known[_TONE] = octaves, size, scale, tone
    known[_PLACE], known[_LEVEL] = level * 7 + position, level
    causal_size = int(features[CAUSAL_NEAR]) + (int(features[CAUSAL_FAR]) >> 1)
    before = _limit((_quarter_octaves(quantiser, causal_size) >> 2) - 6, 0, 7)
    near = _limit((_quarter_octaves(quantiser, int(features[NEAR])) >> 2) - 4, 0, 7)
    far = _limit((_quarter_octaves(quantiser, int(features[FAR])) >> 2) - 5, 0, 7)
    gradient = _limit((_quarter_octaves(quantiser, int(features[GRADIENT])) >> 1) - 11, 0, 15)
    curvature = _limit((_quarter_octaves(quantiser, int(features[CURVATURE])) >> 1) - 11, 0, 15)
    deviation = _limit((_quarter_octaves(quantiser, abs(int(features[DEVIATION]))) >> 2) - 3, 0, 7)
    half, neighbours = scale >> 1, _corrected_neighbours(work.grid.sizes, work.geometry.pairs, place)
    corrected, corrections = _corrected_before(work.grid.signed, work.geometry.causal, place)
    contexts[0] = scale * 21 + known[_PLACE]
    contexts[1] = scale * 27 + corrected
    contexts[2] = (before * 8 + near) * 16 + gradient
    contexts[3] = (near * 8 + far) * 32 + half
    contexts[4] = (gradient * 16 + curvature) * 3 + level
    contexts[5] = (features[CLASS] * 8 + deviation) * 32 + half
    contexts[6] = (tone >> 1) * 32 + half
    contexts[7] = neighbours * 32 + half
    contexts[8] = ((corrections * 8 + near) * 7 + position) * 3 + level


@compiled(**INLINE)
def _corrected_before(signed: NDArray[np.int8], causal: Ints, place: int) -> tuple[int, int]:
    """Tell how much the three nearest points before were corrected: each up to 2, and together up to 7 steps."""
    each, together = 0, 0
    for neighbour in range(3):
        steps = abs(int(signed[place + causal[neighbour]]))
        each = 3 * each + min(steps, 2)
        together += steps
    return each, min(together, 7)


@compiled(**INLINE)
def _corrected_neighbours(sizes: NDArray[np.int32], pairs: Ints, place: int) -> int:
    """Tell which of the six nearest neighbours were corrected, in bits."""
    bits = 0
    for pair in range(min(pairs.size, 3)):
        bits = 4 * bits + int(sizes[place + pairs[pair]] > 0) + 2 * int(sizes[place - pairs[pair]] > 0)
    return bits


@compiled(**INLINE)
def _sign(value: int) -> int:
    return int(value > 0) - int(value < 0)


@compiled(**INLINE)
def _code_sign(coder: BinaryCoder, mixer: Mixer, work: Pass, view: _View, at: tuple[int, int]) -> int:
    """Code the sign of a correction, 1 or -1; `at` is the place and the difference to bridge."""
    nearest = _see_sign(work, view, at[0])
    kind = (_SIGN, int(view.known[_SCALE]), int(view.known[_PLACE]), _SECOND_SIGN + nearest)
    return 1 - 2 * code_mixed(coder, mixer, view.sign_contexts, kind, int(at[1] < 0))


@compiled(**INLINE)
def _see_sign(work: Pass, view: _View, place: int) -> int:
    """Fill in the contexts of a sign; give the signs of the three nearest points before."""
    signed, pairs, causal = work.grid.signed, work.geometry.pairs, work.geometry.causal
    features, known, contexts = view.features, view.known, view.sign_contexts
    around, before, nearest = 0, 0, 0
    for pair in range(min(pairs.size, 6)):
        around += _sign(signed[place + pairs[pair]]) + _sign(signed[place - pairs[pair]])
    for neighbour in range(3, causal.size):
        before += _sign(signed[place + causal[neighbour]])
    for neighbour in range(3):
        nearest = 3 * nearest + _sign(signed[place + causal[neighbour]]) + 1
    around, deviation = _limit(around, -5, 5) + 5, int(features[DEVIATION])
    octaves = _quarter_octaves(work.quantiser, abs(deviation)) >> 1
    lean = 2 * _limit(octaves - 8, 0, 15) + int(deviation > 0)
    tone = known[_TONE] >> 1
    contexts[0] = nearest * 7 + work.geometry.position
    contexts[1] = lean * 3 + known[_LEVEL]
    contexts[2] = _limit(before, -4, 4) + 4 + 9 * nearest
    contexts[3] = around * 32 + lean
    contexts[4] = tone * 12 + features[CLASS]
    contexts[5] = around * 27 + nearest
    contexts[6] = lean * 12 + features[CLASS]
    contexts[7] = around
    contexts[8] = tone * 3 + known[_LEVEL]
    return nearest


@compiled(**INLINE)
def _code_magnitude(coder: BinaryCoder, mixer: Mixer, quantiser: Quantiser, view: _View, distance: int) -> int:
    """Code how many steps a correction has; `distance` is what it should bridge."""
    known, contexts = view.known, view.contexts
    num_low = max((int(known[_KNOWN]) >> 2) - 9, 0)
    kind = (_ZERO, int(known[_SCALE]), int(known[_PLACE]), int(known[_TONE]))
    zero = predict_bit(mixer, contexts, kind)
    magnitude = 0 if is_decoder(coder) else _choose(quantiser, distance, int(known[_SIZE]), zero)
    high = magnitude >> num_low
    if code_predicted(coder, mixer, zero, int(high == 0)):
        high = 0
    else:
        high = _code_unary(coder, mixer, contexts, (kind[1], kind[2]), high)
    return min((high << num_low) | code_raw(coder, num_low, magnitude), _LARGEST_MAGNITUDE)


@compiled(**INLINE)
def _choose(quantiser: Quantiser, distance: int, size: int, zero: int) -> int:
    """Take the nearest number of steps, or one less if the bits that it saves are worth more."""
    step = quantiser.step
    magnitude = (distance + step // 2) // step
    if quantiser.weight == 0 or magnitude == 0:
        return magnitude
    bits = math.log2(zero / (65536 - zero)) + 1.4 if magnitude == 1 else min(1.44 * step / max(size, 1), 3.0)
    gained = float(distance - (magnitude - 1) * step) ** 2 - float(distance - magnitude * step) ** 2
    return magnitude - int(gained < quantiser.weight * step * step * bits)


@compiled(**INLINE)
def _code_unary(coder: BinaryCoder, mixer: Mixer, contexts: Ints, chosen: tuple[int, int], value: int) -> int:
    """Code a positive number."""
    for number in range(1, _NUM_UNARY + 1):
        bin_ = _UNARY + number - 1
        kind = (bin_, chosen[0], chosen[1], _SECOND_UNARY + bin_)
        if not code_mixed(coder, mixer, contexts, kind, int(value > number)):
            return number
    rest, exponent = value - _NUM_UNARY, 0
    while exponent < _LARGEST_EXPONENT:
        bin_ = _EXPONENT + min(exponent, _MOST_EXPONENT_BINS - 1)
        kind = (bin_, chosen[0], chosen[1], _SECOND_UNARY + bin_)
        if not code_mixed(coder, mixer, contexts, kind, int(rest >> (exponent + 1) > 0)):
            break
        exponent += 1
    return _NUM_UNARY + ((1 << exponent) | code_raw(coder, exponent, rest))
