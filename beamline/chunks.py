"""How many detector rows are worked on together: as many as asked for, fewer where memory is short."""

from __future__ import annotations

import psutil

from .scan import Scan
from .settings import ReductionSettings

__all__ = ["bytes_per_row", "chunk_rows", "middle_rows"]

MEMORY_SHARE = 0.25
"""Share of the free memory that a chunk may take."""


def bytes_per_row(scan: Scan, settings: ReductionSettings) -> int:
    """Bound the memory that the reconstruction of one slice takes, in bytes."""
    sinogram = 4 * scan.num_projections * scan.num_columns
    spectra = 4 * sinogram  # complex, padded to twice the width
    image = 4 * scan.num_columns**2
    # Copies in the steps before the sections; the sections' slices and the oversampled images of the transform.
    return 8 * sinogram + spectra + image * (settings.sections.num_sections + 8)


def chunk_rows(scan: Scan, settings: ReductionSettings) -> int:
    """Count the rows reconstructed together: even, so that slices pair up the same way whatever the memory."""
    rows = min(settings.compute.chunk_slices, _rows_in_memory(scan, settings), scan.num_rows)
    return max(rows - rows % 2, 1)


def middle_rows(scan: Scan, settings: ReductionSettings) -> list[slice]:
    """Choose the rows in the middle of the detector that the axis is looked for in, in parts that fit into memory."""
    count = min(settings.rotation_axis.num_rows, scan.num_rows)
    first = (scan.num_rows - count) // 2
    part = _rows_in_memory(scan, settings)
    return [slice(start, min(start + part, first + count)) for start in range(first, first + count, part)]


def _rows_in_memory(scan: Scan, settings: ReductionSettings) -> int:
    free = psutil.virtual_memory().available
    return max(1, int(free * MEMORY_SHARE // bytes_per_row(scan, settings)))
