"""How many detector rows are worked on together: as many as asked for, fewer where memory is short."""

from __future__ import annotations

import os

import psutil

from quietbeam.reconstruction.polar_grid import BATCH, grid_bytes

from .scan import Scan
from .settings import ReductionSettings
from .sinograms import SinogramSettings, sinogram_halo

__all__ = ["bytes_of_chunk", "chunk_rows", "free_memory", "middle_rows"]

MEMORY_SHARE = 0.25
"""Share of the free memory that a chunk may take."""
HALO_COPIES = 4
"""Copies of the rows beside a chunk that phase retrieval holds."""


def bytes_of_chunk(scan: Scan, settings: ReductionSettings, num_rows: int, *, slice_size: int | None = None) -> int:
    """Bound the memory that the reconstruction of some slices takes.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : ReductionSettings
        All settings.
    num_rows : int
        Slices of the chunk.
    slice_size : int, optional
        Pixels along a side of a slice, where it is wider than the detector.

    Returns
    -------
    int
        Bytes.
    """
    size = slice_size or scan.num_columns
    fixed = _num_grids(settings) * grid_bytes(size)
    halo = 2 * _halo(scan, settings) * HALO_COPIES * _bytes_of_sinogram(scan)
    return fixed + halo + num_rows * _bytes_per_row(scan, settings, size)


def _num_grids(settings: ReductionSettings) -> int:
    """Count the grids that are worked in at a time: a batch of a section each, not more than there are threads."""
    batches = -(-settings.compute.chunk_slices // BATCH) * settings.sections.num_sections
    return min(settings.compute.threads or os.cpu_count() or 1, batches)


def _halo(scan: Scan, settings: ReductionSettings) -> int:
    return sinogram_halo(scan, SinogramSettings.of(settings))


def _bytes_of_sinogram(scan: Scan) -> int:
    return 4 * scan.num_projections * scan.num_columns


def _bytes_per_row(scan: Scan, settings: ReductionSettings, slice_size: int) -> int:
    sinogram, image = _bytes_of_sinogram(scan), 4 * slice_size**2
    wide = 4 * scan.num_projections * slice_size
    # Copies in the steps before the sections; what the method gets and makes of it, twice; the sections' slices.
    return 8 * sinogram + 2 * wide + image * (settings.sections.num_sections + 4)


def chunk_rows(scan: Scan, settings: ReductionSettings, *, slice_size: int | None = None) -> int:
    """Count the rows reconstructed together; where others are read beside them, not fewer than those."""
    wanted = max(settings.compute.chunk_slices, 2 * _halo(scan, settings))
    return min(wanted, _rows_in_memory(scan, settings, slice_size), scan.num_rows)


def middle_rows(scan: Scan, settings: ReductionSettings) -> list[slice]:
    """Choose the rows in the middle of the detector that the axis is looked for in, in parts that fit into memory."""
    count = min(settings.rotation_axis.num_rows, scan.num_rows)
    first = (scan.num_rows - count) // 2
    part = _rows_in_memory(scan, settings, None)
    return [slice(start, min(start + part, first + count)) for start in range(first, first + count, part)]


def free_memory(settings: ReductionSettings) -> int:
    """Bytes that the job may take now: what is free, and not more than ``compute.memory_gib``."""
    free, most = int(psutil.virtual_memory().available), settings.compute.memory_gib
    return free if most is None else min(free, int(most * 2**30))


def _rows_in_memory(scan: Scan, settings: ReductionSettings, slice_size: int | None) -> int:
    free = MEMORY_SHARE * free_memory(settings)
    fixed = bytes_of_chunk(scan, settings, 0, slice_size=slice_size)
    row = bytes_of_chunk(scan, settings, 1, slice_size=slice_size) - fixed
    return max(1, int((free - fixed) // row))
