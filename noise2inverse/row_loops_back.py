"""Compiled loops over planes and rows: the way back through the mixed-scale dense network on the CPU.

See `row_loops`. Sums over all rows are kept apart in bands that do not depend on the number of parts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.compiled import compiled

from .row_arrays import BlockPlanes, Floats, Geometry, Integers, Tables
from .row_kernels import LANES, correlate_1_plane, correlate_2_planes, correlate_3_planes, correlate_3_rows
from .row_loops import add_convolutions, share

__all__ = ["correlate_planes", "derive_taps", "gather", "mask_layer", "take_from_layer", "unwind_layers"]


@compiled(fastmath={"contract", "reassoc", "nsz"})
def correlate_planes(
    products: NDArray[np.float64],
    outputs: Floats,
    output_at: Integers,
    planes: Floats,
    at: Integers,
    geometry: Geometry,
    part: int,
    parts: int,
) -> None:  # pragma: no cover - compiled
    """Multiply planes with the gradients of combinations and sum: the derivative of `combine` by its coefficients.

    Parameters
    ----------
    products : float64, shape (band, output, plane)
        Sums of each band of rows, added to in place.
    outputs, planes : float32
        Gradients of the combinations, and what was combined.
    output_at, at : int64, shapes (output,) and (plane,)
        Where they begin.
    geometry : Geometry
        Sizes.
    part, parts : int
        Which share of the bands.
    """
    first, last = share(geometry.num_bands, part, parts)
    for band in range(first, last):
        low, high = share(geometry.num_rows, band, geometry.num_bands)
        for row in range(low, high):
            inside = (1 + row) * geometry.stride
            for o in range(output_at.size):
                line = outputs[output_at[o] + inside : output_at[o] + inside + geometry.width]
                for p in range(at.size):
                    plane, total = planes[at[p] + inside : at[p] + inside + geometry.width], np.float32(0)
                    for x in range(geometry.width):
                        total += line[x] * plane[x]
                    products[band, o, p] += total


@compiled(fastmath={"contract"})
def _take(
    gradients: Floats,
    planes: Floats,
    taps: Floats,
    block: BlockPlanes,
    num_planes: int,
    layers_at: Integers,
    layers_tap: Integers,
    d: int,
    tables: Tables,
    geometry: Geometry,
    low: int,
    high: int,
) -> None:  # pragma: no cover - compiled
    """Add to the gradients of the first planes of a block, on some rows, what layers of one dilation hand back."""
    dilation = tables.dilations[d]
    num_vectors = -(-(geometry.margin + geometry.width + dilation) // LANES)
    index = d * (geometry.num_rows + 1)
    first = tables.adjoint_start[d] + tables.adjoint_first[index + low]
    last = tables.adjoint_start[d] + tables.adjoint_first[index + high]
    add_convolutions(
        gradients, block.gradient_at[:num_planes], block.tap[:num_planes], planes, layers_at, layers_tap, taps,
        tables.adjoint, first, last, -geometry.margin, num_vectors, dilation,
    )  # fmt: skip


@compiled(fastmath={"contract"})
def gather(
    gradients: Floats,
    planes: Floats,
    taps: Floats,
    block: BlockPlanes,
    tables: Tables,
    geometry: Geometry,
    part: int,
    parts: int,
) -> None:  # pragma: no cover - compiled
    """Transpose of `spread`: add to the gradients of a block's planes what all later layers hand back.

    Parameters
    ----------
    gradients : float32
        Gradients of the planes of the block, margins included; written in place.
    planes : float32
        All planes; those of later layers hold the gradients before their rectification.
    taps : float32
        Of all layers, each turned by half a turn.
    block, tables, geometry
        What meets where.
    part, parts : int
        Which share of the rows.
    """
    first, last = share(geometry.num_rows, part, parts)
    for low in range(first, last, geometry.band):
        for d in range(tables.dilations.size):
            later = slice(block.later_start[d], block.later_start[d + 1])
            _take(
                gradients, planes, taps, block, block.at.size, block.later_at[later], block.later_tap[later], d,
                tables, geometry, low, min(low + geometry.band, last),
            )  # fmt: skip


@compiled(fastmath={"contract"})
def _correlate(
    taps: Floats,
    planes: Floats,
    target_at: Integers,
    target_tap: Integers,
    source_at: Integers,
    source_tap: Integers,
    table: Integers,
    first_row: int,
    last_row: int,
    num_vectors: int,
    dilation: int,
) -> None:  # pragma: no cover - compiled
    """Add the correlations of all targets with all sources over some rows to the derivative by the taps."""
    count, done = last_row - first_row, 0
    while done < target_at.size:
        left = target_at.size - done
        group = 1 if left == 1 else (2 if left in (2, 4) else 3)
        for c in range(source_at.size):
            at, tap = source_at[c], source_tap[c]
            if group == 3:
                correlate_3_planes(
                    taps, target_tap, done, tap, planes, target_at, planes, at, table, first_row, count, num_vectors,
                    dilation,
                )  # fmt: skip
            elif group == 2:
                correlate_2_planes(
                    taps, target_tap, done, tap, planes, target_at, planes, at, table, first_row, count, num_vectors,
                    dilation,
                )  # fmt: skip
            else:
                correlate_1_plane(
                    taps, target_tap, done, tap, planes, target_at, planes, at, table, first_row, count, num_vectors,
                    dilation,
                )  # fmt: skip
        done += group


@compiled(fastmath={"contract"})
def _correlate_with_one(
    taps: Floats,
    planes: Floats,
    target_at: Integers,
    target_tap: Integers,
    source_at: Integers,
    source_tap: Integers,
    tables: Tables,
    d: int,
    geometry: Geometry,
    band: int,
) -> None:  # pragma: no cover - compiled
    """Like `_correlate` with one target, three rows of which share what is loaded."""
    dilation, num_vectors = tables.dilations[d], -(-geometry.width // LANES)
    first, last = share(tables.triple_start[d + 1] - tables.triple_start[d], band, geometry.num_bands)
    for low in range(first, last, geometry.band):
        high = min(low + geometry.band, last)
        for c in range(source_at.size):
            correlate_3_rows(
                taps, target_tap, 0, source_tap[c], planes, target_at, planes, source_at[c], tables.triple,
                tables.triple_start[d] + low, high - low, num_vectors, dilation,
            )  # fmt: skip
    first, last = share(tables.rest_start[d + 1] - tables.rest_start[d], band, geometry.num_bands)
    _correlate(
        taps, planes, target_at, target_tap, source_at, source_tap, tables.rest, tables.rest_start[d] + first,
        tables.rest_start[d] + last, num_vectors, dilation,
    )  # fmt: skip


@compiled(fastmath={"contract"})
def _derive(
    taps: Floats,
    planes: Floats,
    target_at: Integers,
    target_tap: Integers,
    source_at: Integers,
    source_tap: Integers,
    tables: Tables,
    d: int,
    geometry: Geometry,
    band: int,
) -> None:  # pragma: no cover - compiled
    """Add the derivative by the taps between some layers of one dilation and some sources, over one band of rows."""
    if target_at.size == 1:
        _correlate_with_one(
            taps, planes, target_at, target_tap, source_at, source_tap, tables, d, geometry, band
        )  # fmt: skip
        return
    first, last = share(geometry.num_rows, band, geometry.num_bands)
    at = d * geometry.num_rows
    for low in range(first, last, geometry.band):
        _correlate(
            taps, planes, target_at, target_tap, source_at, source_tap, tables.single, at + low,
            at + min(low + geometry.band, last), -(-geometry.width // LANES), tables.dilations[d],
        )  # fmt: skip


@compiled(fastmath={"contract"})
def derive_taps(
    taps: Floats, planes: Floats, block: BlockPlanes, tables: Tables, geometry: Geometry, part: int, parts: int
) -> None:  # pragma: no cover - compiled
    """Add the derivatives by the taps between all later layers and a block.

    Parameters
    ----------
    taps : float32
        Shape (band, plane of a layer, plane, 9), flat; added to in place.
    planes : float32
        All planes: features in the block, gradients before rectification in later layers.
    block, tables, geometry
        What meets where.
    part, parts : int
        Which share of the bands.
    """
    size = taps.size // geometry.num_bands
    first, last = share(geometry.num_bands, part, parts)
    for band in range(first, last):
        own = taps[band * size : (band + 1) * size]
        for d in range(tables.dilations.size):
            later = slice(block.later_start[d], block.later_start[d + 1])
            if later.stop > later.start:
                _derive(
                    own, planes, block.later_at[later], block.later_tap[later], block.at, block.tap, tables, d,
                    geometry, band,
                )  # fmt: skip


@compiled()
def mask_layer(
    gradients: Floats,
    planes: Floats,
    bias: NDArray[np.float64],
    block: BlockPlanes,
    layer: int,
    geometry: Geometry,
    part: int,
    parts: int,
) -> None:  # pragma: no cover - compiled
    """Write the gradient before its rectification over the features of a layer.

    Parameters
    ----------
    gradients : float32
        Of the block's planes; what lies beyond the border is folded back.
    planes : float32
        Features of the layer, overwritten.
    bias : float64, shape (plane of the block * row,)
        Sums of each row, written in place.
    block : BlockPlanes
        The layer's block.
    layer : int
        Number in its block.
    geometry : Geometry
        Sizes.
    part, parts : int
        Which share of the rows.
    """
    width, margin, once = geometry.width, geometry.margin, 0 if geometry.edge_twice else 1
    first, last = share(geometry.num_rows, part, parts)
    for plane in range(layer * block.width, (layer + 1) * block.width):
        for row in range(first, last):
            begin = block.gradient_at[plane] + (1 + row) * geometry.stride - margin
            gradient = gradients[begin : begin + geometry.stride]
            begin = block.layer_at[plane] + (1 + row) * geometry.stride - margin
            line = planes[begin : begin + geometry.stride]
            for x in range(geometry.reach):
                gradient[margin + x + once] += gradient[margin - 1 - x]
                gradient[margin + width - 1 - once - x] += gradient[margin + width + x]
            total = 0.0
            for x in range(margin, margin + width):
                line[x] = gradient[x] if line[x] > 0 else np.float32(0)
                total += line[x]
            line[:margin] = 0
            line[margin + width :] = 0
            bias[plane * geometry.num_rows + row] = total


@compiled(fastmath={"contract"})
def take_from_layer(
    gradients: Floats,
    derivatives: Floats,
    planes: Floats,
    taps: Floats,
    block: BlockPlanes,
    layer: int,
    tables: Tables,
    geometry: Geometry,
    part: int,
    parts: int,
) -> None:  # pragma: no cover - compiled
    """Hand the gradient of a layer back to the planes of its block before it, and to their taps."""
    d, own = block.layer_dilation[layer], slice(layer * block.width, (layer + 1) * block.width)
    num_before = layer * block.width
    first, last = share(geometry.num_rows, part, parts)
    for low in range(first, last, geometry.band):
        _take(
            gradients, planes, taps, block, num_before, block.layer_at[own], block.layer_tap[own], d, tables, geometry,
            low, min(low + geometry.band, last),
        )  # fmt: skip
    size = derivatives.size // geometry.num_bands
    first, last = share(geometry.num_bands, part, parts)
    for band in range(first, last):
        _derive(
            derivatives[band * size : (band + 1) * size], planes, block.layer_at[own], block.layer_tap[own],
            block.at[:num_before], block.tap[:num_before], tables, d, geometry, band,
        )  # fmt: skip


@compiled()
def unwind_layers(
    gradients: Floats,
    derivatives: Floats,
    bias: NDArray[np.float64],
    planes: Floats,
    taps: Floats,
    block: BlockPlanes,
    tables: Tables,
    geometry: Geometry,
) -> None:  # pragma: no cover - compiled
    """Go back through the layers of a block, one after the other, on one thread."""
    for layer in range(block.layer_dilation.size - 1, -1, -1):
        mask_layer(gradients, planes, bias, block, layer, geometry, 0, 1)
        take_from_layer(gradients, derivatives, planes, taps, block, layer, tables, geometry, 0, 1)
