import numpy as np
import pytest

from quietbeam.reconstruction.normalize import (
    NormalizeSettings,
    average_frames,
    dead_pixels,
    flat_groups,
    line_integrals,
    transmission,
    unlit_rows,
)

ROUNDING = 2e-6
"""Relative error of float32 arithmetic over a few operations."""


def test_corrected_flats_are_one():
    rng = np.random.default_rng(0)
    flats = rng.uniform(900, 1100, (1, 4, 6)).astype(np.float32)
    darks = rng.uniform(90, 110, (3, 4, 6)).astype(np.float32)
    np.testing.assert_allclose(transmission(flats, flats, darks).values, 1, rtol=1e-6)


def test_line_integrals_undo_beer_lambert():
    mu = np.linspace(0, 5, 50, dtype=np.float32)
    values, starved = line_integrals(np.exp(-mu))
    np.testing.assert_allclose(values, mu, atol=1e-5)
    assert starved == 0


def test_starved_pixels_are_set_to_the_floor_and_counted():
    values, starved = line_integrals(np.array([1, 0, -2, 0.5], np.float32), NormalizeSettings(min_transmission=0.01))
    assert starved == 2
    np.testing.assert_allclose(values[1:3], -np.log(0.01), rtol=1e-6)


def test_dead_pixels_are_found_and_become_nan():
    flats = np.full((2, 3, 8), 1000, np.float32)
    flats[:, 1, 4] = 3
    darks = np.zeros((1, 3, 8), np.float32)
    result = transmission(flats, flats, darks)
    assert np.argwhere(result.dead).tolist() == [[1, 4]]
    assert np.isnan(result.values[:, 1, 4]).all()
    assert dead_pixels(np.full((2, 5), np.nan, np.float32), 0.1).all()


def counted(rng, photons, num_frames):
    """Frames of a detector that adds 100 counts and 3 counts of noise."""
    frames = rng.poisson(photons, (num_frames, *photons.shape)) + rng.normal(100, 3, (num_frames, *photons.shape))
    return np.rint(frames).astype(np.float32)


@pytest.mark.parametrize(("num_flats", "num_darks"), [(20, 10), (1, 10), (20, 1), (1, 1)])
def test_rows_without_light_are_dead_and_dim_ones_are_not(num_flats, num_darks):
    rng = np.random.default_rng(8)
    photons = np.zeros((40, 200))
    photons[12:28] = 2000
    photons[12] = 60
    flats, darks = counted(rng, photons, num_flats), counted(rng, 0 * photons, num_darks)
    lit = photons[:, 0] > 0
    assert (unlit_rows(flats, darks) == ~lit).all()
    dead = transmission(flats, flats, darks).dead
    assert dead[~lit].all()
    assert not dead[lit].all(axis=1).any()
    rows = [unlit_rows(flats[:, i : i + 1], darks[:, i : i + 1])[0] for i in range(40)]
    assert rows == (~lit).tolist()  # no row looks at another


def test_a_beam_that_decays_or_has_no_photons_unit_is_light():
    """Flats before and after, at 1 and 0.3 of the current, of a detector that writes shares of its range."""
    rng = np.random.default_rng(9)
    current = np.array([1.0, 0.3])[:, None, None]
    flats = (current * rng.uniform(0.4, 0.6, (2, 5, 80)) + 0.01).astype(np.float32)
    flats[:, :, 7] = np.nan
    assert not unlit_rows(flats, np.full((2, 5, 80), 0.01, np.float32)).any()


@pytest.mark.parametrize("num_darks", [1, 20])
def test_many_flats_of_few_photons_are_light(num_darks):
    """Eight photons in a frame, on a detector that counts them; the average is known to 2.5 %."""
    flats = np.random.default_rng(1).poisson(8, (200, 6, 100)).astype(np.float32)
    darks = np.zeros((num_darks, 6, 100), np.float32)
    assert not unlit_rows(flats, darks).any()
    assert not transmission(flats[:1], flats, darks).dead.any()


def test_noise_of_few_frames_and_a_drift_of_the_offset_are_no_light():
    rng = np.random.default_rng(2)
    nothing = np.zeros((50, 300))
    for number in (1, 2):
        assert unlit_rows(counted(rng, nothing, number), counted(rng, nothing, number)).all()
    flats, darks = counted(rng, nothing, 200), counted(rng, nothing, 200)
    assert unlit_rows(flats + 1, darks).all()  # a third of the noise of a frame


def test_the_noise_of_a_single_flat_is_not_taken_twice():
    """Rows with light of 2.3 standard deviations: their brightest tenth lies above 3 of them, and below 3 * 2^0.5."""
    flats = np.random.default_rng(3).normal(2.3, 1, (1, 6, 4000)).astype(np.float32)
    assert not unlit_rows(flats, np.zeros((1, 6, 4000), np.float32)).any()
    assert unlit_rows(flats - 1.3, np.zeros((1, 6, 4000), np.float32)).all()


def test_a_beam_on_a_part_of_the_columns_is_light_and_the_rest_is_dead():
    rng = np.random.default_rng(4)
    photons = np.zeros((8, 200))
    photons[:, 20:80] = 500
    flats, darks = counted(rng, photons, 20), counted(rng, 0 * photons, 20)
    assert not unlit_rows(flats, darks).any()
    result = transmission(flats, flats, darks)
    np.testing.assert_array_equal(result.dead, photons == 0)
    assert result.inverted.mean() < 0.01  # noise is negative in half of the columns without beam


class TestAverages:
    @pytest.mark.parametrize("average", ["mean", "median"])
    def test_of_what_is_finite(self, average):
        frames = np.array([[[1, 2, np.nan]], [[3, np.inf, np.nan]], [[8, 4, np.nan]]], np.float32)
        expected = [4, 3, np.nan] if average == "mean" else [3, 3, np.nan]
        np.testing.assert_allclose(average_frames(frames, average)[0], expected)

    def test_median_of_flats_bears_a_zinger(self):
        flats = np.random.default_rng(1).uniform(990, 1010, (9, 2, 8)).astype(np.float32)
        hit = flats.copy()
        hit[4, 1, 3] = 60_000
        darks, projections = np.zeros((1, 2, 8), np.float32), np.full((3, 2, 8), 500, np.float32)
        values = {
            average: transmission(projections, hit, darks, NormalizeSettings(average=average)).values[0, 1, 3]
            for average in ("mean", "median")
        }
        assert values["median"] == pytest.approx(0.5, abs=0.01)
        assert values["mean"] < 0.1

    def test_one_nan_in_a_flat_does_not_kill_the_pixel(self):
        flats, darks = np.full((4, 2, 8), 900, np.float32), np.full((3, 2, 8), 100, np.float32)
        flats[2, 0, 5], darks[1, 1, 1] = np.nan, np.inf
        result = transmission(flats[:1], flats, darks)
        assert not result.dead.any()
        np.testing.assert_allclose(result.values, 1, rtol=ROUNDING)

    def test_a_flat_without_finite_values_leaves_its_rows_lit(self):
        flats = np.random.default_rng(2).uniform(900, 1000, (5, 3, 40)).astype(np.float32)
        flats[1] = np.nan
        assert not unlit_rows(flats, np.full((2, 3, 40), 100, np.float32)).any()


def test_pixels_brighter_without_beam_are_dead_and_told():
    flats, darks = np.full((2, 3, 20), 900, np.float32), np.full((2, 3, 20), 100, np.float32)
    darks[:, 1, 4] = 2000
    result = transmission(flats, flats, darks)
    assert np.argwhere(result.inverted).tolist() == np.argwhere(result.dead).tolist() == [[1, 4]]


class TestFlatsInTime:
    """A beam that decays while projections of an empty beam are taken: corrected, they are 1 at every time."""

    shape = (6, 4, 30)

    def setup_method(self):
        rng = np.random.default_rng(3)
        self.gain = rng.uniform(800, 1000, self.shape[1:])
        self.darks = np.broadcast_to(rng.uniform(90, 110, self.shape[1:]), (2, *self.shape[1:])).astype(np.float32)

    def frames(self, positions):
        """Open beam at 1 to 0.7 of the current over 60 frames."""
        current = 1 - 0.005 * np.asarray(positions, float)[:, None, None]
        return (current * self.gain + self.darks[0]).astype(np.float32)

    def test_linear_decay_is_followed_exactly(self):
        flat_positions, positions = np.array([0, 1, 2, 57, 58.0]), np.arange(5, 55.0)
        result = transmission(
            self.frames(positions),
            self.frames(flat_positions),
            self.darks,
            flat_positions=flat_positions,
            positions=positions,
        )
        np.testing.assert_allclose(result.values, 1, rtol=ROUNDING)

    def test_without_positions_the_decay_stays_in(self):
        positions = np.arange(5, 55.0)
        projections, flats = self.frames(positions), self.frames([0, 1, 57, 58])
        apart = transmission(projections, flats, self.darks).values
        off = transmission(
            projections,
            flats,
            self.darks,
            NormalizeSettings(interpolate_flats=False),
            flat_positions=np.array([0, 1, 57, 58.0]),
            positions=positions,
        ).values
        np.testing.assert_array_equal(apart, off)
        assert np.ptp(apart.mean(axis=(1, 2))) > 0.2

    def test_constant_before_the_first_and_after_the_last_group(self):
        flat_positions, positions = np.array([20.0, 40.0]), np.array([0, 10, 30, 50, 60.0])
        flats = self.frames([20, 40])
        result = transmission(
            flats[[0, 0, 0, 1, 1]], flats, self.darks, flat_positions=flat_positions, positions=positions
        ).values
        np.testing.assert_allclose(result[[0, 1, 3, 4]], 1, rtol=ROUNDING)
        np.testing.assert_allclose(result[2], 0.9 / 0.85, rtol=ROUNDING)

    def test_projections_in_any_order(self):
        flat_positions, positions = np.array([0, 30, 59.0]), np.arange(1, 59.0)[np.arange(1, 59) != 30]
        order = np.random.default_rng(4).permutation(len(positions))
        flats, projections = self.frames(flat_positions), self.frames(positions)
        times = {"flat_positions": flat_positions}
        sorted_ = transmission(projections, flats, self.darks, positions=positions, **times).values
        mixed = transmission(projections[order], flats, self.darks, positions=positions[order], **times).values
        np.testing.assert_array_equal(mixed, sorted_[order])

    def test_darks_between_flats_do_not_part_a_group(self):
        groups = flat_groups(np.array([0, 1, 8, 9, 30, 31.0]), np.arange(10, 30.0))
        assert [group.tolist() for group in groups] == [[0, 1, 2, 3], [4, 5]]

    def test_a_pixel_that_one_group_did_not_see_is_dead(self):
        flats = self.frames([0, 1, 58, 59])
        flats[2:, 1, 7] = np.nan
        projections = self.frames(np.arange(10, 50))
        times = {"flat_positions": np.array([0, 1, 58, 59.0]), "positions": np.arange(10, 50.0)}
        assert np.argwhere(transmission(projections, flats, self.darks, **times).dead).tolist() == [[1, 7]]

    def test_positions_must_fit(self):
        flats = self.frames([0, 1])
        with pytest.raises(ValueError, match=r"positions of both flats and projections, or of neither"):
            transmission(flats, flats, self.darks, positions=np.arange(2.0))
        with pytest.raises(ValueError, match=r"each of 2 flats and 2 projections, got 3 and 2"):
            transmission(flats, flats, self.darks, positions=np.arange(2.0), flat_positions=np.arange(3.0))

    def test_inputs_are_not_changed(self):
        arrays = [self.frames(np.arange(3, 9)), self.frames([0, 1]), self.darks.copy()]
        copies = [array.copy() for array in arrays]
        transmission(*arrays, flat_positions=np.array([0, 20.0]), positions=np.arange(3, 9.0))
        for array, copy in zip(arrays, copies, strict=True):
            np.testing.assert_array_equal(array, copy)
