"""A super-resolution neural operator in three dimensions: a small volume to one 2, 4 or 8 times as large.

After Wei and Zhang [1]_, with the sizes of Sheibanifard et al. [2]_, for C channels and a factor s:

==========  ===============================================  ==================
part        layer                                                    parameters
==========  ===============================================  ==================
features    3 x 3 x 3 convolution, 1 to C                                  28 C
features    two residual blocks of two convolutions, ReLU     4 (27 C^2 + C)
features    convolution, added to the first one's output          27 C^2 + C
features    convolution to s^3, pixel shuffle s                (27 C + 1) s^3
operator    lift of 35 numbers to 2                                          72
operator    two blocks of linear attention of width 2                        76
operator    2 to 256, GELU, 256 to 1                                      1,025
==========  ===============================================  ==================

The operator's output is added to the trilinear enlargement of the small volume. The 35 numbers of a voxel are its
distances from eight corners along three axes, the features there, weighted by opposite volumes, and the size of a voxel
along three axes. Since there are as many features as voxels of the output, the corners are the voxel itself and its
neighbours one step up: its own feature has weight 1, the seven others 0. Their 14 weights do nothing and stay 0; they
are there for the source's number of parameters. Distances, in units of half a voxel, are 0 or -2, and 0 across an edge.

Keys and values are normalised over the two channels of one head, as the source's number of parameters demands, which
leaves of a pair (a, b) hardly more than the sign of a - b. The result is a pair (t, -t); scale and bias for both are a
linear layer from t to two numbers.

References
----------
.. [1] Wei, Zhang, Super-resolution neural operator, CVPR 2023, arXiv:2303.02584.
.. [2] Sheibanifard et al., implicit neural representation of volumes with Fourier downsampling and super-resolution,
   2025.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .fixed_point import limit, rescale, to_fixed
from .integer_network import IntegerNetwork, PixelShuffle3d, Residual
from .siren import VALUE_BITS, Training

__all__ = ["SuperResolution", "exact_super_resolution", "fit_super_resolution"]

_WIDTH = 2
_HIDDEN = 256
_VOXELS_AT_ONCE = 4096
_EPSILON = 1e-5
_KEY_BITS = 12
_LARGEST_KEY = 2.0**15


class Convolution(nn.Conv3d):
    """A 3 x 3 x 3 convolution with zero padding, computed in two dimensions: on a CPU, five times faster."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)

    def forward(self, volume: Tensor) -> Tensor:
        """From (1, channels_in, z, y, x) to (1, channels_out, z, y, x)."""
        planes = F.pad(volume[0].transpose(0, 1), (0, 0, 0, 0, 0, 0, 1, 1))
        neighbours = torch.cat([planes[step : step + volume.shape[2]] for step in range(3)], dim=1)
        weight = self.weight.transpose(1, 2).flatten(1, 2)
        return F.conv2d(neighbours, weight, self.bias, padding=1).transpose(0, 1)[None]


class LinearAttention(nn.Module):
    """Galerkin attention, ``q (k^T v) / n`` for n voxels, then two layers; both added to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.key, self.value = _pair_scale(), _pair_scale()
        self.output = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _WIDTH))

    def forward(self, points: Tensor) -> Tensor:
        """Keep the shape (voxel, 2)."""
        queries, keys, values = self.qkv(points).chunk(3, dim=1)
        mixed = self.key(_normalised(keys)).T @ self.value(_normalised(values)) / len(points)
        changed: Tensor = self.output(queries @ mixed + points)
        return changed + points


class SuperResolution(nn.Module):
    """Feature extractor and operator.

    Parameters
    ----------
    channels : int
        Of the feature extractor.
    factor : int
        s: 2, 4 or 8.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.features = nn.Sequential(
            Convolution(1, channels),
            Residual(_residual_block(channels), _residual_block(channels), Convolution(channels, channels)),
            Convolution(channels, factor**3),
            PixelShuffle3d(factor),
        )
        self.lift = nn.Linear(8 * (3 + 1) + 3, _WIDTH)
        self.attention = nn.ModuleList(LinearAttention() for _ in range(2))
        self.project = nn.Sequential(nn.Linear(_WIDTH, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, 1))
        with torch.no_grad():
            self.lift.weight[:, 25:32] = 0

    def forward(self, volume: Tensor, voxels: Tensor | None = None) -> Tensor:
        """Enlarge a volume.

        Parameters
        ----------
        volume : float32, shape (z, y, x)
            The small volume.
        voxels : int64, shape (n,)
            Which voxels of the large volume are wanted, in C order; None for all.

        Returns
        -------
        float32, shape (n,)
            Of the large volume.
        """
        points = self.lift(_lifted_numbers(self.features(volume[None, None])[0, 0], 1.0))
        for block in self.attention:
            points = block(points)
        enlarged = F.interpolate(volume[None, None], scale_factor=self.factor, mode="trilinear").reshape(-1)
        if voxels is not None:
            points, enlarged = points[voxels], enlarged[voxels]
        # In parts, whose 256 numbers a voxel stay in the cache and are computed again for the gradient.
        parts = [checkpoint(self.project, part, use_reentrant=False) for part in torch.split(points, _VOXELS_AT_ONCE)]
        return torch.cat(cast(list[Tensor], parts))[:, 0] + enlarged


def fit_super_resolution(
    build: Callable[[], SuperResolution],
    pairs: Sequence[tuple[Tensor, Tensor]],
    training: Training,
    sampled_voxels: int | None = None,
) -> SuperResolution:
    """Train a network to enlarge volumes, by the mean absolute error.

    Parameters
    ----------
    build : callable
        Makes the network.
    pairs : sequence of float32 Tensors, shapes (z, y, x) and (s z, s y, s x)
        Small and large volumes of order 1, on the device of the training; each step takes one, in turn. The weights of
        the smallest loss are kept for one pair, the last ones for several, of which one may be easier than the others.
    training : Training
        How.
    sampled_voxels : int or None
        Voxels of the large volume, drawn anew for each step, at which the error is taken; None for all.

    Returns
    -------
    SuperResolution
        On the device where it was trained.
    """
    network = training.start(build)
    generator = torch.Generator().manual_seed(training.seed)

    def loss(epoch: int) -> Tensor:
        small, large = pairs[epoch % len(pairs)]
        wanted, voxels = large.reshape(-1), None
        if sampled_voxels is not None:
            voxels = torch.randint(len(wanted), (sampled_voxels,), generator=generator).to(wanted.device)
            wanted = wanted[voxels]
        return cast(Tensor, network(small, voxels) - wanted).abs().mean()

    training.minimise(network, loss, keep_best=len(pairs) == 1)
    return network


@torch.inference_mode()
def exact_super_resolution(network: SuperResolution, tensors: Mapping[str, Tensor], volume: Tensor) -> Tensor:
    """Enlarge a volume in whole numbers, the same bits on every machine.

    Parameters
    ----------
    network : SuperResolution
        What is computed; its own parameters are not looked at and may be on the ``meta`` device.
    tensors : mapping of str to integer Tensor
        From `integer_tensors` of such a network.
    volume : float64, shape (z, y, x)
        Integers: the small volume in units of 2^-16.

    Returns
    -------
    float64, shape (s z, s y, s x)
        Integers: the large volume in units of 2^-16, limited to +-2^23.

    Raises
    ------
    ArchiveError
        If the tensors are no such network.
    """

    def part(name: str) -> IntegerNetwork:
        own = {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
        return IntegerNetwork(network.get_submodule(name), own, fraction_bits=VALUE_BITS)

    features = part("features")(volume[None, None])[0, 0]
    points = part("lift")(_lifted_numbers(features, 2.0**VALUE_BITS))
    for name in ("attention.0", "attention.1"):
        queries, keys, values = part(f"{name}.qkv")(points).chunk(3, dim=1)
        mixed = _mixed(
            part(f"{name}.key")(_normalised_integers(keys)), part(f"{name}.value")(_normalised_integers(values))
        )
        attended = limit(rescale(queries @ mixed, VALUE_BITS) + points)
        points = limit(part(f"{name}.output")(attended) + points)
    project = part("project")
    added = torch.cat([project(some) for some in torch.split(points, _VOXELS_AT_ONCE)]).reshape(features.shape)
    return limit(added + _enlarged(volume, network.factor))


def _residual_block(channels: int) -> Residual:
    return Residual(Convolution(channels, channels), nn.ReLU(), Convolution(channels, channels))


def _pair_scale() -> nn.Linear:
    """Make the scale and bias of two channels (t, -t): at first 1 and 0."""
    layer = nn.Linear(1, _WIDTH)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        layer.bias.zero_()
    return layer


def _lifted_numbers(features: Tensor, one: float) -> Tensor:
    """Give the 35 numbers of each voxel, shape (voxel, 35), in units of `one`."""
    steps = torch.full((*features.shape, 3), -2 * one, dtype=features.dtype, device=features.device)
    steps[-1, ..., 0] = steps[:, -1, :, 1] = steps[:, :, -1, 2] = 0
    corners = torch.tensor(list(product((0, 1), repeat=3)), dtype=features.dtype, device=features.device)
    distances = (steps[..., None, :] * corners).reshape(-1, 24)
    others, sizes = (torch.full_like(distances[:, :count], value) for count, value in ((7, 0.0), (3, 2 * one)))
    return torch.cat([distances, features.reshape(-1, 1), others, sizes], dim=1)


def _normalised(pairs: Tensor, one: float = 1.0) -> Tensor:
    """Give the first of two channels less their mean, divided by their standard deviation, ``|a - b| / sqrt(2)``."""
    half = (pairs[:, :1] - pairs[:, 1:]) / 2
    return half / (half.abs() * math.sqrt(2) + _EPSILON * one)


def _normalised_integers(pairs: Tensor) -> Tensor:
    return to_fixed(_normalised(pairs, 2.0**VALUE_BITS), VALUE_BITS)


def _mixed(keys: Tensor, values: Tensor) -> Tensor:
    """Give ``k^T v / n`` in units of 2^-16; keys and values are cut to 12 fraction bits and +-8.

    Sums over up to 2^23 voxels are then exact: products are 2^30 at most.
    """
    keys, values = (
        rescale(integers, VALUE_BITS - _KEY_BITS).clamp(-_LARGEST_KEY, _LARGEST_KEY) for integers in (keys, values)
    )
    return to_fixed(keys.T @ values / len(keys), VALUE_BITS - 2 * _KEY_BITS)


def _enlarged(volume: Tensor, factor: int) -> Tensor:
    """Interpolate between cell centres, the edge repeated outside; all weights are multiples of ``(1 / 2 s)^3``."""
    for axis, size in enumerate(volume.shape):
        places = (torch.arange(factor * size, device=volume.device).double() + 0.5) / factor - 0.5
        below = places.floor()
        above_weight = (places - below).reshape([-1 if other == axis else 1 for other in range(3)])
        low, high = (volume.index_select(axis, (below + step).clamp(0, size - 1).long()) for step in (0, 1))
        volume = low * (1 - above_weight) + high * above_weight
    return rescale(volume, 0)
