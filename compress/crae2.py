"""CRAE with a decoder in whole numbers, better coded latents, and bits where the structure is.

The layers are those of `quietbeam.compress.crae`, tables IV and V of Anelli et al. [1]_, with 203,374 parameters in the
encoder and 775,570 in the decoder; a residual block is PReLU between two 3 x 3 convolutions. What the authors left for
later is here: latents are integers coded with their neighbours (`quietbeam.compress.latents`), importance by region
(`quietbeam.compress.latent_codec`), and training on crops or on whole slices: a `crop_size` as large as the slices
takes them whole. The paper's own patches of 125 x 128 pixels become 128 x 128: the networks divide by 32.

The paper stores float32 latents: 44 latents of 4 bytes for 32 x 32 pixels of one byte are 17.2 %. `float32_latents`
measures that, to compare; it is no byte format.

References
----------
.. [1] Anelli et al., the compressive residual autoencoder of tables IV and V.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, Field
from torch import nn

from quietbeam.reconstruction.quality import psnr

from .codec import SliceSource, register
from .latent_codec import Architecture, LatentCodec, LatentCodecSettings, residual_block

__all__ = ["Crae2Codec", "Crae2Settings", "Float32Latents", "float32_latents"]


class Crae2Settings(LatentCodecSettings):
    """How the networks are built and trained; 64 channels and 44 latent channels are the paper's."""

    latent_channels: int = Field(44, ge=1, le=512, description="channels of the latent")


def _encoder(width: int, latent_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 5, stride=4, padding=2),
        nn.PReLU(),
        nn.Conv2d(width, width, 5, stride=4, padding=2),
        residual_block(width),
        nn.Conv2d(width, latent_channels, 3, stride=2, padding=1),
    )


def _decoder(width: int, latent_channels: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(latent_channels, 4 * width, 3, padding=1), nn.PixelShuffle(2)),
        residual_block(width),
        *(nn.Conv2d(width, 16 * width, 3, padding=1), nn.PixelShuffle(4), nn.PReLU()),
        *(nn.Conv2d(width, 16, 3, padding=1), nn.PixelShuffle(4)),
    )


@register("crae2")
class Crae2Codec(LatentCodec):
    """The codec ``crae2``; see the module for its layers."""

    settings_type: ClassVar[type[BaseModel]] = Crae2Settings
    architecture: ClassVar[Architecture] = Architecture(32, _encoder, _decoder)


class Float32Latents(NamedTuple):
    """What the paper's latents, stored as float32, would take and give.

    Attributes
    ----------
    share_of_8_bit : float
        Their bytes divided by those of the slices with one byte per pixel; edges cost more than the paper's 17.2 %.
    bits_per_voxel : float
        The same in bits, without the decoder.
    psnr : float
        Decibel, with the decoder in float32; the peak is the range of the volume.
    """

    share_of_8_bit: float
    bits_per_voxel: float
    psnr: float


def float32_latents(volume: SliceSource, settings: Crae2Settings | None = None, *, seed: int = 0) -> Float32Latents:
    """Train CRAE as the paper does, for the squared error alone, and measure it with latents that are not rounded.

    Parameters
    ----------
    volume : SliceSource
        Shape (slice, y, x), finite.
    settings : Crae2Settings, optional
        `rate_weight` and `importance` are left out.
    seed : int
        Of the weights and of the crops.

    Returns
    -------
    Float32Latents
        For a report; there is no such byte format.
    """
    settings = (settings or Crae2Settings()).model_copy(update={"rate_weight": 0.0, "importance": False})
    codec = Crae2Codec.fit(volume, settings, seed=seed)
    planes = [volume[index : index + 1] for index in range(volume.shape[0])]
    decoded, num_latents = zip(*map(codec.through_float32, planes), strict=True)
    truth, image = np.concatenate(planes), np.concatenate(decoded)
    num_bytes = 4 * sum(num_latents)
    return Float32Latents(num_bytes / truth.size, 8 * num_bytes / truth.size, psnr(truth, image))
