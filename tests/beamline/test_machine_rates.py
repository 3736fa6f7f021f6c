"""How fast the machine is: fitted from known runs, measured for real once, and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from quietbeam.beamline.estimate import estimate
from quietbeam.beamline.estimating.machine_rates import Rates, cached_rates, fit_rates, measured_rates
from quietbeam.beamline.estimating.rate_probe import LARGEST, ProbeRun, plan_probe
from quietbeam.beamline.estimating.stage_work import STAGES
from quietbeam.beamline.scan import Scan, open_scan
from quietbeam.beamline.settings import ReductionSettings

from .jobs import small_scan, small_settings

DISTURBED = 4.0
"""Factor between estimate and measurement of a job of seconds, on a machine that others use too."""
FITTED = 0.02
"""Relative: the fit believes the machine of reference a little."""


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return open_scan(small_scan(tmp_path_factory.mktemp("scan") / "scan.h5"))


def made_run(work: float, start: float, slowness: float, num_slices: int) -> ProbeRun:
    """Make up the run of a machine that is known."""
    return ProbeRun(
        work=dict.fromkeys(STAGES, work),
        seconds=dict.fromkeys(STAGES, start + slowness * work),
        busy=0.9,
        peak_memory=1000,
        memory_of_stages=200,
        voxels=num_slices * 100,
        size=10,
        archive_bytes=30 + 2 * num_slices * 100,
        other_bytes=470,
    )


def test_a_machine_is_known_from_three_runs() -> None:
    rates = fit_rates(made_run(1, 0.9, 3, 1), made_run(1, 0.2, 3, 1), made_run(5, 0.2, 3, 4))
    for stage in STAGES:
        assert rates.stages[stage].slowness == pytest.approx(3, rel=FITTED)
        assert rates.stages[stage].first == pytest.approx(0.7, rel=FITTED)
        assert rates.stages[stage].seconds(2) == pytest.approx(0.7 + 0.2 + 3 * 2, rel=FITTED)
    assert (rates.base_memory, rates.bytes_per_voxel, rates.bytes_beside, rates.busy) == (800, 2, 30 + 470 - 400, 0.9)
    assert rates.measured


def test_a_difference_that_is_noise_says_nothing_of_the_rate() -> None:
    rates = fit_rates(made_run(0.1, 0.7, 1, 1), made_run(0.1, 0.4, 1, 1), made_run(0.1001, 0, 1, 4))
    assert {rate.slowness for rate in rates.stages.values()} == {1.0}


def test_scans_of_about_the_same_shape_share_a_probe(scan: Scan, tmp_path: Path) -> None:
    other = open_scan(small_scan(tmp_path / "other.h5", num_rows=9, num_columns=50, num_angles=50))
    assert plan_probe(other, small_settings()) == plan_probe(scan, small_settings(training__epochs=7))
    assert plan_probe(scan, small_settings(network__depth=20)) != plan_probe(scan, small_settings())


def test_what_is_large_is_probed_in_small(scan: Scan) -> None:
    from dataclasses import replace

    huge = replace(scan, num_rows=2000, num_columns=2560, num_projections=3000)
    plan = plan_probe(huge, ReductionSettings())
    assert plan.num_columns <= LARGEST
    assert plan.settings.training.epochs == 1


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    return tmp_path / "quietbeam" / "rates"


@pytest.mark.slow
def test_rates_are_measured_once_and_kept(scan: Scan, cache: Path) -> None:
    settings = small_settings(network__depth=4)
    assert cached_rates(scan, settings) is None
    measured = measured_rates(scan, settings)
    assert measured.measured, measured.origin
    (file,) = cache.iterdir()
    assert cached_rates(scan, settings) == measured_rates(scan, settings) == measured
    guess, told = (estimate(scan, settings, rates=rates) for rates in (Rates(), None))
    assert told.origin == measured.origin != guess.origin
    assert 1 / DISTURBED < told.seconds / guess.seconds < DISTURBED

    for content in (b"", b"{", b'{"stages": {}, "of": "another version"}', b"\xff"):
        file.write_bytes(content)
        assert cached_rates(scan, settings) is None


def test_a_probe_that_fails_leaves_a_guess_that_says_so(
    scan: Scan, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PYTHONPATH that hides a library makes every process begun here fail."""
    (tmp_path / "pydantic.py").write_text("raise ImportError('hidden')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rates = measured_rates(scan, small_settings())
    assert not rates.measured
    assert "the calibration failed (ImportError: hidden)" in rates.origin
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_no_error(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quietbeam.beamline.estimating.machine_rates import keep_rates

    (tmp_path / "quietbeam").write_text("a file in the way of the folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_rates(scan, small_settings(), Rates())
    assert cached_rates(scan, small_settings()) is None
