from __future__ import annotations

import threading

import pytest

from quietbeam.reconstruction.threads import for_each


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_each_number_comes_once(num_threads):
    done = [0] * 100

    def task(number):
        done[number] += 1

    for_each(task, 100, num_threads)
    assert done == [1] * 100


def test_several_at_a_time():
    both = threading.Barrier(2, timeout=30)
    for_each(lambda _: both.wait(), 2, 2)


def test_nothing_to_do():
    for_each(lambda _: pytest.fail("called"), 0, 1)


def test_errors_come_through():
    with pytest.raises(ZeroDivisionError):
        for_each(lambda number: 1 // (3 - number), 5, 2)


def test_number_of_threads_is_checked():
    with pytest.raises(ValueError, match="num_threads must be at least 1, got 0"):
        for_each(print, 3, 0)
