"""Exponential moving average of the weights: a network that is nearer to the optimum than the one that still jumps."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

__all__ = ["WeightAverage", "decay_at"]

Model = TypeVar("Model", bound=nn.Module)


def decay_at(step: int, decay: float) -> float:
    """Give the share of the old average that is kept after a step: min(decay, (1 + step) / (10 + step)).

    Until the steps are many, the average covers about the last tenth of them, not the random weights of the start;
    this is the ``num_updates`` of ``tf.train.ExponentialMovingAverage``.

    Parameters
    ----------
    step : int
        Number of the step, from 0.
    decay : float
        Share in the long run, below 1.

    Returns
    -------
    float
        At most `decay`.
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverage(Generic[Model]):
    """A copy of a model whose weights are the moving average of the model's.

    Parameters
    ----------
    model : torch.nn.Module
        The model that is trained.
    decay : float
        Share of the old average that is kept after each step, in [0, 1).

    Attributes
    ----------
    model : torch.nn.Module
        Of the same class, with the averaged weights.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after a step: average = d * average + (1 - d) * weights, with d from `decay_at`.

        Parameters
        ----------
        model : torch.nn.Module
            The model that is trained.
        step : int
            Number of the step, from 0.
        """
        share = 1 - decay_at(step, self.decay)
        for average, weights in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(weights, share)
