"""The compressive residual autoencoder (CRAE), slice by slice.

Tables IV and V of Anelli et al. [1]_, after Theis et al. [2]_, with the paper's 64 channels and 44 latent channels:

==========  =====================================  ==============  ==========
part        layer                                  output          parameters
==========  =====================================  ==============  ==========
encoder     5 x 5, stride 4; PReLU                 64, y/4, x/4         1,665
encoder     5 x 5, stride 4                        64, y/16, x/16     102,464
encoder     residual block: 3 x 3, PReLU, 3 x 3    64, y/16, x/16      73,857
encoder     3 x 3, stride 2                        44, y/32, x/32      25,388
rounding    step of each latent channel            44, y/32, x/32          44
decoder     3 x 3 to 256, pixel shuffle 2          64, y/16, x/16     101,632
decoder     residual block: 3 x 3, PReLU, 3 x 3    64, y/16, x/16      73,857
decoder     3 x 3 to 1024, pixel shuffle 4; PReLU  64, y/4, x/4       590,849
decoder     3 x 3 to 16, pixel shuffle 4           1, y, x              9,232
==========  =====================================  ==============  ==========

That is 203,374 in the encoder, which is not stored, and 775,614 in the decoder with the steps. 44 latents of 4 bytes
for 32 x 32 pixels of one byte would be 17.2 %; here the latents are integers, coded with one table per channel.

Rounding passes gradients through unchanged, as in [2]_: no random numbers are needed, and what is trained is what is
used. The loss is the mean squared error, in units of the volume's variance, plus `rate_weight` times the bits per pixel
of the latents: see `quietbeam.compress.latent_rate`.

References
----------
.. [1] Anelli et al., the compressive residual autoencoder of tables IV and V.
.. [2] Theis, Shi, Cunningham, Huszár, Lossy image compression with compressive autoencoders, ICLR 2017,
   arXiv:1703.00395.
"""

from __future__ import annotations

import math
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from quietbeam.reconstruction.errors import ArchiveError

from .codec import CodecSettings, SliceSource, register
from .codec_parts import CodecParts, Normalisation, fill, parts_of_network
from .decoder_size import choose_width, num_parameters
from .entropy import IntegerDecoder, IntegerEncoder
from .latent_rate import bits_per_latent, rounded_with_gradients
from .slices import enlarged, mean_and_std, sample_slices
from .training import fit_codec

__all__ = ["CraeCodec", "CraeDecoder", "CraeEncoder", "CraeSettings"]

_TILE = 32
_MOST_CHANNELS = 512
_LARGEST_LATENT = 2.0**20


class CraeSettings(CodecSettings):
    """How the networks are built and trained.

    `width` is that of the hidden layers; None takes the largest of 64 (the paper's), 32, 16 and 8 with which the
    decoder takes at most 1/400 of the bytes of the float32 volume.
    """

    width: int | None = Field(
        None, ge=1, le=512, description="channels of the hidden layers; not given: by volume size"
    )
    latent_channels: int = Field(44, ge=1, le=512, description="channels of the latent")
    rate_weight: float = Field(
        0.01,
        ge=0,
        allow_inf_nan=False,
        description="squared error, in units of the volume's variance, that one bit per pixel must save",
    )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a PReLU between, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.PReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Keep the shape (slice, width, y, x)."""
        changed: Tensor = self.layers(features)
        return features + changed


class CraeEncoder(nn.Sequential):
    """From slices (slice, 1, y, x) to latents (slice, latent_channels, y/32, x/32)."""

    def __init__(self, width: int, latent_channels: int) -> None:
        super().__init__(
            nn.Conv2d(1, width, 5, stride=4, padding=2),
            nn.PReLU(),
            nn.Conv2d(width, width, 5, stride=4, padding=2),
            ResidualBlock(width),
            nn.Conv2d(width, latent_channels, 3, stride=2, padding=1),
        )


class CraeDecoder(nn.Module):
    """From rounded latents (slice, latent_channels, y/32, x/32) to slices (slice, 1, y, x)."""

    def __init__(self, width: int, latent_channels: int) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.full((latent_channels, 1, 1), 0.25))
        self.layers = nn.Sequential(
            *(nn.Conv2d(latent_channels, 4 * width, 3, padding=1), nn.PixelShuffle(2)),
            ResidualBlock(width),
            *(nn.Conv2d(width, 16 * width, 3, padding=1), nn.PixelShuffle(4), nn.PReLU()),
            *(nn.Conv2d(width, 16, 3, padding=1), nn.PixelShuffle(4)),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Scale the integers by their step, then enlarge 2, 4 and 4 times."""
        slices: Tensor = self.layers(latents * self.step)
        return slices


@register("crae")
class CraeCodec:
    """The codec ``crae``; see the module for its layers.

    Parameters
    ----------
    encoder : CraeEncoder or None
        None for a codec that only decodes.
    decoder : CraeDecoder
        Its weights are rounded to float16 whenever they are used to decode.
    mean, std : float
        Normalisation, in the volume's units.
    num_voxels : int
        Size of the volume that the decoder's bytes are shared by.
    rate_weight : float
        See `CraeSettings`.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[BaseModel]] = CraeSettings

    def __init__(
        self,
        encoder: CraeEncoder | None,
        decoder: CraeDecoder,
        mean: float,
        std: float,
        *,
        num_voxels: int = 1,
        rate_weight: float = 0.0,
    ) -> None:
        self._decoder, self._mean, self._std = decoder, mean, std
        self._num_voxels, self._rate_weight = num_voxels, rate_weight
        self.network = nn.ModuleDict({"encoder": encoder or nn.Identity(), "decoder": decoder})
        self._can_encode = encoder is not None

    @classmethod
    def fit(cls, volume: SliceSource, settings: CraeSettings | None = None, *, seed: int = 0) -> Self:
        """Train a codec on a volume; see `quietbeam.compress.training.fit_codec`."""
        return fit_codec(cls, volume, settings or CraeSettings(), seed=seed)

    @classmethod
    def for_volume(cls, source: SliceSource, settings: CraeSettings, seed: int) -> Self:
        """Build an untrained codec; the normalisation comes from at most 16 slices, evenly spaced."""
        mean, std = mean_and_std(sample_slices(source), np.float32)
        num_voxels = math.prod(source.shape)
        width = settings.width or choose_width(lambda width: CraeDecoder(width, settings.latent_channels), num_voxels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = CraeEncoder(width, settings.latent_channels)
            decoder = CraeDecoder(width, settings.latent_channels)
        return cls(encoder, decoder, mean, std, num_voxels=num_voxels, rate_weight=settings.rate_weight)

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        """Build a codec that only decodes from what `to_bytes` gave; `ArchiveError` if it is damaged."""
        try:
            tensors = {name: tensor.float() for name, tensor in load(state).items()}
            mean, std = tensors.pop("normalisation").tolist()
            four_widths, latent_channels, _, _ = tensors["layers.0.weight"].shape
            if four_widths > 4 * _MOST_CHANNELS or latent_channels > _MOST_CHANNELS:
                raise ValueError(f"more than {_MOST_CHANNELS} channels")
            decoder = CraeDecoder(four_widths // 4, latent_channels)
            decoder.load_state_dict(tensors)
        except (SafetensorError, KeyError, ValueError, RuntimeError, IndexError) as error:
            raise ArchiveError(f"the decoder of codec crae is damaged ({error}): restore it from a copy") from error
        return cls(None, decoder, mean, std)

    def to_bytes(self) -> bytes:
        """Give the decoder as safetensors: float16 weights, float32 ``normalisation`` (mean, standard deviation)."""
        weights = {name: tensor.half().cpu().contiguous() for name, tensor in self._decoder.state_dict().items()}
        return save({**weights, "normalisation": torch.tensor([self._mean, self._std])})

    @classmethod
    def from_parts(cls, parts: CodecParts) -> Self:
        """Build the codec that gave the parts; `ValueError` if they are none of this codec."""
        settings, numbers = CraeSettings.model_validate(parts.settings), Normalisation.model_validate(parts.numbers)
        if (width := settings.width) is None:
            raise ValueError("the settings name no width")
        with torch.device("meta"):
            encoder = CraeEncoder(width, settings.latent_channels)
            decoder = CraeDecoder(width, settings.latent_channels)
        num_voxels, rate_weight = numbers.num_voxels, settings.rate_weight
        built = cls(encoder, decoder, numbers.mean, numbers.std, num_voxels=num_voxels, rate_weight=rate_weight)
        fill(built.network, parts.tensors)
        return built

    def to_parts(self) -> CodecParts:
        """Give all that encoding and decoding need; `ValueError` if this codec only decodes."""
        if not self._can_encode:
            raise ValueError("this codec was read from an archive and only decodes: it cannot be packed")
        sizes = {"width": self.width, "latent_channels": len(self._decoder.step)}
        settings = CraeSettings.model_validate({**sizes, "rate_weight": self._rate_weight})
        numbers = Normalisation(mean=self._mean, std=self._std, num_voxels=self._num_voxels)
        return CodecParts(settings, numbers.model_dump(), parts_of_network(self.network))

    @property
    def width(self) -> int:
        """Channels of the hidden layers."""
        return int(self._decoder.state_dict()["layers.0.weight"].shape[0]) // 4

    @property
    def num_parameters(self) -> int:
        """Numbers that the decoder needs, the steps of the latents among them."""
        return num_parameters(self._decoder)

    @property
    def bytes_per_voxel(self) -> float:
        """Size of the stored decoder divided by the voxels of the volume."""
        return len(self.to_bytes()) / self._num_voxels

    def loss(self, crops: Tensor) -> Tensor:
        """Give the mean squared error plus the weighted bits per pixel, both of normalised values."""
        crops = (crops - self._mean) / self._std
        latents: Tensor = self.network["encoder"](crops)
        error = F.mse_loss(self.network["decoder"](rounded_with_gradients(latents)), crops)
        return error + self._rate_weight * bits_per_latent(latents) * latents[0].numel() / crops[0].numel()

    @torch.inference_mode()
    def encode(self, chunk: NDArray[np.float32]) -> bytes:
        """Give the latent bitstream of a chunk of any size; `ValueError` if this codec only decodes."""
        if not self._can_encode:
            raise ValueError(
                "this codec was read from an archive and only decodes; train one with CodecTrainer to encode"
            )
        latents = np.concatenate([self._latents(plane) for plane in chunk])
        encoder = IntegerEncoder(latents.shape[1])
        encoder.add(latents.ravel(), _channels(latents.shape))
        return encoder.to_bytes()

    @torch.inference_mode()
    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Give the approximation that a latent bitstream stands for, by the weights rounded to float16.

        It is computed on the CPU wherever the network is, because the faster arithmetic of GPUs (TF32) would differ by
        more than the residual's margin.
        """
        num_slices, num_rows, num_columns = shape
        grid = (num_slices, len(self._decoder.step), -(-num_rows // _TILE), -(-num_columns // _TILE))
        latents = IntegerDecoder(bitstream, grid[1]).take(_channels(grid)).reshape(grid)
        rounded = {name: tensor.half().float().cpu() for name, tensor in self._decoder.state_dict().items()}
        decoded = np.empty(shape, np.float32)
        # One slice at a time: the approximation of a slice must not depend on how many are decoded together.
        for plane, latent in zip(decoded, torch.from_numpy(latents[:, None]).float(), strict=True):
            values = torch.func.functional_call(self._decoder, rounded, (latent,))[0, 0, :num_rows, :num_columns]
            plane[:] = (values * self._std + self._mean).numpy()
        return decoded

    def _latents(self, plane: NDArray[np.float32]) -> NDArray[np.int32]:
        """Encode one slice, enlarged to multiples of 32 by repeating its edge."""
        normalised = (torch.from_numpy(enlarged(plane, _TILE))[None, None] - self._mean) / self._std
        latents: Tensor = self.network["encoder"](normalised.to(self._decoder.step.device))
        return torch.round(latents).clamp(-_LARGEST_LATENT, _LARGEST_LATENT).to(torch.int32).cpu().numpy()


def _channels(grid: tuple[int, ...]) -> NDArray[np.uint16]:
    """Give the channel of each latent, in the order in which they are coded."""
    return np.broadcast_to(np.arange(grid[1], dtype=np.uint16)[:, None, None], grid).ravel()
