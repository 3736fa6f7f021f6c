import numpy as np
import pytest

from quietbeam.reconstruction.phantom import foam_phantom, rasterise_foam
from quietbeam.reconstruction.porosity import otsu_threshold, porosity
from quietbeam.reconstruction.reconstructors import circle

PARTIAL_VOXELS = 0.02
"""Voxels that a void's surface cuts are counted whole."""


def void_share(foam, half_height):
    """Exact share that the voids take of a cylinder of radius 1 between two heights."""
    z, r = foam.centres[:, 2], foam.radii
    low, high = np.clip(-half_height - z, -r, r), np.clip(half_height - z, -r, r)
    return (np.pi * (r**2 * (high - low) - (high**3 - low**3) / 3)).sum() / (np.pi * 2 * half_height)


def make_foam(size=120, num_rows=60):
    radius = 0.45 * size
    foam = foam_phantom(150, seed=3, height=2.0, min_radius=0.08, max_radius=0.3)
    grid = (np.arange(size) - (size - 1) / 2) ** 2
    inside = grid[:, None] + grid <= (radius - 1) ** 2  # without voxels that are partly air; all of the rim is solid
    volume = rasterise_foam(foam, num_rows, size, radius=radius, attenuation=2.5)
    return volume, inside, void_share(foam, num_rows / 2 / radius) * np.pi * radius**2 / inside.sum()


def test_porosity_of_a_foam_is_its_void_share():
    volume, inside, share = make_foam()
    assert 0.2 < share < 0.6
    assert porosity(volume, mask=inside) == pytest.approx(share, abs=PARTIAL_VOXELS)
    assert 0.3 * 2.5 < otsu_threshold(volume, mask=inside) < 0.7 * 2.5


def test_noise_and_unit_leave_porosity():
    volume, inside, share = make_foam()
    noisy = 1e4 * (volume + 0.4 * np.random.default_rng(0).normal(size=volume.shape))
    assert porosity(noisy.astype(np.float32), mask=inside) == pytest.approx(share, abs=PARTIAL_VOXELS)


def test_pores_are_what_absorbs_less():
    slices = np.ones((2, 20, 20), np.float32)
    slices[:, :, :5] = 3
    inside = np.ones((20, 20), bool)
    assert porosity(slices, mask=inside) == 0.75
    assert porosity(-slices, mask=inside) == 0.25
    assert porosity(slices, 0.5, mask=inside) == 0
    assert porosity(slices, 1, mask=inside) == 0.75  # at the threshold counts as below
    assert porosity(slices.astype(np.uint8), mask=inside) == 0.75


def test_what_is_outside_the_circle_does_not_count():
    slices = np.zeros((1, 32, 32))
    slices[:, :, 16:] = 1
    slices[:, circle(32) == 0] = -50
    assert porosity(slices) == 0.5
    assert 0 < otsu_threshold(slices) < 1


def test_porosity_needs_two_classes_and_numbers():
    slices = np.ones((2, 16, 16))
    for measure in (porosity, otsu_threshold):
        with pytest.raises(ValueError, match=r"all voxels are 1\.0"):
            measure(slices)
        with pytest.raises(ValueError, match="finite"):
            measure(slices * np.nan)
        with pytest.raises(ValueError, match="shape of a slice"):
            measure(slices, mask=np.ones((8, 8), bool))
        with pytest.raises(ValueError, match="one voxel"):
            measure(slices, mask=np.zeros((16, 16), bool))
        for mask in (np.ones((16, 16), int), np.ones((16, 16))):
            with pytest.raises(TypeError, match=r"mask must be bool, got (int|float)64: compare it with 0 first"):
                measure(slices, mask=mask)
    for threshold in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match=f"threshold must be a finite attenuation, got {threshold}"):
            porosity(slices, threshold)
    assert porosity(slices, 0.5) == 0
