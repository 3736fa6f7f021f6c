"""What a reduction will take: identities, and the network's memory as measured."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from quietbeam.beamline import pipeline
from quietbeam.beamline.estimate import COMPARED_SLICES, Estimate, check_space, estimate, num_passes
from quietbeam.beamline.scan import Scan, open_scan
from quietbeam.noise2inverse.inference import Mode, plan_passes
from quietbeam.reconstruction.errors import SpaceError
from quietbeam.reconstruction.pairing import Strategy, pair_sections

from .jobs import command, reduce_command, run, small_scan, small_settings

ROUNDING = 1e-9
"""Relative, of sums of numbers that are multiples of each other."""
MEMORY_SHARE = (0.8, 1.05)
"""Measured over estimated peak: the interpreter's share is taken generously, and nothing else may be much more."""

VOLUME = 4 * 16 * 48 * 48
AVERAGE = {"inference__mode": "average"}
KEPT = AVERAGE | {"inference__disagreement": True}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return open_scan(small_scan(tmp_path_factory.mktemp("scan") / "scan.h5"))


@pytest.fixture
def of(scan: Scan) -> Callable[..., Estimate]:
    return lambda **settings: estimate(scan, small_settings(**settings))


def test_a_disagreement_takes_one_volume_at_the_end_and_another_until_then(of: Callable[..., Estimate]) -> None:
    average, kept = of(**AVERAGE), of(**KEPT)
    assert of().disk == average.disk
    assert kept.disk - average.disk == 2 * VOLUME
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
    assert COMPARED_SLICES == pipeline.HELD_OUT_SLICES


class Usage(NamedTuple):
    """What `shutil.disk_usage` gives."""

    total: int
    used: int
    free: int


def test_a_disk_without_room_for_the_disagreement_is_refused(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = estimate(scan, small_settings(**AVERAGE)).disk
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free, 0, free))
    check_space(scan, small_settings(**AVERAGE), tmp_path)
    with pytest.raises(SpaceError, match=r"the job needs 0\.\d\d GiB of disk, 0\.\d\d GiB are free: free some"):
        check_space(scan, small_settings(**KEPT), tmp_path)


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
    told = re.search(r"memory +about ([\d.]+) GiB", run(command(*line[3:], "--dry-run")).stdout)
    assert told
    share = 1024 * int(done.stdout.split()[-1]) / (float(told[1]) * 2**30)
    assert MEMORY_SHARE[0] < share < MEMORY_SHARE[1], (share, told[1])
