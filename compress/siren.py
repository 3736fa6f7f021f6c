"""Sinusoidal representation networks (SIREN): a small volume as a function of its coordinates.

Three layers of sines and a linear one [1]_, 3-h-h-h-1, with ``2 h^2 + 7 h + 1`` parameters.

References
----------
.. [1] Sitzmann, Martel, Bergman, Lindell, Wetzstein, Implicit neural representations with periodic activation
   functions, NeurIPS 2020, arXiv:2006.09661.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .fixed_point import to_fixed
from .integer_network import IntegerNetwork, SineOfTurns

__all__ = ["VALUE_BITS", "Siren", "Training", "exact_siren", "fit_siren", "grid_coordinates", "in_turns"]

_N = TypeVar("_N", bound=nn.Module)

VALUE_BITS = 16
"""Fraction bits of activations, in whole numbers: they are limited to +-128."""
_OMEGA = 30.0


class Siren(nn.Module):
    """Values at coordinates in [-1, 1]^3: ``sin(30 (W x + b))`` three times, then ``W x + b``.

    Weights start as in the source: uniform up to 1/3 in the first layer, up to ``sqrt(6 / h) / 30`` in the others.

    Parameters
    ----------
    width : int
        Of the three hidden layers, h.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        first, last = nn.Linear(3, width), nn.Linear(width, 1)
        self.layers = nn.ModuleList([first, nn.Linear(width, width), nn.Linear(width, width), last])
        for index, layer in enumerate(self.layers):
            bound = math.sqrt(6 / width) / _OMEGA if index else 1 / 3
            nn.init.uniform_(cast(nn.Linear, layer).weight, -bound, bound)

    def forward(self, coordinates: Tensor) -> Tensor:
        """From coordinates, shape (point, 3), to values, shape (point, 1)."""
        *hidden, last = self.layers
        for layer in hidden:
            coordinates = torch.sin(_OMEGA * layer(coordinates))
        values: Tensor = last(coordinates)
        return values


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes
    ----------
    epochs : int
        Steps of Adam.
    learning_rate : float
        Its step size.
    seed : int
        Start of the weights; with one thread, equal seeds give equal weights.
    device : str or torch.device
        Where to train.
    """

    epochs: int
    learning_rate: float
    seed: int
    device: str | torch.device

    def start(self, build: Callable[[], _N]) -> _N:
        """Build a network from the seed; torch's own random numbers are left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return build().to(self.device)

    def minimise(self, network: nn.Module, loss: Callable[[int], Tensor], *, keep_best: bool = True) -> None:
        """Train a network in place by a loss, a function of the epoch; keep the weights of the least, or the last."""
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        least, best = math.inf, network.state_dict()
        for epoch in range(self.epochs):
            optimizer.zero_grad()
            value = loss(epoch)
            if keep_best and float(value.detach()) < least:
                least = float(value.detach())
                best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        network.load_state_dict(best)


def fit_siren(volume: NDArray[np.floating], width: int, training: Training) -> Siren:
    """Train a network to give the values of a volume at the centres of its cells, by the mean absolute error.

    Parameters
    ----------
    volume : float, shape (z, y, x)
        Of order 1.
    width : int
        Of the hidden layers.
    training : Training
        How.

    Returns
    -------
    Siren
        On the device where it was trained.
    """
    siren = training.start(lambda: Siren(width))
    coordinates = (grid_coordinates(volume.shape) * 2.0**-VALUE_BITS).float().to(training.device)
    target = torch.from_numpy(volume.astype(np.float32)).reshape(-1, 1).to(training.device)
    training.minimise(siren, lambda epoch: (siren(coordinates) - target).abs().mean())
    return siren


def in_turns(siren: Siren) -> nn.Sequential:
    """Give the same function with weights that make angles in turns, as `SineOfTurns` takes them: what is stored.

    Parameters
    ----------
    siren : Siren
        On any device, ``meta`` too.

    Returns
    -------
    nn.Sequential
        On the same device.
    """
    layers: list[nn.Module] = []
    for index, layer in enumerate(cast(list[nn.Linear], siren.layers)):
        scale = _OMEGA / (2 * math.pi) if index < 3 else 1.0
        turned = nn.Linear(layer.in_features, layer.out_features, device="meta")
        turned.load_state_dict({name: scale * tensor for name, tensor in layer.state_dict().items()}, assign=True)
        layers += [turned, SineOfTurns()] if index < 3 else [turned]
    return nn.Sequential(*layers)


def grid_coordinates(shape: tuple[int, ...]) -> Tensor:
    """Give the centres of the cells that divide [-1, 1]^3, in units of 2^-16.

    Parameters
    ----------
    shape : tuple of int
        Cells along z, y and x.

    Returns
    -------
    float64, shape (cell, 3)
        Integers: z, y and x of each cell, in C order.
    """
    axes = [to_fixed((2 * torch.arange(size) + 1 - size).double() / size, VALUE_BITS) for size in shape]
    return torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).reshape(-1, 3)


def exact_siren(layers: nn.Sequential, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """Evaluate a stored network at all cells of a grid, the same bits on every machine.

    Parameters
    ----------
    layers : nn.Sequential
        From `in_turns`; its own parameters are not looked at and may be on the ``meta`` device.
    tensors : mapping of str to integer Tensor
        From `integer_tensors` of such layers.
    shape : tuple of int
        Cells along z, y and x.

    Returns
    -------
    float64, shape (z, y, x)
        Integers: the values in units of 2^-16, limited to +-2^23.

    Raises
    ------
    ArchiveError
        If the tensors are no such network.
    """
    return IntegerNetwork(layers, tensors, fraction_bits=VALUE_BITS)(grid_coordinates(shape)).reshape(shape)
