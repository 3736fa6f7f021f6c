"""The mixed-scale dense (MS-D) network of Pelt and Sethian, computed with one buffer of features.

Every layer sees the input and the features of all layers before it, through 3 x 3 convolutions of its own dilation,

    z_i = relu(b_i + sum_{j < c_in + i} h_ij *_{s_i} z_j),        s_i = 1, 2, ..., 10, 1, 2, ...

and the output is a linear combination of all features [1]_. A framework's convolution to one channel is slow, and
joining features layer by layer keeps O(depth^2) planes. Here both go away by splitting the convolution: the nine taps
are nine rows of one matrix product with the features so far (the bulk of the work, at the speed of a matrix product),
and the nine resulting planes are added up, shifted by the dilation. The image is continued beyond its border by
half-sample symmetry, as in msd_pytorch; this acts on each plane alone, so it can follow the product. Forward keeps one
plane a channel, backward needs one more a channel for the gradient.

References
----------
.. [1] Pelt and Sethian, A mixed-scale dense convolutional neural network for image analysis, PNAS 115(2), 254-259,
   2018, doi 10.1073/pnas.1715832114.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["mixed_scale_dense_in_blocks"]


def mixed_scale_dense_in_blocks(
    images: Tensor,
    weights: Sequence[Tensor],
    bias: Tensor,
    final_weight: Tensor,
    final_bias: Tensor,
    *,
    dilations: Sequence[int],
    padding: str = "symmetric",
) -> Tensor:
    """Compute `quietbeam.noise2inverse.msd.mixed_scale_dense`."""
    output: Tensor = _MixedScaleDense.apply(images, dilations, bias, final_weight, final_bias, *weights)  # type: ignore[no-untyped-call]
    return output


class _MixedScaleDense(torch.autograd.Function):
    """All layers at once, over one buffer of shape (channel, batch, y, x)."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        dilations: Sequence[int],
        bias: Tensor,
        final_weight: Tensor,
        final_bias: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        batch, channels, height, width = images.shape
        features = images.new_empty(final_weight.shape[1], batch, height, width)
        features[:channels] = images.transpose(0, 1)
        for layer, (done, weight, dilation) in enumerate(_layers(channels, weights, dilations)):
            num_out = len(weight)
            taps = _tap_matrix(weight) @ features[:done].flatten(1)  # (9 num_out, pixel)
            planes = taps.view(3, 3, num_out, batch, height, width)
            shift = bias[layer * num_out : (layer + 1) * num_out, None, None, None]
            new = features[done : done + num_out]
            torch.add(_gather_taps(planes, dilation), shift, out=new).relu_()
        ctx.dilations = dilations
        ctx.save_for_backward(features, final_weight, *weights)
        output = torch.addmm(final_bias[:, None], final_weight, features.flatten(1))
        return output.view(-1, batch, height, width).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        features, final_weight, *weights = ctx.saved_tensors
        output = gradients[0].transpose(0, 1).flatten(1)
        d_final_weight, d_final_bias = output @ features.flatten(1).T, output.sum(1)
        gradient = (final_weight.T @ output).view_as(features)
        num_inputs = len(features) - sum(len(weight) for weight in weights)
        d_bias, d_weights = [], []
        for done, weight, dilation in reversed(list(_layers(num_inputs, weights, ctx.dilations))):
            end = done + len(weight)
            here = gradient[done:end] * (features[done:end] > 0)
            taps = _spread_taps(here, dilation).view(9 * len(weight), -1)
            d_bias.append(here.sum((1, 2, 3)))
            d_weights.append(_weight_of_taps(taps @ features[:done].flatten(1).T, len(weight)))
            gradient[:done].flatten(1).addmm_(_tap_matrix(weight).T, taps)
        d_images = gradient[:num_inputs].transpose(0, 1)
        return d_images, None, torch.cat(d_bias[::-1]), d_final_weight, d_final_bias, *d_weights[::-1]


def _layers(num_inputs: int, weights: Sequence[Tensor], dilations: Sequence[int]) -> Iterator[tuple[int, Tensor, int]]:
    """Channels there are before the layer, its weights, its dilation."""
    done = num_inputs
    for weight, dilation in zip(weights, dilations, strict=True):
        yield done, weight, dilation
        done += len(weight)


def _tap_matrix(weight: Tensor) -> Tensor:
    """From weights (out, in, 3, 3) to the matrix (9 out, in), the taps outermost."""
    return weight.permute(2, 3, 0, 1).flatten(0, 2)


def _weight_of_taps(matrix: Tensor, num_out: int) -> Tensor:
    """Undo `_tap_matrix`."""
    return matrix.view(3, 3, num_out, -1).permute(2, 3, 0, 1)


def _gather_taps(planes: Tensor, dilation: int) -> Tensor:
    """Add up the taps' planes (3, 3, out, batch, y, x), each shifted to its place: the end of a dilated convolution."""
    rows = planes[:, 1]
    for tap, step in ((0, -dilation), (2, dilation)):
        for to, source, length, mirrored in _shift(step, planes.shape[-1]):
            _add(rows.narrow(-1, to, length), planes[:, tap].narrow(-1, source, length), -1, mirrored)
    total = rows[1]
    for tap, step in ((0, -dilation), (2, dilation)):
        for to, source, length, mirrored in _shift(step, planes.shape[-2]):
            _add(total.narrow(-2, to, length), rows[tap].narrow(-2, source, length), -2, mirrored)
    return total


def _spread_taps(image: Tensor, dilation: int) -> Tensor:
    """Transpose of `_gather_taps`: from (out, batch, y, x) to the taps' planes (3, 3, out, batch, y, x)."""
    planes = image.new_zeros(3, 3, *image.shape)
    rows = planes[:, 1]
    rows[1] = image
    for tap, step in ((0, -dilation), (2, dilation)):
        for to, source, length, mirrored in _shift(step, image.shape[-2]):
            _add(rows[tap].narrow(-2, source, length), image.narrow(-2, to, length), -2, mirrored)
    for tap, step in ((0, -dilation), (2, dilation)):
        for to, source, length, mirrored in _shift(step, image.shape[-1]):
            _add(planes[:, tap].narrow(-1, source, length), rows.narrow(-1, to, length), -1, mirrored)
    return planes


def _shift(step: int, size: int) -> tuple[tuple[int, int, int, bool], ...]:
    """Say where out[p] = in[p + step], mirrored at the border, comes from: (to, from, length, read backwards)."""
    width = abs(step)
    if step > 0:
        return (0, width, size - width, False), (size - width, size - width, width, True)
    return (width, 0, size - width, False), (0, 0, width, True)


def _add(target: Tensor, source: Tensor, axis: int, mirrored: bool) -> None:
    target.add_(source.flip(axis) if mirrored else source)
