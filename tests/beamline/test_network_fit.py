"""How well a network that was taken over fits: the numbers, the doubt, the words of the report."""

import json

import numpy as np
import pytest

from quietbeam.beamline.fit_section import fit_section
from quietbeam.beamline.held_out import HeldOut
from quietbeam.beamline.network_fit import (
    LOST,
    Agreement,
    NetworkFit,
    agreements,
    doubts_of_fit,
    numbers_elsewhere,
    scatter_of_difference,
)
from quietbeam.beamline.report import Report, render_report

ORIGIN = {"sha256": "0" * 64, "name": "scan foam 0", "scan": "1" * 64}
DRAWS = 60
"""Of a target's noise: the standard deviation of so many is within 0.3 of the true one."""
CHANCE = 0.01
"""Share by which a measured loss may differ from the true one, with the noise of 8 slices of 64 x 64 pixels."""


def agreement(distance, resolution=3.0, contrast=1.0):
    return Agreement(distance, resolution, contrast, [1.0, 0.5, 0.1])


def fit_of(taken_over, own=None, **changes):
    own = None if own is None else agreement(own)
    fields = {"origin": ORIGIN, "before": agreement(2.0, 4.0, None), "history": ({"loss": 1.0},) * 7}
    return NetworkFit(**fields | {"taken_over": agreement(taken_over), "own": own} | changes)


def words(fit):
    return " ".join(fit_section(fit).sentences)


@pytest.mark.parametrize("noise_of_target", [0.5, 2.0])
def test_the_share_that_is_lost_is_that_of_the_squared_error(noise_of_target):
    """What the target's noise adds to every distance falls out."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.repeat(rng.normal(size=(8, 16, 16)), 4, axis=1), 4, axis=2)
    noisy, own, taken, target = (truth + rng.normal(0, s, truth.shape) for s in (1.0, 0.2, 0.4, noise_of_target))
    (before, best), (_, other) = (agreements(HeldOut(noisy, answer, target)) for answer in (own, taken))
    fit = NetworkFit(ORIGIN, before, other, own=best)
    assert fit.lost == pytest.approx((0.4**2 - 0.2**2) / (1 - 0.2**2), abs=CHANCE * (1 + noise_of_target))
    assert before.contrast is None
    assert best.contrast == pytest.approx(1.04, abs=0.05)
    assert best.correlation[0] > best.correlation[-1]


def test_the_error_of_a_difference_is_how_far_it_scatters():
    rng = np.random.default_rng(0)
    errors, found = rng.normal(0, (0.2, 0.4), (1, 4, 4, 32, 32, 2)).astype(np.float32)[0, 0], []
    one, other = (errors[..., k] for k in (0, 1))
    for _ in range(DRAWS):
        target = rng.normal(0, 2, one.shape).astype(np.float32)
        held_out = [HeldOut(target, answer, target) for answer in (one, other)]
        (_, first), (_, second) = map(agreements, held_out)
        found.append((first.distance - second.distance, scatter_of_difference(*held_out)))
    differences, scatters = np.array(found).T
    assert np.mean(scatters) == pytest.approx(np.std(differences), rel=0.3)


@pytest.mark.parametrize(
    ("taken_over", "own", "told"),
    [
        (1.0, None, False),
        (1.0, 1.0, False),
        (0.9, 1.0, False),
        (1.0 + 0.9 * LOST, 1.0, False),
        (1.0 + 1.1 * LOST, 1.0, True),
        (1.9, 2.0, False),
        (1.9, 2.5, False),
    ],
)
def test_a_network_that_does_clearly_worse_is_told(taken_over, own, told):
    fit = fit_of(taken_over, own)
    assert [caveat.code for caveat in doubts_of_fit(fit)] == (["network-fits-worse"] if told else [])
    assert fit.told["lost"] == fit.lost


def test_the_report_says_in_words_how_well_it_fits():
    assert "taken over from scan foam 0 and applied as it is" in words(fit_of(1.0))
    assert "to 0.5 times that before." in words(fit_of(1.0))
    assert "training.compare=true" in words(fit_of(1.0))
    there = {"before": {"distance": 4.0, "resolution": 3.0, "contrast": None}}
    there["after"] = {"distance": 1.0, "resolution": None, "contrast": 1.01}
    assert "on the scan it learned from, to 0.25 times" in words(fit_of(1.0, elsewhere=there))
    assert "It fits: it gains 0.5 % (± 0.0 %) less than a network that this scan" in words(fit_of(1.005, 1.0))
    assert "1.0 % (± 4.0 %) more" in words(fit_of(0.99, 1.0, scatter=0.0202))
    lost = "It loses 10.0 % (± 2.0 %) of what a network gains that this scan trained for 7 epochs"
    assert lost in words(fit_of(1.1, 1.0, scatter=0.01))
    assert "It fits" in words(fit_of(1.1, 1.0, scatter=0.05))
    assert "does not denoise it" in words(fit_of(1.1, 2.0))


def test_the_table_holds_each_of_the_slices_with_its_numbers():
    there = {side: {"distance": 3.0, "resolution": None, "contrast": 0.9} for side in ("before", "after")}
    rows = dict(fit_section(fit_of(1.5, 1.0, elsewhere=there)).rows)
    assert rows["before denoising"] == ("2", "–", "4", "–")
    assert rows["denoised by the network taken over"] == ("1.5", "0.75", "3", "1.00")
    assert rows["denoised by a network of the scan's own"] == ("1", "0.5", "3", "1.00")
    assert rows["of the scan it learned from, denoised by it"] == ("3", "1", "every detail", "0.90")


def test_what_a_file_of_a_network_says_is_shown_as_text_and_never_as_markup():
    fit = fit_of(1.0, origin=ORIGIN | {"name": "<script>alert(1)</script>"})
    page = render_report(Report("t", "s", "c", "v", fit=fit_section(fit)))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


@pytest.mark.parametrize("numbers", [None, 3, {}, {"distance": "<b>", "resolution": float("nan"), "contrast": {}}])
def test_any_numbers_in_the_file_of_a_network_are_read(numbers):
    for said in ({}, {"held_out": numbers}, {"held_out": {"before": numbers, "after": numbers}}):
        fit = fit_of(1.0, elsewhere=numbers_elsewhere(said))
        assert all(set(row) <= {"–", "every detail"} for name, row in fit_section(fit).rows if "learned from" in name)
        assert "on the scan it learned from" not in words(fit)
        json.dumps(fit.told, allow_nan=False)
