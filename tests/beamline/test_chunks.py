from __future__ import annotations

import pytest

from quietbeam.beamline.chunks import MEMORY_SHARE, bytes_of_chunk, chunk_rows, free_memory
from quietbeam.beamline.scan import Scan, open_scan
from quietbeam.reconstruction.polar_grid import grid_bytes

from .jobs import small_scan, small_settings


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return open_scan(small_scan(tmp_path_factory.mktemp("scan") / "scan.h5"))


def fixed(scan: Scan, **compute: int | None) -> int:
    settings = small_settings(**{f"compute__{name}": value for name, value in compute.items()})
    return bytes_of_chunk(scan, settings, 0)


@pytest.mark.parametrize(("threads", "grids"), [(1, 1), (3, 3), (100, 8)])
def test_each_thread_has_a_grid_up_to_one_for_each_batch_of_a_section(scan: Scan, threads: int, grids: int) -> None:
    assert fixed(scan, threads=threads, chunk_slices=16) == grids * grid_bytes(scan.num_columns)


def test_threads_that_are_not_given_are_those_of_the_machine(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert fixed(scan, threads=None, chunk_slices=16) == 5 * grid_bytes(scan.num_columns)


def test_each_row_counts_and_wider_slices_count_more(scan: Scan) -> None:
    settings = small_settings()
    one, two = (bytes_of_chunk(scan, settings, rows) for rows in (1, 2))
    assert two - one == one - bytes_of_chunk(scan, settings, 0) > 0
    assert bytes_of_chunk(scan, settings, 2, slice_size=2 * scan.num_columns) > 2 * two


def test_the_memory_that_is_given_bounds_the_rows_of_a_chunk(scan: Scan) -> None:
    settings = small_settings(compute__chunk_slices=16)
    assert chunk_rows(scan, settings) == 16
    for_three = (bytes_of_chunk(scan, settings, 3) + 1) / MEMORY_SHARE / 2**30
    bounded = small_settings(compute__chunk_slices=16, compute__memory_gib=for_three)
    assert chunk_rows(scan, bounded) == 3
    assert free_memory(small_settings(compute__memory_gib=1e9)) < 2**50
