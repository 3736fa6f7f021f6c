import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietbeam.reconstruction.bad_frames import (
    Verdict,
    describe_bad_frames,
    judge_darks,
    judge_flats,
    judge_projections,
)

ROWS, COLUMNS = 3, 64


def counted(levels, *, photons=400.0, seed=0):
    """Frames of a detector with 100 counts of offset, a beam that falls off at the sides, and noise."""
    rng = np.random.default_rng(seed)
    beam = photons * (1 - 0.3 * np.linspace(-1, 1, COLUMNS) ** 2) * rng.uniform(0.9, 1.1, (ROWS, COLUMNS))
    expected = np.asarray(levels, float)[:, None, None] * beam
    return (rng.poisson(expected) + rng.normal(100, 2, expected.shape)).astype(np.float32)


DARKS = counted(np.zeros(8), seed=1)


def found(verdict):
    return np.flatnonzero(verdict.bad).tolist()


class TestFlats:
    @pytest.mark.parametrize("photons", [3, 400])
    @pytest.mark.parametrize("number", [1, 2, 20])
    def test_good_ones_are_kept(self, photons, number):
        assert found(judge_flats(counted(np.ones(number), photons=photons), DARKS)) == []

    def test_a_beam_that_decays_is_no_fault(self):
        assert found(judge_flats(counted([1.0] * 10 + [0.3] * 10), DARKS)) == []

    @pytest.mark.parametrize("shut", [[0], [19], [3, 4, 5], list(range(1, 20, 2)), list(range(12))])
    def test_beam_off(self, shut):
        levels = np.ones(20)
        levels[shut] = 0
        verdict = judge_flats(counted(levels), DARKS)
        assert found(verdict) == shut
        np.testing.assert_allclose(verdict.levels[shut], 0, atol=0.05)

    def test_a_shutter_on_its_way(self):
        assert found(judge_flats(counted([0.3, 0.7, 1, 1, 1, 0.4, 1, 1, 0.4]), DARKS)) == [0, 5, 8]

    def test_partly_exposed(self):
        flats = counted(np.ones(6))
        flats[2, :, :20] = 100
        flats[4, 2] = 100
        assert found(judge_flats(flats, DARKS)) == [2, 4]

    def test_not_finite(self):
        flats = counted(np.ones(6))
        flats[1], flats[3, :, :40], flats[5, 1, 7] = np.nan, np.inf, np.nan
        verdict = judge_flats(flats, DARKS)
        assert found(verdict) == [1, 3]
        assert np.isnan(verdict.levels[1])

    def test_a_gap_of_the_detector_is_no_fault(self):
        flats = counted(np.ones(6))
        flats[:, :, 20:40] = np.nan
        assert found(judge_flats(flats, DARKS)) == []

    def test_none_is_left(self):
        assert judge_flats(counted(np.zeros(4)) - 50, DARKS).bad.all()
        assert judge_flats(np.full((2, ROWS, COLUMNS), np.nan, np.float32), DARKS).bad.all()


class TestDarks:
    @pytest.mark.parametrize("number", [1, 10])
    def test_good_ones_are_kept(self, number):
        assert found(judge_darks(counted(np.ones(3)), counted(np.zeros(number)))) == []

    def test_a_leak_of_a_tenth_of_the_light(self):
        assert found(judge_darks(counted(np.ones(3)), counted([0, 0.1, 0]))) == [1]

    def test_light_leaks(self):
        darks = counted([0, 0.2, 0, 1, 0])
        darks[4, 1, 30:] += 100
        assert found(judge_darks(counted(np.ones(3)), darks)) == [1, 3, 4]

    def test_not_finite(self):
        darks = counted(np.zeros(3))
        darks[1] = np.nan
        assert found(judge_darks(counted(np.ones(3)), darks)) == [1]


def frames_of(levels, seed=0):
    """Transmission with these levels in the air beside a sample that turns."""
    rng = np.random.default_rng(seed)
    levels = np.asarray(levels, float)[:, None, None]
    sample = np.where(np.abs(np.arange(COLUMNS) - 32) < 20, 0.3, 1)
    return (levels * sample + rng.normal(0, 0.01, (len(levels), ROWS, COLUMNS))).astype(np.float32)


def slab(mu, num_angles, aspect):
    """Transmission of a field of view inside of a slab over half a turn: all of it dims as the slab is seen edge on."""
    phi = np.linspace(-np.pi / 2, np.pi / 2, num_angles)
    path = np.minimum(1 / np.maximum(np.abs(np.sin(phi)), 1e-9), aspect / np.maximum(np.cos(phi), 1e-9))
    noise = np.random.default_rng(5).normal(0, 1e-6, (num_angles, ROWS, COLUMNS))
    return (np.exp(-mu * path)[:, None, None] + noise).astype(np.float32)


class TestProjections:
    @pytest.mark.parametrize(
        "blank", [[0], [99], [50], [0, 1, 2], list(range(40, 70)), [3, 50, 51, 98, 99], list(range(70, 100))]
    )
    @pytest.mark.parametrize("rest", [0.0, -0.002, 0.05])
    def test_a_beam_dump(self, blank, rest):
        levels = np.ones(100)
        levels[blank] = rest
        assert found(judge_projections(frames_of(levels), "transmission")) == blank

    def test_the_shutter_on_its_way_goes_with_it(self):
        levels = np.ones(60)
        levels[20:30] = [0.4, 0, 0, 0, 0, 0, 0, 0.02, 0.3, 0.45]
        assert found(judge_projections(frames_of(levels), "transmission")) == list(range(20, 30))

    def test_dim_frames(self):
        levels = np.ones(60)
        levels[[10, 30, 31]] = 0.35
        assert found(judge_projections(frames_of(levels), "transmission")) == [10, 30, 31]

    @pytest.mark.parametrize("level", [0.3, 0.6, 3])
    def test_a_step_of_the_beam_can_be_corrected(self, level):
        levels = np.ones(60)
        levels[30:] = level
        assert found(judge_projections(frames_of(levels), "transmission")) == []
        levels[45:] = 1
        assert found(judge_projections(frames_of(levels), "transmission")) == []

    def test_dim_at_the_end_may_be_the_new_level(self):
        levels = np.ones(60)
        levels[-2:] = 0.35
        assert found(judge_projections(frames_of(levels), "transmission")) == []

    def test_a_dump_after_a_step(self):
        levels = np.ones(60)
        levels[20:] = 0.4
        levels[40:44] = 0
        assert found(judge_projections(frames_of(levels), "transmission")) == [40, 41, 42, 43]

    @pytest.mark.parametrize("edge", [[], [0.7]])
    @pytest.mark.parametrize("level", [0.4, 0.6])
    def test_a_beam_that_was_dimmer_for_a_while_is_told(self, edge, level):
        levels = np.ones(100)
        levels[50:60] = level
        levels[49 : 49 + len(edge)] = edge
        verdict = judge_projections(frames_of(levels), "transmission")
        assert found(verdict) == []
        assert np.flatnonzero(verdict.dimmed)[[0, -1]].tolist() in ([50, 59], [49, 59])
        (caveat,) = describe_bad_frames("projections", verdict)
        assert caveat.code == "beam-changes"
        assert f" to 59 ({level:.2f}) have this share" in caveat.message

    def test_dimmed_frames_are_numbered_with_the_bad_ones(self):
        levels = np.ones(100)
        levels[50:60], levels[20:30] = 0.4, 0
        told = describe_bad_frames("projections", judge_projections(frames_of(levels), "transmission"))
        assert [caveat.code for caveat in told] == ["bad-projections", "beam-changes"]
        assert "projections 50 to 59 (0.40)" in told[1].message

    def test_air_that_comes_and_goes_is_no_change_of_the_beam(self):
        """A plate that fills all but a few columns for some angles: the brightest tenth is behind it then."""
        values = frames_of(np.ones(100))
        values[40:60, :, 4:] *= 0.3
        verdict = judge_projections(values, "transmission")
        assert verdict.levels[50] < 0.5 * verdict.levels[30]
        assert describe_bad_frames("projections", verdict) == ()

    @given(st.floats(0.02, 3), st.integers(40, 400), st.floats(2, 100))
    def test_a_slab_is_no_change_of_the_beam(self, mu, num_angles, aspect):
        verdict = judge_projections(slab(mu, num_angles, aspect), "transmission")
        assert not verdict.dimmed.any()

    @pytest.mark.parametrize("level", [0.3, 0.6, 3])
    def test_a_lasting_step_is_not_told(self, level):
        levels = np.ones(60)
        levels[30:] = level
        assert not judge_projections(frames_of(levels), "transmission").dimmed.any()

    @pytest.mark.parametrize("mu", [0.05, 0.2, 1.0])
    @pytest.mark.parametrize("num_angles", [90, 181, 400])
    @pytest.mark.parametrize("aspect", [10, 30])
    def test_a_slab_seen_edge_on_is_no_beam_dump(self, mu, num_angles, aspect):
        transmission = slab(mu, num_angles, aspect)
        assert transmission.mean(axis=(1, 2)).min() < 0.7
        assert found(judge_projections(transmission, "transmission")) == []

    @given(st.integers(0, 2**32 - 1))
    def test_a_flickering_beam_is_no_fault(self, seed):
        levels = np.random.default_rng(seed).uniform(0.8, 1.2, 80)
        assert found(judge_projections(frames_of(levels, seed), "transmission")) == []

    @pytest.mark.parametrize("kind", ["transmission", "attenuation"])
    def test_not_finite_or_constant(self, kind):
        values = frames_of(np.ones(20))
        values[3], values[7], values[9, :, :50], values[12] = np.nan, np.inf, np.nan, 0.9
        values[:, 1, 5] = np.nan  # a dead pixel
        verdict = judge_projections(values, kind)
        assert found(verdict) == [3, 7, 9, 12]

    def test_attenuation_of_any_scale_is_not_judged_by_its_level(self):
        values = 1000 * np.random.default_rng(0).normal(size=(30, ROWS, COLUMNS)).astype(np.float32)
        values[10:13] += 1e5
        assert found(judge_projections(values, "attenuation")) == []


def test_a_caveat_names_the_first_frames():
    levels = np.ones(40)
    levels[10:18] = 0
    (caveat,) = describe_bad_frames("projections", judge_projections(frames_of(levels), "transmission"))
    assert caveat.code == "bad-projections"
    assert caveat.message.startswith("8 of 40 projections are left out: frames 10 (0.0")
    assert "14 (0.0" in caveat.message
    assert ", ... of the open beam's light; the others have 1.00 to 1.01" in caveat.message
    assert "15 (" not in caveat.message
    assert describe_bad_frames("flats", judge_flats(counted(np.ones(4)), DARKS)) == ()


def test_a_caveat_of_one_frame():
    levels = np.array([0.97, 0.99, 0, 0.98])
    (caveat,) = describe_bad_frames("flats", Verdict(levels == 0, levels))
    expected = "1 of 4 flats is left out: frame 2 has 0.00 of the brightest's light; the others have 0.97 to 0.99"
    assert caveat.message == expected
    (caveat,) = describe_bad_frames("darks", Verdict(np.array([True]), np.array([np.nan])))
    assert caveat.message == "1 of 1 darks is left out: frame 0 is not finite"
