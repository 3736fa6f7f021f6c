"""Kernels in Triton for the mixed-scale dense network in blocks, on a GPU.

Features lie in one buffer (channel, batch, y, x). A plane first collects its bias and the contributions of all earlier
channels, then it is rectified in place. When a block of channels is finished, all later layers of one dilation get its
contribution at once (`add_convolution`); inside a block every layer takes what it needs and is rectified in the same
pass (`finish_layer`). Backward, the gradient before the relu of every layer takes the place of its features:
`add_adjoint` and `finish_gradient` carry it down, `weight_gradient` correlates it with the features. Every sum has a
fixed order and no two programs write the same number: results are the same in every run.

Notes
-----
For C channels of a block, M layers of the dilation, P pixels and b bytes a value, one `add_convolution` needs
2 * 9 C M P operations and moves at least b (C + 2 M) P bytes. Depth 100 with 5 channels in, ten dilations and blocks of
10 layers, at 2048 x 2048: forward is 49 155 multiplications a pixel, 0.41 TFLOP a slice. The convolutions read 950
planes (95, for each dilation) and read and write those of later layers, 1100; the layers inside the blocks take
450 + 200: 23 GB in bfloat16, 45 GB in float32. At 4.8 TB/s these are 4.7 and 9.4 ms, in blocks of 16 or 20 layers the
same within 4 %; the arithmetic takes 0.4 ms at the 989 TFLOP/s of bfloat16 matrix products and 6.2 ms at the
67 TFLOP/s of float32. So memory is the floor, and what can be lost is the traffic between the cache and the registers:
nine shifted reads of every value.

Hence an implicit matrix product with the channels of one tap in K, the layers in M and pixels in N: no plane of taps is
ever stored. A program walks down the rows y, y + s, y + 2 s, ... of a tile of columns with three sums in registers:
each row is read once from memory, three times (the columns x - s, x, x + s, mostly from the first-level cache), and
serves the rows above, at and below it. All layers of the dilation take part at once, so each feature plane is read once
for each dilation and block. The shifted reads are not aligned, which rules out wide loads and the copy engine; three of
them rather than nine keep this under the time of the memory. Channels and layers are filled up to 16 with zeros. Single
layers inside a block have M = 1, where a matrix unit would compute 15 zeros of 16: `finish_layer` and `finish_gradient`
multiply and add in float32.

Matrix products of float32 are three products of tf32 each (about 1e-6 relative), never plain tf32; of float16 and
bfloat16 they are exact, with sums in float32. Weights are rounded to the type of the features, and so is a plane each
time a block adds to it.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import triton_kernels
from .triton_kernels import ZERO_BORDER

__all__ = ["add_adjoint", "add_convolution", "finish_gradient", "finish_layer", "weight_gradient"]

_BORDERS = {"symmetric": 0, "reflect": 1}
_GROUP = 16  # smallest side of a matrix product of the GPU
_SEGMENT = 256  # columns that one sum of weight gradients goes over
_FEW_PROGRAMS = 2112  # 16 for each of the 132 multiprocessors of an H200: enough to wait for memory by turns


def add_convolution(
    features: Tensor, channels: slice, targets: Tensor, weight: Tensor, dilation: int, padding: str
) -> None:
    """Add what a finished block of channels contributes to all later layers of one dilation.

    planes[targets[m]] += sum over c, ky, kx of weight[m, c, ky, kx] * mirrored(features[c])[y + (ky-1) s, x + (kx-1) s]

    Parameters
    ----------
    features : Tensor, float32, float16 or bfloat16, shape (channel, batch, y, x)
        Features of the block, read, and the planes of later layers, changed in place. Contiguous.
    channels : slice
        Block, from its first to behind its last channel.
    targets : Tensor, int32 or int64, shape (m,)
        Planes of the later layers, none of them in the block, each once.
    weight : Tensor, shape (m, c, 3, 3)
        Weights from each channel of the block to each target.
    dilation : int
        Distance of the taps in pixels, at most the height and the width.
    padding : {"symmetric", "reflect"}
        How planes go on beyond the border.
    """
    _check(features, weight, (len(targets), channels.stop - channels.start, 3, 3))
    block = features[channels]
    _convolve(block, None, features, targets, weight.detach(), dilation, _BORDERS[padding])


def add_adjoint(
    gradient: Tensor, features: Tensor, targets: Tensor, weight: Tensor, dilation: int, padding: str
) -> None:
    """Add the transpose of `add_convolution`, with what was mirrored folded back into the image.

    Parameters
    ----------
    gradient : Tensor, shape (c, batch, y, x)
        Gradient of the block's channels, changed in place. Contiguous; float32 keeps it from rounding at each addition.
    features : Tensor, shape (channel, batch, y, x)
        Buffer whose planes `targets` hold the gradient before the relu of the later layers. Contiguous.
    targets : Tensor, int32 or int64, shape (m,)
        Planes of the later layers.
    weight : Tensor, shape (m, c, 3, 3)
        As in `add_convolution`.
    dilation : int
        Distance of the taps in pixels.
    padding : {"symmetric", "reflect"}
        How planes went on beyond the border.

    Notes
    -----
    Inside, the transpose is a convolution with the taps turned round; only the dilation's margin gets more, and a
    second pass over this frame adds it. Operations as in `add_convolution`, bytes with C and M exchanged.
    """
    _check(features, weight, (len(targets), len(gradient), 3, 3))
    _check(gradient, weight, weight.shape)
    turned = weight.detach().flip(2, 3).transpose(0, 1)  # (c, m, 3, 3)
    _convolve(features, targets, gradient, None, turned, dilation, ZERO_BORDER)
    _fold(features, targets, gradient, turned, dilation, _BORDERS[padding])


def weight_gradient(features: Tensor, channels: slice, targets: Tensor, dilation: int, padding: str) -> Tensor:
    """Correlate the gradient before the relu of later layers with the features of a block.

    dW[m, c, ky, kx] = sum over batch, y, x of features[targets[m]][y, x] * mirrored(features[c])[y + (ky-1) s, ...]

    Parameters
    ----------
    features : Tensor, shape (channel, batch, y, x)
        Buffer with the features of the block and, in the planes `targets`, the gradients. Contiguous.
    channels : slice
        Block.
    targets : Tensor, int32 or int64, shape (m,)
        Planes of the later layers.
    dilation : int
        Distance of the taps in pixels.
    padding : {"symmetric", "reflect"}
        How planes go on beyond the border.

    Returns
    -------
    Tensor, float32, shape (m, c, 3, 3)
        Gradient of the weights; partial sums for each program, then their sum, in a fixed order.

    Notes
    -----
    As many operations as `add_convolution`, and (C + M) planes to read.
    """
    _check(features, features, features.shape)
    _, batch, height, width = features.shape
    num_channels = channels.stop - channels.start
    columns = min(32 if features.dtype == torch.float32 else 64, max(16, triton.next_power_of_2(width)))
    parts = batch * triton.cdiv(width, _SEGMENT)
    steps = _steps(height * parts)
    strips = triton.cdiv(height + 2 * dilation, steps)
    groups = triton.cdiv(len(targets), _GROUP), triton.cdiv(num_channels, _GROUP)
    partial = features.new_empty(strips * parts, len(targets), num_channels, 9, dtype=torch.float32)
    triton_kernels.correlate[strips, parts, groups[0] * groups[1]](
        features[channels],
        features,
        targets,
        partial,
        len(targets),
        num_channels,
        height,
        width,
        dilation,
        steps,
        enable_fp_fusion=True,
        BORDER=_BORDERS[padding],
        GROUP=_GROUP,
        COLUMNS=columns,
        SEGMENT=_SEGMENT,
        PRECISION=_precision(features),
    )
    return partial.sum(0).view(len(targets), num_channels, 3, 3)


def finish_layer(
    features: Tensor, channels: slice, layer: slice, weight: Tensor, bias: Tensor, dilation: int, padding: str
) -> None:
    """Add the contribution of the layer's own block and its bias, and rectify: z = relu(z + b + sum h * features).

    Parameters
    ----------
    features : Tensor, shape (channel, batch, y, x)
        Buffer; the planes of the layer are changed in place. Contiguous.
    channels : slice
        Channels of the block before the layer; may be empty.
    layer : slice
        Planes of the layer.
    weight : Tensor, shape (w, c, 3, 3)
        Weights from these channels, for each plane of the layer.
    bias : Tensor, shape (w,)
        Added before the relu; zeros where the planes hold it already.
    dilation : int
        Distance of the taps in pixels.
    padding : {"symmetric", "reflect"}
        How planes go on beyond the border.

    Notes
    -----
    2 * 9 C w P operations in float32 and b (C + 2) w P bytes. A layer needs its neighbours of the layer before, so
    every layer is a launch of its own.
    """
    _check(features, weight, (layer.stop - layer.start, channels.stop - channels.start, 3, 3))
    _, batch, height, width = features.shape
    columns = min(512, max(16, triton.next_power_of_2(width)))
    tiles, num_out = triton.cdiv(width, columns), layer.stop - layer.start
    steps = _steps(height * tiles * batch)
    strips = triton.cdiv(height, steps * dilation) * dilation
    triton_kernels.rectify_layer[strips, tiles, batch * num_out](
        features[channels],
        features[layer],
        weight.detach().contiguous(),
        bias.detach().contiguous(),
        channels.stop - channels.start,
        batch,
        height,
        width,
        dilation,
        steps,
        enable_fp_fusion=True,
        BORDER=_BORDERS[padding],
        COLUMNS=columns,
    )


def finish_gradient(
    gradient: Tensor,
    features: Tensor,
    channel: int,
    targets: Tensor,
    weight: Tensor,
    dilations: Tensor,
    padding: str,
) -> None:
    """Write the gradient before the relu of a channel over its features, after the last contributions to it.

    features[channel] = (features[channel] > 0) * (gradient + sum over m of the transpose of weight[m] applied to
    features[targets[m]]), the targets being the layers of the channel's own block, of any dilations.

    Parameters
    ----------
    gradient : Tensor, shape (batch, y, x)
        Gradient of the channel from the output and all later blocks. Contiguous.
    features : Tensor, shape (channel, batch, y, x)
        Buffer. Contiguous.
    channel : int
        Plane to change.
    targets : Tensor, int32 or int64, shape (m,)
        Later planes of the block, which hold gradients already; may be empty.
    weight : Tensor, shape (m, 3, 3)
        Weights from the channel to the targets.
    dilations : Tensor, int32 or int64, shape (m,)
        Dilation of each target, pixels.
    padding : {"symmetric", "reflect"}
        How planes went on beyond the border.
    """
    _check(features, weight, (len(targets), 3, 3))
    _check(gradient, features, features.shape, of=features[0])
    _, batch, height, width = features.shape
    columns = min(512, max(16, triton.next_power_of_2(width)))
    triton_kernels.rectify_gradient[height, triton.cdiv(width, columns), batch](
        gradient,
        features,
        features[channel],
        targets,
        weight.detach().contiguous(),
        dilations,
        len(targets),
        height,
        width,
        enable_fp_fusion=True,
        BORDER=_BORDERS[padding],
        COLUMNS=columns,
    )


def _convolve(
    source: Tensor,
    source_planes: Tensor | None,
    target: Tensor,
    target_planes: Tensor | None,
    weight: Tensor,
    dilation: int,
    border: int,
) -> None:
    """Add the convolution of the listed source planes (None: all) to the target planes."""
    num_targets, num_sources = weight.shape[:2]
    _, batch, height, width = target.shape
    columns = min(64, max(16, triton.next_power_of_2(width)))
    tiles, groups = triton.cdiv(width, columns), triton.cdiv(num_targets, _GROUP)
    steps = _steps(height * tiles * batch)
    strips = triton.cdiv(height, steps * dilation) * dilation
    weight = weight.contiguous()
    for first in range(0, num_sources, _GROUP):
        triton_kernels.convolve[strips, tiles, batch * groups](
            source,
            target,
            source if source_planes is None else source_planes,
            target if target_planes is None else target_planes,
            weight,
            first,
            num_sources,
            num_targets,
            batch,
            height,
            width,
            dilation,
            steps,
            enable_fp_fusion=True,
            LISTED_SOURCES=source_planes is not None,
            LISTED_TARGETS=target_planes is not None,
            BORDER=border,
            GROUP=_GROUP,
            COLUMNS=columns,
            PRECISION=_precision(source),
        )


def _fold(source: Tensor, planes: Tensor, target: Tensor, weight: Tensor, dilation: int, border: int) -> None:
    """Add to the margin of the target what the transposed convolution carries in from beyond the border."""
    num_targets, num_sources = weight.shape[:2]
    _, batch, height, width = target.shape
    rows, columns = min(2 * (dilation + 1), height), min(2 * (dilation + 1), width)
    num_pixels = rows * width + (height - rows) * columns
    block = min(32, max(16, triton.next_power_of_2(num_pixels)))
    triton_kernels.fold[triton.cdiv(num_pixels, block), batch, triton.cdiv(num_targets, _GROUP)](
        source,
        target,
        planes,
        weight.contiguous(),
        num_sources,
        num_targets,
        num_pixels,
        rows,
        columns,
        height,
        width,
        dilation,
        enable_fp_fusion=True,
        BORDER=border,
        GROUP=_GROUP,
        PIXELS=block,
        PRECISION=_precision(source),
    )


def _steps(num_rows: int) -> int:
    """Rows that a program computes: many read little twice, few keep the whole GPU at work."""
    return max(2, min(16, num_rows // _FEW_PROGRAMS))


def _precision(features: Tensor) -> str:
    return "tf32x3" if features.dtype == torch.float32 else "ieee"


def _check(features: Tensor, weight: Tensor, expected: tuple[int, ...], of: Tensor | None = None) -> None:
    if not features.is_contiguous():
        raise ValueError(f"planes must lie one after the other, got strides {features.stride()}: call contiguous()")
    if of is not None and features.shape != of.shape:
        raise ValueError(f"a plane must have the shape {tuple(of.shape)}, got {tuple(features.shape)}")
    if tuple(weight.shape) != tuple(expected):
        raise ValueError(f"weights must have the shape {tuple(expected)}, got {tuple(weight.shape)}")
