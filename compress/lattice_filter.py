"""A filter after decoding: each point moves towards weighted pairs of its neighbours, by class.

Corrections that were not worth their bits leave errors that the points decoded later show. The encoder fits the weights
by least squares to the original; classes whose weights would cost more than they gain have none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.compiled import compiled

from .binary_coder import INLINE, BinaryCoder, code_raw
from .context_mixing import CountedBits, code_integer, new_counted_bits
from .lattice import PADDING, Grid, Shape, nearest_pairs, offsets_to_flat
from .lattice_prediction import LARGEST_WEIGHT, solve
from .lattice_side import code_row, code_thresholds

__all__ = ["FilterModel", "code_filter", "filter_grid", "fit_filter"]

_NUM_PAIRS = 10
_NUM_MEASURED = 9
_NUM_CLASSES = 36
_NUM_THRESHOLDS = 3
_NUM_COSETS = 8
_WEIGHT_BITS = 8
_BITS_PER_WEIGHT = 5.0
_QUANTILES = (0.5, 0.75, 0.92)
_MOST_POINTS = 200_000
_ROW_CONTEXTS = 9

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class FilterModel(NamedTuple):
    """Weights of the filter.

    Attributes
    ----------
    thresholds : int64, shape (3,)
        Activities that separate classes.
    weights : int64, shape (group, class, pair)
        In units of 2^-8; a group for each of the eight parities of a point's indices, or one for all, or none.
    """

    thresholds: Ints
    weights: Ints


def code_filter(coder: BinaryCoder, model: FilterModel | None) -> FilterModel:
    """Write the weights, or read them; the encoder has reserved room."""
    wanted = _no_filter() if model is None else model
    num_groups = (0, 1, _NUM_COSETS, 0)[code_raw(coder, 2, {0: 0, 1: 1, _NUM_COSETS: 2}[len(wanted.weights)])]
    weights = np.zeros((num_groups, _NUM_CLASSES, _NUM_PAIRS), np.int64)
    if not num_groups:
        return FilterModel(wanted.thresholds, weights)
    bits: CountedBits = new_counted_bits(_ROW_CONTEXTS + 1)
    thresholds = code_thresholds(coder, wanted.thresholds)
    zeros = np.zeros(_NUM_PAIRS, np.int64)
    for group in range(num_groups):
        latest = zeros
        for class_ in range(_NUM_CLASSES):
            row = zeros if model is None else wanted.weights[group, class_]
            if code_integer(coder, bits, _ROW_CONTEXTS, int(row.any())):
                other = weights[group - 1, class_] if group else zeros
                latest = weights[group, class_] = code_row(coder, bits, 0, [latest, other], row)
    return FilterModel(thresholds, weights)


def _no_filter() -> FilterModel:
    return FilterModel(np.zeros(_NUM_THRESHOLDS, np.int64), np.zeros((0, _NUM_CLASSES, _NUM_PAIRS), np.int64))


def fit_filter(grid: Grid, original: NDArray[np.int32], bit_cost: float) -> FilterModel:
    """Find the filter that brings decoded values nearer to the original.

    Parameters
    ----------
    grid : Grid
        Of the finest level, padded, shape (slice, y, x), with mirrored edges.
    original : int32, shape (slice, y, x)
        Without padding.
    bit_cost : float
        Squared error that a bit of side information must take away.

    Returns
    -------
    FilterModel
        The better of one group and eight, or none.
    """
    shape = _shape_of(grid)
    inside = grid.values[(slice(PADDING, -PADDING),) * 3]
    steps = np.abs(np.diff(inside, axis=int(np.argmax(shape)))).ravel()[::7]
    thresholds = (np.quantile(steps, _QUANTILES) * 26).astype(np.int64)
    # Odd: an even stride would meet only half of the parities.
    stride = max(1, original.size // (_NUM_COSETS * _MOST_POINTS)) | 1
    flat, pairs, strides = _flatten(grid), _pair_places(shape), np.array([*shape], np.int64)
    products, targets = _normal_equations(flat, original, pairs, strides, thresholds, stride)
    best, gained = _no_filter(), 0.0
    for num_groups in (1, _NUM_COSETS):
        shared = (num_groups, _NUM_COSETS // num_groups)
        weights, gain = _fit_groups(
            products.reshape(*shared, *products.shape[1:]).sum(1),
            targets.reshape(*shared, *targets.shape[1:]).sum(1),
            bit_cost / stride,
        )
        if gain > gained:
            best, gained = FilterModel(thresholds, weights), gain
    return best


def _fit_groups(products: Floats, targets: Floats, bit_cost: float) -> tuple[Ints, float]:
    """Fit weights of each group and class; those that do not pay stay 0. Give also what is gained."""
    weights, gained = np.zeros(targets.shape, np.int64), 0.0
    price = bit_cost * _BITS_PER_WEIGHT * _NUM_PAIRS
    for group in range(len(targets)):
        shared = products[group].sum(0)
        least = 1e-4 * np.trace(shared) / _NUM_PAIRS + 1
        for class_ in range(_NUM_CLASSES):
            own = products[group, class_]
            regularised = own + 0.005 * shared / _NUM_CLASSES + least * np.eye(_NUM_PAIRS)
            row = np.rint(solve(regularised, targets[group, class_]) * (1 << _WEIGHT_BITS))
            row = np.clip(row, -LARGEST_WEIGHT, LARGEST_WEIGHT)
            real = row / (1 << _WEIGHT_BITS)
            gain = float((real * (2 * targets[group, class_] - (own * real).sum(1))).sum()) - price
            if gain > 0:
                weights[group, class_], gained = row.astype(np.int64), gained + gain
    return weights, gained


def filter_grid(grid: Grid, model: FilterModel, limits: tuple[int, int]) -> NDArray[np.int32]:
    """Filter decoded values and take off the padding.

    Parameters
    ----------
    grid : Grid
        Of the finest level, padded, shape (slice, y, x), with mirrored edges.
    model : FilterModel
        Of the block.
    limits : tuple of int
        Smallest and largest value.

    Returns
    -------
    int32, shape (slice, y, x)
        What a block decodes to.
    """
    shape = _shape_of(grid)
    if not len(model.weights):
        return grid.values[(slice(PADDING, -PADDING),) * 3].copy()
    weights = np.broadcast_to(model.weights, (_NUM_COSETS, *model.weights.shape[1:])).copy()
    filtered = np.empty(shape, np.int32)
    _apply(_flatten(grid), filtered, _pair_places(shape), model._replace(weights=weights), limits)
    return filtered


def _shape_of(grid: Grid) -> Shape:
    slices, rows, columns = (side - 2 * PADDING for side in grid.values.shape)
    return slices, rows, columns


def _flatten(grid: Grid) -> Grid:
    return Grid(grid.values.reshape(-1), grid.sizes.reshape(-1), grid.signed.reshape(-1))


def _pair_places(shape: Shape) -> Ints:
    return offsets_to_flat(nearest_pairs(_NUM_PAIRS), shape)


@compiled(**INLINE)
def _place(z: int, y: int, x: int, rows: int, columns: int) -> int:
    return ((z + PADDING) * (rows + 2 * PADDING) + y + PADDING) * (columns + 2 * PADDING) + x + PADDING


@compiled(**INLINE)
def _class_of(grid: Grid, pairs: Ints, thresholds: Ints, place: int) -> int:
    """Choose a class by activity, the pair that differs least, and what was corrected here and around."""
    values, sizes, centre = grid.values, grid.sizes, int(grid.values[place])
    activity, least, direction, corrected = 0, 1 << 40, 0, 0
    for pair in range(_NUM_MEASURED):
        before, after = int(values[place - pairs[pair]]), int(values[place + pairs[pair]])
        difference = abs(after - before)
        activity += difference + abs(after + before - 2 * centre)
        if pair < 3 and difference < least:
            least, direction = difference, pair
        corrected += int(sizes[place - pairs[pair]] > 0) + int(sizes[place + pairs[pair]] > 0)
    class_ = 0
    for threshold in thresholds:
        class_ += int(activity > threshold)
    state = 1 if sizes[place] > 0 else 2 * int(corrected > 1)
    return (class_ * 3 + direction) * 3 + state


@compiled()
def _normal_equations(
    grid: Grid, original: NDArray[np.int32], pairs: Ints, shape: Ints, thresholds: Ints, stride: int
) -> tuple[Floats, Floats]:
    """Add up, by parity and class, products of bends with each other and with the error."""
    products = np.zeros((_NUM_COSETS, _NUM_CLASSES, _NUM_PAIRS, _NUM_PAIRS))
    targets, bends = np.zeros((_NUM_COSETS, _NUM_CLASSES, _NUM_PAIRS)), np.empty(_NUM_PAIRS)
    for z in range(shape[0]):
        for y in range(shape[1]):
            for x in range((z + y) % stride, shape[2], stride):
                place, group = _place(z, y, x, shape[1], shape[2]), 4 * (z & 1) + 2 * (y & 1) + (x & 1)
                class_, centre = _class_of(grid, pairs, thresholds, place), int(grid.values[place])
                for pair in range(_NUM_PAIRS):
                    around = int(grid.values[place - pairs[pair]]) + int(grid.values[place + pairs[pair]])
                    bends[pair] = around - 2 * centre
                error = int(original[z, y, x]) - centre
                for pair in range(_NUM_PAIRS):
                    targets[group, class_, pair] += bends[pair] * error
                    for other in range(_NUM_PAIRS):
                        products[group, class_, pair, other] += bends[pair] * bends[other]
    return products, targets


@compiled()
def _apply(grid: Grid, filtered: NDArray[np.int32], pairs: Ints, model: FilterModel, limits: tuple[int, int]) -> None:
    slices, rows, columns = filtered.shape
    for z in range(slices):
        for y in range(rows):
            for x in range(columns):
                place, group = _place(z, y, x, rows, columns), 4 * (z & 1) + 2 * (y & 1) + (x & 1)
                weights = model.weights[group, _class_of(grid, pairs, model.thresholds, place)]
                centre, total = int(grid.values[place]), 1 << (_WEIGHT_BITS - 1)
                for pair in range(_NUM_PAIRS):
                    around = int(grid.values[place - pairs[pair]]) + int(grid.values[place + pairs[pair]])
                    total += int(weights[pair]) * (around - 2 * centre)
                filtered[z, y, x] = min(max(centre + (total >> _WEIGHT_BITS), limits[0]), limits[1])
