"""Predictions on a lattice: weighted pairs of known points, and how far off that is expected to be.

A point is predicted as the mean of its nearest neighbours plus weighted bends: how far the mean of a pair of opposite
neighbours is from that mean. There are up to twelve classes of points, by activity of the neighbourhood and by the pair
that agrees best, each with weights of its own. The encoder finds them by least squares, rounds them, and they are
sent: whatever it does in floating point, the decoder has integers only.

The expected size of a correction is a weighted sum of features of the neighbourhood, fitted likewise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.compiled import compiled

from .binary_coder import INLINE
from .lattice import Geometry, Grid

__all__ = [
    "CLASS",
    "CURVATURE",
    "DEVIATION",
    "FAR",
    "GRADIENT",
    "LARGEST_SCALE_CODE",
    "LARGEST_WEIGHT",
    "NEAR",
    "NUM_FEATURES",
    "NUM_SCALES",
    "NUM_THRESHOLDS",
    "PREDICTED",
    "PassModel",
    "default_model",
    "describe",
    "expected_size",
    "fit_model",
    "scales_from_codes",
    "solve",
    "with_scales",
]

CLASS, PREDICTED, GRADIENT, CURVATURE, DEVIATION, NEAR, FAR, CAUSAL_NEAR, CAUSAL_FAR = range(9)
"""What `describe` tells of a point."""
NUM_FEATURES = 9
NUM_SCALES = 8
NUM_THRESHOLDS = 3
LARGEST_WEIGHT = 2047
"""Of weights, in units of 2^-8."""
LARGEST_SCALE_CODE = 64

_WEIGHT_BITS = 8
_SCALE_BITS = 14
_ACTIVE_PAIRS, _DIRECTIONS = 6, 3
_QUANTILES = (0.5, 0.75, 0.92)
_DEFAULT_CODES = (25, 25, 30, 22, 17, 30, 26, 30)
_MOST_POINTS = 200_000
_MOST_SAMPLES = 40_000
_ROUNDING = 0.38

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class PassModel(NamedTuple):
    """How the points of a pass are predicted.

    Attributes
    ----------
    thresholds : int64, shape (3,)
        Activities that separate the classes.
    weights : int64, shape (class, pair)
        In units of 2^-8; 1, 3 or 12 classes.
    codes : int64, shape (8,)
        Of the weights of the expected size.
    scales : int64, shape (8,)
        These weights, in units of 2^-14.
    """

    thresholds: Ints
    weights: Ints
    codes: Ints
    scales: Ints


def default_model(geometry: Geometry, codes: Ints | None = None) -> PassModel:
    """Give the model of a pass with few points: means of the nearest neighbours."""
    codes = np.array(_DEFAULT_CODES, np.int64) if codes is None else codes
    weights = np.zeros((1, len(geometry.pairs)), np.int64)
    return PassModel(np.zeros(NUM_THRESHOLDS, np.int64), weights, codes, scales_from_codes(codes))


def scales_from_codes(codes: Ints) -> Ints:
    """Give 0 for 0, and ``(4 + m) 2^e`` for ``1 + 4 e + m``."""
    exponents, mantissas = (codes - 1) // 4, (codes - 1) % 4
    return np.where(codes > 0, (4 + mantissas) << np.maximum(exponents, 0), 0)


@compiled(**INLINE)
def describe(grid: Grid, geometry: Geometry, model: PassModel, limits: tuple[int, int], point: int, out: Ints) -> None:
    """Predict a point and describe its neighbourhood.

    Parameters
    ----------
    grid : Grid
        With mirrored edges.
    geometry : Geometry
        Of the pass.
    model : PassModel
        Of the pass.
    limits : tuple of int
        Smallest and largest value, below 2^28 in size.
    point : int
        Which of the pass.
    out : int64, shape (9,)
        Receives class, prediction, gradient, curvature, deviation of the prediction from the mean, and sizes of
        corrections at near and far pairs and at near and far points before this one.
    """
    values, sizes, pairs, place = grid.values, grid.sizes, geometry.pairs, geometry.places[point]
    doubled = _doubled_mean(values, pairs, place, geometry.num_nearest)
    _measure(values, pairs, place, doubled, out)
    class_ = _classify(model, out)
    total, near, far = 0, 0, 0
    for pair in range(pairs.size):
        before, after = place - pairs[pair], place + pairs[pair]
        # at most 2^11 * 2^30 * 20 in size
        total += int(model.weights[class_, pair]) * (int(values[before]) + int(values[after]) - doubled)
        if pair < _DIRECTIONS:
            near += int(sizes[before]) + int(sizes[after])
        else:
            far += int(sizes[before]) + int(sizes[after])
    predicted = (doubled * (1 << (_WEIGHT_BITS - 1)) + total + (1 << (_WEIGHT_BITS - 1))) >> _WEIGHT_BITS
    predicted = min(max(predicted, limits[0]), limits[1])
    out[CLASS], out[PREDICTED], out[DEVIATION] = class_, predicted, predicted - (doubled >> 1)
    out[NEAR], out[FAR] = near, far
    _sum_causal(sizes, geometry.causal, place, out)


@compiled(**INLINE)
def _doubled_mean(values: NDArray[np.int32], pairs: Ints, place: int, num_nearest: int) -> int:
    """Twice the mean of the nearest neighbours, rounded down."""
    total = 0
    for pair in range(num_nearest):
        total += int(values[place - pairs[pair]]) + int(values[place + pairs[pair]])
    return total // num_nearest


@compiled(**INLINE)
def _measure(values: NDArray[np.int32], pairs: Ints, place: int, doubled: int, out: Ints) -> None:
    """Add up how far pairs differ and bend; keep in the place of the class which pair differs least."""
    gradient, curvature, least, direction = 0, 0, 1 << 40, 0
    for pair in range(min(pairs.size, _ACTIVE_PAIRS)):
        before, after = int(values[place - pairs[pair]]), int(values[place + pairs[pair]])
        difference = abs(after - before)
        gradient += difference
        curvature += abs(after + before - doubled)
        if pair < _DIRECTIONS and difference < least:
            least, direction = difference, pair
    out[CLASS], out[GRADIENT], out[CURVATURE] = direction, gradient, curvature


@compiled(**INLINE)
def _classify(model: PassModel, out: Ints) -> int:
    """Choose a class by direction and activity."""
    if model.weights.shape[0] == 1:
        return 0
    class_ = int(out[CLASS])
    if model.weights.shape[0] > _DIRECTIONS:
        for threshold in model.thresholds:
            class_ += _DIRECTIONS * int(out[GRADIENT] + out[CURVATURE] > threshold)
    return class_


@compiled(**INLINE)
def _sum_causal(sizes: NDArray[np.int32], causal: Ints, place: int, out: Ints) -> None:
    near, far = 0, 0
    for neighbour in range(causal.size):
        if neighbour < _DIRECTIONS:
            near += int(sizes[place + causal[neighbour]])
        else:
            far += int(sizes[place + causal[neighbour]])
    out[CAUSAL_NEAR], out[CAUSAL_FAR] = near, far


@compiled(**INLINE)
def expected_size(scales: Ints, features: Ints, step: int) -> int:
    """Give the expected absolute value of a correction, in units of the values."""
    total = abs(int(features[DEVIATION])) * int(scales[2]) + step * int(scales[7])
    total += int(features[GRADIENT]) * int(scales[0]) + int(features[CURVATURE]) * int(scales[1])
    total += int(features[NEAR]) * int(scales[3]) + int(features[FAR]) * int(scales[4])
    # sizes are at most 2^30, there are at most 34 of them, and scales are below 2^18
    total += int(features[CAUSAL_NEAR]) * int(scales[5]) + int(features[CAUSAL_FAR]) * int(scales[6])
    return total >> _SCALE_BITS


def fit_model(
    grid: Grid, geometry: Geometry, original: NDArray[np.int32], *, num_classes: int, num_pairs: int, coarseness: int
) -> PassModel:
    """Find classes and weights of a pass by least squares; the scales are those of `default_model`.

    Parameters
    ----------
    grid : Grid
        With mirrored edges.
    geometry : Geometry
        Of the pass.
    original : int32, shape (point,)
        What is to be predicted.
    num_classes : int
        1, 3 or 12.
    num_pairs : int
        How many pairs have a weight other than 0.
    coarseness : int
        Weights are multiples of 2^coarseness.
    """
    model = default_model(geometry)
    start = np.zeros((num_classes, len(geometry.pairs)), np.int64)
    thresholds = np.quantile(_activities(grid, geometry), _QUANTILES).astype(np.int64)
    model = model._replace(thresholds=thresholds, weights=start)
    stride = max(1, len(original) // _MOST_POINTS)
    products, targets = _normal_equations(grid, geometry, model, original, (stride, num_pairs))
    shared = products.sum(0)
    least = 1e-4 * np.trace(shared) / num_pairs + 1
    unit, limit = 2.0 ** (coarseness - _WEIGHT_BITS), LARGEST_WEIGHT >> coarseness
    for class_ in range(num_classes):
        regularised = products[class_] + 0.002 * shared / num_classes + least * np.eye(num_pairs)
        weights = np.clip(np.rint(solve(regularised, targets[class_]) / unit), -limit, limit)
        start[class_, :num_pairs] = weights.astype(np.int64) << coarseness
    return model


@compiled()
def _activities(grid: Grid, geometry: Geometry) -> Ints:
    """Give gradient plus curvature of every seventh point."""
    values, pairs = grid.values, geometry.pairs
    out, activities = np.empty(NUM_FEATURES, np.int64), np.empty((geometry.places.size + 6) // 7, np.int64)
    for sample in range(activities.size):
        place = geometry.places[7 * sample]
        _measure(values, pairs, place, _doubled_mean(values, pairs, place, geometry.num_nearest), out)
        activities[sample] = out[GRADIENT] + out[CURVATURE]
    return activities


@compiled()
def _normal_equations(
    grid: Grid, geometry: Geometry, model: PassModel, original: NDArray[np.int32], sampling: tuple[int, int]
) -> tuple[Floats, Floats]:
    """Add up, by class, products of bends with each other and with what the mean leaves."""
    (stride, num_pairs), num_classes = sampling, model.weights.shape[0]
    values, pairs, out = grid.values, geometry.pairs, np.empty(NUM_FEATURES, np.int64)
    products, targets = np.zeros((num_classes, num_pairs, num_pairs)), np.zeros((num_classes, num_pairs))
    bends = np.empty(num_pairs)
    for point in range(0, geometry.places.size, stride):
        place = geometry.places[point]
        doubled = _doubled_mean(values, pairs, place, geometry.num_nearest)
        _measure(values, pairs, place, doubled, out)
        class_ = _classify(model, out)
        for pair in range(num_pairs):
            bends[pair] = int(values[place - pairs[pair]]) + int(values[place + pairs[pair]]) - doubled
        for pair in range(num_pairs):
            targets[class_, pair] += bends[pair] * (original[point] - 0.5 * doubled)
            for other in range(pair + 1):
                products[class_, pair, other] += bends[pair] * bends[other]
    for pair in range(num_pairs):
        for other in range(pair):
            products[:, other, pair] = products[:, pair, other]
    return products, targets


@compiled()
def solve(matrix: Floats, vector: Floats) -> Floats:
    """Solve equations with a symmetric, positive definite matrix; the same for any number of threads."""
    rows, solution = matrix.copy(), vector.copy()
    for column in range(len(vector)):
        for row in range(column + 1, len(vector)):
            factor = rows[row, column] / rows[column, column]
            rows[row, column:] -= factor * rows[column, column:]
            solution[row] -= factor * solution[column]
    for column in range(len(vector) - 1, -1, -1):
        for other in range(column + 1, len(vector)):
            solution[column] -= rows[column, other] * solution[other]
        solution[column] /= rows[column, column]
    return solution


def with_scales(
    grid: Grid, geometry: Geometry, model: PassModel, original: NDArray[np.int32], *, limits: tuple[int, int], step: int
) -> PassModel:
    """Fit the weights of the expected size to what the predictions of a model leave.

    Sizes of points before a point are not known yet; those of the rounded differences stand for them.
    """
    sizes = grid.sizes.copy()
    differences = _assume_sizes(grid._replace(sizes=sizes), geometry, model, original, (*limits, step))
    stride = max(1, len(original) // _MOST_SAMPLES)
    table = _feature_table(grid._replace(sizes=sizes), geometry, model, (*limits, step), stride)
    fitted = _fit_sizes(table, np.abs(differences[::stride]).astype(np.float64), float(step))
    codes = _codes_of(fitted)
    return model._replace(codes=codes, scales=scales_from_codes(codes))


@compiled()
def _assume_sizes(
    grid: Grid, geometry: Geometry, model: PassModel, original: NDArray[np.int32], numbers: tuple[int, int, int]
) -> Ints:
    """Put sizes of corrections into the grid as if small differences were left out; give the differences."""
    low, high, step = numbers
    features, differences = np.empty(NUM_FEATURES, np.int64), np.empty(original.size, np.int64)
    for point in range(original.size):
        describe(grid, geometry, model, (low, high), point, features)
        difference = int(original[point]) - int(features[PREDICTED])
        differences[point] = difference
        grid.sizes[geometry.places[point]] = (abs(difference) + int(_ROUNDING * step)) // step * step
    return differences


@compiled()
def _feature_table(
    grid: Grid, geometry: Geometry, model: PassModel, numbers: tuple[int, int, int], stride: int
) -> Floats:
    low, high, step = numbers
    features = np.empty(NUM_FEATURES, np.int64)
    table = np.empty(((geometry.places.size + stride - 1) // stride, NUM_SCALES))
    for sample in range(len(table)):
        describe(grid, geometry, model, (low, high), sample * stride, features)
        for column in range(NUM_SCALES - 1):
            table[sample, column] = abs(features[GRADIENT + column])
        table[sample, NUM_SCALES - 1] = step
    return table


@compiled()
def _fit_sizes(table: Floats, sizes: Floats, step: float) -> Floats:
    """Fit sizes by a sum with weights that are not negative; errors count in relation to what is expected."""
    num_columns = table.shape[1]
    expected, fitted = np.full(len(sizes), sizes.mean() + 0.02 * step), np.zeros(num_columns)
    for _ in range(4):
        products, targets = 1e-6 * np.eye(num_columns), np.zeros(num_columns)
        for sample in range(len(sizes)):
            share = 1 / (expected[sample] + 0.03 * step) ** 2
            for column in range(num_columns):
                weighted = table[sample, column] * share
                targets[column] += weighted * sizes[sample]
                for other in range(num_columns):
                    products[column, other] += weighted * table[sample, other]
        _descend_coordinates(products, targets, fitted)
        for sample in range(len(sizes)):
            expected[sample] = (table[sample] * fitted).sum()
    return fitted


@compiled()
def _descend_coordinates(products: Floats, targets: Floats, fitted: Floats) -> None:
    """Solve for the least squares with no negative weight, one weight after the other, in place."""
    for _ in range(300):
        for column in range(len(fitted)):
            slope = targets[column] - (products[column] * fitted).sum()
            fitted[column] = max(0.0, fitted[column] + slope / products[column, column])


def _codes_of(fitted: Floats) -> Ints:
    """Give the codes of the scales nearest to given ones."""
    scales = scales_from_codes(np.arange(LARGEST_SCALE_CODE + 1))
    codes: Ints = np.abs(scales[:, None] - fitted * (1 << _SCALE_BITS)).argmin(0).astype(np.int64)
    return codes
