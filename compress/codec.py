"""What a learned codec is, and the one table of them.

A codec's name stands for one byte format for ever: a change of the format takes a new name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch

__all__ = ["Codec", "CodecSettings", "SliceSource", "codec", "known_codecs", "register"]

_C = TypeVar("_C", bound="Codec")
_CODECS: dict[str, type[Codec]] = {}


class CodecSettings(BaseModel):
    """How a learned codec is built and trained.

    `width` is that of the hidden layers; None takes the largest of 64 (the paper's), 32, 16 and 8 with which the
    decoder takes at most 1/400 of the bytes of the float32 volume.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int | None = Field(
        None, ge=1, le=512, description="channels of the hidden layers; not given: by volume size"
    )
    minutes: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="time to train, minutes; becomes a number of epochs at the start"
    )
    epochs: int | None = Field(None, ge=1, description="epochs to train; goes before the time")
    latent_channels: int = Field(44, ge=1, le=512, description="channels of the latent")
    rate_weight: float = Field(
        0.01,
        ge=0,
        allow_inf_nan=False,
        description="squared error, in units of the volume's variance, that one bit per pixel must save",
    )
    learning_rate: float = Field(2e-3, gt=0, allow_inf_nan=False, description="step size of Adam")
    crop_size: int = Field(96, ge=32, multiple_of=32, description="edge of the square training crops, pixels")
    batch_size: int = Field(8, ge=1, description="crops in one step")
    steps_per_epoch: int = Field(50, ge=1, description="steps in one epoch")
    slices_per_epoch: int = Field(16, ge=1, description="slices that are read for one epoch; its crops come from them")


class SliceSource(Protocol):
    """A volume that gives slices when asked: an array, an HDF5 data set, an `Archive`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of slices, rows, columns."""

    def __getitem__(self, index: slice, /) -> NDArray[np.float32]:
        """Give slices, float32, shape (slice, y, x)."""


class Codec(Protocol):
    """A learned codec: chunks of slices to a latent bitstream and back to an approximation.

    The approximation need not be close: what is missing is coded by `residual`.
    """

    name: ClassVar[str]

    @classmethod
    def for_volume(cls, source: SliceSource, settings: CodecSettings, seed: int) -> Self:
        """Build an untrained codec for a volume; equal arguments give equal weights."""

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        """Build a codec that only decodes; `ArchiveError` if the state is damaged."""

    def to_bytes(self) -> bytes:
        """Give the decoder's weights and the normalisation, as an archive stores them."""

    def encode(self, chunk: NDArray[np.float32]) -> bytes:
        """Give the latent bitstream of a chunk, float32, shape (slice, y, x); never empty."""

    def decode(self, bitstream: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Give the approximation that a bitstream stands for, float32, shape (slice, y, x)."""

    def loss(self, crops: torch.Tensor) -> torch.Tensor:
        """Give what training minimises, for crops of shape (crop, 1, y, x) in the volume's units."""

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
    return _CODECS[name]


def known_codecs() -> tuple[str, ...]:
    """List the names of all codecs."""
    from . import crae  # noqa: F401 - torch is loaded only when a codec is wanted

    return tuple(sorted(_CODECS))
