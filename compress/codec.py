"""What a codec is, and the one table of them.

A codec's name stands for one byte format for ever: a change of the format takes a new name.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue

if TYPE_CHECKING:
    import torch

__all__ = [
    "Codec",
    "CodecOptions",
    "CodecSettings",
    "LearnedCodec",
    "SliceSource",
    "codec",
    "known_codecs",
    "learned_codec",
    "register",
]

_C = TypeVar("_C", bound="Codec")
_CODECS: dict[str, type[Codec]] = {}
_MODULES = {
    "ae": "autoencoder",
    "bitshuffle-zstd": "lossless_codecs",
    "blosc2": "lossless_codecs",
    "cnn": "autoencoder",
    "crae": "crae",
    "crae2": "crae2",
    "dcae": "autoencoder",
    "dcnn": "dcnn",
    "hevc": "video_codec",
    "htj2k": "lossless_codecs",
    "inr": "inr",
    "jpeg": "image_codecs",
    "jpeg2000": "image_codecs",
    "jpeg2000z": "wavelet_codec",
    "jpegxl": "image_codecs",
    "jpegxl-lossless": "lossless_codecs",
    "lattice": "lattice_codec",
    "sperr": "volume_codecs",
    "vqvae": "vqvae",
    "sz3": "volume_codecs",
    "zfp": "volume_codecs",
}
"""Where each codec is; its module is imported, with torch or other libraries, only when the codec is wanted."""


class CodecSettings(BaseModel):
    """How a learned codec is trained; each codec adds what it is built from, and its source's defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="time to train, minutes; becomes a number of epochs at the start"
    )
    epochs: int | None = Field(None, ge=1, description="epochs to train; goes before the time")
    learning_rate: float = Field(2e-3, gt=0, allow_inf_nan=False, description="step size of Adam")
    crop_size: int = Field(96, ge=32, multiple_of=32, description="edge of the square training crops, pixels")
    batch_size: int = Field(8, ge=1, description="crops in one step")
    steps_per_epoch: int = Field(50, ge=1, description="steps in one epoch")
    slices_per_epoch: int = Field(16, ge=1, description="slices that are read for one epoch; its crops come from them")
    augment: bool = Field(False, description="mirror and turn the crops at random")


class CodecOptions(BaseModel):
    """What a codec is told: how long to learn, any of the settings of its own `settings_type`, or whence to take it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="time to train a learned codec; not given: the codec's own"
    )
    epochs: int | None = Field(None, ge=1, description="epochs to train a learned codec; goes before the time")
    options: dict[str, JsonValue] = Field(default_factory=dict, description="the codec's own settings, by name")
    trained: Path | None = Field(
        None, description="codec.safetensors of an earlier result, taken as it is; nothing is trained then"
    )
    reuse: Literal["per-scan", "first"] = Field(
        "per-scan", description="in a series: each scan trains its codec, or all take that of the first"
    )

    def for_codec(self, kind: type[Codec]) -> BaseModel:
        """Give the settings of a codec: its defaults, and what is set here; `ValidationError` if it has no such.

        A time to train does not concern a codec that does not learn.
        """
        known = kind.settings_type.model_fields
        given = {"minutes": self.minutes, "epochs": self.epochs}
        told = {name: value for name, value in given.items() if value is not None and name in known}
        return kind.settings_type.model_validate(told | self.options)


class SliceSource(Protocol):
    """A volume that gives slices when asked: an array, an HDF5 data set, an `Archive`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of slices, rows, columns."""

    def __getitem__(self, index: slice, /) -> NDArray[np.float32]:
        """Give slices, float32, shape (slice, y, x)."""


class Codec(Protocol):
    """Chunks of slices to bytes and back.

    What comes back need not be close: where a largest error is promised, `residual` codes what is missing. It is the
    same on every machine, with any number of threads, on any device.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[BaseModel]]

    @classmethod
    def fit(cls, volume: SliceSource, settings: Any = None, *, seed: int = 0) -> Self:
        """Make a codec for a volume: train it, where it learns; settings of `settings_type`, None for the defaults."""

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        """Build a codec that can decode; `ArchiveError` if the state is damaged."""

    def to_bytes(self) -> bytes:
        """Give what decoding needs beside the bitstreams, as an archive stores it; empty if nothing."""

    def encode(self, chunk: NDArray[np.float32]) -> bytes:
        """Give the bitstream of a chunk.

        Parameters
        ----------
        chunk : float32, shape (slice, y, x)
            Finite; any size.

        Returns
        -------
        bytes
            Never empty; to be decoded by this codec, or by one made from its `to_bytes`.

        Raises
        ------
        ValueError
            If this codec only decodes.
        """

    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Give what a bitstream stands for.

        Parameters
        ----------
        bitstream : bytes
            From `encode`.
        shape : tuple of int
            Slices, rows, columns of the chunk.

        Returns
        -------
        float32, shape (slice, y, x)
            In the volume's units.

        Raises
        ------
        ArchiveError
            If the bitstream is damaged, as far as that shows.
        """


class LearnedCodec(Codec, Protocol):
    """A codec with networks that `CodecTrainer` trains on crops of slices."""

    @classmethod
    def for_volume(cls, source: SliceSource, settings: Any, seed: int) -> Self:
        """Build an untrained codec for a volume.

        Parameters
        ----------
        source : SliceSource
            The volume; at most 16 slices, evenly spaced, are looked at.
        settings : CodecSettings
            Of `settings_type`: what the networks are built from.
        seed : int
            Start of the weights.

        Returns
        -------
        LearnedCodec
            Equal for equal arguments.

        Raises
        ------
        ValueError
            If the slices looked at are not finite.
        """

    def loss(self, crops: torch.Tensor) -> torch.Tensor:
        """Give what training minimises.

        Parameters
        ----------
        crops : float32, shape (crop, 1, y, x)
            In the volume's units; edges are multiples of 32.

        Returns
        -------
        float32, shape ()
            With gradients for all of `network` that is trained.
        """

    @property
    def network(self) -> torch.nn.Module:
        """All that is trained: encoder and decoder."""

    @property
    def num_parameters(self) -> int:
        """Numbers that the decoder needs."""

    @property
    def bytes_per_voxel(self) -> float:
        """Size of the stored decoder divided by the voxels of the volume that it was built for."""


def register(name: str) -> Callable[[type[_C]], type[_C]]:
    """Put a codec into the table under a name (decorator)."""

    def put(cls: type[_C]) -> type[_C]:
        cls.name = name
        _CODECS[name] = cls
        return cls

    return put


def codec(name: str) -> type[Codec]:
    """Look up a codec by name.

    Parameters
    ----------
    name : str
        For example ``crae``.

    Returns
    -------
    type
        A class with the methods of `Codec`.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists the known ones.
    """
    if name not in known_codecs():
        raise ValueError(f"codec must be one of {', '.join(known_codecs())}, got {name!r}")
    import_module(f".{_MODULES[name]}", __package__)
    return _CODECS[name]


def learned_codec(name: str) -> type[LearnedCodec]:
    """Look up a codec that is trained on a volume; `ValueError` for another one."""
    found = codec(name)
    if not hasattr(found, "for_volume"):
        raise ValueError(f"codec {name!r} learns nothing from a volume")
    return cast("type[LearnedCodec]", found)


def known_codecs() -> tuple[str, ...]:
    """List the names of all codecs."""
    return tuple(sorted(_MODULES))
