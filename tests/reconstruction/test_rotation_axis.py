import json

import numpy as np
import pytest

from quietbeam.reconstruction import rotation_axis
from quietbeam.reconstruction.axis_methods import AXIS_METHODS
from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.rotation_axis import AxisSettings, RotationAxis, find_rotation_axis

from .axis_scans import WIDTH, foam, full_turn, half_turn, white_noise

AXIS_TOLERANCE = 0.25
"""Pixels: an error of this size blurs less than the detector does."""
HALF_ACQUISITION_TOLERANCE = 0.5
"""Pixels: only a strip of the detector sees the sample from both sides."""


def codes(found):
    return [caveat.code for caveat in found.caveats]


@pytest.mark.parametrize("noise", [0.02, 0.2])
@pytest.mark.parametrize("axis", [79.5, 70.2, 88.77])
@pytest.mark.parametrize("turn", [half_turn, full_turn])
def test_axis_is_found(axis, turn, noise):
    found = find_rotation_axis(foam(turn(), axis, noise=noise), turn())
    assert found.column == pytest.approx(axis, abs=AXIS_TOLERANCE)
    assert abs(found.column - axis) <= 2 * found.spread < 2
    assert found.prominence > 4
    assert found.method in found.support
    assert not found.caveats


SCANS = {
    "both ends": np.linspace(0, np.pi, 181),
    "jitter": np.sort(half_turn(180) + np.random.default_rng(5).normal(0, 4e-3, 180)),
    "golden half turn": np.sort(np.arange(200) * 0.6180339887 % 1 * np.pi),
    "golden full turn": np.sort(np.arange(200) * 0.6180339887 % 1 * 2 * np.pi),
    "200 degrees": np.deg2rad(np.arange(0, 200, 0.9)),
    "175 degrees": np.deg2rad(np.arange(0, 175, 0.9)),
    "two turns": np.arange(400) * np.pi / 100,
    "from -90": half_turn() - np.pi / 2,
    "few": half_turn(40),
    "ten of a full turn": full_turn(10),
}


@pytest.mark.parametrize("name", SCANS)
def test_axis_is_found_at_any_angles(name):
    theta = SCANS[name]
    found = find_rotation_axis(foam(theta, 83.2), theta)
    assert found.column == pytest.approx(83.2, abs=AXIS_TOLERANCE)
    assert len(found.support) > 1
    assert "weak-rotation-axis" not in codes(found)


@pytest.mark.parametrize(("turn", "rings"), [(half_turn, 0.3), (full_turn, 1.0)])
def test_rings_do_not_draw_the_axis(turn, rings):
    found = find_rotation_axis(foam(turn(), 74.3, rings=rings), turn())
    assert found.column == pytest.approx(74.3, abs=AXIS_TOLERANCE)


@pytest.mark.parametrize("turn", [half_turn, full_turn])
def test_a_sample_wider_than_the_detector(turn):
    found = find_rotation_axis(foam(turn(), 83.2, radius=130, num_rows=8), turn())
    assert found.column == pytest.approx(83.2, abs=AXIS_TOLERANCE)
    assert not found.caveats


@pytest.mark.parametrize("noise", [0.05, 0.3])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.8, 0.9])
def test_half_acquisition(share, noise):
    axis = share * (WIDTH - 1) + 0.3
    far = max(axis, WIDTH - 1 - axis)
    found = find_rotation_axis(foam(full_turn(300), axis, radius=0.9 * far, noise=noise, num_rows=8), full_turn(300))
    assert found.column == pytest.approx(axis, abs=HALF_ACQUISITION_TOLERANCE)
    assert not found.caveats  # what is made of it is decided, and told, elsewhere


@pytest.mark.parametrize("width", [16, 21, 33])
@pytest.mark.parametrize("turn", [half_turn, full_turn])
def test_narrow_detectors_and_one_row(turn, width):
    axis = width / 2 + 0.4
    found = find_rotation_axis(foam(turn(90), axis, width=width, num_rows=1, num_spheres=20), turn(90))
    assert found.column == pytest.approx(axis, abs=AXIS_TOLERANCE)


@pytest.mark.parametrize("num_angles", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("turn", [half_turn, full_turn])
def test_few_projections_give_the_axis_or_the_middle(turn, num_angles):
    found = find_rotation_axis(foam(turn(num_angles), 83.2), turn(num_angles))
    if codes(found):
        assert (found.method, found.column) == ("middle", 79.5)
        assert codes(found) == ["weak-rotation-axis"]
    else:
        assert found.column == pytest.approx(83.2, abs=AXIS_TOLERANCE)


@pytest.mark.parametrize("width", [1, 2, 7, 160])
@pytest.mark.parametrize("kind", ["constant", "noise"])
@pytest.mark.parametrize("turn", [half_turn, full_turn])
def test_nothing_to_see_gives_the_middle_and_a_caveat(turn, kind, width):
    for seed in range(4):
        sinograms = white_noise(3, 60, width, seed)
        if kind == "constant":
            sinograms = np.full_like(sinograms, 0.7)
        found = find_rotation_axis(sinograms, turn(60))
        assert (found.method, found.column) == ("middle", (width - 1) / 2)
        assert np.isfinite([found.spread, found.score, found.prominence, *sum(found.candidates.values(), ())]).all()
        assert codes(found) == ["weak-rotation-axis"]
        assert f"correlate {found.score:.2f} about column {found.column:.2f}" in found.caveats[0].message


def test_rings_alone_are_doubted():
    for seed in range(8):
        noise = white_noise(3, 60, seed=seed)
        found = find_rotation_axis(noise[:, :1] + 0.01 * noise, full_turn(60))
        assert (found.method, codes(found)) == ("middle", ["weak-rotation-axis"])


def test_a_full_turn_told_to_be_a_half_turn_is_doubted():
    found = find_rotation_axis(foam(full_turn(), 83.2), half_turn())
    assert "weak-rotation-axis" in codes(found)
    assert "mirror" in found.caveats[0].message


def test_a_given_column_is_taken_and_compared():
    theta = half_turn(90)
    sinograms = foam(theta, 79.5)
    right, wrong = (find_rotation_axis(sinograms, theta, AxisSettings(column=c)) for c in (79.4, 60.0))
    assert (right.column, right.method, right.spread) == (79.4, "given", 0)
    assert set(right.support) == {"given", *right.candidates}
    assert not right.caveats
    assert (wrong.column, wrong.method, wrong.support) == (60.0, "given", ("given",))
    assert right.score > wrong.score + 0.3
    assert "axis-methods-disagree" in codes(wrong)
    assert "given 60.00, mirror 79." in wrong.caveats[-1 if wrong.caveats[-1].code != "offset-axis" else -2].message


@pytest.mark.parametrize("column", [-0.1, 159.1, 160, 200])
def test_a_column_outside_of_the_detector_is_refused(column):
    with pytest.raises(ScanError, match=rf"rotation_axis must lie in \[0, 159\], got {column}: give a column"):
        find_rotation_axis(white_noise(), half_turn(90), AxisSettings(column=column))


@pytest.mark.parametrize(("column", "reach"), [(30.0, 30), (140.0, 19)])
def test_an_axis_near_the_edge_of_a_half_turn_is_told(column, reach):
    found = find_rotation_axis(foam(half_turn(90), column, radius=30), half_turn(90), AxisSettings(column=column))
    assert codes(found)[-1] == "offset-axis"
    assert f"without a full turn, values beyond {reach} pixels from the axis are wrong" in found.caveats[-1].message


def off_centre(turn, share, radius, *, width=256):
    """A scan of a solid cylinder, without its noise's doubts about the axis, which is given."""
    axis = share * (width - 1)
    sinograms = foam(turn, axis, width=width, radius=radius, num_rows=2, num_spheres=30)
    return find_rotation_axis(sinograms, turn, AxisSettings(column=axis))


@pytest.mark.parametrize(("share", "reach"), [(0.4, 102), (0.6, 102), (0.45, 115)])
def test_a_half_turn_that_sees_the_rim_once_is_told(share, reach):
    found = off_centre(half_turn(), share, 123)
    assert found.sees_beyond
    assert codes(found) == ["offset-axis"]
    message = found.caveats[0].message
    assert "the sample reaches beyond the nearer edge of the detector" in message
    assert f"values beyond {reach} pixels from the axis are wrong, those within about " in message
    assert 0.5 < float(message.split("within about ")[1].split()[0]) < 10
    assert message.endswith(" % too high; take a full turn or centre the axis")


@pytest.mark.parametrize(
    ("turn", "share", "radius", "beyond"),
    [
        (full_turn(), 0.4, 123, True),  # it is joined
        (half_turn(), 0.485, 128, True),  # little is cut off
        (half_turn(), 0.4, 60, False),
        (full_turn(), 0.4, 60, False),
        (half_turn(), 0.45, 300, True),  # wider than the detector anyhow
    ],
)
def test_an_axis_beside_the_middle_is_not_told_without_harm(turn, share, radius, beyond):
    found = off_centre(turn, share, radius)
    assert found.sees_beyond is beyond
    assert not found.caveats


def test_a_correlation_that_chance_reaches_is_doubted():
    """Two projections of few pixels, whose likeness is weaker than `ALIKE` and stands out of little."""
    rng = np.random.default_rng(9)
    sinograms = rng.normal(size=(2, 60, 24)).astype(np.float32)
    sinograms[:, -1] += 0.45 * sinograms[:, 0, ::-1]
    found = find_rotation_axis(sinograms, half_turn(60), AxisSettings(column=11.5))
    assert 0.25 < found.score < 0.45
    assert found.prominence < 5
    assert codes(found) == ["weak-rotation-axis"]


def test_only_the_methods_named_are_asked():
    theta = half_turn()
    sinograms = foam(theta, 79.5)
    for name in ("mirror", "phase correlation", "Vo"):
        found = find_rotation_axis(sinograms, theta, AxisSettings(methods=(name,), num_vo_rows=1))
        assert list(found.candidates) == [name]
        assert found.support == (name,)
        assert found.column == pytest.approx(79.5, abs=AXIS_TOLERANCE)


def test_all_methods_together_agree():
    theta = full_turn(120)
    found = find_rotation_axis(foam(theta, 72.4), theta, AxisSettings(methods=tuple(AXIS_METHODS), num_vo_rows=1))
    assert found.method == "mirror"
    assert len(found.support) >= 4
    assert "double wedge" not in found.candidates


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("degrees", [168, 172])
def test_ends_that_are_not_opposite_are_told_and_widen_the_spread(degrees, seed):
    theta = np.deg2rad(np.arange(250) * degrees / 250)
    found = find_rotation_axis(foam(theta, 84.5, num_rows=8, seed=seed), theta)
    assert codes(found) == ["short-half-turn"]
    assert f"are {180 - degrees:.1f} degrees, beyond a step, from opposite" in found.caveats[0].message
    assert abs(found.column - 84.5) < 2 * found.spread
    assert found.column == pytest.approx(84.5, abs=2 * AXIS_TOLERANCE)


@pytest.mark.parametrize("theta", [half_turn(180), np.deg2rad(np.arange(179)), np.linspace(0, np.pi, 181)])
def test_ends_nearly_opposite_are_not_told(theta):
    assert not find_rotation_axis(foam(theta, 84.5), theta).caveats


def test_a_wide_detector_is_swept_in_fewer_columns(monkeypatch):
    monkeypatch.setattr(rotation_axis, "SWEPT_WIDTH", 60)
    theta = np.deg2rad(np.arange(250) * 168 / 250)
    found = find_rotation_axis(foam(theta, 84.5, num_rows=8), theta)
    assert found.method == rotation_axis.SHARPEST
    assert found.column == pytest.approx(84.5, abs=2 * AXIS_TOLERANCE)


@pytest.mark.parametrize("turn", [half_turn, full_turn])
def test_saturated_columns_do_not_draw_the_axis(turn):
    sinograms = foam(turn(), 84.5, num_rows=8)
    sinograms[..., 70:73] = -3 + np.array([0.1, 0.3, 0.2], np.float32)
    found = find_rotation_axis(sinograms, turn())
    assert found.column == pytest.approx(84.5, abs=AXIS_TOLERANCE)
    assert not found.caveats


def test_a_turn_with_a_part_lost_is_told_with_its_degrees():
    theta = full_turn(360)[:340]
    found = find_rotation_axis(foam(theta, 30.3, radius=110, num_rows=8), theta, AxisSettings(column=30.3))
    assert codes(found) == ["offset-axis"]
    assert "the full turn lacks 20.0 of 360 degrees" in found.caveats[0].message
    assert "unless reconstruction.half_acquisition=true joins" in found.caveats[0].message


def test_a_wrong_column_is_told_once():
    theta = half_turn(90)
    found = find_rotation_axis(foam(theta, 79.5), theta, AxisSettings(column=62.0))
    assert [code for code in codes(found) if code != "offset-axis"] == ["axis-methods-disagree"]


def test_the_axis_survives_json():
    theta = half_turn(90)
    found = find_rotation_axis(foam(theta, 79.5), theta, AxisSettings(column=60))
    assert found.caveats
    record = json.loads(json.dumps(found._asdict(), allow_nan=False))
    assert RotationAxis.from_record(record) == found
    assert found.sees_beyond is RotationAxis.from_record(record).sees_beyond is True


def test_inputs_are_left_alone():
    sinograms, theta = foam(half_turn(60), 79.5), half_turn(60)
    copies = sinograms.copy(), theta.copy()
    find_rotation_axis(sinograms, theta, AxisSettings(methods=tuple(AXIS_METHODS), num_vo_rows=1))
    np.testing.assert_array_equal(sinograms, copies[0])
    np.testing.assert_array_equal(theta, copies[1])
