"""Three autoencoders for slices: fully connected, convolutional, deep convolutional.

The systems AE, CNN and DCAE of Fettah et al. [1]_: PReLU activations, inputs of 256 x 256 pixels, batches of 4, slices
split 60 / 20 / 20 into training, validation and test, MS-SSIM reported. Only part of the paper's layer sizes is known
to us; what follows is our reading of it: the kinds of layers and the PReLU are the paper's, kernels, widths and strides
are ours. W is the `width`, 32, and L the number of latent channels, 16, 16 and 32. Parameters are for those.

``ae``. A dense layer on 256 x 256 pixels would have tens of millions of weights for every hundred of its outputs, more
than a volume has bytes to spare. Ours is dense on patches of 16 x 16 pixels, which share their weights:

=======  ==============================================  ===============  ==========
part     layer                                           output           parameters
=======  ==============================================  ===============  ==========
encoder  dense 256 to 4 W; PReLU                         4 W, y/16, x/16      32,897
encoder  dense 4 W to 2 W; PReLU                         2 W, y/16, x/16       8,257
encoder  dense 2 W to L                                  L, y/16, x/16         1,040
decoder  dense L to 2 W; PReLU                           2 W, y/16, x/16       1,089
decoder  dense 2 W to 4 W; PReLU                         4 W, y/16, x/16       8,321
decoder  dense 4 W to 256, pixel shuffle 16              1, y, x              33,024
=======  ==============================================  ===============  ==========

``cnn``, strided convolutions of 3 x 3 and transposed ones of 4 x 4, which cover all pixels equally often:

=======  ==============================================  ===============  ==========
part     layer                                           output           parameters
=======  ==============================================  ===============  ==========
encoder  3 x 3, stride 2; PReLU                          W, y/2, x/2             321
encoder  3 x 3, stride 2; PReLU                          2 W, y/4, x/4        18,497
encoder  3 x 3, stride 2                                 L, y/8, x/8           9,232
decoder  4 x 4 transposed, stride 2; PReLU               2 W, y/4, x/4        16,449
decoder  4 x 4 transposed, stride 2; PReLU               W, y/2, x/2          32,801
decoder  4 x 4 transposed, stride 2                      1, y, x                 513
=======  ==============================================  ===============  ==========

``dcae``, twice as deep, with residual blocks (3 x 3; PReLU; 3 x 3; added to the input) and no batch normalisation:

=======  ==============================================  ===============  ==========
part     layer                                           output           parameters
=======  ==============================================  ===============  ==========
encoder  3 x 3, stride 2; PReLU                          W, y/2, x/2             321
encoder  3 x 3, stride 2; PReLU; residual block          W, y/4, x/4          27,746
encoder  3 x 3, stride 2; PReLU; residual block          2 W, y/8, x/8        92,354
encoder  3 x 3, stride 2; PReLU; residual block          2 W, y/16, x/16     110,786
encoder  3 x 3                                           L, y/16, x/16        18,464
decoder  3 x 3; PReLU; residual block                    2 W, y/16, x/16      92,354
decoder  4 x 4 transposed, stride 2; PReLU; res. block   2 W, y/8, x/8       139,458
decoder  4 x 4 transposed, stride 2; PReLU; res. block   W, y/4, x/4          51,298
decoder  4 x 4 transposed, stride 2; PReLU               W, y/2, x/2          16,417
decoder  4 x 4 transposed, stride 2                      1, y, x                 513
=======  ==============================================  ===============  ==========

Latents become integers, the decoder whole numbers, the loss the squared error plus weighted bits: see
`quietbeam.compress.latent_codec`.

References
----------
.. [1] Fettah et al., learned compression of tomography slices with an autoencoder (AE), a convolutional one (CNN) and a
   deep convolutional one (DCAE).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field
from torch import nn

from .codec import register
from .latent_codec import Architecture, LatentCodec, LatentCodecSettings, residual_block

__all__ = ["AeCodec", "AutoencoderSettings", "CnnCodec", "DcaeCodec", "DcaeSettings"]


class AutoencoderSettings(LatentCodecSettings):
    """How the networks are built and trained; crops and batches are the paper's."""

    width: int | None = Field(32, ge=1, le=512, description="channels that the layers are multiples of")
    latent_channels: int = Field(16, ge=1, le=512, description="channels of the latent")
    crop_size: int = Field(256, ge=32, multiple_of=32, description="edge of the square training crops, pixels")
    batch_size: int = Field(4, ge=1, description="crops in one step")
    training_share: float = Field(0.6, gt=0, lt=1, description="share of the slices that `generalisation` trains on")
    validation_share: float = Field(0.2, ge=0, lt=1, description="share that it validates on; it tests on the rest")


class DcaeSettings(AutoencoderSettings):
    """As `AutoencoderSettings`, with more latent channels."""

    latent_channels: int = Field(32, ge=1, le=512, description="channels of the latent")


def _halve(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride=2, padding=1)


def _double(channels: int, out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1)


def _ae_encoder(width: int, latent_channels: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 4 * width, 16, stride=16), nn.PReLU()),
        *(nn.Conv2d(4 * width, 2 * width, 1), nn.PReLU()),
        nn.Conv2d(2 * width, latent_channels, 1),
    )


def _ae_decoder(width: int, latent_channels: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(latent_channels, 2 * width, 1), nn.PReLU()),
        *(nn.Conv2d(2 * width, 4 * width, 1), nn.PReLU()),
        *(nn.Conv2d(4 * width, 256, 1), nn.PixelShuffle(16)),
    )


def _cnn_encoder(width: int, latent_channels: int) -> nn.Sequential:
    return nn.Sequential(
        *(_halve(1, width), nn.PReLU()), *(_halve(width, 2 * width), nn.PReLU()), _halve(2 * width, latent_channels)
    )


def _cnn_decoder(width: int, latent_channels: int) -> nn.Sequential:
    return nn.Sequential(
        *(_double(latent_channels, 2 * width), nn.PReLU()), *(_double(2 * width, width), nn.PReLU()), _double(width, 1)
    )


def _dcae_encoder(width: int, latent_channels: int) -> nn.Sequential:
    return nn.Sequential(
        *(_halve(1, width), nn.PReLU()),
        *(_halve(width, width), nn.PReLU(), residual_block(width)),
        *(_halve(width, 2 * width), nn.PReLU(), residual_block(2 * width)),
        *(_halve(2 * width, 2 * width), nn.PReLU(), residual_block(2 * width)),
        nn.Conv2d(2 * width, latent_channels, 3, padding=1),
    )


def _dcae_decoder(width: int, latent_channels: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(latent_channels, 2 * width, 3, padding=1), nn.PReLU(), residual_block(2 * width)),
        *(_double(2 * width, 2 * width), nn.PReLU(), residual_block(2 * width)),
        *(_double(2 * width, width), nn.PReLU(), residual_block(width)),
        *(_double(width, width), nn.PReLU()),
        _double(width, 1),
    )


@register("ae")
class AeCodec(LatentCodec):
    """The codec ``ae``, dense on patches; see the module for its layers."""

    settings_type: ClassVar[type[BaseModel]] = AutoencoderSettings
    architecture: ClassVar[Architecture] = Architecture(16, _ae_encoder, _ae_decoder)


@register("cnn")
class CnnCodec(LatentCodec):
    """The codec ``cnn``, convolutional; see the module for its layers."""

    settings_type: ClassVar[type[BaseModel]] = AutoencoderSettings
    architecture: ClassVar[Architecture] = Architecture(8, _cnn_encoder, _cnn_decoder)


@register("dcae")
class DcaeCodec(LatentCodec):
    """The codec ``dcae``, deep convolutional; see the module for its layers."""

    settings_type: ClassVar[type[BaseModel]] = DcaeSettings
    architecture: ClassVar[Architecture] = Architecture(16, _dcae_encoder, _dcae_decoder)
