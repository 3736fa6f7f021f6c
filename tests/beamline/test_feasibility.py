from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from quietbeam.beamline.feasibility import check_feasible
from quietbeam.beamline.inspect import describe_plan
from quietbeam.beamline.scan import Scan, open_scan
from quietbeam.noise2inverse.pairs import PairSettings
from quietbeam.reconstruction.errors import QuietbeamError, ReductionError, ScanError
from quietbeam.reconstruction.reconstructors import available_reconstructors

from .jobs import small_scan, small_settings


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return open_scan(small_scan(tmp_path_factory.mktemp("scan") / "scan.h5"))


def test_what_can_be_done_passes(scan: Scan) -> None:
    check_feasible(scan, small_settings())
    check_feasible(scan, small_settings(pairs__held_out_slices=11))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"rotation_axis__column": 47.5},
            ScanError,
            r"scan\.h5: rotation_axis must lie in \[0, 47\], got 47\.5: leave",
        ),
        ({"sections__num_sections": 20}, ReductionError, "20 sections need at least 80 projections, got 48"),
        ({"network__depth": 60, "network__dilations": (60,)}, ReductionError, "smaller than the network's largest"),
        ({"phase__delta_beta": 100}, ScanError, r"energy"),
        (
            {"pairs__held_out_slices": 12},
            ReductionError,
            r"scan\.h5: held_out_slices=12 .* needs at least 17 slices .*, got 16: hold out fewer",
        ),
        (
            {"pairs__strategy": "symmetric", "sections__num_sections": 13, "pairs__context_slices": 0},
            ReductionError,
            r"scan\.h5: 13 sections have too many halves",
        ),
        ({"pairs__context_steps": 1}, ReductionError, r"scan\.h5: pairs\.context_steps must be 0 .*, got 1"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_computed(
    scan: Scan, settings: dict[str, object], error: type[QuietbeamError], message: str
) -> None:
    chosen = small_settings(**settings)
    with pytest.raises(error, match=message):
        check_feasible(scan, chosen)
    with pytest.raises(error, match=message):
        list(describe_plan(scan.path, chosen))


@pytest.mark.parametrize("method", ["fbp-cuda", "tomopy-gridrec"])
def test_a_method_whose_library_is_not_here_is_refused(scan: Scan, method: str) -> None:
    if method in available_reconstructors():
        pytest.skip(f"{method} is here")
    with pytest.raises(ReductionError, match=f"reconstruction.method={method} needs .*: choose gridrec or fbp"):
        check_feasible(scan, small_settings(reconstruction__method=method))


def test_phase_retrieval_of_a_library_that_is_not_here_is_refused(scan: Scan) -> None:
    if "tomopy-gridrec" in available_reconstructors():
        pytest.skip("tomopy is here")
    settings = small_settings(phase__method="tomopy-paganin", phase__delta_beta=100)
    with pytest.raises(ReductionError, match=r"phase\.method=tomopy-paganin needs tomopy.*: choose paganin"):
        check_feasible(scan, settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_here_is_refused(scan: Scan) -> None:
    with pytest.raises(ReductionError, match="torch finds no CUDA device"):
        check_feasible(scan, small_settings(compute__device="cuda"))


def test_a_plan_tells_choices_of_training_and_times_of_seconds(scan: Scan) -> None:
    lines = list(describe_plan(Path(scan.path), small_settings()))
    assert not any(line.startswith("chosen") for line in lines)
    assert any(line.startswith("time        under a minute; ") for line in lines)
    augment = not PairSettings().augment
    changes = {"pairs__strategy": "1:X", "training__schedule": "cosine", "training__patience": 2}
    changes["pairs__augment"] = augment
    lines = list(describe_plan(Path(scan.path), small_settings(**changes)))
    expected = (
        f"pairs.strategy=1:X, pairs.augment={str(augment).lower()}, training.schedule=cosine, training.patience=2"
    )
    assert f"chosen      {expected}" in lines
    lines = list(describe_plan(Path(scan.path), small_settings(training__minutes=3, training__epochs=None)))
    assert any(re.match(r"time        about 3\.\d minutes; ", line) for line in lines)


def test_a_plan_tells_the_sections(scan: Scan) -> None:
    lines = list(describe_plan(Path(scan.path), small_settings()))
    assert "sections    4, of 12 projections" in lines


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["held out    slice 7", "denoise     once, all sections together"]),
        ({"pairs__context_slices": 3}, ["held out    the last pair of sections"]),
        ({"pairs__held_out_slices": 2}, ["held out    slices 7 to 8"]),
        ({"inference__mode": "average"}, ["denoise     4 times, averaged"]),
        (
            {"inference__mode": "average", "inference__disagreement": True, "sections__num_sections": 3},
            ["denoise     3 times, averaged, their disagreement kept"],
        ),
    ],
)
def test_a_plan_tells_what_is_held_out_and_how_the_network_is_applied(
    scan: Scan, settings: dict[str, object], expected: list[str]
) -> None:
    assert set(expected) <= set(describe_plan(Path(scan.path), small_settings(**settings)))
