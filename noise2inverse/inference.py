"""Applying the network to a volume, tile by tile, as exactly as if whole.

Slices are read from the sections and written to the target one tile at a time: memory depends on the tile and on the
network's channels, not on the volume. The network is applied once to the average of all sections, or once for each pair
to its input, and the answers are averaged, as in the paper [1]_; how far these differ from one another tells how much
of an answer rests on the noise.

References
----------
.. [1] Hendriksen, Pelt, Batenburg, Noise2Inverse: self-supervised deep convolutional denoising for tomography, IEEE
   Transactions on Computational Imaging 6, 1320-1335, 2020, doi 10.1109/TCI.2020.3019647.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from quietbeam.reconstruction.pairing import SectionPair

from .device_memory import DeviceLimit
from .msd import MSD
from .tiled_network import Inputs, Outputs, Target, TiledNetwork
from .tiles import Precision

__all__ = [
    "Denoised",
    "InferenceSettings",
    "Passes",
    "denoise_passes",
    "denoise_slice",
    "denoise_time_steps",
    "denoise_volume",
    "plan_passes",
]

Mode = Literal["full", "average"]
Passes = Sequence[Sequence[int]]
"""Numbers of the sections averaged to the input, for each time that the network is applied."""


class InferenceSettings(BaseModel):
    """How the trained network is applied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = Field(
        "full",
        description="Once, on the average of all sections (full); or on the input of each pair, the results averaged, "
        "as in the paper, which takes as many times as long as there are pairs (average).",
    )
    disagreement: bool = Field(
        False, description="With mode average, also keep the standard deviation between the results, voxel by voxel."
    )
    precision: Precision = Field(
        "float32", description="Of the network's features on a GPU; the CPU computes in float32."
    )

    @model_validator(mode="after")
    def _check_disagreement(self) -> Self:
        if self.disagreement and self.mode != "average":
            raise ValueError("disagreement needs the results of several passes: set inference.mode to average")
        return self


class Denoised(NamedTuple):
    """One slice, each float32, shape (channel, y, x), in the unit of the data.

    Attributes
    ----------
    mean : float32, shape (channel, y, x)
        Mean of the network's answers.
    disagreement : float32, shape (channel, y, x), or None
        Standard deviation between them, with n - 1 in the denominator, where it was asked for.
    """

    mean: NDArray[np.float32]
    disagreement: NDArray[np.float32] | None


def plan_passes(mode: Mode, pairs: Sequence[SectionPair]) -> list[tuple[int, ...]]:
    """Choose which averages of sections the network is applied to.

    Parameters
    ----------
    mode : {"full", "average"}
        All sections together, or the input of each pair.
    pairs : sequence of SectionPair
        The pairs that the network was trained on.

    Returns
    -------
    list of tuple of int
        Numbers of the sections of each pass, equal ones once.

    Raises
    ------
    ValueError
        If "full" would average what the pairs keep apart, as the groups of a time series.
    """
    if mode == "full":
        of_each = {tuple(sorted((*pair.inputs, *pair.targets))) for pair in pairs}
        if len(of_each) > 1:
            raise ValueError("mode full needs pairs of all the same sections; of time steps, see denoise_time_steps")
        return list(of_each)
    return list(dict.fromkeys(tuple(sorted(pair.inputs)) for pair in pairs))


def denoise_slice(
    model: MSD,
    context: NDArray[np.float32],
    *,
    tile_size: int = 512,
    precision: Precision = "float32",
    device: torch.device | None = None,
    limit: DeviceLimit | None = None,
) -> NDArray[np.float32]:
    """Denoise the middle one of a few slices in memory.

    Parameters
    ----------
    model : MSD
        Trained network with one output.
    context : float32, shape (in_channels, y, x)
        The slice with its context slices, in the unit of the data.
    tile_size, precision, device, limit
        See `denoise_volume`.

    Returns
    -------
    float32, shape (y, x)
        The denoised slice.

    Raises
    ------
    ValueError
        If the network has several outputs.
    """
    if model.out_channels != 1:
        raise ValueError(f"expected a network with one output, got {model.out_channels}: take denoise_passes")
    inputs = _InMemory(context)
    denoised = denoise_passes(
        model, inputs, [(0,)], 0, tile_size=tile_size, precision=precision, device=device, limit=limit
    )
    return np.asarray(denoised.mean[0])


def denoise_passes(
    model: MSD,
    inputs: Inputs,
    passes: Passes,
    centre: int,
    *,
    disagreement: bool = False,
    tile_size: int = 512,
    precision: Precision = "float32",
    device: torch.device | None = None,
    limit: DeviceLimit | None = None,
) -> Denoised:
    """Denoise one slice of a volume.

    Parameters
    ----------
    model, inputs, passes, tile_size, precision, device, limit
        See `denoise_volume`.
    centre : int
        The slice.
    disagreement : bool
        Whether the standard deviation between the passes is wanted.

    Returns
    -------
    Denoised
        In memory.

    Raises
    ------
    ValueError
        If there is no pass, or one only and the disagreement is wanted.
    """
    shape = (model.out_channels, *inputs.shape[-2:])
    mean = np.empty((1, *shape), np.float32)
    deviation = np.empty_like(mean) if disagreement else None
    network = TiledNetwork(model, tile_size, precision, device, limit)
    network.denoise(inputs, passes, centre, Outputs(mean, deviation, shape), (0,))
    return Denoised(mean[0], None if deviation is None else deviation[0])


def denoise_volume(
    model: MSD,
    inputs: Inputs,
    passes: Passes,
    target: Target,
    *,
    disagreement: Target | None = None,
    slices: Iterable[int] | None = None,
    first: int = 0,
    tile_size: int = 512,
    precision: Precision = "float32",
    device: torch.device | None = None,
    on_slice: Callable[[int], None] | None = None,
    limit: DeviceLimit | None = None,
) -> None:
    """Denoise a volume, slice by slice and tile by tile.

    Parameters
    ----------
    model : MSD
        Trained network; it is not changed.
    inputs : Inputs
        What the network sees, read tile by tile.
    passes : sequence of sequences of int
        Sections averaged to the input of each pass; the denoised volume is the mean over the passes.
    target : Target
        Where the denoised volume goes: float32, shape (slice, channel, y, x), of one channel also (slice, y, x).
    disagreement : Target, optional
        Where the standard deviation between the passes goes, of the same shape.
    slices : iterable of int, optional
        Which slices; all where not given.
    first : int
        The slice that the target begins with.
    tile_size : int
        Side of the tiles, pixels; sets the memory used, not the result. `largest_tile` finds it.
    precision : {"float32", "float16", "bfloat16"}
        Of the network's features on a GPU; the CPU computes in float32. The data are normalised before, and scaled back
        after, in float32.
    device : torch.device, optional
        Where to compute; where the network is, if not given.
    on_slice : callable, optional
        Called with the number of each slice when it is done.
    limit : DeviceLimit, optional
        Largest tile for which the memory of a GPU sufficed, kept for other calls; where a tile does not fit, its side
        is halved, which changes the result no more than another `tile_size`.

    Raises
    ------
    ValueError
        If there is no pass, or one only and the disagreement is wanted, or if a target has another shape.
    ReductionError
        If the memory of the GPU does not suffice even for small tiles.
    """
    network = TiledNetwork(model, tile_size, precision, device, limit)
    outputs = Outputs(target, disagreement, (model.out_channels, *inputs.shape[-2:]))
    for centre in range(inputs.shape[0]) if slices is None else slices:
        network.denoise(inputs, passes, centre, outputs, (centre - first,))
        if on_slice:
            on_slice(centre)


def denoise_time_steps(
    model: MSD,
    inputs: Inputs,
    steps: Sequence[Passes],
    target: Target,
    *,
    disagreement: Target | None = None,
    slices: Iterable[int] | None = None,
    first: int = 0,
    tile_size: int = 512,
    precision: Precision = "float32",
    device: torch.device | None = None,
    on_slice: Callable[[int], None] | None = None,
    limit: DeviceLimit | None = None,
) -> None:
    """Denoise each time step of a dynamic scan, slice by slice and tile by tile.

    Parameters
    ----------
    model, inputs, disagreement, slices, first, tile_size, precision, device, on_slice, limit
        See `denoise_volume`.
    steps : sequence of sequences of sequences of int
        The passes of each time step; ``[[(t,)] for t in range(num_time_steps)]`` where each step is one section.
    target : Target
        Where the denoised volumes go: float32, shape (slice, time step, channel, y, x), of one channel also
        (slice, time step, y, x).

    Raises
    ------
    ValueError, ReductionError
        As `denoise_volume`.
    """
    network = TiledNetwork(model, tile_size, precision, device, limit)
    shape = (len(steps), model.out_channels, *inputs.shape[-2:])
    outputs = Outputs(target, disagreement, shape)
    for centre in range(inputs.shape[0]) if slices is None else slices:
        for step, passes in enumerate(steps):
            network.denoise(inputs, passes, centre, outputs, (centre - first, step))
        if on_slice:
            on_slice(centre)


class _InMemory:
    """Images that are there already, as inputs of one slice."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._images, self.shape = images, (1, *images.shape)

    def images(self, numbers: Sequence[int], centre: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        return np.ascontiguousarray(self._images[:, rows, columns])
