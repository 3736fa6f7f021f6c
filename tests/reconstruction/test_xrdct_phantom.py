from __future__ import annotations

import numpy as np
import pytest

from quietbeam.reconstruction.foam import Foam
from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.phantom import project_foam, rasterise_foam
from quietbeam.reconstruction.quality import psnr
from quietbeam.reconstruction.reconstructors import circle
from quietbeam.reconstruction.xrdct_phantom import (
    count_scattered,
    mix_phases,
    project_phases,
    rasterise_phases,
    xrdct_phantom,
)

THETA = np.linspace(0, np.pi, 180, endpoint=False)
SAMPLE = xrdct_phantom(4, 60, 50, seed=1, min_radius=0.08)
# Sums of float32 of size 100.
ROUNDING = 1e-4


class TestSample:
    def test_every_phase_has_grains_and_a_diffractogram_of_its_own(self):
        assert np.bincount(SAMPLE.phases).tolist() == [0, 20, 20, 20]
        assert SAMPLE.diffractograms.shape == (4, 50)
        assert SAMPLE.diffractograms.min() > 0
        assert np.all(SAMPLE.diffractograms.max(1) > 3 * np.median(SAMPLE.diffractograms, axis=1))
        assert np.abs(np.corrcoef(SAMPLE.diffractograms) - np.eye(4)).max() < 0.9

    def test_same_seed_same_sample(self):
        first, again, other = (xrdct_phantom(3, 20, 30, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first.phases, again.phases)
        np.testing.assert_array_equal(first.diffractograms, again.diffractograms)
        assert not np.array_equal(first.diffractograms, other.diffractograms)

    @pytest.mark.parametrize(("num_phases", "num_channels"), [(1, 10), (3, 0)])
    def test_numbers_are_checked(self, num_phases, num_channels):
        with pytest.raises(ValueError, match=f"got {num_phases}, {num_channels}"):
            xrdct_phantom(num_phases, 5, num_channels, seed=0)


class TestPhases:
    def test_shares_of_all_phases_are_one_within_the_sample(self):
        maps = rasterise_phases(SAMPLE, 3, 48)
        cylinder = Foam(np.zeros((0, 3)), np.zeros(0), SAMPLE.grains.height)
        assert maps.shape == (4, 3, 48, 48)
        assert (maps.min(), maps.max()) == (0, 1)
        np.testing.assert_allclose(maps.sum(0), rasterise_foam(cylinder, 3, 48, attenuation=1.0), atol=1e-6)

    def test_lengths_in_all_phases_add_up_to_the_chord(self):
        sinograms = project_phases(SAMPLE, THETA[:7], 3, 48, rotation_axis=20.2, radius=18.0)
        cylinder = Foam(np.zeros((0, 3)), np.zeros(0), SAMPLE.grains.height)
        chords = project_foam(cylinder, THETA[:7], 3, 48, rotation_axis=20.2, radius=18.0, attenuation=1.0)
        assert sinograms.shape == (4, 3, 7, 48)
        np.testing.assert_allclose(sinograms.sum(0), chords.swapaxes(0, 1), atol=ROUNDING)

    def test_mass_of_each_phase_is_the_same_in_map_and_projections(self):
        sinograms, maps = project_phases(SAMPLE, THETA[:5], 9, 48), rasterise_phases(SAMPLE, 9, 48)
        for sinogram, phase_map in zip(sinograms, maps, strict=True):
            np.testing.assert_allclose(sinogram.sum((0, 2)), phase_map.sum(), rtol=2e-3)

    def test_number_of_threads_changes_nothing(self):
        for make in (
            lambda n: project_phases(SAMPLE, THETA[:5], 3, 30, num_threads=n),
            lambda n: rasterise_phases(SAMPLE, 3, 30, num_threads=n),
        ):
            np.testing.assert_array_equal(make(1), make(3))


class TestChannels:
    def test_channel_is_the_sum_of_phases_with_their_intensities(self):
        maps = rasterise_phases(SAMPLE, 2, 24)
        images = mix_phases(maps, SAMPLE.diffractograms)
        assert (images.shape, images.dtype) == ((50, 2, 24, 24), np.float32)
        expected = sum(SAMPLE.diffractograms[p, 17] * maps[p] for p in range(4))
        np.testing.assert_allclose(images[17], expected, rtol=1e-5, atol=1e-6)

    def test_images_come_back_from_the_sinograms(self):
        sinograms = mix_phases(project_phases(SAMPLE, THETA, 1, 96), SAMPLE.diffractograms)
        images = mix_phases(rasterise_phases(SAMPLE, 1, 96), SAMPLE.diffractograms)
        inside = circle(96) > 0
        for channel in (0, 17, 49):
            slices = gridrec(sinograms[channel], THETA, 47.5)
            # Sharp edges of grains of a few pixels ring.
            assert psnr(images[channel][:, inside], slices[:, inside]) > 27

    def test_number_of_phases_is_checked(self):
        with pytest.raises(ValueError, match="diffractogram of each of 3 phases, got 4"):
            mix_phases(np.zeros((3, 2, 2), np.float32), SAMPLE.diffractograms)


class TestCounting:
    intensity = np.stack([np.full((100, 100), level, np.float32) for level in (0.0, 0.5, 8.0)])

    @pytest.mark.parametrize("dose", [0.5, 20.0])
    def test_mean_is_true_and_variance_falls_with_the_dose(self, dose):
        measured = count_scattered(self.intensity, dose, seed=2)
        assert measured.dtype == np.float32
        assert not measured[0].any()
        for values, level in zip(measured[1:], (0.5, 8.0), strict=True):
            # Of 10,000 values, the mean errs by a hundredth of the standard deviation; the variance by 2 % of its own.
            assert values.mean() == pytest.approx(level, abs=0.04 * np.sqrt(level / dose))
            assert values.var() == pytest.approx(level / dose, rel=0.1)

    def test_values_are_whole_photons(self):
        photons = count_scattered(self.intensity, 0.25, seed=3) * 0.25
        np.testing.assert_array_equal(photons, np.rint(photons))

    def test_channels_have_noise_of_their_own(self):
        same = np.full((2, 100, 100), 10, np.float32)
        first, second = count_scattered(same, 1.0, seed=4)
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05

    def test_dose_is_checked(self):
        with pytest.raises(ValueError, match="dose above 0 photons per unit, got 0"):
            count_scattered(self.intensity, 0.0, seed=0)
