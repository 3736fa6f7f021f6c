"""A codebook whose entries replace the latents nearest to them, after van den Oord et al. [1]_.

The loss is the mean squared distance of entries to their latents, plus 0.25 times, as in [1]_, that of latents to their
entries; gradients pass through the replacement unchanged.

Entries that nothing is near to would never move. So at the first step all entries are set to latents of the batch,
evenly spaced, and an entry whose share of the latents, averaged over some 50 steps, falls below a tenth of the mean
share is set anew in the same way; no random numbers are needed.

References
----------
.. [1] van den Oord, Vinyals, Kavukcuoglu, Neural discrete representation learning, NeurIPS 2017, arXiv:1711.00937.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["VectorQuantiser", "nearest"]

_COMMITMENT = 0.25
_MEMORY = 0.98
_DEAD = 0.1


class VectorQuantiser(nn.Module):
    """Replaces latents by the nearest entries of a codebook.

    Parameters
    ----------
    num_entries, depth : int
        Size of the codebook.

    Attributes
    ----------
    codebook : nn.Parameter, shape (num_entries, depth)
        The entries.
    share : Tensor, shape (num_entries,)
        Share of the latents of each entry times their number, averaged over steps; 0 before the first.
    """

    share: Tensor

    def __init__(self, num_entries: int, depth: int) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.empty(num_entries, depth).uniform_(-1 / num_entries, 1 / num_entries))
        self.register_buffer("share", torch.zeros(num_entries))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Give the replaced latents, with the latents' gradients, and the loss of codebook and commitment.

        Parameters
        ----------
        latents : float32, shape (crop, depth, y, x)
            From the encoder.

        Returns
        -------
        tuple of Tensor
            Of the same shape, and of shape ().
        """
        vectors = latents.movedim(1, -1)
        flat = vectors.reshape(-1, vectors.shape[-1])
        if self.training:
            self._set_anew(flat.detach())
        entries = self.codebook[nearest(flat.detach(), self.codebook.detach())].reshape(vectors.shape)
        loss = F.mse_loss(entries, vectors.detach()) + _COMMITMENT * F.mse_loss(vectors, entries.detach())
        return (vectors + (entries - vectors).detach()).movedim(-1, 1), loss

    @torch.no_grad()
    def _set_anew(self, flat: Tensor) -> None:
        """Move entries that nothing is near to, and note how often each is used."""
        dead = torch.nonzero(self.share < _DEAD)[:, 0]
        self.codebook[dead] = flat[(2 * torch.arange(len(dead), device=flat.device) + 1) * len(flat) // (2 * len(dead))]
        self.share[dead] = 1.0
        used = torch.bincount(nearest(flat, self.codebook), minlength=len(self.share)) * (len(self.share) / len(flat))
        self.share.lerp_(used.to(self.share), 1 - _MEMORY)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Give the index of the nearest entry, shape (n,), for vectors of shape (n, depth)."""
    return (torch.square(codebook).sum(1) - 2 * vectors @ codebook.T).argmin(1)
