"""What a reduction will take: identities, and the network's memory as measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from quietbeam.beamline.estimate import Estimate, check_space, estimate
from quietbeam.beamline.estimating.disk_space import DiskNeed, refuse_full_disks
from quietbeam.beamline.estimating.machine_rates import Rate, Rates
from quietbeam.beamline.estimating.stage_work import COMPARED_SLICES, STAGES, num_passes
from quietbeam.beamline.held_out_slices import HELD_OUT_SLICES
from quietbeam.beamline.scan import Scan, open_scan
from quietbeam.beamline.settings import read_settings
from quietbeam.noise2inverse.inference import Mode, plan_passes
from quietbeam.reconstruction.errors import SpaceError
from quietbeam.reconstruction.pairing import Strategy, pair_sections

from .jobs import SMALL, reduce_command, run, small_scan, small_settings

ROUNDING = 1e-9
"""Relative, of sums of numbers that are multiples of each other."""
MEMORY_SHARE = (0.8, 1.05)
"""Measured over estimated peak: the guess of the interpreter's share is generous, and nothing else may be much more."""

VOLUME = 4 * 16 * 48 * 48
AVERAGE = {"inference__mode": "average"}
KEPT = AVERAGE | {"inference__disagreement": True}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return open_scan(small_scan(tmp_path_factory.mktemp("scan") / "scan.h5"))


@pytest.fixture
def of(scan: Scan) -> Callable[..., Estimate]:
    return lambda **settings: estimate(scan, small_settings(**settings), rates=Rates())


def test_the_time_is_that_of_all_stages_each_at_the_rate_of_this_machine(scan: Scan) -> None:
    slow = {stage: Rate(first=0.75, start=0.25, slowness=2.0) for stage in STAGES}
    fast = {stage: Rate(first=0.0) for stage in STAGES}
    twice, once = (estimate(scan, small_settings(), rates=Rates(stages=stages)) for stages in (slow, fast))
    assert list(twice.stages) == list(STAGES)
    assert twice.seconds == pytest.approx(sum(twice.stages.values()), rel=ROUNDING)
    assert twice.loading == dict.fromkeys(STAGES, 0.75)
    assert all(twice.stages[stage] == pytest.approx(1 + 2 * once.stages[stage], rel=ROUNDING) for stage in STAGES)


def test_a_training_by_the_clock_takes_its_time_on_any_machine(scan: Scan) -> None:
    slow = Rates(stages={stage: Rate(first=0.0, slowness=9.0) for stage in STAGES})
    settings = small_settings(training__epochs=None, training__minutes=2, codec__epochs=None, codec__minutes=3)
    told = estimate(scan, settings, rates=slow)
    assert (told.stages["train"], told.stages["fit codec"]) == (120, 180)


def test_a_disagreement_takes_one_volume_at_the_end_and_another_until_then(of: Callable[..., Estimate]) -> None:
    average, kept = of(**AVERAGE), of(**KEPT)
    assert of().disk == average.disk
    assert kept.disk - average.disk == 2 * VOLUME
    assert kept.scratch - average.scratch == VOLUME
    assert kept.output - average.output == VOLUME


def test_denoising_takes_as_many_times_as_long_as_there_are_passes(of: Callable[..., Estimate]) -> None:
    def seconds(**settings: object) -> float:
        """Time of denoising: what a scan of the same sections needs beside is in both."""
        return of(**AVERAGE, **settings).seconds - of(**settings).seconds

    one = seconds(sections__num_sections=2)
    assert one > 0
    assert seconds(sections__num_sections=4) == pytest.approx(3 * one, rel=ROUNDING)


@pytest.mark.parametrize("mode", ["full", "average"])
@pytest.mark.parametrize("strategy", ["X:1", "1:X", "symmetric"])
@pytest.mark.parametrize("num_sections", [2, 3, 4, 5])
def test_passes_are_counted_as_they_are_planned(mode: Mode, strategy: Strategy, num_sections: int) -> None:
    settings = small_settings(inference__mode=mode, pairs__strategy=strategy, sections__num_sections=num_sections)
    assert num_passes(settings) == len(plan_passes(mode, pair_sections([range(num_sections)], strategy)))


def test_the_halo_of_the_tiles_is_computed_too(of: Callable[..., Estimate]) -> None:
    """Tiles of 32 and 16 of 48 pixels, with halos of 3: 35 and 19."""
    settings: dict[str, object] = {"network__depth": 3, "network__dilations": (1,)}
    whole, tiled = (of(**settings, **AVERAGE, compute__tile_size=size) for size in (48, 32))
    once, tiled_once = (of(**settings, compute__tile_size=size) for size in (48, 32))
    ratio = (tiled.seconds - tiled_once.seconds) / (whole.seconds - once.seconds)
    assert ratio == pytest.approx((54 / 48) ** 2, rel=1e-6)


@pytest.mark.parametrize(
    "more",
    [
        {"pairs__context_slices": 3},
        {"pairs__context_steps": 1},
        {"network__depth": 20},
        {"network__width": 2},
        {"pairs__batch_size": 4},
        {"training__epochs": 6},
        {"training__steps_per_epoch": 12},
    ],
)
def test_more_to_compute_takes_longer(of: Callable[..., Estimate], more: dict[str, object]) -> None:
    assert of(**more).seconds > of().seconds


def test_compared_slices_are_those_of_the_pipeline() -> None:
    assert COMPARED_SLICES == HELD_OUT_SLICES


class Usage(NamedTuple):
    """What `shutil.disk_usage` gives."""

    total: int
    used: int
    free: int


def test_a_disk_without_room_for_the_disagreement_is_refused(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = estimate(scan, small_settings(**AVERAGE), rates=Rates()).disk
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free, 0, free))
    check_space(scan, small_settings(**AVERAGE), tmp_path)
    with pytest.raises(SpaceError, match=r"the job needs 0\.\d\d GiB of disk, 0\.\d\d GiB are free: free some"):
        check_space(scan, small_settings(**KEPT), tmp_path)


def test_folders_on_one_disk_need_their_sum_and_what_lies_there_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(3 << 30, 0, 3 << 30))
    here, there = DiskNeed(tmp_path / "a" / "b", 2 << 30), DiskNeed(tmp_path, 2 << 30)
    refuse_full_disks("all", [here], "stop")
    with pytest.raises(SpaceError, match=r"a.b: all needs 4\.00 GiB of disk, 3\.00 GiB are free: stop"):
        refuse_full_disks("all", [here, there], "stop")
    refuse_full_disks("all", [here, there._replace(held=1 << 30)], "stop")


MEASURED = """
import re
from quietbeam.beamline.console import main
try:
    main()
except SystemExit as end:
    assert not end.code
print("peak", re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"pairs.crop_size": 256, "pairs.batch_size": 8}, {"inference.mode": "average"}])
def test_the_memory_is_what_a_reduction_takes(tmp_path: Path, more: dict[str, object]) -> None:
    """A training step of 8 crops of 256 pixels; a tile of 512."""
    path = small_scan(tmp_path / "scan.h5", num_rows=4, num_columns=512, num_angles=64)
    named = {
        "network.depth": 60,
        "training.epochs": 1,
        "training.steps_per_epoch": 1,
        "archive.codec": "lattice",
        "codec.options": {},
        "codec.epochs": None,
    } | more
    sets = [word for name, value in named.items() for word in ("--set", f"{name}={value}")]
    line = reduce_command(path, tmp_path / "out", *sets)
    done = run([line[0], "-c", MEASURED, *line[3:]])
    assert done.returncode == 0, done.stderr
    told = estimate(open_scan(path), read_settings(options=SMALL | named), rates=Rates())
    share = 1024 * int(done.stdout.split()[-1]) / told.memory
    assert MEMORY_SHARE[0] < share < MEMORY_SHARE[1], (share, told.memory)
