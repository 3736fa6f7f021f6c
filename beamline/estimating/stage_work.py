"""How much there is to do in each stage of a reduction, from the shapes alone.

The unit is the second of one core of a machine of 2024 (vectors of 512 bits, memory that gives some 10 GB/s). What the
machine at hand needs for it is told by `machine_rates`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import cycle, islice
from pathlib import Path

from quietbeam.beamline import workspace
from quietbeam.beamline.bad_projections import NUM_ROWS
from quietbeam.beamline.calibrate import BUDGET_SHARE, SECONDS
from quietbeam.beamline.chunks import chunk_rows
from quietbeam.beamline.feasibility import codec_settings
from quietbeam.beamline.preview import SHARE, SIDE
from quietbeam.beamline.scan import Scan
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.beamline.sinograms import SinogramSettings, sinogram_halo
from quietbeam.compress.codec import CodecSettings
from quietbeam.noise2inverse.pairs import held_out_group
from quietbeam.noise2inverse.tiles import halo_of, tiles

__all__ = [
    "COMPARED_SLICES",
    "STAGES",
    "clock_seconds",
    "codec_steps",
    "dilations",
    "in_channels",
    "num_compared",
    "num_passes",
    "num_planes",
    "num_weights",
    "seconds_per_step",
    "stage_work",
]

STAGES = (*(stage for stage in workspace.STAGES if stage not in workspace.SIDE_STAGES), "other")
"""As the times of a job are named; ``other`` is what lies between them."""
COMPARED_SLICES = 8
"""Most slices that are held against a section the network does not see."""
HASHED_BYTES_PER_SECOND = 1.2e9
SECONDS_PER_FILE = 6e-4
"""To open a file of frames."""
VALUES_PER_SECOND = 2.0e6
VOXELS_PER_SECOND = 4e7
"""Cleaning (values of the sinograms) and reconstruction (voxels of all sections)."""
SCREENED_VALUES_PER_SECOND = 2e7
SEARCHED_VALUES_PER_SECOND = 2e6
CODED_VOXELS_PER_SECOND = 1.2e6
CHECKED_VOXELS_PER_SECOND = 1.5e6
"""Encoding a voxel, and decoding it: for the checksum and preview, and to compare all voxels."""
OPERATIONS_PER_SECOND = 1.5e11
PLANE_PIXELS_PER_SECOND = 1.7e8
"""The network: additions and multiplications, and pixels of planes that are made. Measured as the processor time of
`MSD` on one thread with vectors of 512 bits, depth 30 and 100, tiles of 320 to 704 pixels and crops of 128: 1.7e11 and
1.9e8 fit best, to a tenth where there is no other load."""
TRAINING_PASSES = 3
"""Time of a training step over that of the forward pass."""
LEARNT_PIXELS_PER_SECOND = 1e7
"""Pixels of crops in the training steps of a codec."""
DRAWN_PIXELS_PER_SECOND = 5e5
"""Pixels of the pictures of the report, and of the rings that are correlated."""


def stage_work(scan: Scan, settings: ReductionSettings, *, slice_size: int | None = None) -> dict[str, float]:
    """Count the work of each stage.

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
    dict of str to float
        Stages, named as in `STAGES`, to seconds on one core of the machine of reference.
    """
    size = slice_size or scan.num_columns
    voxels = scan.num_rows * size**2
    one_pass = _pixels_seen(settings, size) * _seconds_per_pixel(settings)
    return {
        "identify": _bytes_of(scan.sources) / HASHED_BYTES_PER_SECOND + len(scan.sources) * SECONDS_PER_FILE,
        "screen": _values(scan, NUM_ROWS) / SCREENED_VALUES_PER_SECOND + _opening(scan),
        "rotation axis": _values(scan, settings.rotation_axis.num_rows) / SEARCHED_VALUES_PER_SECOND + _opening(scan),
        "reconstruct": _reconstruction(scan, settings, size),
        "train": _training_seconds(settings, size),
        "denoise": num_passes(settings) * scan.num_rows * one_pass,
        "fit codec": _codec_seconds(settings),
        "encode": voxels / CODED_VOXELS_PER_SECOND,
        "archive": voxels / CHECKED_VOXELS_PER_SECOND,
        "report": size**2 / DRAWN_PIXELS_PER_SECOND,
        "other": num_compared(scan.num_rows, settings) * one_pass,
    }


def clock_seconds(settings: ReductionSettings) -> dict[str, float]:
    """Give what lasts as long as it is told to, on any machine: stages to seconds."""
    training, told = settings.training, codec_settings(settings)
    seconds = {}
    if training.epochs is None:
        seconds["train"] = 60 * training.minutes
        seconds["other"] = max(SECONDS, BUDGET_SHARE * 60 * training.minutes)  # to make epochs of a time
    if isinstance(told, CodecSettings) and told.epochs is None:
        seconds["fit codec"] = 60 * told.minutes
        seconds["other"] = seconds.get("other", 0.0) + max(SECONDS, BUDGET_SHARE * 60 * told.minutes)
    return seconds


def num_passes(settings: ReductionSettings) -> int:
    """Count how often the network is applied to each slice: once, or to the input of each pair."""
    sections = settings.sections.num_sections
    if settings.inference.mode == "full":
        return 1
    if settings.pairs.strategy == "symmetric":  # each half; of an odd number both the larger and the smaller
        return math.comb(sections, sections // 2) * (1 + sections % 2)
    return sections


def in_channels(settings: ReductionSettings) -> int:
    """Count the images that the network sees at a time."""
    return (2 * settings.pairs.context_slices + 1) * (2 * settings.pairs.context_steps + 1)


def num_planes(settings: ReductionSettings) -> int:
    """Count the images of input and layers that the network holds."""
    return in_channels(settings) + settings.network.depth * settings.network.width


def num_weights(settings: ReductionSettings) -> int:
    """Count the weights of the network's layers."""
    depth, width, inputs = settings.network.depth, settings.network.width, in_channels(settings)
    return 9 * width * sum(inputs + width * layer for layer in range(depth))


def dilations(settings: ReductionSettings) -> list[int]:
    """Give the dilation of each layer, pixels."""
    return list(islice(cycle(settings.network.dilations), settings.network.depth))


def _bytes_of(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files if path.is_file())


def _values(scan: Scan, rows: int) -> int:
    return min(rows, scan.num_rows) * scan.num_projections * scan.num_columns


def _opening(scan: Scan) -> float:
    """Time to go through the files of a folder once, as every chunk of rows does."""
    return len(scan.sources) * SECONDS_PER_FILE if len(scan.sources) >= scan.num_projections else 0.0


def _reconstruction(scan: Scan, settings: ReductionSettings, size: int) -> float:
    rows = chunk_rows(scan, settings, slice_size=size)
    chunks = -(-scan.num_rows // rows)
    beside = min(2 * sinogram_halo(scan, SinogramSettings.of(settings)), scan.num_rows - rows)
    cleaned = (scan.num_rows + chunks * beside) * scan.num_projections * scan.num_columns
    voxels = scan.num_rows * size**2 * settings.sections.num_sections
    return cleaned / VALUES_PER_SECOND + voxels / VOXELS_PER_SECOND + chunks * _opening(scan)


def _pixels_seen(settings: ReductionSettings, size: int) -> int:
    """Pixels of all tiles of a slice, their halos included."""
    sides = [tile[0][1] for tile in tiles(1, size, settings.compute.tile_size, halo_of(dilations(settings)))]
    pixels: int = sum(side.stop - side.start for side in sides)
    return pixels * pixels


def seconds_per_step(settings: ReductionSettings, size: int) -> float:
    """Give the time of a training step on the machine of reference."""
    pixels = settings.pairs.batch_size * min(settings.pairs.crop_size, size) ** 2
    return TRAINING_PASSES * pixels * _seconds_per_pixel(settings)


def _training_seconds(settings: ReductionSettings, size: int) -> float:
    """Count steps, what is held out, and a picture of a slice at least once and for a share of the time."""
    training = settings.training
    if not training.epochs:  # by the clock, or not at all
        return 0.0
    steps = training.steps_per_epoch + training.held_out_batches / TRAINING_PASSES
    picture = min(size, SIDE) ** 2 * _seconds_per_pixel(settings)
    return (1 + SHARE) * training.epochs * steps * seconds_per_step(settings, size) + picture


def codec_steps(settings: ReductionSettings) -> int:
    """Count the training steps of the codec; 0 where it does not learn, 1 at least where the clock counts them."""
    told = codec_settings(settings)
    return (told.epochs or 1) * told.steps_per_epoch if isinstance(told, CodecSettings) else 0


def _codec_seconds(settings: ReductionSettings) -> float:
    """Time to train the codec for a number of epochs."""
    told = codec_settings(settings)
    if not isinstance(told, CodecSettings) or told.epochs is None:
        return 0.0
    return codec_steps(settings) * told.batch_size * told.crop_size**2 / LEARNT_PIXELS_PER_SECOND


def num_compared(num_rows: int, settings: ReductionSettings) -> int:
    """Count the slices that are held against a section the network does not see."""
    try:
        held_out = len(held_out_group(num_rows, settings.pairs))
    except ValueError:  # refused later, with all that belongs to it
        held_out = 0
    return min(COMPARED_SLICES, held_out or num_rows)


def _seconds_per_pixel(settings: ReductionSettings) -> float:
    """Time of one pass of the network: for each weight an addition and a multiplication."""
    return 2 * num_weights(settings) / OPERATIONS_PER_SECOND + num_planes(settings) / PLANE_PIXELS_PER_SECOND
