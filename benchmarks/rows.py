"""What the benchmarks share: their arguments, their rows, one thread, CPU time and peak memory."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

__all__ = ["Row", "arguments", "cpu_seconds", "in_child", "report"]

T = TypeVar("T")


class Row(NamedTuple):
    """One measured value."""

    case: str
    method: str
    metric: str
    value: float
    unit: str


def arguments(description: str | None) -> argparse.Namespace:
    """Read ``--tiny`` and ``--json FILE``, and compute on one thread from here on."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="seconds long, to see that it works; figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    torch.set_num_threads(1)
    return parser.parse_args()


def report(rows: list[Row], file: Path | None) -> None:
    """Print a Markdown table for each case, and write the rows if a file is given."""
    for case in dict.fromkeys(row.case for row in rows):
        _print_table(case, [row for row in rows if row.case == case])
    if file:
        file.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")


def _print_table(case: str, rows: list[Row]) -> None:
    metrics = [f"{metric} ({unit})" if unit else metric for metric, unit in _unique((r.metric, r.unit) for r in rows)]
    methods = list(_unique(row.method for row in rows))
    values = {(row.method, f"{row.metric} ({row.unit})" if row.unit else row.metric): row.value for row in rows}
    cells = [[_cell(values.get((method, metric))) for metric in metrics] for method in methods]
    corner, heads, sides = "method", metrics, methods
    if len(methods) == 1:  # a table of one row is read better standing
        corner, heads, sides, cells = "", methods, metrics, [[cell] for cell in cells[0]]
    print(f"\n{case}\n\n| {corner} | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for side, line in zip(sides, cells, strict=True):
        print(f"| {side} | {' | '.join(line)} |")


def _unique(items: Iterable[T]) -> Iterable[T]:
    return dict.fromkeys(items)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def cpu_seconds(work: Callable[[], Any], *, repeats: int = 3) -> float:
    """Smallest CPU time of a few calls after one that warms up, in seconds of this process."""
    work()
    return min(_timed(work) for _ in range(repeats))


def _timed(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def in_child(work: Callable[..., Any], *parameters: Any) -> tuple[Any, float]:
    """Call a function in a process of its own: its result, and the largest memory of that process in bytes.

    The figure holds the interpreter and the libraries too.
    """
    with multiprocessing.get_context("spawn").Pool(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.apply(_with_memory, (work, parameters))


def _with_memory(work: Callable[..., Any], parameters: tuple[Any, ...]) -> tuple[Any, float]:
    result = work(*parameters)
    return result, 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
