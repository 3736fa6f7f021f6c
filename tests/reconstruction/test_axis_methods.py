import numpy as np
import pytest

from quietbeam.reconstruction.axis_methods import AXIS_METHODS, Views, ask

from .axis_scans import WIDTH, foam, full_turn, half_turn, white_noise

HALF_ACQUISITION = 40.3
"""Column, a quarter of the detector's width from its edge."""

# Pixels. Vo's method has steps of a quarter; the window's overlap is counted in whole pixels before it is halved.
TOLERANCES = {
    "mirror": 0.05,
    "double wedge": 0.05,
    "phase correlation": 0.2,
    "Vo": 0.25,
    "sliding window": 0.2,
    "overlap": 1.5,
}


def test_every_method_is_tested():
    assert set(TOLERANCES) == set(AXIS_METHODS)


@pytest.mark.parametrize("name", AXIS_METHODS)
@pytest.mark.parametrize("axis", [70.3, 88.85])
@pytest.mark.parametrize("turn", [half_turn, full_turn])
def test_method_finds_the_axis(name, axis, turn):
    views = Views(foam(turn(), axis), turn(), num_vo_rows=1)
    column = ask(name, views)
    if name == ("overlap" if turn is half_turn else "double wedge"):
        assert column is None
    else:
        assert column == pytest.approx(axis, abs=TOLERANCES[name])


@pytest.mark.parametrize("axis", [HALF_ACQUISITION, WIDTH - 1 - HALF_ACQUISITION])
@pytest.mark.parametrize("name", ["mirror", "sliding window", "overlap"])
def test_half_acquisition_has_its_methods(name, axis):
    """Both sides: where algotom counts the overlap from the left and from the right."""
    views = Views(foam(full_turn(), axis, radius=0.9 * max(axis, WIDTH - axis)), full_turn())
    assert ask(name, views) == pytest.approx(axis, abs=0.5)


@pytest.mark.parametrize("axis", [70.3, 88.85])
def test_shading_of_one_pair_does_not_correlate(axis):
    """A slope of the beam, the same in both projections, would draw the axis to the middle."""
    theta = half_turn()
    shaded = foam(theta, axis) + np.linspace(0, 10, WIDTH, dtype=np.float32)
    assert ask("phase correlation", Views(shaded, theta)) == pytest.approx(axis, abs=TOLERANCES["phase correlation"])


@pytest.mark.parametrize("name", AXIS_METHODS)
@pytest.mark.parametrize(("num_angles", "width"), [(1, 40), (2, 40), (7, 16), (9, 8), (40, 1), (40, 5), (40, 16)])
def test_no_method_fails_on_small_scans(name, num_angles, width):
    for turn in (1, 2):
        theta = np.arange(num_angles) * turn * np.pi / num_angles
        column = ask(name, Views(white_noise(1, num_angles, width), theta))
        assert column is None or 0 <= column <= width - 1


@pytest.mark.parametrize("name", AXIS_METHODS)
def test_no_method_fails_on_a_constant(name):
    for theta in (half_turn(40), full_turn(40)):
        column = ask(name, Views(np.full((2, 40, 50), 1.5, np.float32), theta))
        assert column is None or 0 <= column <= 49
