"""What a reduction will take, said before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from quietbeam.reconstruction.errors import SpaceError

from .chunks import bytes_of_chunk, chunk_rows
from .scan import Scan
from .settings import ReductionSettings

__all__ = ["Estimate", "check_space", "estimate"]

BASE_MEMORY = 600 * 2**20
"""Bytes of the interpreter with torch and the other libraries."""
ENCODER_COPIES = 10
"""Memory that coding a chunk takes, in chunks."""
ARCHIVE_SHARE = 0.25
"""Bytes of the archive over those of the float32 volume, taken generously."""
VOXELS_PER_SECOND = 4e7
VALUES_PER_SECOND = 2.0e6
"""Reconstruction (voxels of all sections) and cleaning (values of the sinograms) on one core."""
FLOPS_PER_SECOND = 1.5e10
"""The network on one core."""


class Estimate(NamedTuple):
    """What a reduction will take.

    Attributes
    ----------
    memory, disk, output : int
        Largest memory, scratch disk and final size, bytes.
    seconds : float
        Wall time on one core, without the other load of the machine.
    """

    memory: int
    disk: int
    output: int
    seconds: float


def estimate(scan: Scan, settings: ReductionSettings, *, slice_size: int | None = None) -> Estimate:
    """Estimate memory, disk and time from the shape of a scan.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : ReductionSettings
        All settings.
    slice_size : int, optional
        Pixels along a side of a slice, where it is wider than the detector.

    Returns
    -------
    Estimate
        Rough: no calibration on the machine at hand.
    """
    size = slice_size or scan.num_columns
    volume = 4 * scan.num_rows * size**2
    sections = settings.sections.num_sections
    output = int(ARCHIVE_SHARE * volume) + 2**21
    disk = volume * (sections + 1) + 2 * output
    rows = chunk_rows(scan, settings, slice_size=size)
    coded = 4 * ENCODER_COPIES * min(settings.archive.chunk_slices, scan.num_rows) * size**2
    largest = max(bytes_of_chunk(scan, settings, rows, slice_size=size), coded, _network_bytes(settings, size))
    return Estimate(BASE_MEMORY + largest, disk, output, _seconds(scan, settings, size))


def _network_bytes(settings: ReductionSettings, size: int) -> int:
    """Features and nine taps of a tile; of a batch of crops, features, their gradients and the taps twice."""
    channels = 2 * settings.pairs.context_slices + 1 + settings.network.depth * settings.network.width
    tile = min(settings.compute.tile_size + 192, size)
    crop = min(settings.pairs.crop_size, size)
    training = settings.pairs.batch_size * crop**2 * (2 * channels + 20)
    return 4 * max(tile**2 * (channels + 12), training)


def _seconds(scan: Scan, settings: ReductionSettings, size: int) -> float:
    voxels = scan.num_rows * size**2
    values = scan.num_rows * scan.num_columns * scan.num_projections
    reconstruction = voxels * settings.sections.num_sections / VOXELS_PER_SECOND
    denoising = voxels * _flops_per_voxel(settings) / FLOPS_PER_SECOND
    codec = settings.codec.minutes if settings.archive.codec and not settings.codec.epochs else 0
    return values / VALUES_PER_SECOND + reconstruction + _training_seconds(settings, size) + denoising + 60 * codec


def _training_seconds(settings: ReductionSettings, size: int) -> float:
    training, pairs = settings.training, settings.pairs
    if training.epochs is None:
        return 60 * training.minutes
    pixels = pairs.batch_size * min(pairs.crop_size, size) ** 2
    steps = training.epochs * (training.steps_per_epoch + training.held_out_batches / 3)
    return 3 * steps * pixels * _flops_per_voxel(settings) / FLOPS_PER_SECOND  # backward takes twice what forward takes


def _flops_per_voxel(settings: ReductionSettings) -> float:
    depth, width = settings.network.depth, settings.network.width
    inputs = 2 * settings.pairs.context_slices + 1
    return 18 * width * sum(inputs + width * layer for layer in range(depth))


def check_space(scan: Scan, settings: ReductionSettings, output: Path, *, slice_size: int | None = None) -> None:
    """Refuse to begin what the disk cannot hold.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : ReductionSettings
        All settings.
    output : Path
        Folder for results and scratch; what is in it counts as free, since it is part of what is needed.
    slice_size : int, optional
        Pixels along a side of a slice, where it is wider than the detector.

    Raises
    ------
    SpaceError
        With the numbers.
    """
    needed = estimate(scan, settings, slice_size=slice_size).disk
    free = shutil.disk_usage(output).free
    used = sum(path.stat().st_blocks * 512 for path in (output / "work").glob("*"))
    if needed > free + used:
        gib = 2**30
        raise SpaceError(
            f"{output}: the job needs {needed / gib:.2f} GiB of disk, {(free + used) / gib:.2f} GiB are free: "
            "free some, or choose another -o"
        )
