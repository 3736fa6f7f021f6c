"""The step size as a function of the step's number alone, so that training taken up again goes on as it would have."""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["Schedule", "learning_rate"]

Schedule = Literal["constant", "cosine"]


def learning_rate(
    step: int, peak: float, schedule: Schedule = "constant", *, warmup_steps: int = 0, num_steps: int | None = None
) -> float:
    """Give the step size of one step.

    It rises in equal parts to `peak` over the warm-up, and then stays there or falls along half a cosine [1]_ that
    would reach 0 just after the last step.

    Parameters
    ----------
    step : int
        Number of the step, from 0.
    peak : float
        Step size after the warm-up.
    schedule : {"constant", "cosine"}
        What comes then.
    warmup_steps : int
        Steps of the warm-up: the first has the size ``peak / warmup_steps``, the last `peak`. Of few steps in all, it
        takes a quarter.
    num_steps : int, optional
        Steps in all; "cosine" needs it.

    Returns
    -------
    float
        Step size.

    Raises
    ------
    ValueError
        If "cosine" is not told the number of steps.

    References
    ----------
    .. [1] Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017, arXiv 1608.03983.
    """
    if schedule == "cosine" and num_steps is None:
        raise ValueError('schedule "cosine" needs the number of steps in all: give num_epochs, or set training.epochs')
    if num_steps is not None:
        warmup_steps = min(warmup_steps, num_steps // 4)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if num_steps is None or schedule == "constant":
        return peak
    done = min((step - warmup_steps) / max(num_steps - warmup_steps, 1), 1.0)
    return peak * (1 + math.cos(math.pi * done)) / 2
