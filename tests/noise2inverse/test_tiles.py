import numpy as np
import pytest

from quietbeam.noise2inverse.msd import MSD, NetworkSettings
from quietbeam.noise2inverse.tiles import HALO, LARGEST_BUFFER, bytes_of_tile, halo_of, largest_tile, tiles


@pytest.mark.parametrize(("height", "width", "tile"), [(50, 70, 32), (64, 64, 64), (33, 100, 10), (5, 7, 100)])
def test_tiles_cover_each_pixel_once(height, width, tile):
    count = np.zeros((height, width), int)
    image = np.arange(height * width).reshape(height, width)
    for seen, kept, place in tiles(height, width, tile, halo=7):
        count[place] += 1
        np.testing.assert_array_equal(image[seen][kept], image[place])
        assert image[seen].shape <= (tile + 14, tile + 14)
    assert (count == 1).all()


def test_the_halo_is_all_that_a_shallow_network_sees_and_grows_with_wide_dilations():
    assert halo_of((1, 2, 3)) == 6
    assert halo_of(tuple(range(1, 11)) * 10) == HALO
    assert halo_of((*range(1, 21),) * 5) == 2 * HALO
    assert halo_of((255,)) == 255


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_largest_tile_fits_and_a_larger_one_does_not(precision):
    model = MSD(5, 2, NetworkSettings(depth=30, width=2))
    tile_size = largest_tile(model, 2**28, precision=precision)
    assert bytes_of_tile(model, tile_size, precision=precision) <= 2**28
    assert bytes_of_tile(model, tile_size + 1, precision=precision) > 2**28


def test_half_precision_nearly_halves_the_memory():
    model = MSD(1, 1)
    assert 0.5 < bytes_of_tile(model, 512, precision="float16") / bytes_of_tile(model, 512) < 0.55


def test_features_can_be_counted_in_32_bits_however_large_the_memory():
    model = MSD(5, 1)
    side = largest_tile(model, 2**50) + 2 * HALO
    assert 105 * side**2 <= LARGEST_BUFFER < 105 * (side + 1) ** 2


def test_too_little_memory_is_refused():
    model = MSD(1, 1, NetworkSettings(depth=100))
    with pytest.raises(ValueError, match=rf"needs {bytes_of_tile(model, 1)} bytes or more, got 1000"):
        largest_tile(model, 1000)
