"""Memory must not grow with the number of slices."""

import pytest

from .jobs import reduce_command, run, small_scan

GROWTH = 24 * 2**20
"""Bytes by which four times the slices may raise the peak; their volumes on disk differ by 90 MiB."""


MEASURED = """
import re
from quietbeam.beamline.console import main
try:
    main()
except SystemExit as end:
    assert not end.code
status = open("/proc/self/status").read()
print("peak", re.search(r"VmHWM:\\s*(\\d+) kB", status)[1])
"""
"""The command, and its own largest resident memory: what wait4 tells counts that of the process it was forked from."""


def peak_memory(command):
    """Largest resident memory of a command, bytes."""
    done = run([command[0], "-c", MEASURED, *command[3:]])
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stdout.split()[-1])


@pytest.mark.slow
def test_peak_does_not_grow_with_the_number_of_slices(tmp_path):
    peaks = {}
    for num_rows in (64, 256):
        scan = small_scan(tmp_path / f"scan{num_rows}.h5", num_rows=num_rows, num_columns=160, num_angles=64)
        peaks[num_rows] = peak_memory(
            reduce_command(scan, tmp_path / f"out{num_rows}", "--set", "compute.chunk_slices=16")
        )
    assert peaks[256] - peaks[64] < GROWTH, peaks
