"""Changed archives by the thousand: what comes of reading them.

A case is an archive of the tests changed at random, anywhere in the file or in one part with all checksums made to fit;
tests/compress/fuzz.py says how and what the outcomes mean. Linux, one core, some 100 cases a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FUZZ = Path(__file__).parents[1] / "tests" / "compress" / "fuzz.py"
BATCH = 10_000
"""Cases of one seed."""


def main() -> None:
    """Run all cases and print a table; exit with 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first 10,000 cases; each further one is next")
    parser.add_argument("--codecs", default="crae", help="names, separated by commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    options = parser.parse_args()
    starts = range(0, options.cases, BATCH)
    counts: dict[str, int] = dict.fromkeys(("refused", "equal", "changed", "large"), 0)
    counts |= dict.fromkeys(("wrong", "error", "memory", "hang", "killed"), 0)
    failures: list[Any] = []
    for number, start in enumerate(starts):
        seed, cases = options.seed + number, min(BATCH, options.cases - start)
        found = fuzz(cases, seed, options.codecs)
        failures += [(seed, *failure) for failure in found["failures"]]
        for outcome, count in found["counts"].items():
            counts[outcome] += count
    report(counts, failures, options.json)
    sys.exit(bool(failures))


def fuzz(cases: int, seed: int, codecs: str) -> dict[str, Any]:
    """Run the cases of one seed in a process of their own."""
    command = [sys.executable, FUZZ, "--cases", str(cases), "--seed", str(seed), "--codecs", codecs]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)  # noqa: S603
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def report(counts: dict[str, int], failures: list[Any], file: Path | None) -> None:
    """Print a table of the outcomes, and each failure with its seed and case."""
    print("\n| outcome | cases |\n|---|---:|")
    for outcome, count in counts.items():
        print(f"| {outcome} | {count} |")
    for seed, case, outcome, detail in failures:
        print(f"seed {seed}, case {case}: {outcome}: {detail}")
    if file:
        rows = [
            {"case": "changed archives", "method": "quietbeam", "metric": outcome, "value": count, "unit": "cases"}
            for outcome, count in counts.items()
        ]
        file.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
