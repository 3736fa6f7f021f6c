"""The largest memory that the stages of a reduction take beside the libraries, from the shapes alone."""

from __future__ import annotations

from quietbeam.beamline.chunks import bytes_of_chunk, chunk_rows
from quietbeam.beamline.scan import Scan
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.noise2inverse.msd_blocks import BLOCK_SIZE
from quietbeam.noise2inverse.plane_layout import PlaneLayout
from quietbeam.noise2inverse.tiles import halo_of

from .stage_work import dilations, in_channels, num_compared, num_planes

__all__ = ["peak_of_stages"]

ENCODER_COPIES = 12
"""Memory that coding a chunk takes, in chunks."""
SUMS_OF_TAPS = 20
"""Copies of all weights that a training step holds: two, and a sum of derivatives for each part of a plane, at most."""


def peak_of_stages(scan: Scan, settings: ReductionSettings, size: int) -> int:
    """Bound the memory of the stages.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : ReductionSettings
        All settings.
    size : int
        Pixels along a side of a slice.

    Returns
    -------
    int
        Bytes of the stage that takes most.
    """
    rows = chunk_rows(scan, settings, slice_size=size)
    coded = 4 * ENCODER_COPIES * min(settings.archive.chunk_slices, scan.num_rows) * size**2
    reconstructed = bytes_of_chunk(scan, settings, rows, slice_size=size)
    return max(reconstructed, coded, _network_bytes(settings, scan.num_rows, size))


def _network_bytes(settings: ReductionSettings, num_rows: int, size: int) -> int:
    """Memory of the largest of three: a training step, the denoising of a chunk, the comparison of whole slices."""
    chunk, compared = min(settings.compute.chunk_slices, num_rows), num_compared(num_rows, settings)
    answers = 2 * (1 + settings.inference.disagreement) * chunk  # as they are, and as they are masked
    # The sections of the slices seen; their average as it was, with one more section, and its copies.
    read = in_channels(settings) * (settings.sections.num_sections + 3)
    tile = _bytes_of_tile(settings, size)
    side = min(settings.compute.tile_size + 2 * halo_of(dilations(settings)), size)
    denoising = 4 * (answers * size**2 + read * side**2) + tile
    comparing = 4 * (2 * 3 * compared + read) * size**2 + tile
    return max(_bytes_of_training(settings, size), denoising, comparing)


def _bytes_of_tile(settings: ReductionSettings, size: int) -> int:
    """Planes of input, layers and output; the input as read, and normalised in two steps."""
    side = min(settings.compute.tile_size + 2 * halo_of(dilations(settings)), size)
    layout = PlaneLayout.of(1, side, side, settings.network.largest_dilation)
    return 4 * ((num_planes(settings) + 1) * layout.plane_size + 3 * in_channels(settings) * side**2)


def _bytes_of_training(settings: ReductionSettings, size: int) -> int:
    """Planes of a batch of crops, the gradients of one block beside them, the output's, and all weights."""
    batch, side = settings.pairs.batch_size, min(settings.pairs.crop_size, size)
    depth, width, inputs = settings.network.depth, settings.network.width, in_channels(settings)
    layout = PlaneLayout.of(batch, side, side, settings.network.largest_dilation)
    planes = num_planes(settings) + max(inputs, min(depth, BLOCK_SIZE) * width) + 2
    taps = 9 * depth * width * num_planes(settings)
    return 4 * (planes * layout.plane_size + 4 * inputs * batch * side**2 + SUMS_OF_TAPS * taps)
