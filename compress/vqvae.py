"""The vector-quantised autoencoder of Hejazi et al. for industrial tomography (VQ-VAE), slice by slice.

The networks of [1]_ after [2]_, for slices of 512 x 512 pixels; convolutions are 3 x 3 with a bias, those between
widths have stride 2 and a ReLU, and the latents come from a 1 x 1 convolution. The decoder mirrors them with transposed
convolutions; its last, to one channel, has stride 1 and no ReLU:

=======  =======================  ========  ========================  ===========  ==========
latents  encoder                  codebook  decoder                   indices      parameters
=======  =======================  ========  ========================  ===========  ==========
depth 8  1-32-64, 8               64        8-64-32-1                 128, 128         43,273
depth 4  1-32-64-128, 4           128       4-128-64-32-1             64, 64          190,981
depth 2  1-32-64-128-256, 2       256       2-256-128-64-32-1         32, 32          781,315
=======  =======================  ========  ========================  ===========  ==========

A latent is replaced by the nearest entry of the codebook, whose index is stored. The loss is the mean squared error, in
units of the volume's variance, plus the mean squared distance of entries to their latents, plus 0.25 times that of
latents to their entries; gradients pass through the replacement unchanged [2]_.

Entries that nothing is near to would never move. So at the first step all entries are set to latents of the batch,
evenly spaced, and an entry whose share of the latents, averaged over some 50 steps, falls below a tenth of the mean
share is set anew in the same way; no random numbers are needed.

Indices are coded as ranks: the entries are ordered by the sum of the square roots of their distances from those in the
slice before (counted twice), in the row above and in the column to the left, so that the entries found there come
first. The rank of the right one is coded with one of two tables, by the ranks at the same neighbours. The decoder is
evaluated in whole numbers by `IntegerNetwork`.

References
----------
.. [1] Hejazi et al., the VQ-VAE for the compression of industrial X-ray computed tomography.
.. [2] van den Oord, Vinyals, Kavukcuoglu, Neural discrete representation learning, NeurIPS 2017, arXiv:1711.00937.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor, nn

from quietbeam.reconstruction.errors import ArchiveError

from .bitstream import ByteReader, varint
from .codec import CodecSettings, SliceSource, register
from .entropy import IntegerDecoder, IntegerEncoder
from .integer_network import (
    FRACTION_BITS,
    LARGEST_ACTIVATION,
    IntegerNetwork,
    integer_tensors,
    tensors_from_bytes,
    tensors_to_bytes,
    to_fixed,
)
from .training import fit_codec

__all__ = ["VectorQuantiser", "VqvaeCodec", "VqvaeSettings", "decode_indices", "encode_indices", "vqvae_network"]

_WIDTHS = {8: (32, 64), 4: (32, 64, 128), 2: (32, 64, 128, 256)}
_NUM_ENTRIES = {8: 64, 4: 128, 2: 256}
_COMMITMENT = 0.25
_MEMORY = 0.98
_DEAD = 0.1
_NUM_SAMPLED_SLICES = 16
_NUM_CONTEXTS = 2
_MANY = 8

Volume = NDArray[np.float32]
Integers = NDArray[np.int32]
Wide = NDArray[np.int64]


class VqvaeSettings(CodecSettings):
    """How the networks are built and trained; the defaults are the source's."""

    epochs: int | None = Field(100, ge=1, description="epochs to train; not given: the time decides")
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False, description="step size of Adam")
    batch_size: int = Field(128, ge=1, description="crops in one step")
    latent_depth: Literal[8, 4, 2] = Field(8, description="channels of the latent: 1/4, 1/8, 1/16 of each side")
    weight_bits: int = Field(12, ge=4, le=16, description="bits of a weight of the stored decoder")


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


def vqvae_network(latent_depth: int) -> nn.ModuleDict:
    """Build encoder, quantiser and decoder; see the module for their layers."""
    encoder, decoder, channels = list[nn.Module](), list[nn.Module](), 1
    for width in _WIDTHS[latent_depth]:
        encoder += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU()]
        channels = width
    encoder.append(nn.Conv2d(channels, latent_depth, 1))
    channels = latent_depth
    for width in reversed(_WIDTHS[latent_depth]):
        decoder += [nn.ConvTranspose2d(channels, width, 3, stride=2, padding=1, output_padding=1), nn.ReLU()]
        channels = width
    decoder.append(nn.ConvTranspose2d(channels, 1, 3, padding=1))
    quantiser = VectorQuantiser(_NUM_ENTRIES[latent_depth], latent_depth)
    return nn.ModuleDict(
        {"encoder": nn.Sequential(*encoder), "quantiser": quantiser, "decoder": nn.Sequential(*decoder)}
    )


@register("vqvae")
class VqvaeCodec:
    """The codec ``vqvae``; see the module for its layers.

    Parameters
    ----------
    network : nn.ModuleDict
        From `vqvae_network`; on the ``meta`` device where `tensors` is given, for a codec that only decodes.
    mean, std : float
        Normalisation, in the volume's units.
    settings : VqvaeSettings
        With which the network was built.
    num_voxels : int
        Size of the volume that the decoder's bytes are shared by.
    codebook : int32, shape (entry, channel), optional
        With 12 fraction bits; by default it is made from `network` whenever it is needed.
    tensors : dict of str to int32 Tensor, optional
        The decoder in whole numbers; likewise.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[BaseModel]] = VqvaeSettings

    def __init__(
        self,
        network: nn.ModuleDict,
        mean: float,
        std: float,
        settings: VqvaeSettings,
        *,
        num_voxels: int = 1,
        codebook: Integers | None = None,
        tensors: dict[str, Tensor] | None = None,
    ) -> None:
        self.network, self._mean, self._std, self._settings = network, mean, std, settings
        self._num_voxels, self._codebook, self._tensors = num_voxels, codebook, tensors

    @classmethod
    def fit(cls, volume: SliceSource, settings: VqvaeSettings | None = None, *, seed: int = 0) -> Self:
        """Train a codec on a volume; see `quietbeam.compress.training.fit_codec`."""
        return fit_codec(cls, volume, settings or VqvaeSettings(), seed=seed)

    @classmethod
    def for_volume(cls, source: SliceSource, settings: VqvaeSettings, seed: int) -> Self:
        """Build an untrained codec; the normalisation comes from at most 16 slices, evenly spaced.

        Parameters
        ----------
        source : SliceSource
            The volume; `ValueError` if the slices looked at are not finite.
        settings : VqvaeSettings
            Depth of the latents.
        seed : int
            Start of the weights.

        Returns
        -------
        VqvaeCodec
            Equal for equal arguments.
        """
        mean, std = _mean_and_std(source)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = vqvae_network(settings.latent_depth)
        return cls(network, mean, std, settings, num_voxels=math.prod(source.shape))

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        """Build a codec that only decodes from what `to_bytes` gave; `ArchiveError` if it is damaged."""
        reader = ByteReader(state, "the decoder of codec vqvae")
        depth = reader.varint()
        mean, std = struct.unpack("<dd", reader.take(16))
        if depth not in _WIDTHS or not (math.isfinite(mean) and math.isfinite(std)):
            raise ArchiveError(
                f"the decoder of codec vqvae has latents of depth {depth}, mean {mean:g}, deviation {std:g}, "
                f"expected a depth of {', '.join(map(str, _WIDTHS))}: it is damaged, restore it from a copy"
            )
        shape = (_NUM_ENTRIES[depth], depth)
        entries = IntegerDecoder(reader.take(reader.varint()), 1).take(np.zeros(math.prod(shape), np.uint8))
        if np.abs(entries).max() > LARGEST_ACTIVATION:
            raise ArchiveError("the codebook of codec vqvae has an entry above 2^23: it is damaged")
        with torch.device("meta"):
            network = vqvae_network(depth)
        tensors = tensors_from_bytes(network["decoder"], reader.rest())
        IntegerNetwork(network["decoder"], tensors)
        settings = VqvaeSettings.model_validate({"latent_depth": depth})
        return cls(network, mean, std, settings, codebook=entries.reshape(shape), tensors=tensors)

    def to_bytes(self) -> bytes:
        """Give depth (varint), mean, standard deviation (float64), codebook with its length, and the decoder."""
        encoder = IntegerEncoder(1)
        encoder.add(self._entries().ravel(), np.zeros(self._entries().size, np.uint8))
        stored = encoder.to_bytes()
        head = varint(self._settings.latent_depth) + struct.pack("<dd", self._mean, self._std)
        return head + varint(len(stored)) + stored + tensors_to_bytes(self._integers())

    @property
    def num_parameters(self) -> int:
        """Numbers that the decoder needs, the codebook among them."""
        parts = (self.network["decoder"], self.network["quantiser"])
        return sum(parameter.numel() for part in parts for parameter in part.parameters())

    @property
    def bytes_per_voxel(self) -> float:
        """Size of the stored decoder divided by the voxels of the volume."""
        return len(self.to_bytes()) / self._num_voxels

    @property
    def stride(self) -> int:
        """Pixels along a side of the tile that one index stands for."""
        return int(2 ** len(_WIDTHS[self._settings.latent_depth]))

    def loss(self, crops: Tensor) -> Tensor:
        """Give the mean squared error of normalised values plus the losses of codebook and commitment.

        Parameters
        ----------
        crops : float32, shape (crop, 1, y, x)
            In the volume's units; edges are multiples of 16.

        Returns
        -------
        float32, shape ()
            To be minimised.
        """
        crops = (crops - self._mean) / self._std
        latents, loss = self.network["quantiser"](self.network["encoder"](crops))
        error: Tensor = F.mse_loss(self.network["decoder"](latents), crops) + loss
        return error

    @torch.inference_mode()
    def encode(self, chunk: Volume) -> bytes:
        """Give the bitstream of a chunk's indices.

        Parameters
        ----------
        chunk : float32, shape (slice, y, x)
            Finite; any size.

        Returns
        -------
        bytes
            To be decoded with this codec's codebook and decoder.

        Raises
        ------
        ValueError
            If this codec only decodes.
        """
        if self._tensors is not None:
            raise ValueError("this codec was read from an archive and only decodes; VqvaeCodec.fit gives one to encode")
        return encode_indices(np.stack([self._indices(plane) for plane in chunk]), self._entries())

    @torch.inference_mode()
    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> Volume:
        """Give the approximation that a bitstream of indices stands for.

        Parameters
        ----------
        bitstream : bytes
            From `encode`.
        shape : tuple of int
            Slices, rows, columns of the chunk.

        Returns
        -------
        float32, shape (slice, y, x)
            In the volume's units; the same on every machine.

        Raises
        ------
        ArchiveError
            If the bitstream is damaged, as far as that shows.
        """
        num_slices, num_rows, num_columns = shape
        grid = (num_slices, -(-num_rows // self.stride), -(-num_columns // self.stride))
        entries = self._entries()
        indices = decode_indices(bitstream, grid, entries)
        network, decoded = IntegerNetwork(self.network["decoder"], self._integers()), np.empty(shape, np.float32)
        # One slice at a time: all of a chunk would need many times its memory.
        for plane, of_plane in zip(decoded, indices, strict=True):
            latents = torch.from_numpy(entries[of_plane]).double().movedim(-1, 0)[None]
            values = network(latents)[0, 0, :num_rows, :num_columns].numpy() * 2.0**-FRACTION_BITS
            plane[:] = values * self._std + self._mean
        return decoded

    def _indices(self, plane: Volume) -> Integers:
        """Find the entries of one slice, enlarged to multiples of the stride by repeating its edge."""
        padded = np.pad(plane, [(0, -size % self.stride) for size in plane.shape], mode="edge")
        codebook = torch.from_numpy(self._entries()).float() * 2.0**-FRACTION_BITS
        codebook = codebook.to(next(self.network.parameters()).device)
        latents = self.network["encoder"](torch.from_numpy((padded - self._mean) / self._std)[None, None].to(codebook))
        vectors = latents[0].movedim(0, -1)
        indices = nearest(vectors.reshape(-1, vectors.shape[-1]), codebook).reshape(vectors.shape[:2])
        return np.asarray(indices.to(torch.int32).cpu().numpy())

    def _entries(self) -> Integers:
        if self._codebook is not None:
            return self._codebook
        codebook = self.network.get_parameter("quantiser.codebook").detach().cpu()
        return np.asarray(to_fixed(codebook).to(torch.int32).numpy())

    def _integers(self) -> dict[str, Tensor]:
        if self._tensors is not None:
            return self._tensors
        return integer_tensors(self.network["decoder"], weight_bits=self._settings.weight_bits)


def encode_indices(indices: Integers, entries: Integers) -> bytes:
    """Code indices without loss.

    Parameters
    ----------
    indices : int32, shape (slice, y, x)
        In [0, k).
    entries : int32, shape (k, channel)
        The codebook in whole numbers of size at most 2^23; k at most 256, at most 8 channels.

    Returns
    -------
    bytes
        To be read by `decode_indices`.
    """
    encoder = IntegerEncoder(_NUM_CONTEXTS)

    def code(where: _Where, scores: Wide, contexts: Wide) -> tuple[Integers, Wide]:
        right = indices[where]
        of_right = np.take_along_axis(scores, right[:, None].astype(np.int64), 1)
        ranks = (scores < of_right).sum(1)
        encoder.add(_signed(ranks), contexts)
        return right, ranks

    _walk(indices.shape, entries, code)
    return encoder.to_bytes()


def decode_indices(bitstream: bytes, shape: tuple[int, ...], entries: Integers) -> Integers:
    """Read indices coded by `encode_indices`.

    Parameters
    ----------
    bitstream : bytes
        All of it.
    shape : tuple of int
        Slices, rows and columns of indices.
    entries : int32, shape (k, channel)
        As for the encoder.

    Returns
    -------
    int32, shape (slice, y, x)
        As the encoder was given.

    Raises
    ------
    ArchiveError
        If the bitstream is damaged, as far as that shows.
    """
    decoder = IntegerDecoder(bitstream, _NUM_CONTEXTS)

    def code(_: _Where, scores: Wide, contexts: Wide) -> tuple[Integers, Wide]:
        ranks = _unsigned(decoder.take(contexts))
        if ranks.max() >= len(entries):
            raise ArchiveError(f"a rank among {len(entries)} entries is {ranks.max()}: the bitstream is damaged")
        order = scores.argsort(axis=1)
        return np.take_along_axis(order, ranks[:, None], 1)[:, 0].astype(np.int32), ranks

    return _walk(shape, entries, code)


_Where = tuple[NDArray[np.intp], ...]


def _walk(
    shape: tuple[int, ...], entries: Integers, code: Callable[[_Where, Wide, Wide], tuple[Integers, Wide]]
) -> Integers:
    """Fill a grid, all positions with the same slice + row + column at once; `code` gives indices and ranks."""
    num_entries, distances = len(entries), _distances(entries)
    indices = np.full([size + 1 for size in shape], num_entries, np.int32)
    ranks = np.zeros(indices.shape, np.int64)
    for z, y, x in _wavefronts(shape):
        before, above, left = (z, y + 1, x + 1), (z + 1, y, x + 1), (z + 1, y + 1, x)
        scores = 2 * distances[indices[before]] + distances[indices[above]] + distances[indices[left]]
        around = 2 * ranks[before] + ranks[above] + ranks[left]
        contexts = (around >= _MANY).astype(np.int64)
        here = (z + 1, y + 1, x + 1)
        # Equal scores are told apart by the index: they are at most 2^27, which leaves room for it.
        indices[here], ranks[here] = code((z, y, x), scores * num_entries + np.arange(num_entries), contexts)
    return np.ascontiguousarray(indices[1:, 1:, 1:])


def _distances(entries: Integers) -> Wide:
    """Give 2^12 times the square roots of the distances between entries; a last row of 0, for what is not known.

    Integers at each step: IEEE 754 has square roots rounded correctly, and all arguments are exact in float64.
    """
    squared = np.square(entries[:, None].astype(np.int64) - entries).sum(-1)
    roots = np.floor(np.sqrt(np.floor(np.sqrt(squared.astype(np.float64))) * 2.0**24))
    return np.concatenate([roots.astype(np.int64), np.zeros((1, len(entries)), np.int64)])


def _wavefronts(shape: tuple[int, ...]) -> Iterator[_Where]:
    slices, rows, columns = map(np.arange, shape)
    order = np.add.outer(np.add.outer(slices, rows), columns)
    positions = np.argsort(order.ravel(), kind="stable")
    for front in np.split(positions, np.bincount(order.ravel()).cumsum()[:-1]):
        yield np.unravel_index(front, shape)


def _signed(ranks: Wide) -> Integers:
    """Map 0, 1, 2, ... to 0, -1, 1, ..., whose tokens are 0, 1, 2, ..."""
    return np.where(ranks % 2, -(ranks + 1) // 2, ranks // 2).astype(np.int32)


def _unsigned(values: Integers) -> Wide:
    wide = values.astype(np.int64)
    return np.where(wide < 0, -2 * wide - 1, 2 * wide)


def _mean_and_std(source: SliceSource) -> tuple[float, float]:
    num_slices = source.shape[0]
    picked = np.unique(np.linspace(0, num_slices - 1, min(num_slices, _NUM_SAMPLED_SLICES)).astype(int)).tolist()
    planes = np.concatenate([np.asarray(source[index : index + 1], np.float32) for index in picked])
    mean, std = float(planes.mean(dtype=np.float64)), float(planes.std(dtype=np.float64))
    if not (math.isfinite(mean) and math.isfinite(std)):
        raise ValueError("the volume must be finite to be encoded, got nan or inf in the slices that were looked at")
    return mean, std or 1.0
