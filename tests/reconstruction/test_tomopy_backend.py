from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from quietbeam.reconstruction import tomopy_backend
from quietbeam.reconstruction.errors import ReductionError
from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.phase import blur_length, paganin, wavelength
from quietbeam.reconstruction.tomopy_backend import tomopy_gridrec, tomopy_is_installed, tomopy_paganin

needs_tomopy = pytest.mark.skipif(not tomopy_is_installed(), reason="tomopy is not installed")

NORM = (1.117, 0.003)
"""What tomopy's gridrec makes of 1, far from every edge."""
CUPPING = 0.08
"""Share of its height by which the middle of a wide disc lies below its rim, with padding to twice the width."""
CUPPING_WITHOUT_PADDING = 0.2
"""At least so much of it without."""
GRATING = 0.01
"""Part of a grating's amplitude: tomopy samples the filter half a frequency step beside the transform."""
PHASE = 0.002
"""Part of the transmission, for the same reason, with a filter that is short beside the image."""

OPTICS = {"delta_beta": 300.0, "energy": 20.0, "distance": 0.05, "pixel_size": 1e-6}

Array = NDArray[np.float32]


def disc(theta: NDArray[np.float64], num_columns: int, axis: float, radius: float) -> Array:
    s = np.arange(num_columns) - axis
    return np.tile(2 * np.sqrt(np.clip(radius**2 - s**2, 0, None)), (theta.size, 1)).astype(np.float32)


def distance_from_axis(size: int) -> NDArray[np.float64]:
    grid = np.arange(size) - (size - 1) / 2
    return np.asarray(np.hypot(grid, grid[:, None]))


@needs_tomopy
def test_norm_is_tomopys_own_and_cupping_is_little_when_padded() -> None:
    theta, r = np.arange(400) * np.pi / 400, distance_from_axis(256)
    small = tomopy_gridrec(disc(theta, 256, 127.5, 30)[None], theta, 127.5)[0]
    assert small[r < 26].mean() == pytest.approx(NORM[0], abs=NORM[1])
    wide = disc(theta, 256, 127.5, 100)[None]
    padded, bare = (tomopy_gridrec(wide, theta, 127.5, padded=choice)[0] for choice in (True, False))
    rim, middle = (r > 80) & (r < 92), r < 12
    assert 0 < padded[rim].mean() - padded[middle].mean() < CUPPING * padded[rim].mean()
    assert bare[rim].mean() - bare[middle].mean() > CUPPING_WITHOUT_PADDING * bare[rim].mean()


@needs_tomopy
@pytest.mark.parametrize("size", [64, 63, 100, 101])
def test_unpadded_lies_where_padded_does(size: int) -> None:
    theta = np.arange(200) * 2 * np.pi / 200
    axis = (size - 1) / 2
    s = np.arange(size) - axis - (5 * np.cos(theta) - 9 * np.sin(theta))[:, None]
    bump = np.exp(-(s**2) / 18).astype(np.float32)[None]
    reference, middle = gridrec(bump, theta, axis)[0], distance_from_axis(size) < size / 3
    for padded in (True, False):
        image = tomopy_gridrec(bump, theta, axis, padded=padded)[0]
        assert np.corrcoef(image[middle], reference[middle])[0, 1] > 0.999


@needs_tomopy
@pytest.mark.parametrize("shape", [(64, 96), (63, 97), (127, 127), (1, 128)])
def test_phase_filter_keeps_a_constant(shape: tuple[int, int]) -> None:
    """Tomopy itself would pad 127 pixels by nothing and then fill them all with the last one."""
    ramp = np.broadcast_to(np.linspace(0.5, 1, shape[1], dtype=np.float32), (2, *shape))
    filtered = tomopy_paganin(np.ones((2, *shape), np.float32), **OPTICS)
    np.testing.assert_allclose(filtered, 1, atol=1e-5)
    assert filtered.shape == (2, *shape)
    weak = tomopy_paganin(np.ascontiguousarray(ramp), delta_beta=1.0, energy=20.0, distance=1e-6, pixel_size=1e-6)
    np.testing.assert_allclose(weak, ramp, atol=1e-3)


@needs_tomopy
@pytest.mark.parametrize("period", [8, 12, 32])
@pytest.mark.parametrize("axis", [1, 2])
def test_phase_filter_has_the_strength_of_its_units(period: int, axis: int) -> None:
    wave = np.cos(2 * np.pi * np.arange(192) / period).astype(np.float32)
    image = 1 + 0.1 * np.moveaxis(np.broadcast_to(wave, (1, 192, 192)), 2, axis)
    strength = 1 / (1 + (2 * np.pi * blur_length(**OPTICS) / period) ** 2)
    middle = np.s_[:, 64:128, 64:128]
    filtered = tomopy_paganin(np.ascontiguousarray(image), **OPTICS)
    np.testing.assert_allclose(filtered[middle], 1 + strength * (image[middle] - 1), atol=GRATING * 0.1)


@pytest.mark.parametrize("period", [8, 32])
@pytest.mark.parametrize("delta_beta", [30.0, 300.0])
def test_tomopys_parameter_makes_its_filter_paganins(delta_beta: float, period: int) -> None:
    """Its formula, written out, where tomopy itself need not be installed."""
    optics = OPTICS | {"delta_beta": delta_beta}
    per_metre = 1 / (period * optics["pixel_size"])
    length = wavelength(optics["energy"]) * optics["distance"]
    theirs = 1 / (1 + length * per_metre**2 / (4 * np.pi * tomopy_backend._alpha(delta_beta)))
    assert theirs == pytest.approx(1 / (1 + (2 * np.pi * blur_length(**optics) / period) ** 2), rel=1e-12)
    assert theirs < 0.99  # it filters


@needs_tomopy
def test_phase_retrieval_agrees_with_our_own() -> None:
    noise = np.random.default_rng(0).random((2, 200, 255))
    transmission = np.exp(-gaussian_filter(noise, (0, 2, 2))).astype(np.float32)
    transmission[:, 60:110, 70:150] *= 0.5
    kept = transmission.copy()
    found, expected = tomopy_paganin(transmission, **OPTICS), paganin(transmission, **OPTICS)
    assert np.abs(expected - transmission).max() > 0.1  # the filter does something
    np.testing.assert_allclose(found, expected, atol=PHASE)
    np.testing.assert_array_equal(transmission, kept)


@pytest.mark.parametrize("name", list(OPTICS))
def test_optics_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=r"delta_beta, energy \(keV\), distance \(m\) and pixel_size \(m\) above 0"):
        tomopy_paganin(np.ones((1, 8, 8), np.float32), **(OPTICS | {name: 0.0}))


def test_missing_tomopy_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tomopy", None)  # Python's own way to say that a module is not there
    assert not tomopy_is_installed()
    for call in (
        lambda: tomopy_gridrec(np.ones((1, 4, 8), np.float32), np.arange(4.0), 3.5),
        lambda: tomopy_paganin(np.ones((1, 8, 8), np.float32), **OPTICS),
    ):
        with pytest.raises(ReductionError, match="conda install -c conda-forge tomopy"):
            call()


@pytest.mark.skipif(importlib.util.find_spec("tomopy") is None, reason="tomopy is not installed")
def test_tomopy_is_found_where_it_is_installed() -> None:
    assert tomopy_is_installed()
