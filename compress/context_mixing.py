"""Probabilities of binary decisions: models of several contexts, mixed in the logistic domain, in integers.

As in lpaq and paq8 [1]_: each context has adaptive probabilities; their logarithms of odds are added with weights that
are learnt as the data go by; two such mixers, whose weights are chosen by two small contexts, are averaged; and two
tables refine what comes out. Everything is an integer recipe, given in the page on the archive format, and the same
on every machine.

Probabilities are those of a 1, in units of 2^-16. Logarithms of odds are in units of 1/256, limited to 2047.

References
----------
.. [1] Mahoney, Data compression explained, 2013, http://mattmahoney.net/dc/dce.html, sections 4.3.2 to 4.3.4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.compiled import compiled

from .binary_coder import INLINE, BinaryCoder, code_bit, code_raw

__all__ = [
    "NUM_BINS",
    "NUM_CONTEXTS",
    "NUM_MODELS",
    "NUM_ODDS",
    "CountedBits",
    "Mixer",
    "code_integer",
    "code_mixed",
    "code_predicted",
    "new_counted_bits",
    "new_mixer",
    "predict_bit",
    "squash_table",
    "stretch_table",
]

NUM_MODELS = 9
"""Contexts in which each decision is seen."""
NUM_CONTEXTS = 4096
"""Values of a context lie below."""
NUM_BINS = 32
"""Kinds of decisions."""
NUM_ODDS = 4096

_LIMIT = 2047
_KNOTS = (
    *(22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743),
    *(32768, 40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476),
    *(65500, 65514),
)
"""2^16 / (1 + exp(-x)) for x = -8, -7.5, ... 8."""
_LEAST, _MOST = 16, 65520
_LEAST_MODEL, _MOST_MODEL = 24, 65511
_MOST_SEEN = 250
_FIRST_WEIGHT = 19660
_LARGEST_WEIGHT = 1 << 24
_NUM_SCALES, _NUM_PLACES, _NUM_SECOND = 64, 21, 256
_ERROR_A, _ERROR_B, _KNOT, _SET_A, _SET_B, _REFINE_A, _REFINE_B = range(7)


class Mixer(NamedTuple):
    """What has been learnt so far, and the tables that never change.

    Attributes
    ----------
    squash : int32, shape (4096,)
        Probability of odds -2048, ... 2047.
    stretch : int32, shape (4096,)
        Odds of the probabilities 0, 16, 32, ...
    rates : int32, shape (256,)
        How far a probability moves that has been seen so often, in units of 2^-16.
    probabilities : int32, shape (bin, model, context), flat
        Of the models.
    counts : uint8, as `probabilities`
        How often each has been seen.
    weights_a, weights_b : int32, shape (set, model + 1)
        Of the two mixers, in units of 2^-16; the last is a bias.
    refined_a, refined_b : int32, shape (set, 33)
        Probabilities that replace those of odds -2048, -1920, ... 2048.
    places : int64, shape (model,)
        Where the models' probabilities for the present decision are.
    odds : int64, shape (model + 1,)
        What they say.
    memory : int64, shape (7,)
        What `_learn` needs of `predict_bit`.
    """

    squash: NDArray[np.int32]
    stretch: NDArray[np.int32]
    rates: NDArray[np.int32]
    probabilities: NDArray[np.int32]
    counts: NDArray[np.uint8]
    weights_a: NDArray[np.int32]
    weights_b: NDArray[np.int32]
    refined_a: NDArray[np.int32]
    refined_b: NDArray[np.int32]
    places: NDArray[np.int64]
    odds: NDArray[np.int64]
    memory: NDArray[np.int64]


def squash_table() -> NDArray[np.int32]:
    """Give the probabilities of odds -2048, ... 2047: lines between the knots, rounded down."""
    knots, odds = np.array(_KNOTS, np.int64), np.arange(NUM_ODDS)
    left, part = odds >> 7, odds & 127
    between = (knots[left] * (128 - part) + knots[left + 1] * part) >> 7
    squash: NDArray[np.int32] = np.clip(between, _LEAST, _MOST).astype(np.int32)
    return squash


def stretch_table() -> NDArray[np.int32]:
    """Give for each p of 0, 16, 32, ... the smallest odds whose probability is at least p + 8, within the limits."""
    places = np.searchsorted(squash_table(), np.arange(NUM_ODDS) * 16 + 8)
    return np.clip(places - 2048, -_LIMIT, _LIMIT).astype(np.int32)


def _rates() -> NDArray[np.int32]:
    """2^16 / (n + 1.6), rounded down."""
    return (655360 // (10 * np.arange(256) + 16)).astype(np.int32)


def new_mixer() -> Mixer:
    """Make a mixer that has seen nothing."""
    num_probabilities = NUM_BINS * NUM_MODELS * NUM_CONTEXTS
    weights = np.array([_FIRST_WEIGHT] * NUM_MODELS + [0], np.int32)
    knots = np.array(_KNOTS, np.int32)
    return Mixer(
        squash=squash_table(),
        stretch=stretch_table(),
        rates=_rates(),
        probabilities=np.full(num_probabilities, 1 << 15, np.int32),
        counts=np.zeros(num_probabilities, np.uint8),
        weights_a=np.tile(weights, (NUM_BINS * _NUM_SCALES, 1)),
        weights_b=np.tile(weights, (NUM_BINS * _NUM_PLACES, 1)),
        refined_a=np.tile(knots, (NUM_BINS * _NUM_SCALES, 1)),
        refined_b=np.tile(knots, (_NUM_SECOND, 1)),
        places=np.zeros(NUM_MODELS, np.int64),
        odds=np.zeros(NUM_MODELS + 1, np.int64),
        memory=np.zeros(7, np.int64),
    )


@compiled(**INLINE)
def code_mixed(
    coder: BinaryCoder, mixer: Mixer, contexts: NDArray[np.int64], kind: tuple[int, int, int, int], bit: int
) -> int:
    """Write or read a decision, and learn from it.

    Parameters
    ----------
    coder : BinaryCoder
        Encoder or decoder.
    mixer : Mixer
        Is changed.
    contexts : int64, shape (9,)
        From 0 to 4095.
    kind : tuple of int
        The bin (below 32), what chooses the weights of the first mixer (below 64) and of the second (below 21), and
        what chooses the second refinement (below 256).
    bit : int
        What to write; a decoder takes no notice.

    Returns
    -------
    int
        The bit.
    """
    return code_predicted(coder, mixer, predict_bit(mixer, contexts, kind), bit)


@compiled(**INLINE)
def code_predicted(coder: BinaryCoder, mixer: Mixer, probability: int, bit: int) -> int:
    """Write or read the decision that `predict_bit` gave the probability of, and learn from it; give the bit."""
    bit = code_bit(coder, probability, bit)
    _learn(mixer, bit)
    return bit


@compiled(**INLINE)
def predict_bit(mixer: Mixer, contexts: NDArray[np.int64], kind: tuple[int, int, int, int]) -> int:
    """Give the probability of a 1, in units of 2^-16; arguments as for `code_mixed`."""
    memory, (bin_, scale, place, second) = mixer.memory, kind
    set_a, set_b = bin_ * _NUM_SCALES + scale, bin_ * _NUM_PLACES + place
    _gather(mixer, contexts, bin_)
    odds_a, odds_b = _dot(mixer.weights_a[set_a], mixer.odds), _dot(mixer.weights_b[set_b], mixer.odds)
    probability_a, probability_b = int(mixer.squash[odds_a + 2048]), int(mixer.squash[odds_b + 2048])
    odds = ((odds_a + odds_b) >> 1) + 2048
    knot, part = odds >> 7, odds & 127
    refined = _between(mixer.refined_a[set_a], knot, part) + _between(mixer.refined_b[second], knot, part)
    memory[_ERROR_A], memory[_ERROR_B], memory[_KNOT] = probability_a, probability_b, knot + (part >> 6)
    memory[_SET_A], memory[_SET_B], memory[_REFINE_A], memory[_REFINE_B] = set_a, set_b, set_a, second
    return min(max((2 * int(mixer.squash[odds]) + refined + 2) >> 2, _LEAST), _MOST)


@compiled(**INLINE)
def _gather(mixer: Mixer, contexts: NDArray[np.int64], bin_: int) -> None:
    """Take the odds of all models; those of a model that has seen little count less."""
    places, odds, stretch = mixer.places, mixer.odds, mixer.stretch
    for model in range(NUM_MODELS):
        place = ((bin_ * NUM_MODELS + model) * NUM_CONTEXTS) + contexts[model]
        places[model] = place
        value, seen = int(stretch[mixer.probabilities[place] >> 4]), int(mixer.counts[place])
        odds[model] = value if seen > 3 else (value * (seen + 1)) // 6
    odds[NUM_MODELS] = 256


@compiled(**INLINE)
def _dot(weights: NDArray[np.int32], odds: NDArray[np.int64]) -> int:
    """Add up the weighted odds; a sum of ten products below 2^35 in size."""
    total = 0
    for model in range(NUM_MODELS + 1):
        total += int(weights[model]) * int(odds[model])
    return min(max(total >> 16, -_LIMIT), _LIMIT)


@compiled(**INLINE)
def _between(knots: NDArray[np.int32], knot: int, part: int) -> int:
    return (int(knots[knot]) * (128 - part) + int(knots[knot + 1]) * part) >> 7


@compiled(**INLINE)
def _learn(mixer: Mixer, bit: int) -> None:
    """Move everything that `predict_bit` used towards the bit."""
    memory, target = mixer.memory, bit << 16
    _descend(mixer.weights_a[memory[_SET_A]], mixer.odds, (target - int(memory[_ERROR_A])) * 5)
    _descend(mixer.weights_b[memory[_SET_B]], mixer.odds, (target - int(memory[_ERROR_B])) * 5)
    knot = memory[_KNOT]
    refined_a, refined_b = mixer.refined_a[memory[_REFINE_A]], mixer.refined_b[memory[_REFINE_B]]
    refined_a[knot] += (target - int(refined_a[knot])) >> 7
    refined_b[knot] += (target - int(refined_b[knot])) >> 7
    probabilities, counts = mixer.probabilities, mixer.counts
    for model in range(NUM_MODELS):
        place = mixer.places[model]
        old, seen = int(probabilities[place]), int(counts[place])
        new = old + (((target - old) * int(mixer.rates[seen])) >> 16)
        probabilities[place] = min(max(new, _LEAST_MODEL), _MOST_MODEL)
        if seen < _MOST_SEEN:
            counts[place] = seen + 1


@compiled(**INLINE)
def _descend(weights: NDArray[np.int32], odds: NDArray[np.int64], error: int) -> None:
    """Move weights along the gradient of the cost; products lie below 2^30 in size."""
    for model in range(NUM_MODELS + 1):
        moved = int(weights[model]) + ((int(odds[model]) * error + (1 << 16)) >> 17)
        weights[model] = min(max(moved, -_LARGEST_WEIGHT), _LARGEST_WEIGHT)


class CountedBits(NamedTuple):
    """Adaptive probabilities without mixing, for the few numbers of side information.

    Attributes
    ----------
    probabilities : int32, shape (context, 32)
        Of each decision of `code_integer`.
    counts : int32, as `probabilities`
        How often each has been seen.
    """

    probabilities: NDArray[np.int32]
    counts: NDArray[np.int32]


_SIGN, _EXPONENT, _MANTISSA = 1, 2, 18
_MOST_EXPONENT_BINS = 14
_LARGEST_EXPONENT = 30
_MOST_SEEN_SIDE = 60


def new_counted_bits(num_contexts: int) -> CountedBits:
    """Make probabilities of 1/2 for a number of contexts."""
    shape = (num_contexts, NUM_BINS)
    return CountedBits(np.full(shape, 1 << 15, np.int32), np.zeros(shape, np.int32))


@compiled(_nrt=False)
def code_integer(coder: BinaryCoder, bits: CountedBits, context: int, value: int) -> int:
    """Write or read an integer: whether it is 0, its sign, exponent in unary, and the bits below.

    Parameters
    ----------
    coder : BinaryCoder
        Encoder, with room for 100 decisions, or decoder.
    bits : CountedBits
        Are changed.
    context : int
        Which row of `bits`.
    value : int
        To be written, below 2^31 in size; a decoder takes no notice.

    Returns
    -------
    int
        The value.
    """
    if not _code_counted(coder, bits, (context, 0), int(value != 0)):
        return 0
    negative = _code_counted(coder, bits, (context, _SIGN), int(value < 0))
    magnitude = abs(value)
    exponent = 0
    while exponent < _LARGEST_EXPONENT and _code_counted(
        coder, bits, (context, _EXPONENT + min(exponent, _MOST_EXPONENT_BINS - 1)), int(magnitude >> (exponent + 1) > 0)
    ):
        exponent += 1
    decoded = 1
    if exponent:
        row = _MANTISSA + min(exponent, _MOST_EXPONENT_BINS) - 1
        decoded = 2 + _code_counted(coder, bits, (context, row), (magnitude >> (exponent - 1)) & 1)
        decoded = (decoded << (exponent - 1)) | code_raw(coder, exponent - 1, magnitude & ((1 << (exponent - 1)) - 1))
    return -decoded if negative else decoded


@compiled(_nrt=False)
def _code_counted(coder: BinaryCoder, bits: CountedBits, place: tuple[int, int], bit: int) -> int:
    old, seen = int(bits.probabilities[place]), int(bits.counts[place])
    bit = code_bit(coder, old, bit)
    moved = old + (((bit << 16) - old) * (655360 // (10 * seen + 16)) >> 16)
    bits.probabilities[place] = min(max(moved, 512), 65024)
    bits.counts[place] = min(seen + 1, _MOST_SEEN_SIDE)
    return bit
