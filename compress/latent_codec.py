"""Autoencoders whose latents are integers and whose decoders are evaluated in whole numbers.

What the codecs ``ae``, ``cnn``, ``dcae`` and ``crae2`` share; they differ in their layers. A slice is normalised,
enlarged by repeating its edge, and encoded to latents, which are rounded; training passes gradients through the
rounding unchanged, as in [1]_. The latents are coded by `quietbeam.compress.latents`. The trained decoder becomes an
`IntegerNetwork`: what it decodes is the same on every machine, with any number of threads.

The loss is the mean squared error, in units of the volume's variance, plus `rate_weight` times the bits per pixel of
the latents, estimated as ``log2(1 + 2 e m)`` per latent with m the mean absolute value in its channel: for m above one
about the entropy of a Laplace distribution, falling to zero with m.

With `importance` bits are spent where the structure is: see `quietbeam.compress.importance`.

References
----------
.. [1] Theis, Shi, Cunningham, Huszár, Lossy image compression with compressive autoencoders, ICLR 2017,
   arXiv:1703.00395.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor, nn

from quietbeam.reconstruction.errors import ArchiveError

from .bitstream import ByteReader, varint
from .codec import CodecSettings, SliceSource
from .codec_parts import CodecParts, Normalisation, fill, parts_of_network
from .decoder_size import choose_width, num_parameters
from .fixed_point import to_fixed
from .importance import STEPS, WEIGHTS, Statistics, by_level, levels_of
from .integer_network import IntegerNetwork, Residual
from .integer_tensors import integer_tensors, tensors_from_bytes, tensors_to_bytes
from .latent_rate import bits_per_latent, rounded_with_gradients
from .latents import LARGEST_LATENT, decode_latents, encode_latents
from .slices import decode_slices, enlarged
from .training import fit_codec

__all__ = ["Architecture", "LatentCodec", "LatentCodecSettings", "residual_block"]

_GAIN = 4.0
_MOST_WIDTH = 512
_MOST_SCALE = 1e35
_MOST_PARAMETERS_PER_BYTE = 64

Volume = NDArray[np.float32]
Integers = NDArray[np.int32]


class LatentCodecSettings(CodecSettings):
    """How the networks are built and trained."""

    width: int | None = Field(
        None,
        ge=1,
        le=512,
        description="channels of the hidden layers; not given: the widest of 64, 32, 16 and 8 whose decoder takes "
        "at most 1/400 of the bytes of the float32 volume",
    )
    latent_channels: int = Field(32, ge=1, le=512, description="channels of the latent")
    rate_weight: float = Field(
        0.01,
        ge=0,
        allow_inf_nan=False,
        description="squared error, in units of the volume's variance, that one bit per pixel must save",
    )
    weight_bits: int = Field(10, ge=4, le=16, description="bits of a weight of the stored decoder")
    importance: bool = Field(False, description="spend bits where the structure is: coarser latents in flat tiles")


def residual_block(width: int) -> Residual:
    """Build two 3 x 3 convolutions with a PReLU between, added to their input; the shape is kept."""
    return Residual(nn.Conv2d(width, width, 3, padding=1), nn.PReLU(), nn.Conv2d(width, width, 3, padding=1))


class Architecture(NamedTuple):
    """The layers of a codec.

    Attributes
    ----------
    stride : int
        Pixels along a side of the tile that one latent position stands for.
    encoder, decoder : callable
        From width and number of latent channels to the layers: slices (slice, 1, y, x) to latents
        (slice, latent_channels, y / stride, x / stride), and back.
    """

    stride: int
    encoder: Callable[[int, int], nn.Sequential]
    decoder: Callable[[int, int], nn.Sequential]


class LatentCodec:
    """What the codecs of this kind share: a codec is a class of its own with its `architecture`.

    Parameters
    ----------
    encoder : nn.Sequential or None
        None for a codec that only decodes.
    decoder : nn.Sequential
        On the ``meta`` device where `tensors` is given.
    statistics : Statistics
        Normalisation, size and threshold.
    settings : LatentCodecSettings
        Width and latent channels, with which `encoder` and `decoder` were built; what else the loss needs.
    tensors : dict of str to int32 Tensor, optional
        The decoder in whole numbers; by default it is made from `decoder` whenever it is needed.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[BaseModel]] = LatentCodecSettings
    architecture: ClassVar[Architecture]

    def __init__(
        self,
        encoder: nn.Sequential | None,
        decoder: nn.Sequential,
        statistics: Statistics,
        settings: LatentCodecSettings,
        *,
        tensors: dict[str, Tensor] | None = None,
    ) -> None:
        self._decoder, self._statistics, self._settings, self._tensors = decoder, statistics, settings, tensors
        self.network = nn.ModuleDict({"encoder": encoder or nn.Identity(), "decoder": decoder})
        self._can_encode = encoder is not None

    @classmethod
    def fit(cls, volume: SliceSource, settings: LatentCodecSettings | None = None, *, seed: int = 0) -> Self:
        """Train a codec on a volume; see `quietbeam.compress.training.fit_codec`."""
        return fit_codec(cls, volume, settings or cls.settings_type(), seed=seed)

    @classmethod
    def for_volume(
        cls, source: SliceSource, settings: LatentCodecSettings, seed: int, *, start: Self | None = None
    ) -> Self:
        """Build a codec to be trained; the normalisation comes from at most 16 slices, evenly spaced.

        Parameters
        ----------
        source : SliceSource
            The volume, finite.
        settings : LatentCodecSettings
            Width, latent channels, rate weight, importance.
        seed : int
            Start of the weights.
        start : LatentCodec, optional
            A trained codec of the same kind whose weights to start from; width and latent channels are then its own.

        Returns
        -------
        LatentCodec
            Equal for equal arguments.

        Raises
        ------
        ValueError
            If the volume is not finite, there are more latents than pixels, or `start` only decodes.
        """
        if settings.latent_channels > (most := cls._most_latent_channels()):
            raise ValueError(
                f"latent_channels of codec {cls.name} must be at most {most}, got {settings.latent_channels}"
            )
        statistics = Statistics.of(source, cls.architecture.stride)
        if start is not None:
            settings = settings.model_copy(update=start._shape_settings())
        build, channels = cls.architecture.decoder, settings.latent_channels
        width = settings.width or choose_width(lambda width: build(width, channels), statistics.num_voxels)
        settings = settings.model_copy(update={"width": width})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = cls._layers(width, channels)
        built = cls(layers["encoder"], layers["decoder"], statistics, settings)
        if start is not None:
            built.network.load_state_dict(start.network.state_dict())
        return built

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        """Build a codec that only decodes from what `to_bytes` gave; `ArchiveError` if it is damaged."""
        reader = ByteReader(state, f"the decoder of codec {cls.name}")
        width, latent_channels = reader.varint(), reader.varint()
        mean, std = struct.unpack("<dd", reader.take(16))
        if not (1 <= width <= _MOST_WIDTH and 1 <= latent_channels <= cls._most_latent_channels()):
            raise ArchiveError(
                f"the decoder of codec {cls.name} has a width of {width} and {latent_channels} latent channels: "
                "it is damaged, restore it from a copy"
            )
        if not (abs(mean) <= _MOST_SCALE and 0 < std <= _MOST_SCALE):
            raise ArchiveError(
                f"the decoder of codec {cls.name} has mean {mean} and standard deviation {std}: it is damaged"
            )
        with torch.device("meta"):
            decoder = cls.architecture.decoder(width, latent_channels)
        # Before memory is taken: weights that are all alike take no bytes, but no training leaves them so.
        if num_parameters(decoder) > _MOST_PARAMETERS_PER_BYTE * len(state):
            raise ArchiveError(f"the decoder of codec {cls.name} is cut short or damaged: restore it from a copy")
        tensors = tensors_from_bytes(decoder, reader.rest())
        IntegerNetwork(decoder, tensors)
        settings = LatentCodecSettings(width=width, latent_channels=latent_channels)
        return cls(None, decoder, Statistics(mean, std, 1, 0.0), settings, tensors=tensors)

    def to_bytes(self) -> bytes:
        """Give width, latent channels (varint), mean, standard deviation (float64), and the integers of the decoder."""
        head = varint(self.width) + varint(self._settings.latent_channels)
        normalisation = struct.pack("<dd", self._statistics.mean, self._statistics.std)
        return head + normalisation + tensors_to_bytes(self._integers())

    @classmethod
    def from_parts(cls, parts: CodecParts) -> Self:
        """Build the codec that gave the parts; `ValueError` if they are none of this codec."""
        settings = cast("LatentCodecSettings", cls.settings_type.model_validate(parts.settings))
        statistics = Statistics(**Normalisation.model_validate(parts.numbers).model_dump())
        width, channels = settings.width, settings.latent_channels
        if width is None or channels > cls._most_latent_channels():
            raise ValueError(f"there is no {cls.name} of width {width} with {channels} latent channels")
        with torch.device("meta"):
            layers = cls._layers(width, channels)
        built = cls(layers["encoder"], layers["decoder"], statistics, settings)
        fill(built.network, parts.tensors)
        return built

    def to_parts(self) -> CodecParts:
        """Give all that encoding and decoding need; `ValueError` if this codec only decodes."""
        if not self._can_encode:
            raise ValueError("this codec was read from an archive and only decodes: it cannot be packed")
        return CodecParts(self._settings, self._statistics._asdict(), parts_of_network(self.network))

    @property
    def width(self) -> int:
        """Channels of the hidden layers."""
        return int(self._settings.width or 0)

    @property
    def num_parameters(self) -> int:
        """Numbers that the decoder needs."""
        return num_parameters(self._decoder)

    @property
    def bytes_per_voxel(self) -> float:
        """Size of the stored decoder divided by the voxels of the volume."""
        return len(self.to_bytes()) / self._statistics.num_voxels

    def loss(self, crops: Tensor) -> Tensor:
        """Give the mean squared error plus the weighted bits per pixel, both of normalised values."""
        crops = (crops - self._statistics.mean) / self._statistics.std
        levels = self._levels(crops)
        steps = by_level(STEPS, levels)
        latents = _GAIN * self.network["encoder"](crops) / steps
        error = torch.square(self.network["decoder"](rounded_with_gradients(latents) * steps / _GAIN) - crops)
        if self._settings.importance:
            error = error * F.interpolate(by_level(WEIGHTS, levels), scale_factor=self.architecture.stride)
        bits = bits_per_latent(latents) * latents[0].numel() / crops[0].numel()
        loss: Tensor = error.mean() + self._settings.rate_weight * bits
        return loss

    @torch.inference_mode()
    def encode(self, chunk: Volume) -> bytes:
        """Give the latent bitstream of a chunk of any size: length of the levels, levels of importance, latents.

        `ValueError` if this codec only decodes.
        """
        if not self._can_encode:
            raise ValueError(
                f"this codec was read from an archive and only decodes; {type(self).__name__}.fit gives one"
            )
        latents, levels = (np.concatenate(parts) for parts in zip(*map(self._latents, chunk), strict=True))
        stored = encode_latents(levels) if self._settings.importance else b""
        return varint(len(stored)) + stored + encode_latents(latents)

    @torch.inference_mode()
    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> Volume:
        """Give the approximation that a latent bitstream stands for; `ArchiveError` where damage shows."""
        num_slices, num_rows, num_columns = shape
        stride = self.architecture.stride
        grid = (num_slices, -(-num_rows // stride), -(-num_columns // stride))
        integers = _read(bitstream, grid, self._settings.latent_channels)
        latents = (to_fixed(of_slice / _GAIN) for of_slice in torch.from_numpy(integers[:, None]))
        network, normalisation = IntegerNetwork(self._decoder, self._integers()), self._statistics
        return decode_slices(network, latents, shape, normalisation.std, normalisation.mean)

    @torch.inference_mode()
    def through_float32(self, chunk: Volume) -> tuple[Volume, int]:
        """Encode and decode without rounding anything, to compare.

        Parameters
        ----------
        chunk : float32, shape (slice, y, x)
            Finite; any size.

        Returns
        -------
        decoded : float32, shape (slice, y, x)
            In the volume's units; not the same on every machine.
        num_latents : int
            How many numbers the latents are.
        """
        mean, std = self._statistics.mean, self._statistics.std
        planes = torch.from_numpy(enlarged(chunk, self.architecture.stride))[:, None]
        latents = self.network["encoder"](((planes - mean) / std).to(next(self.network.parameters()).device))
        decoded = self.network["decoder"](latents)[:, 0, : chunk.shape[1], : chunk.shape[2]]
        return (decoded * std + mean).cpu().numpy(), latents.numel()

    @classmethod
    def _layers(cls, width: int, latent_channels: int) -> dict[str, nn.Sequential]:
        """Build encoder and decoder."""
        sizes = width, latent_channels
        return {"encoder": cls.architecture.encoder(*sizes), "decoder": cls.architecture.decoder(*sizes)}

    @classmethod
    def _most_latent_channels(cls) -> int:
        """No more latents than pixels."""
        return min(_MOST_WIDTH, cls.architecture.stride**2)

    def _shape_settings(self) -> dict[str, int]:
        if not self._can_encode:
            raise ValueError("a codec to start from must have its encoder: one read from an archive only decodes")
        return {"width": self.width, "latent_channels": self._settings.latent_channels}

    def _integers(self) -> dict[str, Tensor]:
        if self._tensors is not None:
            return self._tensors
        return integer_tensors(self._decoder, weight_bits=self._settings.weight_bits)

    def _levels(self, crops: Tensor) -> Tensor:
        """Give the level of each tile of normalised crops, shape (crop, 1, y, x); 1 everywhere without `importance`."""
        found = levels_of(crops, self.architecture.stride, self._statistics.threshold)
        return found if self._settings.importance else torch.full_like(found, len(STEPS) - 1)

    def _latents(self, plane: Volume) -> tuple[Integers, Integers]:
        """Give latents and levels of one slice, shape (1, channel, y, x)."""
        padded = torch.from_numpy(enlarged(plane, self.architecture.stride))[None, None]
        device = next(self.network.parameters()).device
        crops = ((padded - self._statistics.mean) / self._statistics.std).to(device)
        levels = self._levels(crops)
        latents = torch.round(_GAIN * self.network["encoder"](crops) / by_level(STEPS, levels))
        limited = latents.clamp(-LARGEST_LATENT, LARGEST_LATENT)
        return limited.to(torch.int32).cpu().numpy(), levels.to(torch.int32).cpu().numpy()


def _read(bitstream: bytes, grid: tuple[int, int, int], num_channels: int) -> NDArray[np.float64]:
    """Give latents times steps."""
    reader = ByteReader(bitstream, "a bitstream of latents")
    num_slices, num_rows, num_columns = grid
    stored = reader.take(reader.varint())
    levels = (
        decode_latents(stored, (num_slices, 1, num_rows, num_columns))
        if stored
        else np.full((1, 1, 1, 1), len(STEPS) - 1)
    )
    if levels.min() < 0 or levels.max() >= len(STEPS):
        raise ArchiveError(f"levels of importance must lie in [0, {len(STEPS)}): the bitstream is damaged")
    latents = decode_latents(reader.rest(), (num_slices, num_channels, num_rows, num_columns))
    return np.asarray(latents * np.array(STEPS, np.float64)[levels])
