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

A latent is replaced by the nearest entry of the codebook (`quietbeam.compress.vector_quantiser`), whose index is stored
(`quietbeam.compress.codebook_indices`). The loss is the mean squared error, in units of the volume's variance, plus the
losses of codebook and commitment. The decoder is evaluated in whole numbers by `IntegerNetwork`.

Layers, codebooks and latents are the source's: its counts of parameters follow from them. How it is trained is our
reading: epochs, batches and step size, 0.25 for the commitment (that of [2]_), and what becomes of entries that nothing
is near to.

References
----------
.. [1] Hejazi et al., the VQ-VAE for the compression of industrial X-ray computed tomography.
.. [2] van den Oord, Vinyals, Kavukcuoglu, Neural discrete representation learning, NeurIPS 2017, arXiv:1711.00937.
"""

from __future__ import annotations

import math
import struct
from typing import ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor, nn

from quietbeam.reconstruction.errors import ArchiveError

from .bitstream import ByteReader, varint
from .codebook_indices import decode_indices, encode_indices
from .codec import CodecSettings, SliceSource, register
from .codec_parts import CodecParts, Normalisation, fill, parts_of_network
from .decoder_size import num_parameters
from .entropy import IntegerDecoder, IntegerEncoder
from .fixed_point import FRACTION_BITS, LARGEST_ACTIVATION, to_fixed
from .integer_network import IntegerNetwork
from .integer_tensors import integer_tensors, tensors_from_bytes, tensors_to_bytes
from .slices import decode_slices, enlarged, mean_and_std, sample_slices
from .training import fit_codec
from .vector_quantiser import VectorQuantiser, nearest

__all__ = ["VqvaeCodec", "VqvaeSettings", "vqvae_network"]

_WIDTHS = {8: (32, 64), 4: (32, 64, 128), 2: (32, 64, 128, 256)}
_NUM_ENTRIES = {8: 64, 4: 128, 2: 256}

Volume = NDArray[np.float32]
Integers = NDArray[np.int32]


class VqvaeSettings(CodecSettings):
    """How the networks are built and trained; the depths are the source's, how to train is our reading."""

    epochs: int | None = Field(100, ge=1, description="epochs to train; not given: the time decides")
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False, description="step size of Adam")
    batch_size: int = Field(128, ge=1, description="crops in one step")
    latent_depth: Literal[8, 4, 2] = Field(8, description="channels of the latent: 1/4, 1/8, 1/16 of each side")
    weight_bits: int = Field(12, ge=4, le=16, description="bits of a weight of the stored decoder")


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
        """Build an untrained codec; the normalisation comes from at most 16 slices, evenly spaced."""
        mean, std = mean_and_std(sample_slices(source))
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

    @classmethod
    def from_parts(cls, parts: CodecParts) -> Self:
        """Build the codec that gave the parts; `ValueError` if they are none of this codec."""
        settings, numbers = VqvaeSettings.model_validate(parts.settings), Normalisation.model_validate(parts.numbers)
        with torch.device("meta"):
            network = vqvae_network(settings.latent_depth)
        fill(network, parts.tensors)
        return cls(network, numbers.mean, numbers.std, settings, num_voxels=numbers.num_voxels)

    def to_parts(self) -> CodecParts:
        """Give all that encoding and decoding need; `ValueError` if this codec only decodes."""
        if self._tensors is not None:
            raise ValueError("this codec was read from an archive and only decodes: it cannot be packed")
        numbers = Normalisation(mean=self._mean, std=self._std, num_voxels=self._num_voxels)
        return CodecParts(self._settings, numbers.model_dump(), parts_of_network(self.network))

    @property
    def num_parameters(self) -> int:
        """Numbers that the decoder needs, the codebook among them."""
        return num_parameters(self.network["decoder"]) + num_parameters(self.network["quantiser"])

    @property
    def bytes_per_voxel(self) -> float:
        """Size of the stored decoder divided by the voxels of the volume."""
        return len(self.to_bytes()) / self._num_voxels

    @property
    def stride(self) -> int:
        """Pixels along a side of the tile that one index stands for."""
        return int(2 ** len(_WIDTHS[self._settings.latent_depth]))

    def loss(self, crops: Tensor) -> Tensor:
        """Give the mean squared error of normalised values plus the losses of codebook and commitment."""
        crops = (crops - self._mean) / self._std
        latents, loss = self.network["quantiser"](self.network["encoder"](crops))
        error: Tensor = F.mse_loss(self.network["decoder"](latents), crops) + loss
        return error

    @torch.inference_mode()
    def encode(self, chunk: Volume) -> bytes:
        """Give the bitstream of the indices of a chunk of any size; `ValueError` if this codec only decodes."""
        if self._tensors is not None:
            raise ValueError("this codec was read from an archive and only decodes; VqvaeCodec.fit gives one to encode")
        return encode_indices(np.stack([self._indices(plane) for plane in chunk]), self._entries())

    @torch.inference_mode()
    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> Volume:
        """Give the approximation that a bitstream of indices stands for; `ArchiveError` where damage shows."""
        grid = (shape[0], *(-(-side // self.stride) for side in shape[1:]))
        entries = self._entries()
        indices = decode_indices(bitstream, grid, entries)
        latents = (torch.from_numpy(entries[of_slice]).double().movedim(-1, 0)[None] for of_slice in indices)
        network = IntegerNetwork(self.network["decoder"], self._integers())
        return decode_slices(network, latents, shape, self._std, self._mean)

    def _indices(self, plane: Volume) -> Integers:
        """Find the entries of one slice, enlarged to multiples of the stride by repeating its edge."""
        normalised = (enlarged(plane, self.stride) - self._mean) / self._std
        codebook = torch.from_numpy(self._entries()).float() * 2.0**-FRACTION_BITS
        codebook = codebook.to(next(self.network.parameters()).device)
        latents = self.network["encoder"](torch.from_numpy(normalised)[None, None].to(codebook))
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
