"""What a series takes: bounds that no schedule can beat, and the disk."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from quietbeam.beamline.estimate import Estimate
from quietbeam.beamline.series.series_estimate import check_series_space, series_estimate
from quietbeam.reconstruction.errors import SpaceError

GIB = 2**30


def scan(serial: float = 0.0, chunked: float = 0.0, train: float = 0.0, **sizes: int) -> Estimate:
    """Make an estimate of seconds in a stage that is one task, in one that is cut, and in training."""
    stages = {"archive": serial, "denoise": chunked, "train": train}
    return Estimate(**({"memory": 1, "disk": 3, "output": 1} | sizes), stages=stages)


@pytest.mark.parametrize(
    ("estimates", "num_workers", "seconds"),
    [
        ([scan(4, 6)], 1, 10),
        ([scan(4, 6)], 3, 4 + 6 / 3),  # one scan: its chunks spread, the rest does not
        ([scan(0, 6)] * 4, 3, 4 * 6 / 3),
        ([scan(4)] * 3, 2, 2 * 4),  # the third waits for one of the first two
        ([scan(4)] * 4, 2, 2 * 4),
        ([scan(1), scan(1), scan(9)], 2, 9),
        ([], 2, 0),
    ],
)
def test_wall_times_that_can_be_seen_at_once(estimates: list[Estimate], num_workers: int, seconds: float) -> None:
    assert series_estimate(estimates, num_workers).seconds == pytest.approx(seconds)


def test_more_workers_help_down_to_the_longest_scan() -> None:
    estimates = [scan(1, 10, 5), scan(2, 20, 6), scan(1, 5, 5)]
    times = [series_estimate(estimates, num_workers).seconds for num_workers in (1, 2, 4, 1000)]
    assert times == sorted(times, reverse=True)
    assert times[0] == pytest.approx(sum(told.seconds for told in estimates))
    assert times[-1] == pytest.approx(2 + 6, abs=0.1)


def test_with_the_first_network_for_all_only_the_first_trains_and_the_others_wait() -> None:
    told = series_estimate([scan(1, 0, 10)] * 3, 2, "first")
    assert told.seconds == pytest.approx(11 + 1)
    assert told.work == pytest.approx(10 + 3)


def test_lost_time_of_the_workers_lengthens_what_they_share() -> None:
    even = [scan(0, 6)] * 4
    assert series_estimate(even, 2, efficiency=0.5).seconds == 2 * series_estimate(even, 2).seconds
    with pytest.raises(ValueError, match="efficiency"):
        series_estimate(even, 2, efficiency=0)


def test_the_disk_holds_all_results_and_the_scratch_of_the_largest_scans_under_way() -> None:
    told = series_estimate([scan(disk=size, output=1, memory=size) for size in (3, 9, 5, 7)], 2)
    assert (told.output, told.disk_peak, told.memory_per_worker) == (4, 4 + 8 + 6 + 4, 9)


def test_libraries_are_loaded_once_by_each_worker_at_the_same_time() -> None:
    one = replace(scan(serial=4), loading={"archive": 3.0})
    assert series_estimate([one], 1).seconds == one.seconds == 4
    assert series_estimate([one] * 6, 2).seconds == 3 + 6 * 1 / 2


class Usage(NamedTuple):
    """What `shutil.disk_usage` gives."""

    total: int
    used: int
    free: int


def test_a_series_that_does_not_fit_is_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(3 * GIB, 0, 3 * GIB))
    told = series_estimate([scan(disk=4 * GIB, output=GIB)], 1)
    with pytest.raises(SpaceError, match=r"series needs 4\.00 GiB of disk, 3\.00 GiB are free"):
        check_series_space(told, tmp_path / "out")
    check_series_space(told, tmp_path / "out", scratch=tmp_path / "scratch", held=GIB)


def test_a_slow_disk_bounds_the_time() -> None:
    told = [Estimate(0, 0, 0, {"reconstruct": 10.0})] * 4
    assert series_estimate(told, 2, moved=1e9, bandwidth=1e8).seconds == pytest.approx(20)
    assert series_estimate(told, 2, moved=1e9, bandwidth=1e7).seconds == pytest.approx(100)
