"""The Python code of the documentation runs, and does what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["how-to/denoise-time-series-and-channels.md"]
GAIN = 4.0
"""Decibels that the short trainings of the page bring at least; twice as many are usual."""


def code_of(page):
    """Join the blocks of a page to a program."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_denoises(page, tmp_path):
    program = tmp_path / "page.py"
    program.write_text(code_of(page))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    gains = re.findall(r"(.+): PSNR (-?[\d.]+) dB noisy, (-?[\d.]+) dB denoised", done.stdout)
    assert [name for name, *_ in gains] == ["time series", "channels"]
    assert all(float(after) > float(before) + GAIN for _, before, after in gains), gains
    assert "(8, 8, 64, 64)\n[]\n" in done.stdout  # shape, and no doubts, as the page's comments say
