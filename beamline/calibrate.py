"""A few steps of a training, timed on the machine at hand before it begins.

A time budget becomes a number of epochs once, and the number is kept: a training that is killed and taken up again then
ends with the same weights as one that was not. The number of threads is chosen likewise: on cores that others use too,
more of them can be slower, by far. Where several processes train together, the clock of the first counts for all, so
that all stop at the same step.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import torch

from quietbeam.noise2inverse.distributed import Group

from .epochs import Trainer

__all__ = ["epochs_for", "fastest_threads", "step_seconds"]

SECONDS = 3.0
"""How long a calibration takes."""
BUDGET_SHARE = 0.03
"""Of a long time budget, what its calibration may take instead."""
KEEPING_SHARE = 1.02
"""Time of an epoch over that of its steps and of the held-out loss: the state is kept."""


class TimedTrainer(Trainer, Protocol):
    """A trainer whose parts can be timed one by one."""

    def held_out_loss(self) -> float:
        """Take the loss on what is held out, as each epoch does."""


class _Enough(Exception):  # noqa: N818 - not an error
    pass


def step_seconds(trainer: Trainer, seconds: float = SECONDS, *, group: Group | None = None) -> list[float]:
    """Time the first steps of a trainer, which is no longer fresh afterwards.

    Parameters
    ----------
    trainer : Trainer
        Its first epoch is begun.
    seconds : float
        How long to go on.
    group : Group, optional
        The processes that train together.

    Returns
    -------
    list of float
        Seconds of each step but the first, which warms up.
    """
    group = group or Group()
    times = [group.share_number(time.monotonic())]

    def on_step(step: int, loss: float) -> None:
        times.append(group.share_number(time.monotonic()))
        if step > 2 and times[-1] - times[0] > seconds:
            raise _Enough

    with contextlib.suppress(_Enough):
        trainer.train_epoch(0, on_step)
    return [after - before for before, after in pairwise(times[1:])] or [times[1] - times[0]]


def epochs_for(minutes: float, make_trainer: Callable[[], TimedTrainer], *, group: Group | None = None) -> int:
    """Say how many epochs fit into a time budget.

    Parameters
    ----------
    minutes : float
        The budget.
    make_trainer : callable
        Makes a trainer; it is thrown away.
    group : Group, optional
        The processes that train together.

    Returns
    -------
    int
        At least 1.
    """
    trainer, group = make_trainer(), group or Group()
    steps = step_seconds(trainer, max(SECONDS, BUDGET_SHARE * 60 * minutes), group=group)
    began = group.share_number(time.monotonic())
    trainer.held_out_loss()
    looking = group.share_number(time.monotonic()) - began
    seconds_per_epoch = (sum(steps) / len(steps) * trainer.steps_per_epoch + looking) * KEEPING_SHARE
    return max(1, math.floor(60 * minutes / max(seconds_per_epoch, 1e-9)))


def fastest_threads(most: int, make_trainer: Callable[[], Trainer], *, group: Group | None = None) -> int:
    """Find the number of threads with which a step takes least.

    Parameters
    ----------
    most : int
        Threads there may be: of each process, the same in all.
    make_trainer : callable
        Makes a trainer; it is thrown away.
    group : Group, optional
        The processes that train together.

    Returns
    -------
    int
        1, 2, 4, ... or `most`; torch is left with it.
    """
    candidates = sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})
    if len(candidates) == 1:
        return most
    seconds: dict[int, float] = {}
    for threads in candidates:
        torch.set_num_threads(threads)
        steps = step_seconds(make_trainer(), SECONDS / len(candidates), group=group)
        seconds[threads] = sum(steps) / len(steps)
    fastest = min(seconds, key=lambda threads: seconds[threads])
    torch.set_num_threads(fastest)
    return fastest
