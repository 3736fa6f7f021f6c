import dataclasses

import numpy as np
import pytest

from quietbeam.reconstruction.acquisition import Acquisition, angle_caveats
from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.scan_patterns import golden_scan, interlaced_scan, static_scan


def degrees(*angles):
    return Acquisition.from_angles(np.deg2rad(np.concatenate([np.atleast_1d(part) for part in angles]).astype(float)))


def test_angles_alone_make_a_static_scan():
    scan = Acquisition.from_angles(np.arange(180) * np.pi / 180)
    assert (scan.num_projections, scan.num_time_steps, scan.num_channels) == (180, 1, 1)
    assert scan.good.all()
    assert scan.turn == np.pi
    assert scan.step == pytest.approx(np.pi / 180)
    assert not scan.covers_full_turn


def test_full_turn_is_known_and_doubles_the_period_of_a_half_acquisition():
    scan = static_scan(361, turn=2 * np.pi)
    assert scan.covers_full_turn
    assert scan.step == pytest.approx(np.pi / 361)  # opposite projections of an odd number stand between each other
    half = dataclasses.replace(scan, half_acquisition=True)
    assert half.turn == 2 * np.pi
    assert half.step == pytest.approx(2 * np.pi / 361)


def test_bad_projections_belong_to_no_time_step():
    scan = interlaced_scan(9, 4)
    good = np.ones(36, bool)
    good[[3, 20]] = False
    scan = dataclasses.replace(scan, good=good)
    listed = [scan.projections_of(step) for step in range(4)]
    np.testing.assert_array_equal(np.concatenate(listed), np.flatnonzero(good))
    assert (scan.time_step[listed[2]] == 2).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"theta": np.zeros((2, 3))}, ValueError, r"theta must have shape \(angle,\).* got shape \(2, 3\)"),
        ({"theta": np.zeros(0)}, ValueError, "at least one angle"),
        ({"theta": np.array([0, 1, np.nan, 3])}, ValueError, "got nan for projection 2"),
        ({"time_step": np.zeros(3, int)}, ValueError, r"time_step must have the shape of theta, \(4,\), got \(3,\)"),
        ({"time_step": np.zeros(4)}, ValueError, "time_step must hold integers, got float64"),
        ({"time_step": np.array([0, 0, 2, 2])}, ValueError, "expected a step 1, got 2"),
        ({"time_step": np.array([-1, 0, 1, 1])}, ValueError, "expected a step 0, got -1"),
        ({"good": np.array([0, 1, 2, 3])}, ValueError, "good must be bool, got int64"),
        ({"good": np.zeros(4, bool)}, ScanError, "time step 0 has no good projection"),
        ({"num_channels": 0}, ValueError, "num_channels must be at least 1, got 0"),
        ({"half_acquisition": True}, ScanError, "needs projections over the full turn.* the angles lack 180.0 of 360"),
    ],
)
def test_mistakes_are_named(changes, error, message):
    scan = static_scan(4)
    with pytest.raises(error, match=message):
        dataclasses.replace(scan, **changes)


def test_half_acquisition_needs_a_full_turn_in_each_time_step():
    theta = np.arange(72) * 2 * np.pi / 36
    steps = np.arange(72) // 36
    scan = Acquisition.from_angles(theta, time_step=steps, half_acquisition=True)
    bad_end = np.arange(72) < 50
    with pytest.raises(ScanError, match=r"time step 1 lacks 220\.0 of 360"):
        dataclasses.replace(scan, good=bad_end)


@pytest.mark.parametrize(
    "scan",
    [
        static_scan(181),
        static_scan(360, turn=2 * np.pi),
        degrees(np.arange(181)),  # both ends of the half turn
        degrees(np.arange(361)),
        degrees(np.arange(0, 3600, 7)),  # many turns, counted on
        interlaced_scan(9, 8, num_frames=3),
        golden_scan(300, 21),
        golden_scan(300, 300),
    ],
)
def test_sound_scans_have_no_caveats(scan):
    assert angle_caveats(scan) == ()


def test_winding_back_repeats_angles():
    scan = degrees(np.arange(60), np.arange(55, 180))
    (caveat,) = angle_caveats(scan)
    assert caveat.code == "repeated-angles"
    assert "5 of 185 projections" in caveat.message
    assert "first projection 60 that of 55 at 55.00 degrees" in caveat.message
    good = np.ones(185, bool)
    good[55:60] = False
    assert angle_caveats(dataclasses.replace(scan, good=good)) == ()


def test_slow_steps_are_no_repeats():
    assert angle_caveats(degrees(180 * np.linspace(0, 1, 200, endpoint=False) ** 2)) == ()


def test_a_half_acquisition_may_lack_a_part_which_is_told():
    scan = Acquisition.from_angles(np.deg2rad(np.arange(300.0)), half_acquisition=True)
    (caveat,) = angle_caveats(scan)
    assert caveat.code == "missing-angles"
    assert "60.00 of 360 degrees" in caveat.message


def test_encoder_jitter_does_not_hide_a_repeat():
    scan = degrees(np.arange(60), 59.01, np.arange(60, 180))
    assert [caveat.code for caveat in angle_caveats(scan)] == ["repeated-angles"]


def test_time_steps_may_repeat_the_angles_of_others():
    once = np.arange(60) * np.pi / 60
    scan = Acquisition.from_angles(np.tile(once, 3), time_step=np.repeat(np.arange(3), 60))
    assert angle_caveats(scan) == ()


def test_missing_angles_are_told_in_degrees():
    (caveat,) = angle_caveats(degrees(np.arange(90), np.arange(100, 180)))
    assert caveat.code == "missing-angles"
    assert "10.00 of 180 degrees" in caveat.message
    assert "from 89.00 to 100.00" in caveat.message


def test_other_side_of_a_full_turn_fills_a_gap_except_of_a_half_acquisition():
    scan = degrees(np.arange(90), np.arange(98, 360))
    assert angle_caveats(scan) == ()
    (caveat,) = angle_caveats(dataclasses.replace(scan, half_acquisition=True))
    assert "8.00 of 360 degrees" in caveat.message


def test_worst_time_step_is_named():
    theta = np.concatenate([np.arange(180), np.r_[0:50, 70:180], np.r_[0:50, 60:180]]) * np.pi / 180
    scan = Acquisition.from_angles(theta, time_step=np.repeat(np.arange(3), [180, 160, 170]))
    (caveat,) = angle_caveats(scan)
    assert "2 of 3 time steps" in caveat.message
    assert "in step 1, 20.00 of 180 degrees" in caveat.message
