"""What training needs to know of latents that will be integers: rounding with gradients, and bits.

Rounding passes gradients through unchanged, as in [1]_. The bits are estimated as ``log2(1 + 2 e m)`` per latent with m
the mean absolute value in its channel: for m above one about the entropy of a Laplace distribution, falling to zero
with m.

References
----------
.. [1] Theis, Shi, Cunningham, Huszár, Lossy image compression with compressive autoencoders, ICLR 2017,
   arXiv:1703.00395.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["bits_per_latent", "rounded_with_gradients"]


def rounded_with_gradients(latents: Tensor) -> Tensor:
    """Round; the gradient is that of the identity."""
    return latents + (torch.round(latents) - latents).detach()


def bits_per_latent(latents: Tensor) -> Tensor:
    """Estimate the mean bits of a latent, float32, shape (), of latents of shape (slice, channel, y, x)."""
    return torch.log2(1 + 2 * math.e * latents.abs().mean((0, 2, 3))).mean()
