"""Memory must not grow with the number of slices."""

import os
import subprocess

import pytest

from .jobs import reduce_command, small_scan

GROWTH = 24 * 2**20
"""Bytes by which four times the slices may raise the peak; their volumes on disk differ by 90 MiB."""


def peak_memory(command):
    """Largest resident memory of a command, bytes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.slow
def test_peak_does_not_grow_with_the_number_of_slices(tmp_path):
    peaks = {}
    for num_rows in (64, 256):
        scan = small_scan(tmp_path / f"scan{num_rows}.h5", num_rows=num_rows, num_columns=160, num_angles=64)
        peaks[num_rows] = peak_memory(
            reduce_command(scan, tmp_path / f"out{num_rows}", "--set", "compute.chunk_slices=16")
        )
    assert peaks[256] - peaks[64] < GROWTH, peaks
