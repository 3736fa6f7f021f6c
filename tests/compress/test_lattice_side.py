from __future__ import annotations

import numpy as np
import pytest

from quietbeam.compress.binary_coder import check_end, finish, new_decoder, new_encoder, reserve
from quietbeam.compress.lattice import Geometry, make_geometry
from quietbeam.compress.lattice_prediction import PassModel, default_model, scales_from_codes
from quietbeam.compress.lattice_side import MODEL_KINDS, SideInformation, code_thresholds


def geometry() -> Geometry:
    made = make_geometry((9, 9, 9), 1, 2, 20)
    assert made is not None
    return made


def model(kind: int, coarseness: int, seed: int) -> PassModel:
    rng = np.random.default_rng(seed)
    num_classes, num_pairs = MODEL_KINDS[kind]
    weights = np.zeros((num_classes, 20), np.int64)
    weights[:, :num_pairs] = rng.integers(-200, 200, (num_classes, num_pairs)) >> coarseness << coarseness
    codes = rng.integers(0, 65, 8)
    thresholds = np.array([5, 160, 15 << 20]) * (num_classes > 3)
    return PassModel(thresholds, weights, codes, scales_from_codes(codes))


def test_models_come_back_whatever_was_known_before() -> None:
    kinds = [(1, 0), (3, 2), (2, 1), (1, 3), (3, 0)]
    models = [model(*kind, seed) for seed, kind in enumerate(kinds)]
    coder, side = reserve(new_encoder(), 300_000), SideInformation()
    for kind, made in zip(kinds, models, strict=True):
        side.code(coder, geometry(), made, kind)
    decoder, side = new_decoder(finish(coder)), SideInformation()
    for made in models:
        read = side.code(decoder, geometry(), None, (0, 0))
        for one, other in zip(read, made, strict=True):
            np.testing.assert_array_equal(one, other)
    check_end(decoder)


def test_a_model_that_is_known_costs_little() -> None:
    coder, side = reserve(new_encoder(), 300_000), SideInformation()
    ends = [0]
    for _ in range(2):
        side.code(coder, geometry(), model(3, 0, 0), (3, 0))
        ends.append(int(coder.state[3]))
    assert ends[2] - ends[1] < ends[1] / 3


def test_no_model_takes_two_bits() -> None:
    coder = reserve(new_encoder(), 100)
    read = SideInformation().code(coder, geometry(), None, (0, 0))
    assert len(finish(coder)) == 3
    np.testing.assert_array_equal(read.weights, default_model(geometry()).weights)


@pytest.mark.parametrize("value", [0, 1, 15, 16, 31, 12345, 2**36])
def test_thresholds_keep_four_bits(value: int) -> None:
    coder = reserve(new_encoder(), 100)
    (found,) = code_thresholds(coder, np.array([value]))
    assert value - value / 8 <= found <= value
    assert code_thresholds(new_decoder(finish(coder)), np.zeros(1, np.int64)) == found
