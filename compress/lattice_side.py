"""Side information of a block: classes, weights and scales of each pass, written and read by the same functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .binary_coder import BinaryCoder, code_raw
from .context_mixing import CountedBits, code_integer, new_counted_bits
from .lattice import Geometry
from .lattice_prediction import (
    LARGEST_SCALE_CODE,
    LARGEST_WEIGHT,
    NUM_SCALES,
    NUM_THRESHOLDS,
    PassModel,
    default_model,
    scales_from_codes,
)

__all__ = ["MODEL_KINDS", "SideInformation", "code_row", "code_thresholds"]

MODEL_KINDS = ((1, 0), (1, 8), (3, 20), (12, 20))
"""Number of classes, and of pairs with weights, of each kind of model."""

_LARGEST_THRESHOLD = 1 << 36
_THRESHOLD_BITS = 37
_ROW, _WEIGHT, _SCALE = 0, 1, 9
_NUM_CONTEXTS = _SCALE + NUM_SCALES
_COLUMN_GROUP = 5

Ints = NDArray[np.int64]


class SideInformation:
    """Codes the models of the passes of a block, each as the difference from one that is known.

    Attributes
    ----------
    bits : CountedBits
        Probabilities of all numbers here.
    known : dict
        The latest model of each of the seven passes.
    """

    def __init__(self) -> None:
        self.bits: CountedBits = new_counted_bits(_NUM_CONTEXTS)
        self.known: dict[int, PassModel] = {}

    def code(self, coder: BinaryCoder, geometry: Geometry, model: PassModel | None, kind: tuple[int, int]) -> PassModel:
        """Write a model of a kind and coarseness, or read one; give it."""
        kind_, coarseness = code_raw(coder, 2, kind[0]), 0
        if kind_ == 0:
            return default_model(geometry)
        coarseness = code_raw(coder, 2, kind[1])
        num_classes, num_pairs = MODEL_KINDS[kind_]
        decoded = default_model(geometry)
        before = self.known.get(geometry.position, decoded)
        if before.weights.shape[1] != len(geometry.pairs):  # a lattice of one slice, row or column has fewer pairs
            before = decoded._replace(codes=before.codes)
        weights = np.zeros((num_classes, len(geometry.pairs)), np.int64)
        wanted = weights if model is None else model.weights
        for class_ in range(num_classes):
            references = (_row_before(weights, class_), before.weights[class_ % len(before.weights)])
            used = min(num_pairs, weights.shape[1])
            known = [each[:used] >> coarseness for each in references]
            row = code_row(coder, self.bits, _ROW, known, wanted[class_, :used] >> coarseness)
            weights[class_, :used] = row << coarseness
        thresholds = np.zeros(NUM_THRESHOLDS, np.int64)
        if num_classes > NUM_THRESHOLDS:
            thresholds = code_thresholds(coder, thresholds if model is None else model.thresholds)
        codes = np.zeros(NUM_SCALES, np.int64)
        for column in range(NUM_SCALES):
            change = 0 if model is None else int(model.codes[column] - before.codes[column])
            code = before.codes[column] + code_integer(coder, self.bits, _SCALE + column, change)
            codes[column] = min(max(code, 0), LARGEST_SCALE_CODE)
        decoded = PassModel(thresholds, weights, codes, scales_from_codes(codes))
        self.known[geometry.position] = decoded
        return decoded


def code_row(coder: BinaryCoder, bits: CountedBits, context: int, references: list[Ints], wanted: Ints) -> Ints:
    """Code weights as differences from the nearer of two references.

    Parameters
    ----------
    coder : BinaryCoder
        Encoder or decoder.
    bits : CountedBits
        `context` is of the choice of the reference, the next eight of the differences.
    context : int
        First of nine.
    references : two of int64, shape (column,)
        What is known.
    wanted : int64, shape (column,)
        To be written; a decoder takes no notice.

    Returns
    -------
    int64, shape (column,)
        The weights.
    """
    costs = [int(np.abs(wanted - reference).sum()) for reference in references]
    choice = abs(code_integer(coder, bits, context, int(costs[1] < costs[0]))) & 1
    row = np.zeros(len(wanted), np.int64)
    for column, known in enumerate(references[choice]):
        place = context + 1 + 4 * choice + min(column // _COLUMN_GROUP, 3)
        weight = int(known) + code_integer(coder, bits, place, int(wanted[column] - known))
        row[column] = min(max(weight, -LARGEST_WEIGHT), LARGEST_WEIGHT)
    return row


def code_thresholds(coder: BinaryCoder, wanted: Ints) -> Ints:
    """Code thresholds with the four bits from their highest on; the others of a decoded one are 0."""
    thresholds = np.zeros(len(wanted), np.int64)
    for place, value in enumerate(wanted.tolist()):
        exponent = code_raw(coder, 6, max(value.bit_length() - 4, 0))
        thresholds[place] = code_raw(coder, 4, value >> exponent) << min(exponent, 40)
    return thresholds


def _row_before(weights: Ints, class_: int) -> Ints:
    """Give the class of the same direction and less activity; for the first directions the first class or zeros."""
    if class_ == 0:
        return np.zeros(weights.shape[1], np.int64)
    before: Ints = weights[class_ - 3 if class_ >= 3 else 0]
    return before
