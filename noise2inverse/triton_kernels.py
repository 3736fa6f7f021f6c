"""What the programs of `quietbeam.noise2inverse.msd_triton` do; that module says why, and launches them.

Planes have int64 positions: 105 of 5120 x 5120 pixels are more than 2^31 numbers. `BORDER` is 0 for "symmetric", 1 for
"reflect" (by which its mirrored indices differ) and 2 for zeros beyond the border.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import os

import triton
import triton.language as tl

__all__ = ["ZERO_BORDER", "convolve", "correlate", "fold", "rectify_gradient", "rectify_layer"]

ZERO_BORDER = 2

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def _mirror(index, size, BORDER: tl.constexpr):
    """Index inside the image of a pixel at most one image beyond it; any inner index for one still further out."""
    if BORDER != 2:
        index = tl.where(index < 0, BORDER - 1 - index, index)
        index = tl.where(index < size, index, 2 * size - 1 - BORDER - index)
    return tl.minimum(tl.maximum(index, 0), size - 1)


@triton.jit
def _product(left, right, total, PRECISION: tl.constexpr):
    if _INTERPRETED:  # numpy has no bfloat16; the operands are rounded already and products are exact either way
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def _planes(planes_ptr, index, mask, LISTED: tl.constexpr):
    if LISTED:
        return tl.load(planes_ptr + index, mask=mask, other=0).to(tl.int64)
    return index.to(tl.int64)


@triton.jit
def _load_columns(row_ptr, x, row_mask, width, BORDER: tl.constexpr):
    """Load one row of all planes (plane, column) at columns that may lie beyond the border."""
    if BORDER == 2:
        mask = row_mask[:, None] & ((x >= 0) & (x < width))[None, :]
        return tl.load(row_ptr[:, None] + x[None, :], mask=mask, other=0.0)
    return tl.load(row_ptr[:, None] + _mirror(x, width, BORDER)[None, :], mask=row_mask[:, None], other=0.0)


@triton.jit(do_not_specialize=["first", "num_sources", "num_targets", "batch", "dilation", "steps"])
def convolve(
    source_ptr,
    target_ptr,
    source_planes_ptr,
    target_planes_ptr,
    weight_ptr,
    first,
    num_sources,
    num_targets,
    batch,
    height,
    width,
    dilation,
    steps,
    LISTED_SOURCES: tl.constexpr,
    LISTED_TARGETS: tl.constexpr,
    BORDER: tl.constexpr,
    GROUP: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add the convolution of up to GROUP planes to each target, for a tile of columns and every dilation-th row."""
    strip = tl.program_id(0)
    x = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    image = (tl.program_id(2) % batch).to(tl.int64)
    sources = first + tl.arange(0, GROUP)
    targets = (tl.program_id(2) // batch) * GROUP + tl.arange(0, GROUP)
    is_source, is_target = sources < num_sources, targets < num_targets
    plane_size = height.to(tl.int64) * width
    source_plane = _planes(source_planes_ptr, sources, is_source, LISTED_SOURCES) * batch + image
    target_plane = _planes(target_planes_ptr, targets, is_target, LISTED_TARGETS) * batch + image
    source_rows = source_ptr + source_plane * plane_size
    target_pixels = (target_ptr + target_plane * plane_size)[:, None] + x[None, :]
    target_mask = is_target[:, None] & (x < width)[None, :]

    taps = weight_ptr + (targets[:, None] * num_sources + sources[None, :]) * 9
    tap_mask = is_target[:, None] & is_source[None, :]
    kind = source_ptr.dtype.element_ty
    w00 = tl.load(taps, mask=tap_mask, other=0.0).to(kind)
    w01 = tl.load(taps + 1, mask=tap_mask, other=0.0).to(kind)
    w02 = tl.load(taps + 2, mask=tap_mask, other=0.0).to(kind)
    w10 = tl.load(taps + 3, mask=tap_mask, other=0.0).to(kind)
    w11 = tl.load(taps + 4, mask=tap_mask, other=0.0).to(kind)
    w12 = tl.load(taps + 5, mask=tap_mask, other=0.0).to(kind)
    w20 = tl.load(taps + 6, mask=tap_mask, other=0.0).to(kind)
    w21 = tl.load(taps + 7, mask=tap_mask, other=0.0).to(kind)
    w22 = tl.load(taps + 8, mask=tap_mask, other=0.0).to(kind)

    top = (strip // dilation) * steps * dilation + strip % dilation  # first row to be written
    above = tl.full([GROUP, COLUMNS], 0.0, tl.float32)
    here = tl.full([GROUP, COLUMNS], 0.0, tl.float32)
    for step in range(steps + 2):
        y = top + (step - 1) * dilation
        below = tl.full([GROUP, COLUMNS], 0.0, tl.float32)
        rows = source_rows + _mirror(y, height, BORDER).to(tl.int64) * width
        row_mask = is_source
        if BORDER == 2:
            row_mask = sources < tl.where((y >= 0) & (y < height), num_sources, 0)
        left = _load_columns(rows, x - dilation, row_mask, width, BORDER)
        middle = _load_columns(rows, x, row_mask, width, BORDER)
        right = _load_columns(rows, x + dilation, row_mask, width, BORDER)
        above = _product(w20, left, above, PRECISION)
        here = _product(w10, left, here, PRECISION)
        below = _product(w00, left, below, PRECISION)
        above = _product(w21, middle, above, PRECISION)
        here = _product(w11, middle, here, PRECISION)
        below = _product(w01, middle, below, PRECISION)
        above = _product(w22, right, above, PRECISION)
        here = _product(w12, right, here, PRECISION)
        below = _product(w02, right, below, PRECISION)
        finished = y - dilation
        if (step >= 2) & (finished < height):
            pixels = target_pixels + finished.to(tl.int64) * width
            total = tl.load(pixels, mask=target_mask, other=0.0).to(tl.float32) + above
            tl.store(pixels, total.to(target_ptr.dtype.element_ty), mask=target_mask)
        above = here
        here = below


@triton.jit
def _transposed_source(index, size, dilation, WAY: tl.constexpr, BORDER: tl.constexpr):
    """Pixels that a transposed tap brings to a pixel: 0..2 inside the image, 3, 4 from beyond its border."""
    if WAY == 0:
        return index + dilation, index + dilation < size
    if WAY == 1:
        return index, index < size
    if WAY == 2:
        return index - dilation, index >= dilation
    if WAY == 3:
        return dilation - 1 + BORDER - index, (index >= BORDER) & (index <= dilation - 1 + BORDER)
    return 2 * size - 1 - BORDER - index - dilation, (index < size - BORDER) & (index >= size - BORDER - dilation)


@triton.jit(do_not_specialize=["num_sources", "num_targets", "num_pixels", "rows", "columns", "dilation"])
def fold(
    source_ptr,
    target_ptr,
    planes_ptr,
    weight_ptr,
    num_sources,
    num_targets,
    num_pixels,
    rows,
    columns,
    height,
    width,
    dilation,
    BORDER: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add what transposed taps bring from beyond the border, for some pixels of the margin."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    image, batch = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    targets = tl.program_id(2) * GROUP + tl.arange(0, GROUP)
    is_pixel, is_target = pixel < num_pixels, targets < num_targets
    # whole rows at the top and the bottom come first, then the sides of the rows between them
    half, side = rows // 2, pixel - rows * width
    y = tl.where(side < 0, pixel // width, half + side // columns)
    y = tl.where((side < 0) & (y >= half), height - rows + y, y)
    x = tl.where(side < 0, pixel % width, side % columns)
    x = tl.where((side >= 0) & (x >= columns // 2), width - columns + x, x)
    plane_size = height.to(tl.int64) * width
    kind = source_ptr.dtype.element_ty

    total = tl.full([GROUP, PIXELS], 0.0, tl.float32)
    for first in range(0, num_sources, GROUP):
        sources = first + tl.arange(0, GROUP)
        is_source = sources < num_sources
        plane = tl.load(planes_ptr + sources, mask=is_source, other=0).to(tl.int64) * batch + image
        source_planes = (source_ptr + plane * plane_size)[:, None]
        taps = weight_ptr + (targets[:, None] * num_sources + sources[None, :]) * 9
        tap_mask = is_target[:, None] & is_source[None, :]
        for way in tl.static_range(25):
            if way // 5 >= 3 or way % 5 >= 3:
                from_y, inside_y = _transposed_source(y, height, dilation, way // 5, BORDER)
                from_x, inside_x = _transposed_source(x, width, dilation, way % 5, BORDER)
                mask = is_source[:, None] & (is_pixel & inside_y & inside_x)[None, :]
                values = tl.load(source_planes + (from_y.to(tl.int64) * width + from_x)[None, :], mask=mask, other=0.0)
                tap = (2 - way // 5 % 3 * (1 + way // 5 // 3)) * 3 + 2 - way % 5 % 3 * (1 + way % 5 // 3)
                weights = tl.load(taps + tap, mask=tap_mask, other=0.0).to(kind)
                total = _product(weights, values, total, PRECISION)
    pixels = target_ptr + ((targets.to(tl.int64) * batch + image) * plane_size)[:, None]
    pixels = pixels + (y.to(tl.int64) * width + x)[None, :]
    mask = is_target[:, None] & is_pixel[None, :]
    total += tl.load(pixels, mask=mask, other=0.0).to(tl.float32)
    tl.store(pixels, total.to(target_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_targets", "num_channels", "dilation", "steps"])
def correlate(
    block_ptr,
    gradient_ptr,
    targets_ptr,
    partial_ptr,
    num_targets,
    num_channels,
    height,
    width,
    dilation,
    steps,
    BORDER: tl.constexpr,
    GROUP: tl.constexpr,
    COLUMNS: tl.constexpr,
    SEGMENT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sum gradient times shifted features over some rows and one segment of columns, for each pair and tap."""
    parts = tl.cdiv(width, SEGMENT)
    part, image, batch = tl.program_id(1) % parts, tl.program_id(1) // parts, tl.num_programs(1) // parts
    groups = tl.cdiv(num_channels, GROUP)
    channels = (tl.program_id(2) % groups) * GROUP + tl.arange(0, GROUP)
    # a fourth of the rows of the product stays empty: three rows of the image for each target
    stack = tl.arange(0, 4 * GROUP)
    targets, tap_y = (tl.program_id(2) // groups) * GROUP + stack % GROUP, stack // GROUP
    is_channel, is_target = channels < num_channels, (targets < num_targets) & (tap_y < 3)
    plane_size = height.to(tl.int64) * width
    block_rows = block_ptr + (channels.to(tl.int64) * batch + image) * plane_size
    target_plane = _planes(targets_ptr, targets, is_target, True) * batch + image
    gradient_rows = gradient_ptr + target_plane * plane_size
    left_end = part * SEGMENT
    right_end = tl.minimum(left_end + SEGMENT, width)

    at_left = tl.full([4 * GROUP, GROUP], 0.0, tl.float32)
    at_middle = tl.full([4 * GROUP, GROUP], 0.0, tl.float32)
    at_right = tl.full([4 * GROUP, GROUP], 0.0, tl.float32)
    for step in range(steps):
        y = tl.program_id(0) * steps + step - dilation  # rows beyond the border are mirrored ones
        rows = block_rows + _mirror(y, height, BORDER).to(tl.int64) * width
        seen_from = y - (tap_y - 1) * dilation
        row_mask = is_target & (seen_from >= 0) & (seen_from < height)
        gradients = gradient_rows + seen_from.to(tl.int64) * width
        for first in range(left_end, right_end, COLUMNS):
            x = first + tl.arange(0, COLUMNS)
            here = _load_columns(gradients, x, row_mask, width, 2)
            left = tl.trans(_load_columns(rows, x - dilation, is_channel, width, BORDER))
            at_left = _product(here, left, at_left, PRECISION)
            middle = tl.trans(_load_columns(rows, x, is_channel, width, BORDER))
            at_middle = _product(here, middle, at_middle, PRECISION)
            right = tl.trans(_load_columns(rows, x + dilation, is_channel, width, BORDER))
            at_right = _product(here, right, at_right, PRECISION)

    sums = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * num_targets + targets
    sums = (sums[:, None] * num_channels + channels[None, :]) * 9 + (tap_y * 3)[:, None]
    mask = is_target[:, None] & is_channel[None, :]
    tl.store(partial_ptr + sums, at_left, mask=mask)
    tl.store(partial_ptr + sums + 1, at_middle, mask=mask)
    tl.store(partial_ptr + sums + 2, at_right, mask=mask)


@triton.jit(do_not_specialize=["num_channels", "batch", "dilation", "steps"])
def rectify_layer(
    block_ptr,
    layer_ptr,
    weight_ptr,
    bias_ptr,
    num_channels,
    batch,
    height,
    width,
    dilation,
    steps,
    BORDER: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add the convolution of a few planes and the bias to one plane, and rectify it."""
    strip = tl.program_id(0)
    x = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    image = (tl.program_id(2) % batch).to(tl.int64)
    out = tl.program_id(2) // batch
    plane_size = height.to(tl.int64) * width
    inside = x < width
    x_left, x_right = _mirror(x - dilation, width, BORDER), _mirror(x + dilation, width, BORDER)
    taps = weight_ptr + out * num_channels * 9
    bias = tl.load(bias_ptr + out).to(tl.float32)
    target = layer_ptr + (out * batch + image) * plane_size + x
    top = (strip // dilation) * steps * dilation + strip % dilation
    above = tl.full([COLUMNS], 0.0, tl.float32)
    here = tl.full([COLUMNS], 0.0, tl.float32)
    for step in range(steps + 2):
        y = top + (step - 1) * dilation
        below = tl.full([COLUMNS], 0.0, tl.float32)
        row = block_ptr + image * plane_size + _mirror(y, height, BORDER).to(tl.int64) * width
        for channel in range(num_channels):
            tap = taps + channel * 9
            left = tl.load(row + x_left, mask=inside, other=0.0).to(tl.float32)
            middle = tl.load(row + x, mask=inside, other=0.0).to(tl.float32)
            right = tl.load(row + x_right, mask=inside, other=0.0).to(tl.float32)
            below += tl.load(tap) * left + tl.load(tap + 1) * middle + tl.load(tap + 2) * right
            here += tl.load(tap + 3) * left + tl.load(tap + 4) * middle + tl.load(tap + 5) * right
            above += tl.load(tap + 6) * left + tl.load(tap + 7) * middle + tl.load(tap + 8) * right
            row += batch * plane_size
        finished = y - dilation
        if (step >= 2) & (finished < height):
            pixels = target + finished.to(tl.int64) * width
            total = tl.load(pixels, mask=inside, other=0.0).to(tl.float32) + above + bias
            total = tl.where(total > 0, total, tl.where(total == total, 0.0, total))  # nan stays, as in torch.relu
            tl.store(pixels, total.to(layer_ptr.dtype.element_ty), mask=inside)
        above = here
        here = below


@triton.jit(do_not_specialize=["num_targets"])
def rectify_gradient(
    gradient_ptr,
    features_ptr,
    channel_ptr,
    targets_ptr,
    weight_ptr,
    dilations_ptr,
    num_targets,
    height,
    width,
    BORDER: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add the transposed convolutions of a few planes to a gradient, for one row, and pass it through the relu."""
    y = tl.program_id(0)
    first = tl.program_id(1) * COLUMNS
    x = first + tl.arange(0, COLUMNS)
    image, batch = tl.program_id(2).to(tl.int64), tl.num_programs(2)
    plane_size = height.to(tl.int64) * width
    pixel = image * plane_size + y.to(tl.int64) * width + x
    inside = x < width
    total = tl.load(gradient_ptr + pixel, mask=inside, other=0.0).to(tl.float32)
    for target in range(num_targets):
        dilation = tl.load(dilations_ptr + target).to(tl.int32)
        plane = features_ptr + (tl.load(targets_ptr + target).to(tl.int64) * batch + image) * plane_size
        at_border = (first <= dilation) | (first + COLUMNS + dilation >= width)
        for way_y in tl.static_range(5):
            from_y, inside_y = _transposed_source(y, height, dilation, way_y, BORDER)
            if inside_y:
                row = plane + from_y.to(tl.int64) * width
                tap = weight_ptr + target * 9 + way_y % 3 * (1 + way_y // 3) * 3
                for way_x in tl.static_range(5):
                    if way_x < 3 or at_border:
                        from_x, inside_x = _transposed_source(x, width, dilation, way_x, BORDER)
                        values = tl.load(row + from_x, mask=inside & inside_x, other=0.0).to(tl.float32)
                        total += tl.load(tap + way_x % 3 * (1 + way_x // 3)) * values
    feature = tl.load(channel_ptr + pixel, mask=inside, other=0.0).to(tl.float32)
    total = tl.where(feature > 0, total, 0.0)
    tl.store(channel_ptr + pixel, total.to(channel_ptr.dtype.element_ty), mask=inside)
