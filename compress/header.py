"""What an archive says about itself, and how one is to be written; no torch, no HDF5."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from .codec import known_codecs

__all__ = ["MOST_CHUNK_VOXELS", "ArchiveHeader", "ArchiveSettings"]

MOST_CHUNK_VOXELS = 2**30
"""A chunk that declares more is refused before memory is taken for it."""

_MOST_SLICES = 2**20


def _known(name: str) -> str:
    if name not in known_codecs():
        raise ValueError(f"expected one of {', '.join(known_codecs())}")
    return name


class ArchiveSettings(BaseModel):
    """How a volume is put into an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    codec: Annotated[str, AfterValidator(_known)] = Field("lattice", description="name of a codec")
    chunk_slices: int = Field(32, ge=1, le=1024, description="slices that are coded, and later decoded, together")
    keep_latents: Literal["smaller", "always"] = Field(
        "smaller", description="keep a chunk's latents only where that makes it smaller, or always"
    )
    max_error: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="largest error of a voxel, in the volume's units; not given: decided",
    )
    embed: bool = Field(True, description="the archive holds its decoder; else several share one in a file of its own")
    decoders: Path | None = Field(
        None, description="folder of shared decoders; not given: decoders, beside the output folder"
    )


class ArchiveHeader(BaseModel):
    """What an archive says about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, int, int] = Field(description="slices, rows, columns")
    dtype: Literal["float32", "uint8", "int8", "uint16", "int16"] = Field("float32", description="type of a voxel")
    codec: str | None = Field(description="name of the codec")
    max_error: float = Field(
        ge=0,
        allow_inf_nan=False,
        description="largest error of a voxel, in the volume's units; a whole number for integers, 0 is lossless",
    )
    chunk_slices: int = Field(ge=1, le=1024, description="slices in a chunk; the last may have fewer")
    metadata: dict[str, JsonValue] = Field(default_factory=dict, description="whatever belongs to the volume, as JSON")

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        slices, rows, columns = self.shape
        if min(self.shape) < 1 or slices > _MOST_SLICES:
            raise ValueError(f"shape must be positive with at most {_MOST_SLICES} slices, got {self.shape}")
        if (voxels := min(self.chunk_slices, slices) * rows * columns) > MOST_CHUNK_VOXELS:
            raise ValueError(f"a chunk may have at most {MOST_CHUNK_VOXELS} voxels, got {voxels}: lower chunk_slices")
        return self

    @model_validator(mode="after")
    def _check_error(self) -> Self:
        if self.dtype == "float32" and self.max_error == 0:
            raise ValueError("max_error must be positive for float32, got 0: lossless archives hold integers")
        if self.dtype != "float32" and not self.max_error.is_integer():
            raise ValueError(f"max_error must be a whole number for {self.dtype}, got {self.max_error}")
        return self

    @property
    def num_chunks(self) -> int:
        """How many chunks the slices make."""
        return -(-self.shape[0] // self.chunk_slices)

    @property
    def num_bytes(self) -> int:
        """Size of the volume as an array, bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def slices_of(self, chunk: int) -> range:
        """Give the slices of a chunk."""
        return range(chunk * self.chunk_slices, min((chunk + 1) * self.chunk_slices, self.shape[0]))

    def chunk_shape(self, chunk: int) -> tuple[int, int, int]:
        """Give slices, rows and columns of a chunk."""
        return (len(self.slices_of(chunk)), *self.shape[1:])
