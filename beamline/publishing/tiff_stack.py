"""The decoded volume as 16-bit TIFF files, one slice each, with what turns counts back into values in every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from quietbeam.compress.archive import Archive
from quietbeam.compress.preview import pixel_size_of
from quietbeam.reconstruction.errors import ReductionError

__all__ = ["COUNTS", "Scaling", "value_range", "write_tiff_stack"]

COUNTS = 2**16 - 1
"""Largest count."""


class Scaling(NamedTuple):
    """What a count means: value = offset + scale * count.

    Attributes
    ----------
    offset : float
        Value of the count 0.
    scale : float
        Value of one count; no voxel is off by more than half of it.
    """

    offset: float
    scale: float

    @classmethod
    def of(cls, extremes: tuple[float, float], dtype: np.dtype[Any]) -> Scaling:
        """Spread the values from the least to the largest over all counts; integers of 16 bits stay as they are."""
        low, high = extremes
        if not np.isfinite(high - low):
            raise ReductionError(f"the values from {low} to {high} cannot be scaled to 16 bits: publish without tiff")
        return cls(low, 1.0 if dtype.kind != "f" or high == low else (high - low) / COUNTS)

    def counts(self, image: NDArray[Any]) -> NDArray[np.uint16]:
        """Turn values into counts, in double precision."""
        counts = np.rint((image.astype(np.float64) - self.offset) / self.scale)
        return np.clip(counts, 0, COUNTS).astype(np.uint16)


def value_range(archive: Archive) -> tuple[float, float]:
    """Find the least and the largest value, decoding chunk by chunk."""
    chunks = (archive.decode_chunk(number) for number in range(archive.header.num_chunks))
    extremes = [(voxels.min(), voxels.max()) for voxels in chunks]
    return float(np.min(extremes)), float(np.max(extremes))


def write_tiff_stack(archive: Archive, path: Path, extremes: tuple[float, float]) -> None:
    """Write each slice as a file of its own.

    Parameters
    ----------
    archive : Archive
        Open.
    path : Path
        Folder to make.
    extremes : (float, float)
        Least and largest value of the volume.

    Raises
    ------
    ReductionError
        If the range is not finite.
    ArchiveError
        If the archive is damaged.
    """
    scaling, digits = Scaling.of(extremes, archive.dtype), len(str(archive.shape[0] - 1))
    path.mkdir()
    for number in range(archive.header.num_chunks):
        for index, image in zip(archive.header.slices_of(number), archive.decode_chunk(number), strict=True):
            _write(path / f"slice_{index:0{digits}d}.tiff", scaling.counts(image), _describe(archive, scaling, index))


def _describe(archive: Archive, scaling: Scaling, index: int) -> dict[str, Any]:
    return {
        **scaling._asdict(),
        "value": "offset + scale * count",
        "unit": archive.metadata.get("unit"),
        "pixel_size_m": pixel_size_of(archive.header),
        "slice": index,
    }


def _write(path: Path, counts: NDArray[np.uint16], description: dict[str, Any]) -> None:
    pixel_size = description["pixel_size_m"]
    per_centimetre = (0.01 / pixel_size, 0.01 / pixel_size) if pixel_size else None
    tifffile.imwrite(
        path,
        counts,
        photometric="minisblack",
        software="quietbeam",
        description=json.dumps(description),
        metadata=None,
        resolution=per_centimetre,
        resolutionunit="CENTIMETER" if pixel_size else None,
    )
