"""No damage and no hostile change crashes, hangs, takes much memory or goes unseen; see fuzz.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
CHUNK_SHARE = 6 / 8 * 0.6 * (5 / 10 + 1 / 10 * 4 / 6)
"""Of the cases: 6 of 8 archives are of format 2 or 3, 6 of 10 changes are repaired, 5 of 10 of those are to a chunk,
and those to the codec where there is none, in 4 of 6."""
DEAD_WORKERS = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import fuzz

def judge(case):
    if case == 1:
        os.kill(os.getpid(), 11)
    if case == 3:
        while True:
            pass
    if case == 4:
        raise LookupError("x")
    if case == 5:
        try:
            with fuzz.limited_memory(1000):
                bytearray(fuzz.SLACK * 2)
        except fuzz.MemoryExceededError:
            return "memory", ""
    return "equal", ""

fuzz.SECONDS = 0.2
print(" ".join(result.outcome for result in fuzz.run_forked(judge, range(7))))
"""
OTHER_VOXELS = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
import fuzz

folder = pathlib.Path(sys.argv[2])
one, *others = fuzz.make_origins(folder, ())
for repaired in (False, True):
    print(fuzz.check(fuzz.Changed(others[0].content, repaired, 10**6, ""), one, folder / "x.h5")[0])
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are those of Linux")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=500, check=False
    )


def fuzz(cases: int, seed: int) -> dict[str, Any]:
    done = run(FUZZ, "--cases", str(cases), "--seed", str(seed))
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["failures"] == []
    assert done.returncode == 0
    assert sum(found["counts"].values()) == cases
    return found


def test_some_changed_archives() -> None:
    counts = fuzz(150, seed=0)["counts"]
    assert counts["refused"] > counts["equal"] > 0


@pytest.mark.slow
def test_many_changed_archives() -> None:
    reached = Counter(fuzz(2000, seed=1)["reached"])
    assert {part.split(": ")[1] for part in reached} == {"file", "header", "index", "codec", "chunk", "preview"}
    assert {"changed: chunk", "changed: codec", "changed: header"} <= reached.keys()  # past all checksums
    assert reached["refused: chunk"] + reached["changed: chunk"] > 0.8 * 2000 * CHUNK_SHARE


def test_failures_are_seen_and_the_next_case_goes_on() -> None:
    done = run("-c", DEAD_WORKERS, FUZZ.parent)
    assert done.stdout.split() == ["equal", "killed", "equal", "hang", "error", "memory", "equal"], done.stderr


def test_other_voxels_are_wrong_unless_the_checksums_were_made_to_fit(tmp_path: Path) -> None:
    done = run("-c", OTHER_VOXELS, FUZZ.parent, tmp_path)
    assert done.stdout.split() == ["wrong", "changed"], done.stderr
