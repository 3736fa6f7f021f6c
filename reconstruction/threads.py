"""The same task for each of many, several at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["for_each"]


def for_each(task: Callable[[int], None], count: int, num_threads: int) -> None:
    """Call a task with 0, 1, ... `count` - 1, and wait until all are done.

    Parameters
    ----------
    task : callable
        Takes one number; calls must not depend on each other, and compiled ones must release the interpreter (nogil).
    count : int
        How many calls.
    num_threads : int
        Calls at a time.

    Raises
    ------
    ValueError
        If `num_threads` is less than 1. What a task raises comes through.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(task, range(count)):
            pass
