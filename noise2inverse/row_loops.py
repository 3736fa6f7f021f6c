"""Compiled loops over planes and rows: the steps of the mixed-scale dense network on the CPU.

All arrays are flat; see `plane_layout`. A step may be cut into `parts`, each computed by a thread of its own: rows that
are written belong to one part only, and each number is added up in an order that does not depend on the parts.
"""

from __future__ import annotations

from quietbeam.reconstruction.compiled import compiled

from .row_arrays import BlockPlanes, Floats, Geometry, Integers, Tables
from .row_kernels import LANES, add_1_plane, add_2_planes, add_3_planes, add_3_rows

__all__ = ["add_convolutions", "add_to_layer", "combine", "finish_layers", "rectify_layer", "share", "spread"]


@compiled(inline="never")
def share(count: int, part: int, parts: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """Cut `count` things into `parts`: the first of one part, and the first of the next."""
    return count * part // parts, count * (part + 1) // parts


@compiled(fastmath={"contract"})
def add_convolutions(
    targets: Floats,
    target_at: Integers,
    target_tap: Integers,
    sources: Floats,
    source_at: Integers,
    source_tap: Integers,
    taps: Floats,
    table: Integers,
    first_row: int,
    last_row: int,
    start: int,
    num_vectors: int,
    dilation: int,
) -> None:  # pragma: no cover - compiled
    """Add the convolutions of all sources to all targets, on some rows; three targets share what is loaded."""
    count, done = last_row - first_row, 0
    while done < target_at.size:
        left = target_at.size - done
        group = 1 if left == 1 else (2 if left in (2, 4) else 3)
        for c in range(source_at.size):
            at, tap = source_at[c], source_tap[c]
            if group == 3:
                add_3_planes(
                    targets, target_at, target_tap, done, sources, at, taps, tap, table, first_row, count, start,
                    num_vectors, dilation,
                )  # fmt: skip
            elif group == 2:
                add_2_planes(
                    targets, target_at, target_tap, done, sources, at, taps, tap, table, first_row, count, start,
                    num_vectors, dilation,
                )  # fmt: skip
            else:
                add_1_plane(
                    targets, target_at, target_tap, done, sources, at, taps, tap, table, first_row, count, start,
                    num_vectors, dilation,
                )  # fmt: skip
        done += group


@compiled(fastmath={"contract"})
def _add_to_one(
    planes: Floats,
    target_at: Integers,
    target_tap: Integers,
    source_at: Integers,
    source_tap: Integers,
    taps: Floats,
    tables: Tables,
    d: int,
    geometry: Geometry,
    part: int,
    parts: int,
) -> None:  # pragma: no cover - compiled
    """Add the convolutions of all sources to one target; three rows share what is loaded."""
    dilation, num_vectors = tables.dilations[d], -(-geometry.width // LANES)
    first, last = share(tables.triple_start[d + 1] - tables.triple_start[d], part, parts)
    for low in range(first, last, geometry.band):
        high = min(low + geometry.band, last)
        for c in range(source_at.size):
            add_3_rows(
                planes, target_at, target_tap, 0, planes, source_at[c], taps, source_tap[c], tables.triple,
                tables.triple_start[d] + low, high - low, 0, num_vectors, dilation,
            )  # fmt: skip
    first, last = share(tables.rest_start[d + 1] - tables.rest_start[d], part, parts)
    add_convolutions(
        planes, target_at, target_tap, planes, source_at, source_tap, taps, tables.rest,
        tables.rest_start[d] + first, tables.rest_start[d] + last, 0, num_vectors, dilation,
    )  # fmt: skip


@compiled(fastmath={"contract"})
def combine(
    outputs: Floats,
    output_at: Integers,
    planes: Floats,
    at: Integers,
    weight: Floats,
    geometry: Geometry,
    part: int,
    parts: int,
) -> None:  # pragma: no cover - compiled
    """Combine planes linearly.

    Parameters
    ----------
    outputs : float32
        Combinations, added to in place.
    output_at, at : int64, shapes (output,) and (plane,)
        Where combinations and planes begin.
    planes : float32
        What is combined.
    weight : float32, shape (output, plane)
        Coefficients.
    geometry : Geometry
        Sizes.
    part, parts : int
        Which share of the rows.
    """
    first, last = share(geometry.num_rows, part, parts)
    for row in range(first, last):
        inside = (1 + row) * geometry.stride
        for o in range(output_at.size):
            line = outputs[output_at[o] + inside : output_at[o] + inside + geometry.width]
            for p in range(at.size):
                plane, factor = planes[at[p] + inside : at[p] + inside + geometry.width], weight[o, p]
                for x in range(geometry.width):
                    line[x] += factor * plane[x]


@compiled(fastmath={"contract"})
def spread(
    planes: Floats, taps: Floats, block: BlockPlanes, tables: Tables, geometry: Geometry, part: int, parts: int
) -> None:  # pragma: no cover - compiled
    """Add what a finished block contributes to all later layers.

    Parameters
    ----------
    planes : float32
        All planes; those of later layers are written in place.
    taps : float32
        Of all layers, shape (plane of a layer, plane, 9), flat.
    block, tables, geometry
        What meets where.
    part, parts : int
        Which share of the rows.
    """
    num_vectors = -(-geometry.width // LANES)
    first, last = share(geometry.num_rows, part, parts)
    for low in range(first, last, geometry.band):
        high = min(low + geometry.band, last)
        for d in range(tables.dilations.size):
            later = slice(block.later_start[d], block.later_start[d + 1])
            if later.stop - later.start > 1:
                at = d * geometry.num_rows
                add_convolutions(
                    planes, block.later_at[later], block.later_tap[later], planes, block.at, block.tap, taps,
                    tables.single, at + low, at + high, 0, num_vectors, tables.dilations[d],
                )  # fmt: skip
    for d in range(tables.dilations.size):
        later = slice(block.later_start[d], block.later_start[d + 1])
        if later.stop - later.start == 1:
            _add_to_one(
                planes, block.later_at[later], block.later_tap[later], block.at, block.tap, taps, tables, d,
                geometry, part, parts,
            )  # fmt: skip


@compiled(fastmath={"contract"})
def add_to_layer(
    planes: Floats,
    taps: Floats,
    block: BlockPlanes,
    layer: int,
    tables: Tables,
    geometry: Geometry,
    part: int,
    parts: int,
) -> None:  # pragma: no cover - compiled
    """Add what the planes of a block before a layer of it contribute to that layer; see `spread`."""
    d, own = block.layer_dilation[layer], slice(layer * block.width, (layer + 1) * block.width)
    before = slice(0, layer * block.width)
    if block.width == 1:
        _add_to_one(
            planes, block.layer_at[own], block.layer_tap[own], block.at[before], block.tap[before], taps, tables, d,
            geometry, part, parts,
        )  # fmt: skip
        return
    first, last = share(geometry.num_rows, part, parts)
    at = d * geometry.num_rows
    add_convolutions(
        planes, block.layer_at[own], block.layer_tap[own], planes, block.at[before], block.tap[before], taps,
        tables.single, at + first, at + last, 0, -(-geometry.width // LANES), tables.dilations[d],
    )  # fmt: skip


@compiled()
def rectify_layer(
    planes: Floats, block: BlockPlanes, layer: int, geometry: Geometry, part: int, parts: int
) -> None:  # pragma: no cover - compiled
    """Turn what a layer collected into features, and continue their rows beyond the border."""
    width, once = geometry.width, 0 if geometry.edge_twice else 1
    first, last = share(geometry.num_rows, part, parts)
    for plane in range(layer * block.width, (layer + 1) * block.width):
        for row in range(first, last):
            begin = block.layer_at[plane] + (1 + row) * geometry.stride
            line = planes[begin - geometry.margin : begin - geometry.margin + geometry.stride]
            pixels = line[geometry.margin : geometry.margin + width]
            for x in range(width):
                pixels[x] = 0 if pixels[x] < 0 else pixels[x]
            line[: geometry.margin] = 0
            line[geometry.margin + width :] = 0
            for x in range(geometry.reach):
                line[geometry.margin - 1 - x] = pixels[x + once]
                line[geometry.margin + width + x] = pixels[width - 1 - once - x]


@compiled()
def finish_layers(
    planes: Floats, taps: Floats, block: BlockPlanes, tables: Tables, geometry: Geometry
) -> None:  # pragma: no cover - compiled
    """Compute the layers of a block, one after the other, on one thread."""
    for layer in range(block.layer_dilation.size):
        add_to_layer(planes, taps, block, layer, tables, geometry, 0, 1)
        rectify_layer(planes, block, layer, geometry, 0, 1)
