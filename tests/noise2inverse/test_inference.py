import numpy as np
import pytest
import torch

from quietbeam.noise2inverse.inference import denoise_slice, tiles
from quietbeam.noise2inverse.msd import MSD, NetworkSettings

TILE_ERROR = 1e-5
"""Largest difference between tiles and the whole slice, over the output's standard deviation."""


def network(depth):
    generator = torch.Generator().manual_seed(0)
    net = MSD(1, 1, NetworkSettings(depth=depth), generator=generator)
    with torch.no_grad():
        net.final_weight.normal_(0, 0.2, generator=generator)
    return net


@pytest.mark.parametrize(("height", "width", "tile"), [(50, 70, 32), (64, 64, 64), (33, 100, 10)])
def test_tiles_cover_each_pixel_once(height, width, tile):
    count = np.zeros((height, width), int)
    image = np.arange(height * width).reshape(height, width)
    for seen, kept, place in tiles(height, width, tile, halo=7):
        count[place] += 1
        np.testing.assert_array_equal(image[seen][kept], image[place])
    assert (count == 1).all()


def test_tiles_give_what_the_whole_slice_gives():
    image = np.random.default_rng(0).normal(size=(1, 300, 260)).astype(np.float32)
    net = network(depth=20)  # reaches 110 pixels in all, more than the halo
    whole = denoise_slice(net, image, tile_size=400)
    tiled = denoise_slice(net, image, tile_size=100)
    assert np.abs(whole - tiled).max() < TILE_ERROR * whole.std()
