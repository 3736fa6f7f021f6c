"""Implicit neural representation of patches: networks in place of voxels.

The system of Sheibanifard et al. [1]_. Each patch is made 2, 4 or 8 times smaller by cutting its spectrum; a small
network of sines (`quietbeam.compress.siren`) learns the small patch as a function of coordinates, and a second network
(`quietbeam.compress.super_resolution`) learns to enlarge it to the patch again. What is stored is the parameters of the
networks, `parameter_count` per patch. Both are trained with the mean absolute error and Adam, one step per epoch on all
of a patch.

Where our source leaves it open, this is our reading: the two are trained in sequence, the second one on what the
decoder will give for the first, so that it also learns to mend its error. Patches are scaled to [-1, 1] by their
extremes. The samples of a small patch lie at the centres of the cells that they stand for. The weights with the
smallest loss are kept. They are stored as integers with one power of two per layer, entropy-coded, and decoded in whole
numbers.

With ``shared_operator`` the second network is trained once, on up to eight small patches as they are, its last weights
are kept, and it belongs to the volume; each patch then costs the network of sines alone.

An axis that is longer than a patch is cut into parts whose sizes differ by one at most; each part is enlarged to a
multiple of the factor by repeating its edge.

References
----------
.. [1] Sheibanifard et al., implicit neural representation of volumes with Fourier downsampling and super-resolution,
   2025.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise, product
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from quietbeam.reconstruction.errors import ArchiveError

from .bitstream import ByteReader, varint
from .codec import SliceSource, register
from .codec_parts import CodecParts
from .integer_tensors import integer_tensors, tensors_from_bytes, tensors_to_bytes
from .siren import VALUE_BITS, Siren, Training, exact_siren, fit_siren, in_turns
from .super_resolution import SuperResolution, exact_super_resolution, fit_super_resolution

__all__ = ["InrCodec", "InrSettings", "downsample", "parameter_count"]

_NUM_SHARED_PATCHES = 8
_STORED_SETTINGS = ("downsampling", "channels", "width", "patch_size", "shared_operator")

Doubles = NDArray[np.float64]


class _Numbers(BaseModel):
    """What a codec holds beside its settings and its operator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    num_voxels: int = Field(ge=1)


class InrSettings(BaseModel):
    """What the networks are built from, and how they are trained; the numbers of the source where it gives one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    downsampling: Literal[2, 4, 8] = Field(2, description="how many times smaller the small patch is along each axis")
    channels: Literal[4, 8, 16] = Field(8, description="channels of the convolutions that enlarge")
    width: int = Field(110, ge=1, le=512, description="of the layers of sines; the source takes 30 to 230")
    patch_size: int = Field(64, ge=8, le=128, description="longest edge of a patch, voxels")
    epochs: int = Field(5000, ge=1, description="steps of training for each of the two networks")
    learning_rate: float = Field(1.5e-3, gt=0, allow_inf_nan=False, description="step size of Adam")
    shared_operator: bool = Field(False, description="one network that enlarges for all patches")
    sampled_voxels: int | None = Field(
        None, ge=1, description="voxels at which a step takes the loss of the network that enlarges; not given: all"
    )
    weight_bits: int = Field(12, ge=4, le=16, description="bits of the largest stored weight of a layer, with its sign")


def parameter_count(width: int, channels: int, downsampling: int) -> int:
    """Count the parameters of the networks of a patch.

    Parameters
    ----------
    width : int
        Of the layers of sines, h.
    channels : int
        Of the convolutions, C.
    downsampling : int
        The factor s.

    Returns
    -------
    int
        ``(2 h^2 + 7 h + 1) + (28 C + 5 (27 C^2 + C) + (27 C + 1) s^3) + 1173``.
    """
    siren = 2 * width**2 + 7 * width + 1
    features = 28 * channels + 5 * (27 * channels**2 + channels) + (27 * channels + 1) * downsampling**3
    return siren + features + 1173


def downsample(patch: NDArray[np.floating], factor: int) -> Doubles:
    """Make a patch smaller by keeping the low frequencies of its discrete Fourier transform.

    Parameters
    ----------
    patch : float, shape (z, y, x)
        Its edges are multiples of `factor`.
    factor : int
        How many times smaller each axis gets.

    Returns
    -------
    float64, shape (z / factor, y / factor, x / factor)
        The band-limited patch at the centres of blocks of ``factor^3`` voxels, in the units of the patch. The outermost
        frequency of an even number of samples has no partner: of it, the real part counts.

    Raises
    ------
    ValueError
        If an edge is no multiple of the factor.
    """
    if any(size % factor for size in patch.shape):
        raise ValueError(f"the edges of a patch must be multiples of {factor} to downsample it, got {patch.shape}")
    spectrum = np.fft.fftn(patch)
    for axis, size in enumerate(patch.shape):
        kept = np.rint(np.fft.fftfreq(size // factor, factor / size)).astype(int)
        shift = np.exp(1j * np.pi * kept * (factor - 1) / size) / factor
        spectrum = np.take(spectrum, kept, axis) * np.expand_dims(shift, [other for other in range(3) if other != axis])
    return np.fft.ifftn(spectrum).real


@register("inr")
class InrCodec:
    """The codec ``inr``; see the module for its networks.

    Parameters
    ----------
    settings : InrSettings
        What the networks are built from.
    operator : bytes or None
        The stored network that enlarges all patches; None if each patch has its own.
    seed : int or None
        Start of the weights of every patch; None for a codec that only decodes.
    num_voxels : int
        Size of the volume that the stored operator is shared by.
    device : str or torch.device
        Where to train; decoding takes the CPU, and gives the same bits wherever it was trained.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[BaseModel]] = InrSettings

    def __init__(
        self,
        settings: InrSettings,
        operator: bytes | None = None,
        *,
        seed: int | None = None,
        num_voxels: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        self._settings, self._operator, self._seed = settings, operator, seed
        self._num_voxels, self._device = num_voxels, device

    @classmethod
    def fit(
        cls,
        volume: SliceSource,
        settings: InrSettings | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Make a codec; only with ``shared_operator`` is anything trained before `encode`.

        Parameters
        ----------
        volume : SliceSource
            Shape (slice, y, x), finite.
        settings : InrSettings
            None for the source's numbers.
        seed : int
            Start of the weights; with one thread, equal arguments give equal bytes.
        device : str or torch.device
            Where to train, here and in `encode`.

        Returns
        -------
        InrCodec
            The operator is trained on up to eight patches, spread over the volume, one after the other.
        """
        settings = settings or InrSettings()
        codec = cls(settings, seed=seed, num_voxels=math.prod(volume.shape), device=device)
        if settings.shared_operator:
            scaled = [_scaled(patch) for patch in _spread_patches(volume, settings)]
            codec._operator = codec._fit_operator(
                [(downsample(patch, settings.downsampling), patch) for patch in scaled]
            )
        return codec

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        """Build a codec that only decodes from what `to_bytes` gave; `ArchiveError` if it is damaged."""
        reader = ByteReader(state, "the decoder of codec inr")
        numbers = {name: reader.varint() for name in _STORED_SETTINGS}
        try:
            settings = InrSettings.model_validate(numbers)
        except ValidationError as error:
            raise ArchiveError(f"the decoder of codec inr is damaged ({numbers}): restore it from a copy") from error
        operator = reader.rest()
        if bool(operator) != settings.shared_operator:
            raise ArchiveError("the decoder of codec inr lacks its operator, or has one too many: it is damaged")
        codec = cls(settings, operator or None)
        if operator:
            codec._enlarge(operator, torch.zeros(1, 1, 1, dtype=torch.float64))
        return codec

    def to_bytes(self) -> bytes:
        """Give the settings that decoding needs, as varints, and the shared operator, if there is one."""
        numbers = [varint(int(getattr(self._settings, name))) for name in _STORED_SETTINGS]
        return b"".join([*numbers, self._operator or b""])

    @classmethod
    def from_parts(cls, parts: CodecParts) -> Self:
        """Build the codec that gave the parts; `ValueError` if they are none of this codec."""
        settings, numbers = InrSettings.model_validate(parts.settings), _Numbers.model_validate(parts.numbers)
        state = cls(settings).to_bytes() + parts.tensors["operator"].numpy().tobytes()
        operator = cls.from_bytes(state)._operator
        return cls(settings, operator, seed=numbers.seed, num_voxels=numbers.num_voxels)

    def to_parts(self) -> CodecParts:
        """Give all that encoding and decoding need; `ValueError` if this codec only decodes."""
        if self._seed is None:
            raise ValueError("this codec was read from an archive and only decodes: it cannot be packed")
        operator = torch.from_numpy(np.frombuffer(self._operator or b"", np.uint8).copy())
        numbers = _Numbers(seed=self._seed, num_voxels=self._num_voxels)
        return CodecParts(self._settings, numbers.model_dump(), {"operator": operator})

    @property
    def num_parameters(self) -> int:
        """Numbers that each patch needs, the shared operator not counted."""
        width, channels, factor = self._settings.width, self._settings.channels, self._settings.downsampling
        own = 2 * width**2 + 7 * width + 1
        return own if self._settings.shared_operator else parameter_count(width, channels, factor)

    @property
    def bytes_per_voxel(self) -> float:
        """Size of what `to_bytes` gives divided by the voxels of the volume."""
        return len(self.to_bytes()) / self._num_voxels

    def encode(self, chunk: NDArray[np.float32]) -> bytes:
        """Train the networks of all patches of a chunk of any size.

        `ValueError` if the codec came from `from_bytes`, or training diverged. For each patch, in C order, its least
        and largest voxel, float32; unless they are equal, each of its networks with its length before it.
        """
        if self._seed is None:
            raise ValueError("a codec from stored bytes only decodes: fit one to encode")
        return b"".join(self._encode_patch(chunk[where]) for where in _patches(chunk.shape, self._settings))

    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Give what the networks of a bitstream stand for; `ArchiveError` where damage shows."""
        reader = ByteReader(bitstream, "a bitstream of codec inr")
        decoded = np.empty(shape, np.float32)
        for where in _patches(shape, self._settings):
            decoded[where] = self._decode_patch(reader, decoded[where].shape)
        if reader.rest():
            raise ArchiveError("a bitstream of codec inr is longer than its patches: it is damaged")
        return decoded

    def _encode_patch(self, patch: NDArray[np.float32]) -> bytes:
        extremes = np.array([patch.min(), patch.max()], "<f4")
        if extremes[0] == extremes[1]:
            return extremes.tobytes()
        scaled = _scaled(_padded(patch, self._settings.downsampling))
        small = downsample(scaled, self._settings.downsampling)
        networks = [self._fit_siren(small)]
        if self._operator is None:
            decoded = self._decode_siren(networks[0], small.shape).numpy() * 2.0**-VALUE_BITS
            networks.append(self._fit_operator([(decoded, scaled)]))
        return b"".join([extremes.tobytes(), *(varint(len(network)) + network for network in networks)])

    def _decode_patch(self, reader: ByteReader, shape: tuple[int, ...]) -> NDArray[np.float32]:
        least, largest = np.frombuffer(reader.take(8), "<f4").astype(np.float64)
        if not (np.isfinite(least) and np.isfinite(largest) and least <= largest):
            raise ArchiveError(f"a patch of codec inr has voxels from {least} to {largest}: it is damaged")
        if least == largest:
            return np.full(shape, least, np.float32)
        small_shape = tuple(-(-size // self._settings.downsampling) for size in shape)
        small = self._decode_siren(reader.take(reader.varint()), small_shape)
        operator = reader.take(reader.varint()) if self._operator is None else self._operator
        large = self._enlarge(operator, small).numpy()[tuple(map(slice, shape))]
        values = (largest + least) / 2 + (largest - least) / 2 * (large * 2.0**-VALUE_BITS)
        limited: NDArray[np.float32] = np.clip(values, least, largest).astype(np.float32)
        return limited

    def _fit_siren(self, small: Doubles) -> bytes:
        return self._stored(in_turns(fit_siren(small, self._settings.width, self._training)))

    def _fit_operator(self, pairs: list[tuple[Doubles, Doubles]]) -> bytes:
        tensors = [(self._tensor(small), self._tensor(large)) for small, large in pairs]
        sampled = self._settings.sampled_voxels
        return self._stored(fit_super_resolution(self._new_operator, tensors, self._training, sampled))

    def _tensor(self, values: Doubles) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self._device)

    @property
    def _training(self) -> Training:
        return Training(self._settings.epochs, self._settings.learning_rate, self._seed or 0, self._device)

    def _stored(self, network: nn.Module) -> bytes:
        bits = self._settings.weight_bits
        return tensors_to_bytes(integer_tensors(network, fraction_bits=VALUE_BITS, weight_bits=bits))

    def _decode_siren(self, network: bytes, shape: tuple[int, ...]) -> Tensor:
        with torch.device("meta"):
            layers = in_turns(Siren(self._settings.width))
        return exact_siren(layers, tensors_from_bytes(layers, network), shape)

    def _enlarge(self, network: bytes, small: Tensor) -> Tensor:
        with torch.device("meta"):
            layers = self._new_operator()
        return exact_super_resolution(layers, tensors_from_bytes(layers, network), small)

    def _new_operator(self) -> SuperResolution:
        return SuperResolution(self._settings.channels, self._settings.downsampling)


def _scaled(patch: NDArray[np.float32]) -> Doubles:
    """Scale a patch that is not constant to [-1, 1]."""
    wide = patch.astype(np.float64)
    least, largest = float(wide.min()), float(wide.max())
    return (2 * wide - (largest + least)) / (largest - least)


def _padded(patch: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    return np.pad(patch, [(0, -size % factor) for size in patch.shape], mode="edge")


def _patches(shape: tuple[int, ...], settings: InrSettings) -> Iterator[tuple[slice, ...]]:
    """Cut a volume into patches, in C order."""
    axes = []
    for size in shape:
        num_parts = -(-size // settings.patch_size)
        ends = [size * part // num_parts for part in range(num_parts + 1)]
        axes.append([slice(*pair) for pair in pairwise(ends)])
    return product(*axes)


def _spread_patches(volume: SliceSource, settings: InrSettings) -> list[NDArray[np.float32]]:
    """Read up to eight patches, evenly spaced among those that are not constant; a constant volume gives a ramp."""
    patches = list(_patches(volume.shape, settings))
    found = []
    for z, y, x in patches[:: -(-len(patches) // _NUM_SHARED_PATCHES)]:
        patch = _padded(np.asarray(volume[z], np.float32)[:, y, x], settings.downsampling)
        if patch.min() < patch.max():
            found.append(patch)
    return found or [_padded(np.linspace(0, 1, 8, dtype=np.float32)[:, None, None], settings.downsampling)]
