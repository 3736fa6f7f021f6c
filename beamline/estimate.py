"""What a reduction will take, said before it begins."""

from __future__ import annotations

import math
import shutil
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from quietbeam.compress.codec import CodecSettings
from quietbeam.noise2inverse.msd_blocks import BLOCK_SIZE
from quietbeam.noise2inverse.plane_layout import PlaneLayout
from quietbeam.noise2inverse.tiles import halo_of, tiles
from quietbeam.reconstruction.errors import SpaceError

from .chunks import bytes_of_chunk, chunk_rows
from .feasibility import codec_settings
from .scan import Scan
from .settings import ReductionSettings

__all__ = ["Estimate", "check_space", "estimate", "num_passes"]

BASE_MEMORY = 770 * 2**20
"""Bytes of the interpreter with torch and the other libraries; the compiler of the first run after an installation
takes some 100 MiB of it."""
ENCODER_COPIES = 12
"""Memory that coding a chunk takes, in chunks."""
ARCHIVE_SHARE = 0.25
"""Bytes of the archive over those of the float32 volume, taken generously."""
VOXELS_PER_SECOND = 4e7
VALUES_PER_SECOND = 2.0e6
"""Reconstruction (voxels of all sections) and cleaning (values of the sinograms) on one core."""
CODED_VOXELS_PER_SECOND = 4e5
"""Encoding a voxel, and decoding it twice: for the checksum and preview, and to compare all voxels."""
OPERATIONS_PER_SECOND = 1.5e11
PLANE_PIXELS_PER_SECOND = 1.7e8
"""The network on one core: additions and multiplications, and pixels of planes that are made. Measured as the processor
time of `MSD` on one thread with vectors of 512 bits, depth 30 and 100, tiles of 320 to 704 pixels and crops of 128:
1.7e11 and 1.9e8 fit best, to a tenth where there is no other load."""
TRAINING_PASSES = 3
"""Time of a training step over that of the forward pass."""
SUMS_OF_TAPS = 20
"""Copies of all weights that a training step holds: two, and a sum of derivatives for each part of a plane, at most."""
COMPARED_SLICES = 8
"""Most slices that are held against a section the network does not see."""


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
    kept = volume if settings.inference.disagreement else 0
    archive = int(ARCHIVE_SHARE * volume) + 2**21
    disk = volume * (settings.sections.num_sections + 1) + 2 * archive + 2 * kept
    rows = chunk_rows(scan, settings, slice_size=size)
    coded = 4 * ENCODER_COPIES * min(settings.archive.chunk_slices, scan.num_rows) * size**2
    stages = bytes_of_chunk(scan, settings, rows, slice_size=size), coded, _network_bytes(settings, scan.num_rows, size)
    return Estimate(BASE_MEMORY + max(stages), disk, archive + kept, _seconds(scan, settings, size))


def num_passes(settings: ReductionSettings) -> int:
    """Count how often the network is applied to each slice: once, or to the input of each pair."""
    sections = settings.sections.num_sections
    if settings.inference.mode == "full":
        return 1
    if settings.pairs.strategy == "symmetric":  # each half; of an odd number both the larger and the smaller
        return math.comb(sections, sections // 2) * (1 + sections % 2)
    return sections


def _network_bytes(settings: ReductionSettings, num_rows: int, size: int) -> int:
    """Memory of the largest of three: a training step, the denoising of a chunk, the comparison of whole slices."""
    chunk, compared = min(settings.compute.chunk_slices, num_rows), min(COMPARED_SLICES, num_rows)
    answers = 2 * (1 + settings.inference.disagreement) * chunk  # as they are, and as they are masked
    # The sections of the slices seen; their average as it was, with one more section, and its copies.
    read = _in_channels(settings) * (settings.sections.num_sections + 3)
    tile = _bytes_of_tile(settings, size)
    side = min(settings.compute.tile_size + 2 * halo_of(_dilations(settings)), size)
    denoising = 4 * (answers * size**2 + read * side**2) + tile
    comparing = 4 * (2 * 3 * compared + read) * size**2 + tile
    return max(_bytes_of_training(settings, size), denoising, comparing)


def _bytes_of_tile(settings: ReductionSettings, size: int) -> int:
    """Planes of input, layers and output; the input as read, and normalised in two steps."""
    side = min(settings.compute.tile_size + 2 * halo_of(_dilations(settings)), size)
    layout = PlaneLayout.of(1, side, side, settings.network.largest_dilation)
    return 4 * ((_num_planes(settings) + 1) * layout.plane_size + 3 * _in_channels(settings) * side**2)


def _bytes_of_training(settings: ReductionSettings, size: int) -> int:
    """Planes of a batch of crops, the gradients of one block beside them, the output's, and all weights."""
    batch, side = settings.pairs.batch_size, min(settings.pairs.crop_size, size)
    depth, width, inputs = settings.network.depth, settings.network.width, _in_channels(settings)
    layout = PlaneLayout.of(batch, side, side, settings.network.largest_dilation)
    planes = _num_planes(settings) + max(inputs, min(depth, BLOCK_SIZE) * width) + 2
    taps = 9 * depth * width * _num_planes(settings)
    return 4 * (planes * layout.plane_size + 4 * inputs * batch * side**2 + SUMS_OF_TAPS * taps)


def _in_channels(settings: ReductionSettings) -> int:
    return (2 * settings.pairs.context_slices + 1) * (2 * settings.pairs.context_steps + 1)


def _num_planes(settings: ReductionSettings) -> int:
    return _in_channels(settings) + settings.network.depth * settings.network.width


def _dilations(settings: ReductionSettings) -> list[int]:
    return list(islice(cycle(settings.network.dilations), settings.network.depth))


def _seconds(scan: Scan, settings: ReductionSettings, size: int) -> float:
    values = scan.num_rows * scan.num_columns * scan.num_projections
    reconstruction = scan.num_rows * size**2 * settings.sections.num_sections / VOXELS_PER_SECOND
    denoising = num_passes(settings) * scan.num_rows * _pixels_seen(settings, size) * _seconds_per_pixel(settings)
    codec = 60 * _codec_minutes(settings)
    codec += scan.num_rows * size**2 / CODED_VOXELS_PER_SECOND
    return values / VALUES_PER_SECOND + reconstruction + _training_seconds(settings, size) + denoising + codec


def _codec_minutes(settings: ReductionSettings) -> float:
    """Time to train the codec, where it is one that learns for a time."""
    told = codec_settings(settings)
    return told.minutes if isinstance(told, CodecSettings) and not told.epochs else 0.0


def _pixels_seen(settings: ReductionSettings, size: int) -> int:
    """Pixels of all tiles of a slice, their halos included."""
    sides = [tile[0][1] for tile in tiles(1, size, settings.compute.tile_size, halo_of(_dilations(settings)))]
    pixels: int = sum(side.stop - side.start for side in sides)
    return pixels * pixels


def _training_seconds(settings: ReductionSettings, size: int) -> float:
    training, pairs = settings.training, settings.pairs
    if training.epochs is None:
        return 60 * training.minutes
    pixels = pairs.batch_size * min(pairs.crop_size, size) ** 2
    steps = training.epochs * (TRAINING_PASSES * training.steps_per_epoch + training.held_out_batches)
    return steps * pixels * _seconds_per_pixel(settings)


def _seconds_per_pixel(settings: ReductionSettings) -> float:
    """Time of one pass of the network."""
    depth, width, inputs = settings.network.depth, settings.network.width, _in_channels(settings)
    operations = 18 * width * sum(inputs + width * layer for layer in range(depth))
    return operations / OPERATIONS_PER_SECOND + _num_planes(settings) / PLANE_PIXELS_PER_SECOND


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
    used = sum(path.stat().st_blocks * 512 for path in (output / "work").rglob("*"))
    if needed > free + used:
        gib = 2**30
        raise SpaceError(
            f"{output}: the job needs {needed / gib:.2f} GiB of disk, {(free + used) / gib:.2f} GiB are free: "
            "free some, or choose another -o"
        )
