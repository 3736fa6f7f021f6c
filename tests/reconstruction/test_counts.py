from __future__ import annotations

import numpy as np
import pytest

from quietbeam.reconstruction.counts import NoiseSettings, simulate_counts

LINE_INTEGRALS = np.full((40, 6, 50), 0.7, np.float32)


class TestCounts:
    def test_corrected_counts_give_the_line_integrals_back(self):
        settings = NoiseSettings(num_photons=10_000, num_flats=30, num_darks=30)
        projections, flats, darks, _ = simulate_counts(LINE_INTEGRALS, settings, seed=0)
        assert {projections.dtype, flats.dtype, darks.dtype} == {np.dtype(np.uint16)}
        dark = darks.mean(0)
        transmission = (projections - dark) / (flats.mean(0) - dark)
        # 12,000 pixels with a relative noise of about 1.7 %.
        assert -np.log(transmission.mean()) == pytest.approx(0.7, abs=3e-3)

    def test_noise_is_that_of_photons(self):
        settings = NoiseSettings(num_photons=400, gain_spread=0, beam_falloff=0, read_noise=0, num_flats=200)
        flats = simulate_counts(LINE_INTEGRALS, settings, seed=1).flats - 100.0
        assert flats.mean() == pytest.approx(400, rel=0.01)
        assert flats.var() == pytest.approx(400, rel=0.05)

    def test_gain_stays_with_its_pixel(self):
        settings = NoiseSettings(num_photons=20_000, gain_spread=0.1, beam_falloff=0)
        projections, flats, *_ = simulate_counts(LINE_INTEGRALS, settings, seed=2)
        seen = np.corrcoef(projections.mean(0).ravel(), flats.mean(0).ravel())[0, 1]
        assert seen > 0.98

    def test_ring_spread_moves_the_gain_after_the_flats(self):
        spread = []
        for ring_spread in (0.0, 0.05):
            settings = NoiseSettings(num_photons=40_000, gain_spread=0, ring_spread=ring_spread, dark_offset=0)
            projections, flats, *_ = simulate_counts(LINE_INTEGRALS, settings, seed=3)
            spread.append((projections.mean(0) / flats.mean(0)).std())
        assert spread[1] > 10 * spread[0]

    def test_dead_pixels_are_zero_everywhere(self):
        settings = NoiseSettings(dead_fraction=0.1)
        counts = simulate_counts(LINE_INTEGRALS, settings, seed=4)
        dead = (counts.projections == 0).all(0)
        assert 10 < dead.sum() < 60
        assert not counts.flats[:, dead].any()
        assert not counts.darks[:, dead].any()

    def test_zingers_hit_single_frames(self):
        settings = NoiseSettings(zinger_fraction=0.01, zinger_counts=20_000)
        hits = simulate_counts(LINE_INTEGRALS, settings, seed=5).projections > 10_000
        assert hits.mean() == pytest.approx(0.01, abs=0.003)
        assert hits.sum(0).max() < 6

    def test_counts_end_at_full_scale(self):
        settings = NoiseSettings(num_photons=1e6, num_flats=1)
        assert simulate_counts(LINE_INTEGRALS, settings, seed=6).flats.min() == 65535

    def test_same_seed_same_counts(self):
        first, again, other = (simulate_counts(LINE_INTEGRALS, seed=seed).projections for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


class TestDrift:
    # Nine million photons or more in the mean of a frame err by 4e-4 of it, and so does the flat divided by.
    tolerance = 2e-3

    def measure(self, **drift):
        settings = NoiseSettings(num_photons=60_000, gain=0.5, gain_spread=0, read_noise=0, num_flats=4, **drift)
        counts = simulate_counts(LINE_INTEGRALS, settings, seed=0)
        beam = (counts.flats - 100.0).mean((1, 2)), (counts.projections - 100.0).mean((1, 2)) / np.exp(-0.7)
        return counts, *(level / beam[0][0] for level in beam)

    def test_constant_rate_from_first_to_last_flats(self):
        counts, flats, projections = self.measure(beam_drift=-0.2, num_flats_after=3)
        np.testing.assert_array_equal(counts.flat_positions, [0, 0, 0, 0, 40, 40, 40])
        np.testing.assert_allclose(flats, [1, 1, 1, 1, 0.8, 0.8, 0.8], atol=self.tolerance)
        np.testing.assert_allclose(projections, 1 - 0.2 * np.arange(40) / 40, atol=self.tolerance)

    def test_flats_interpolated_at_their_positions_take_it_out(self):
        counts, *_ = self.measure(beam_drift=0.3, num_flats_after=4)
        before, after = (counts.flats[counts.flat_positions == position].mean(0) - 100 for position in (0, 40))
        share = np.arange(40)[:, None, None] / 40
        transmission = (counts.projections - 100.0) / ((1 - share) * before + share * after)
        np.testing.assert_allclose(-np.log(transmission.mean((1, 2))), 0.7, atol=self.tolerance)

    def test_step_comes_where_it_is_said(self):
        _, flats, projections = self.measure(beam_step=-0.5, beam_step_at=0.75, num_flats_after=1)
        np.testing.assert_allclose(projections, np.repeat([1.0, 0.5], [30, 10]), atol=self.tolerance)
        np.testing.assert_allclose(flats, [1, 1, 1, 1, 0.5], atol=self.tolerance)

    def test_darks_do_not_drift(self):
        still, drifting = (
            simulate_counts(LINE_INTEGRALS, NoiseSettings(beam_drift=drift, beam_step=drift), seed=1).darks
            for drift in (0.0, 0.9)
        )
        np.testing.assert_array_equal(drifting, still)

    def test_flats_after_leave_all_other_frames_as_they_were(self):
        without, with_them = (
            simulate_counts(LINE_INTEGRALS, NoiseSettings(num_flats_after=number), seed=2) for number in (0, 5)
        )
        assert (len(without.flats), len(with_them.flats)) == (20, 25)
        np.testing.assert_array_equal(without.flats, with_them.flats[:20])
        np.testing.assert_array_equal(without.projections, with_them.projections)

    def test_flats_after_see_the_gain_of_the_projections(self):
        settings = NoiseSettings(num_photons=60_000, gain=0.5, gain_spread=0, ring_spread=0.05, num_flats_after=20)
        counts = simulate_counts(LINE_INTEGRALS, settings, seed=3)
        projections = counts.projections.mean(0).ravel()
        before, after = counts.flats[:20].mean(0).ravel(), counts.flats[20:].mean(0).ravel()
        assert np.std(projections / after) < 0.1 * np.std(projections / before)
