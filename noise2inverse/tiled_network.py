"""A network applied to slices tile by tile: read from the sections, written to the target, in one precision."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .device_memory import DeviceLimit
from .msd import MSD
from .tiles import SMALLEST_TILE, Precision, Window, halo_of, tiles

__all__ = ["Inputs", "Outputs", "Target", "TiledNetwork"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Inputs(Protocol):
    """What the network sees of a volume; see `quietbeam.noise2inverse.network_inputs.NetworkInputs`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (slice, ..., y, x)."""

    def images(self, numbers: Sequence[int], centre: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Average sections about a slice: float32, shape (in_channels, y, x)."""


class Target(Protocol):
    """Where denoised tiles go: an array, a memory map, an HDF5 dataset."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (slice, channel, y, x); of one channel also (slice, y, x); time steps come after the slice."""

    def __setitem__(self, key: Any, values: Any, /) -> None:
        """Write a part, given by an index of the slice and a slice of each other axis."""


class Outputs:
    """Where the mean of the passes and their disagreement go, with or without an axis of channels.

    Parameters
    ----------
    mean : Target
        For the mean over the passes.
    disagreement : Target or None
        For the standard deviation between them, of the same shape.
    shape : tuple of int
        ([time step,] channel, y, x) of a slice; targets begin with an axis of slices, of any length, and may lack the
        axis of channels where there is one.

    Raises
    ------
    ValueError
        If a target has another shape.
    """

    def __init__(self, mean: Target, disagreement: Target | None, shape: tuple[int, ...]) -> None:
        self._mean, self.disagreement = mean, disagreement
        shapes = [shape] if shape[-3] > 1 else [shape, (*shape[:-3], *shape[-2:])]
        if tuple(mean.shape[1:]) not in shapes:
            expected = " or ".join(map(str, shapes))
            raise ValueError(f"slices of the target must have the shape {expected}, got {mean.shape[1:]}")
        if disagreement is not None and tuple(disagreement.shape) != tuple(mean.shape):
            raise ValueError(f"the disagreement must have the target's shape {mean.shape}, got {disagreement.shape}")
        self._channels: tuple[slice, ...] = (slice(None),) if len(mean.shape) == 1 + len(shape) else ()

    def write(self, at: tuple[int, ...], place: Window, mean: Tensor, deviation: Tensor) -> None:
        """Write a tile: `mean` and `deviation` have the shape (channel, y, x)."""
        key = (*at, *self._channels, *place)
        self._mean[key] = self._array(mean)
        if self.disagreement is not None:
            self.disagreement[key] = self._array(deviation)

    def _array(self, values: Tensor) -> NDArray[np.float32]:
        array: NDArray[np.float32] = values.cpu().numpy()
        return array if self._channels else array[0]


def dtype_on(device: torch.device, precision: Precision) -> torch.dtype:
    """Choose the type of the features: float32 on the CPU, where half precision would save no time."""
    return torch.float32 if device.type == "cpu" else DTYPES[precision]


class TiledNetwork:
    """A copy of the network in its place and precision; what is outside of it stays in float32.

    Data in 1/m may be large and differ by little, which half precision would not tell apart.

    Parameters
    ----------
    model : MSD
        The network; it is not changed.
    tile_size : int
        Side of the tiles, pixels.
    precision : {"float32", "float16", "bfloat16"}
        Of the features, on a GPU; the CPU computes in float32.
    device : torch.device or None
        Where to compute; None: where the network is.
    limit : DeviceLimit, optional
        Side of the tiles for which the memory of a GPU sufficed; where it does not, smaller ones are taken.
    """

    def __init__(
        self,
        model: MSD,
        tile_size: int,
        precision: Precision,
        device: torch.device | None,
        limit: DeviceLimit | None = None,
    ) -> None:
        self._limit = limit or DeviceLimit()
        self._device = device or model.final_weight.device
        self._dtype = dtype_on(self._device, precision)
        self._model = copy.deepcopy(model).to(self._device)
        self._scales = self._take_scales("input"), self._take_scales("output")
        self._model.to(self._dtype)
        self._tile_size, self._halo = tile_size, halo_of(model.dilations)

    def denoise(
        self, inputs: Inputs, passes: Sequence[Sequence[int]], centre: int, outputs: Outputs, at: tuple[int, ...]
    ) -> None:
        """Denoise one slice tile by tile.

        Parameters
        ----------
        inputs : Inputs
            What the network sees.
        passes : sequence of sequences of int
            Sections averaged to the input of each pass.
        centre : int
            The slice.
        outputs : Outputs
            Where the result goes.
        at : tuple of int
            Its place there, on the axes before the channels.

        Raises
        ------
        ValueError
            If there is no pass, or one only where the disagreement is wanted.
        ReductionError
            If the memory of the GPU does not suffice even for small tiles.
        """
        least = 1 if outputs.disagreement is None else 2
        if len(passes) < least:
            raise ValueError(f"expected {least} passes or more, got {len(passes)}: take mode average for disagreement")
        height, width = inputs.shape[-2:]

        def attempt(tile_size: int) -> None:
            for seen, kept, place in tiles(height, width, tile_size, self._halo):
                answers = (self._answer(inputs.images(numbers, centre, *seen))[:, *kept] for numbers in passes)
                outputs.write(at, place, *_mean_and_deviation(answers))

        what = f"a tile of {SMALLEST_TILE} pixels: lower network.depth or network.width, or free the GPU"
        self._limit.run(min(self._tile_size, max(height, width)), attempt, least=SMALLEST_TILE, what=what)

    @torch.inference_mode()
    def _answer(self, images: NDArray[np.float32]) -> Tensor:
        """Apply the network to images: float32, from shape (in_channels, y, x) to (out_channels, y, x)."""
        (input_mean, input_std), (output_mean, output_std) = self._scales
        if len(images) != len(input_mean):
            raise ValueError(f"expected images of {len(input_mean)} channels, got {len(images)}")
        normalised = (torch.from_numpy(images).to(self._device) - input_mean) / input_std
        answer: Tensor = self._model(normalised[None].to(self._dtype))[0]
        return answer.float() * output_std + output_mean

    def _take_scales(self, side: str) -> tuple[Tensor, Tensor]:
        """Take mean and standard deviation, shape (channel, 1, 1), out of the network and leave 0 and 1."""
        mean, std = (self._model.get_buffer(f"{side}_{name}") for name in ("mean", "std"))
        taken = mean[:, None, None].clone(), std[:, None, None].clone()
        mean.zero_()
        std.fill_(1)
        return taken


def _mean_and_deviation(answers: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of one answer or more, holding one at a time; of a single one the latter is 0.

    The recurrence of Welford, Technometrics 4, 419-420, 1962: equal answers differ by 0, however large they are.
    """
    mean = next(answers)
    squares, count = torch.zeros_like(mean), 1
    for answer in answers:
        count += 1
        step = answer - mean
        mean = mean + step / count
        squares = squares + step * (answer - mean)
    return mean, (squares / max(count - 1, 1)).sqrt()
