"""The blocks of the mixed-scale dense network on the CPU, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .block_structure import Gradients, Network
from .plane_layout import PlaneLayout, mirror, row_tables
from .row_arrays import BlockPlanes, Floats, Geometry, Tables
from .row_loops import add_to_layer, combine, finish_layers, rectify_layer, spread
from .row_loops_back import correlate_planes, derive_taps, gather, mask_layer, take_from_layer, unwind_layers

__all__ = ["RowPlanes"]

_InParts = Callable[..., None]

BAND_NUMBERS = 4096
"""Numbers of a plane's rows that are worked on together: with all that meets them they fit into a core's caches."""
SUM_NUMBERS = 16384
"""Numbers of a plane that are summed into the same derivatives."""
MOST_BANDS = 16


class RowPlanes:
    """All planes of a network for one batch of images, and the steps from block to block.

    Forward, a plane of a layer collects contributions until its turn comes, and is then rectified in place. Backward,
    in reverse order, the gradient before rectification is written over the features, which nothing needs any more: one
    plane for each channel, and the gradients of one block beside.

    Parameters
    ----------
    images : float32, shape (batch, channel, y, x)
        Normalised input.
    weights : sequence of Tensor
        Of each layer, shape (width, channel + width * layer, 3, 3).
    bias : Tensor, shape (width * layer,)
        Of all layers.
    network : Network
        Dilations, border and blocks.
    num_threads : int
        Threads; they change the time, not the result.
    """

    def __init__(
        self, images: Tensor, weights: Sequence[Tensor], bias: Tensor, network: Network, *, num_threads: int
    ) -> None:
        batch, _, height, width = images.shape
        self.layout = PlaneLayout.of(batch, height, width, max(network.dilations))
        self.network, self.num_threads = network, num_threads
        self.geometry, self.tables, self.blocks = _arrange(self.layout, network)
        self.taps = _join_taps(weights, network)
        self.planes = self.layout.planes(network.num_planes)
        self.layout.rows(self.planes)[network.num_inputs :] = bias[:, None, None]
        self._write_inputs(images)

    def _write_inputs(self, images: Tensor) -> None:
        width, reach = self.layout.width, self.geometry.reach
        self.layout.rows(self.planes)[: self.network.num_inputs] = 0
        inputs = self.layout.images(self.planes, reach)[: self.network.num_inputs]
        columns = mirror(np.arange(-reach, width + reach), width, edge_twice=self.geometry.edge_twice)
        inputs.copy_(images.transpose(0, 1)[..., torch.from_numpy(columns)])

    # -- forward ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Compute all features."""
        taps = self.taps.numpy().reshape(-1)
        with self._threads() as in_parts:
            for block in self.blocks:
                self._finish(taps, block, in_parts)
                in_parts(spread, self._numbers, taps, block, self.tables, self.geometry)

    def _finish(self, taps: Floats, block: BlockPlanes, in_parts: _InParts) -> None:
        if self.num_threads == 1:
            finish_layers(self._numbers, taps, block, self.tables, self.geometry)
            return
        for layer in range(block.layer_dilation.size):
            in_parts(add_to_layer, self._numbers, taps, block, layer, self.tables, self.geometry)
            in_parts(rectify_layer, self._numbers, block, layer, self.geometry)

    def combine(self, weight: Tensor) -> Tensor:
        """Combine all planes linearly; see `Planes`."""
        outputs = self._blank(len(weight))
        self._combine(outputs, self._numbers, weight)
        return self.layout.images(outputs).transpose(0, 1)

    def _combine(self, outputs: Tensor, planes: Floats, weight: Tensor) -> None:
        coefficients = weight.detach().contiguous().numpy()
        at = [self._positions(count) for count in coefficients.shape]
        with self._threads() as in_parts:
            in_parts(combine, outputs.numpy(), at[0], planes, at[1], coefficients, self.geometry)

    # -- backward --------------------------------------------------------------------------------------------------

    def correlate(self, output: Tensor) -> Tensor:
        """Derive by the coefficients of `combine`; see `Planes`."""
        count, num_planes = output.shape[1], self.network.num_planes
        products = np.zeros((self.geometry.num_bands, count, num_planes))
        with self._threads() as in_parts:
            at = self._positions(count), self._positions(num_planes)
            outputs = self._filled(output).numpy()
            in_parts(correlate_planes, products, outputs, at[0], self._numbers, at[1], self.geometry)
        return torch.from_numpy(products.sum(axis=0).astype(np.float32))

    def _filled(self, output: Tensor) -> Tensor:
        planes = self._blank(output.shape[1])
        self.layout.images(planes).copy_(output.transpose(0, 1))
        return planes

    def _blank(self, count: int) -> Tensor:
        planes = self.layout.planes(count)
        self.layout.rows(planes).zero_()
        return planes

    def _positions(self, count: int) -> NDArray[np.int64]:
        return np.array([self.layout.at(plane) for plane in range(count)], np.int64)

    def run_back(self, output: Tensor, weight: Tensor, *, wants_images: bool) -> Gradients:
        """Go back through all blocks; the features are gone afterwards; see `Planes`."""
        turned = self.taps.flip(-1).numpy().reshape(-1)
        derivatives = np.zeros((self.geometry.num_bands, *self.taps.shape), np.float32)
        gradients = self.layout.planes(max(block.at.size for block in self.blocks))
        outputs, bias, end = self._filled(output).numpy(), [], self.network.num_planes
        with self._threads() as in_parts:
            for block in reversed(self.blocks):
                here = slice(end - block.at.size, end)
                in_parts(derive_taps, derivatives.reshape(-1), self._numbers, block, self.tables, self.geometry)
                if wants_images or block.layer_dilation.size:
                    self.layout.rows(gradients).zero_()
                    self._combine(gradients, outputs, weight[:, here].T)
                    in_parts(gather, gradients.numpy(), self._numbers, turned, block, self.tables, self.geometry)
                    bias.append(self._unwind(gradients.numpy(), derivatives.reshape(-1), turned, block, in_parts))
                end = here.start
        images = self._fold_images(gradients) if wants_images else None
        weights = _split_taps(torch.from_numpy(derivatives.sum(axis=0)), self.network)
        return Gradients(images, weights, torch.from_numpy(np.concatenate(bias[::-1]).astype(np.float32)))

    def _unwind(
        self, gradients: Floats, derivatives: Floats, turned: Floats, block: BlockPlanes, in_parts: _InParts
    ) -> NDArray[np.float64]:
        """Go back through the layers of a block; returns the derivatives by their biases."""
        sums = np.zeros(block.layer_at.size * self.geometry.num_rows)
        if self.num_threads == 1:
            unwind_layers(gradients, derivatives, sums, self._numbers, turned, block, self.tables, self.geometry)
        else:
            for layer in reversed(range(block.layer_dilation.size)):
                in_parts(mask_layer, gradients, self._numbers, sums, block, layer, self.geometry)
                hand_back = (gradients, derivatives, self._numbers, turned, block, layer, self.tables, self.geometry)
                in_parts(take_from_layer, *hand_back)
        total: NDArray[np.float64] = sums.reshape(-1, self.geometry.num_rows).sum(axis=1)
        return total

    def _fold_images(self, gradients: Tensor) -> Tensor:
        """Fold what lies beyond the border back."""
        reach, width = self.geometry.reach, self.layout.width
        columns = mirror(np.arange(-reach, width + reach), width, edge_twice=self.geometry.edge_twice)
        wide = self.layout.images(gradients, reach)[: self.network.num_inputs]
        narrow = torch.zeros(*wide.shape[:-1], width)
        return narrow.index_add_(-1, torch.from_numpy(columns), wide).transpose(0, 1)

    # -- threads ---------------------------------------------------------------------------------------------------

    @property
    def _numbers(self) -> Floats:
        return self.planes.numpy()

    @contextmanager
    def _threads(self) -> Iterator[_InParts]:
        """Give a function that calls a step for all its parts, on so many threads."""
        if self.num_threads == 1:
            yield lambda step, *arguments: step(*arguments, 0, 1)
            return
        with ThreadPoolExecutor(self.num_threads) as pool:
            yield lambda step, *arguments: _wait(pool, step, arguments, self.num_threads)


def _wait(pool: Executor, step: Callable[..., None], arguments: tuple[Any, ...], parts: int) -> None:
    for _ in pool.map(lambda part: step(*arguments, part, parts), range(parts)):
        pass


@lru_cache(maxsize=64)
def _arrange(layout: PlaneLayout, network: Network) -> tuple[Geometry, Tables, list[BlockPlanes]]:
    num_rows = layout.batch * layout.height
    geometry = Geometry(
        num_rows=num_rows,
        width=layout.width,
        stride=layout.stride,
        margin=layout.margin,
        reach=max(network.dilations),
        edge_twice=network.padding == "symmetric",
        band=max(1, BAND_NUMBERS // layout.stride),
        num_bands=min(MOST_BANDS, max(1, num_rows * layout.width // SUM_NUMBERS)),
    )
    blocks = [_block(layout, network, layers) for layers in (range(0), *network.blocks)]
    return geometry, _tables(layout, network), blocks


def _block(layout: PlaneLayout, network: Network, layers: range) -> BlockPlanes:
    """Say what meets where, for the layers of a block; none stand for the input."""
    dilations, every = sorted(set(network.dilations)), range(len(network.dilations))
    own = network.planes_of(layers)
    planes = own or range(network.num_inputs)
    later = [[i for i in every[layers.stop :] if network.dilations[i] == dilation] for dilation in dilations]
    seen_by = [[plane for i in group for plane in network.planes_of(every[i : i + 1])] for group in later]
    joined = [plane for group in seen_by for plane in group]

    def positions(numbers: Sequence[int]) -> NDArray[np.int64]:
        return np.array([layout.at(plane) for plane in numbers], np.int64)

    def taps(numbers: Sequence[int]) -> NDArray[np.int64]:
        return np.array([9 * network.num_planes * (p - network.num_inputs) for p in numbers], np.int64)

    return BlockPlanes(
        at=positions(planes),
        tap=9 * np.array(planes, np.int64),
        gradient_at=positions(range(len(planes))),
        layer_at=positions(own),
        layer_tap=taps(own),
        layer_dilation=np.array([dilations.index(network.dilations[layer]) for layer in layers], np.int64),
        width=network.width,
        later_at=positions(joined),
        later_tap=taps(joined),
        later_start=np.cumsum([0, *map(len, seen_by)]).astype(np.int64),
    )


def _tables(layout: PlaneLayout, network: Network) -> Tables:
    dilations = sorted(set(network.dilations))
    of_each = [row_tables(layout, dilation, network.padding == "symmetric") for dilation in dilations]

    def starts(name: str, entry: int) -> NDArray[np.int64]:
        return np.cumsum([0, *(getattr(tables, name).size // entry for tables in of_each)]).astype(np.int64)

    def joined(name: str) -> NDArray[np.int64]:
        return np.concatenate([getattr(tables, name) for tables in of_each])

    return Tables(
        dilations=np.array(dilations, np.int64),
        single=joined("single"),
        triple=joined("triple"),
        triple_start=starts("triple", 8),
        rest=joined("rest"),
        rest_start=starts("rest", 4),
        adjoint=joined("adjoint"),
        adjoint_start=starts("adjoint", 4),
        adjoint_first=joined("adjoint_first"),
    )


def _join_taps(weights: Sequence[Tensor], network: Network) -> Tensor:
    """All taps as one array: float32, shape (plane of a layer, plane, 9); those of later planes are not set."""
    joined = torch.zeros(network.num_planes - network.num_inputs, network.num_planes, 9)
    for layer, weight in enumerate(weights):
        first = layer * network.width
        joined[first : first + network.width, : weight.shape[1]] = weight.detach().flatten(2)
    return joined


def _split_taps(joined: Tensor, network: Network) -> list[Tensor]:
    """Undo `_join_taps`."""
    width, inputs = network.width, network.num_inputs
    return [
        joined[first : first + width, : inputs + first].reshape(width, -1, 3, 3)
        for first in range(0, len(joined), width)
    ]
