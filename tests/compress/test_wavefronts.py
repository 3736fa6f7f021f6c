from __future__ import annotations

import numpy as np
import pytest

from quietbeam.compress.wavefronts import wavefronts


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5), (1, 6, 2), (5, 1, 1)])
def test_each_position_comes_once_and_after_its_neighbours(shape: tuple[int, int, int]) -> None:
    when = np.full(shape, -1)
    for number, where in enumerate(wavefronts(shape)):
        assert (when[where] == -1).all()
        when[where] = number
    assert when.min() == 0
    for axis in range(3):
        assert (np.diff(when, axis=axis) > 0).all()


def test_the_positions_of_a_wavefront_are_in_c_order() -> None:
    shape = (3, 4, 5)
    for where in wavefronts(shape):
        assert (np.diff(np.ravel_multi_index(where, shape)) > 0).all()
