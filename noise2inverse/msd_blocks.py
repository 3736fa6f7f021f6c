"""The mixed-scale dense network computed in blocks of layers.

A framework's convolution of all features to one channel is slow: every number that is loaded is used for one output.
But the layers of one dilation all convolve the same features with the same shifts. So the layers are cut into blocks;
when all features of a block are there, all later layers of a dilation take what the block contributes to them in one
convolution, dilation after dilation. Only what the layers of a block give to one another is left to convolutions to one
channel, a tenth of all.

Every plane is there once: that of a layer collects its contributions, is rectified in place, and in the backward pass,
which goes through the blocks in reverse order, holds the gradient in place of the feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .block_structure import Network, Planes
from .row_planes import RowPlanes
from .tensor_planes import TensorPlanes

__all__ = ["BLOCK_SIZE", "mixed_scale_dense_in_blocks"]

BLOCK_SIZE = 10
"""Layers of a block."""
KERNEL_TYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What the GPU's kernels compute with; they need Triton, else the framework's convolutions do."""


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
    """Compute `quietbeam.noise2inverse.msd.mixed_scale_dense`, with the same parameters and result.

    On the CPU in float32 by vector kernels of our own, on a GPU by kernels in Triton, else by the framework's
    convolutions.
    """
    network = Network(images.shape[1], len(weights[0]), tuple(dilations), padding, BLOCK_SIZE)
    tensors = (bias, final_weight, final_bias, *weights)
    is_learned = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (images, *tensors))
    with torch.autocast(images.device.type, enabled=False):  # the precision is that of the images, in all parts
        if not is_learned:  # nothing is kept for a backward pass
            return _run(images, network, bias, final_weight, final_bias, weights)[1]
        output: Tensor = _InBlocks.apply(images, network, *tensors)  # type: ignore[no-untyped-call]
    return output


def _run(
    images: Tensor,
    network: Network,
    bias: Tensor,
    final_weight: Tensor,
    final_bias: Tensor,
    weights: Sequence[Tensor],
) -> tuple[Planes, Tensor]:
    """Compute all features, and the output."""
    planes = _planes(images, weights, bias, network)
    planes.run()
    return planes, (planes.combine(final_weight) + final_bias[:, None, None]).to(images.dtype)


class _InBlocks(torch.autograd.Function):
    """All layers at once."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        network: Network,
        bias: Tensor,
        final_weight: Tensor,
        final_bias: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        ctx.planes, output = _run(images, network, bias, final_weight, final_bias, weights)
        ctx.save_for_backward(final_weight, images, *weights)  # so that autograd notices if they are changed
        return output

    @staticmethod
    def backward(ctx: Any, output: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("the network in blocks has no second derivatives: leave out create_graph")
        planes, ctx.planes = ctx.planes, None
        if planes is None:
            raise RuntimeError("the features were used up by an earlier backward pass: compute the output again")
        final_weight, *_ = ctx.saved_tensors
        with torch.autocast(output.device.type, enabled=False):
            return _InBlocks._run_back(ctx, planes, output, final_weight)

    @staticmethod
    def _run_back(ctx: Any, planes: Planes, output: Tensor, final_weight: Tensor) -> Any:
        d_final_weight, d_final_bias = planes.correlate(output), output.sum((0, 2, 3))
        back = planes.run_back(output, final_weight, wants_images=ctx.needs_input_grad[0])
        return back.images, None, back.bias, d_final_weight, d_final_bias, *back.weights


def _planes(images: Tensor, weights: Sequence[Tensor], bias: Tensor, network: Network) -> Planes:
    if images.device.type == "cpu" and images.dtype == torch.float32:
        return RowPlanes(images, weights, bias, network, num_threads=torch.get_num_threads())
    if images.is_cuda and images.dtype in KERNEL_TYPES and find_spec("triton"):
        from .triton_planes import TritonPlanes

        return TritonPlanes(images, weights, bias, network)
    return TensorPlanes(images, weights, bias, network)
