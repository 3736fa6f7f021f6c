"""The convolutional autoencoder of Hejazi et al. for industrial tomography (D-CNN), slice by slice.

The networks of [1]_, for slices of 512 x 512 pixels normalised to [0, 1]; all convolutions are 3 x 3 with a bias and
padding, each but the last has a ReLU:

=======  =====================================================================  ===========  ==========
latents  encoder; | halves by a maximum; decoder; ^ doubles by repetition        latents      parameters
=======  =====================================================================  ===========  ==========
depth 8  1-32 | 16 | 8;             8 ^ 16 ^ 32 - 1, sigmoid                    128, 128, 8      12,785
depth 4  1-32 | 16 | 8 | 4;         4 ^ 8 ^ 16 ^ 32 - 1, sigmoid                64, 64, 4        12,937
depth 2  1-32 | 16 | 8 | 4 | 2;     2 ^ 4 ^ 8 ^ 16 ^ 32 - 1, sigmoid            32, 32, 2        12,977
=======  =====================================================================  ===========  ==========

The loss is the binary cross-entropy, minimised by Adam in 100 epochs with batches of 128, as in [1]_; the step size,
the start of the weights and what counts as an epoch, a number of random crops, are our reading. There the latents are
stored as floating-point numbers; here they are integers. Each chunk has a step per channel, a power of two: of those in
a fixed ratio to the channels' standard deviations, the coarsest with which rounding raises the squared error of the
chunk's middle slice by no more than `rounding_loss`. The latents are coded by `quietbeam.compress.latents`, and the
decoder is evaluated in whole numbers by `IntegerNetwork`.

References
----------
.. [1] Hejazi et al., the D-CNN for the compression of industrial X-ray computed tomography.
"""

from __future__ import annotations

import math
import struct
from typing import ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from quietbeam.reconstruction.errors import ArchiveError

from .bitstream import ByteReader, varint
from .codec import CodecSettings, SliceSource, register
from .codec_parts import CodecParts, fill, parts_of_network
from .decoder_size import num_parameters
from .fixed_point import FRACTION_BITS
from .integer_network import IntegerNetwork
from .integer_tensors import integer_tensors, tensors_from_bytes, tensors_to_bytes
from .latents import LARGEST_LATENT, decode_latents, encode_latents
from .slices import decode_slices, enlarged, sample_slices
from .training import fit_codec

__all__ = ["DcnnCodec", "DcnnSettings", "dcnn_decoder", "dcnn_encoder"]

_WIDTHS = {8: (32, 16, 8), 4: (32, 16, 8, 4), 2: (32, 16, 8, 4, 2)}
_EXPONENTS = range(-FRACTION_BITS, 12)
_FINEST = 10

Volume = NDArray[np.float32]


class DcnnSettings(CodecSettings):
    """How the networks are built and trained.

    Depths, epochs and batches are the source's; the step size is our reading, and rounding and weights in whole numbers
    are our own.
    """

    epochs: int | None = Field(100, ge=1, description="epochs to train; not given: the time decides")
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False, description="step size of Adam")
    batch_size: int = Field(128, ge=1, description="crops in one step")
    latent_depth: Literal[8, 4, 2] = Field(8, description="channels of the latent: 1/4, 1/8, 1/16 of each side")
    rounding_loss: float = Field(
        0.05, gt=0, allow_inf_nan=False, description="share by which rounding the latents may raise the squared error"
    )
    weight_bits: int = Field(12, ge=4, le=16, description="bits of a weight of the stored decoder")


class _Numbers(BaseModel):
    """What a codec holds beside its networks and settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    num_voxels: int = Field(ge=1)


def dcnn_encoder(latent_depth: int) -> nn.Sequential:
    """Build the layers from slices (slice, 1, y, x) to latents (slice, latent_depth, y / stride, x / stride)."""
    layers: list[nn.Module] = []
    channels = 1
    for width in _WIDTHS[latent_depth]:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(*layers[:-1])


def dcnn_decoder(latent_depth: int) -> nn.Sequential:
    """Build the layers from latents to slices (slice, 1, y, x) in [0, 1]; the last is the sigmoid."""
    layers: list[nn.Module] = []
    channels = latent_depth
    for width in reversed(_WIDTHS[latent_depth]):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)]
        channels = width
    return nn.Sequential(*layers[:-1], nn.Conv2d(channels, 1, 3, padding=1), nn.Sigmoid())


@register("dcnn")
class DcnnCodec:
    """The codec ``dcnn``; see the module for its layers.

    Parameters
    ----------
    encoder : nn.Sequential or None
        None for a codec that only decodes.
    decoder : nn.Sequential
        On the ``meta`` device where `tensors` is given.
    value_range : tuple of float
        What becomes 0 and 1, in the volume's units; values beyond are cut.
    settings : DcnnSettings
        With which the networks were built.
    num_voxels : int
        Size of the volume that the decoder's bytes are shared by.
    tensors : dict of str to int32 Tensor, optional
        The decoder in whole numbers; by default it is made from `decoder` whenever it is needed.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[BaseModel]] = DcnnSettings

    def __init__(
        self,
        encoder: nn.Sequential | None,
        decoder: nn.Sequential,
        value_range: tuple[float, float],
        settings: DcnnSettings,
        *,
        num_voxels: int = 1,
        tensors: dict[str, Tensor] | None = None,
    ) -> None:
        self._decoder, self._settings, self._tensors = decoder, settings, tensors
        self._low, self._high = value_range
        self._num_voxels, self._can_encode = num_voxels, encoder is not None
        self.network = nn.ModuleDict({"encoder": encoder or nn.Identity(), "decoder": decoder})

    @classmethod
    def fit(cls, volume: SliceSource, settings: DcnnSettings | None = None, *, seed: int = 0) -> Self:
        """Train a codec on a volume; see `quietbeam.compress.training.fit_codec`."""
        return fit_codec(cls, volume, settings or DcnnSettings(), seed=seed)

    @classmethod
    def for_volume(cls, source: SliceSource, settings: DcnnSettings, seed: int) -> Self:
        """Build an untrained codec; what becomes 0 and 1 comes from at most 16 slices, evenly spaced."""
        value_range = _value_range(source)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder, decoder = dcnn_encoder(settings.latent_depth), dcnn_decoder(settings.latent_depth)
            for parameter in (*encoder.parameters(), *decoder.parameters()):
                _start(parameter)
        return cls(encoder, decoder, value_range, settings, num_voxels=math.prod(source.shape))

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        """Build a codec that only decodes from what `to_bytes` gave; `ArchiveError` if it is damaged."""
        reader = ByteReader(state, "the decoder of codec dcnn")
        depth = reader.varint()
        low, high = struct.unpack("<dd", reader.take(16))
        if depth not in _WIDTHS or not (math.isfinite(low) and math.isfinite(high)):
            raise ArchiveError(
                f"the decoder of codec dcnn has latents of depth {depth} and values from {low:g} to {high:g}, "
                f"expected a depth of {', '.join(map(str, _WIDTHS))}: it is damaged, restore it from a copy"
            )
        with torch.device("meta"):
            decoder = dcnn_decoder(depth)
        tensors = tensors_from_bytes(decoder, reader.rest())
        IntegerNetwork(decoder, tensors)
        settings = DcnnSettings.model_validate({"latent_depth": depth})
        return cls(None, decoder, (low, high), settings, tensors=tensors)

    def to_bytes(self) -> bytes:
        """Give the latents' depth (varint), the values of 0 and 1 (float64), and the integers of the decoder."""
        head = varint(self._settings.latent_depth) + struct.pack("<dd", self._low, self._high)
        return head + tensors_to_bytes(self._integers())

    @classmethod
    def from_parts(cls, parts: CodecParts) -> Self:
        """Build the codec that gave the parts; `ValueError` if they are none of this codec."""
        settings, numbers = DcnnSettings.model_validate(parts.settings), _Numbers.model_validate(parts.numbers)
        if not numbers.low < numbers.high:
            raise ValueError(f"the values of 0 and 1 must ascend, got {numbers.low:g} and {numbers.high:g}")
        with torch.device("meta"):
            encoder, decoder = dcnn_encoder(settings.latent_depth), dcnn_decoder(settings.latent_depth)
        built = cls(encoder, decoder, (numbers.low, numbers.high), settings, num_voxels=numbers.num_voxels)
        fill(built.network, parts.tensors)
        return built

    def to_parts(self) -> CodecParts:
        """Give all that encoding and decoding need; `ValueError` if this codec only decodes."""
        if not self._can_encode:
            raise ValueError("this codec was read from an archive and only decodes: it cannot be packed")
        numbers = _Numbers(low=self._low, high=self._high, num_voxels=self._num_voxels)
        return CodecParts(self._settings, numbers.model_dump(), parts_of_network(self.network))

    @property
    def num_parameters(self) -> int:
        """Numbers that the decoder needs."""
        return num_parameters(self._decoder)

    @property
    def bytes_per_voxel(self) -> float:
        """Size of the stored decoder divided by the voxels of the volume."""
        return len(self.to_bytes()) / self._num_voxels

    def loss(self, crops: Tensor) -> Tensor:
        """Give the mean binary cross-entropy, which is positive also for perfect networks."""
        crops = self._normalised(crops)
        logits = self._decoder[:-1](self.network["encoder"](crops))
        return F.binary_cross_entropy_with_logits(logits, crops)

    @torch.inference_mode()
    def encode(self, chunk: Volume) -> bytes:
        """Give the latent bitstream of a chunk of any size; `ValueError` if this codec only decodes.

        For each channel 12 plus the exponent of its step (one byte), then the latents.
        """
        if not self._can_encode:
            raise ValueError("this codec was read from an archive and only decodes; DcnnCodec.fit gives one to encode")
        latents = torch.cat([self.network["encoder"](self._prepared(plane)).cpu() for plane in chunk])
        exponents = self._choose_steps(latents, chunk)
        return bytes((exponents - _EXPONENTS[0]).tolist()) + encode_latents(_rounded(latents, exponents).numpy())

    @torch.inference_mode()
    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> Volume:
        """Give the approximation that a latent bitstream stands for; `ArchiveError` where damage shows."""
        num_slices, num_rows, num_columns = shape
        reader = ByteReader(bitstream, "a bitstream of codec dcnn")
        exponents = np.frombuffer(reader.take(self._settings.latent_depth), np.uint8).astype(int) + _EXPONENTS[0]
        if exponents.max() not in _EXPONENTS:
            raise ArchiveError(f"a step of codec dcnn is 2^{exponents.max()}, expected less: the bitstream is damaged")
        grid = (num_slices, len(exponents), -(-num_rows // self.stride), -(-num_columns // self.stride))
        fixed = 2.0 ** (exponents + FRACTION_BITS)[:, None, None] * decode_latents(reader.rest(), grid)
        network = IntegerNetwork(self._decoder, self._integers())
        return decode_slices(network, torch.from_numpy(fixed[:, None]), shape, self._high - self._low, self._low)

    @property
    def stride(self) -> int:
        """Pixels along a side of the tile that one latent position stands for."""
        return int(2 ** (len(_WIDTHS[self._settings.latent_depth]) - 1))

    def _normalised(self, values: Tensor) -> Tensor:
        return ((values - self._low) / (self._high - self._low)).clamp(0, 1)

    def _prepared(self, plane: Volume) -> Tensor:
        """Normalise a slice and enlarge it to multiples of the stride by repeating its edge, shape (1, 1, y, x)."""
        padded = torch.from_numpy(enlarged(plane, self.stride))[None, None]
        return self._normalised(padded.to(next(self.network.parameters()).device))

    def _choose_steps(self, latents: Tensor, chunk: Volume) -> Tensor:
        """Give the exponent of each channel's step, shape (channel,)."""
        std = latents.std((0, 2, 3), correction=0)
        coarsest = torch.floor(torch.log2(torch.where(std > 0, std, 1.0))).to(torch.int64)
        middle = len(chunk) // 2
        original, exact = self._prepared(chunk[middle]), latents[middle : middle + 1]
        least = self._error(exact, original)
        for finer in range(_FINEST):
            exponents = (coarsest - finer).clamp(_EXPONENTS[0], _EXPONENTS[-1])
            rounded = _rounded(exact, exponents) * 2.0 ** exponents[:, None, None]
            if self._error(rounded, original) <= (1 + self._settings.rounding_loss) * least:
                break
        return exponents

    def _error(self, latents: Tensor, original: Tensor) -> float:
        return float(F.mse_loss(self._decoder(latents.to(original)), original))

    def _integers(self) -> dict[str, Tensor]:
        if self._tensors is not None:
            return self._tensors
        return integer_tensors(self._decoder, weight_bits=self._settings.weight_bits)


def _start(parameter: Tensor) -> None:
    """Fill weights by Glorot's rule, biases with 0: with torch's own start latents of depth 2 are often 0 for ever."""
    if parameter.ndim > 1:
        nn.init.xavier_uniform_(parameter)
    else:
        nn.init.zeros_(parameter)


def _rounded(latents: Tensor, exponents: Tensor) -> Tensor:
    scaled = torch.round(latents * 2.0 ** -exponents[:, None, None])
    return scaled.clamp(-LARGEST_LATENT, LARGEST_LATENT).to(torch.int32)


def _value_range(source: SliceSource) -> tuple[float, float]:
    """Give the smallest and the largest value of the slices looked at, apart by more than nothing."""
    planes = sample_slices(source)
    low, high = float(planes.min()), float(planes.max())
    return low, high if high > low else low + max(1.0, abs(low))
