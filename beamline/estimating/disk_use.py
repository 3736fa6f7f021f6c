"""The bytes that a reduction puts on the disk beside its archive, from the shapes alone."""

from __future__ import annotations

from quietbeam.beamline.pictures import PICTURE_LIMIT
from quietbeam.beamline.settings import ReductionSettings

from .stage_work import num_compared, num_weights

__all__ = ["picture_bytes", "scratch_bytes"]

BYTES_PER_PIXEL = 4
"""Of a slice, in the pictures of the report and in that beside it."""
CHECKPOINT_COPIES = 5
"""Of all weights: the network, its average, the best one, and two moments."""


def picture_bytes(size: int) -> int:
    """Give the size of the pictures of slices of `size` pixels a side."""
    return BYTES_PER_PIXEL * min(size, PICTURE_LIMIT) ** 2


def scratch_bytes(settings: ReductionSettings, num_rows: int, size: int) -> int:
    """Give the largest size of the scratch folder without the encoded volume.

    Parameters
    ----------
    settings : ReductionSettings
        All settings.
    num_rows : int
        Slices.
    size : int
        Pixels along a side of a slice.

    Returns
    -------
    int
        Bytes of the sections, the denoised volume, the disagreement if it is asked for, the slices compared with the
        held-out section, and the checkpoint.
    """
    volumes = settings.sections.num_sections + 1 + settings.inference.disagreement
    slices = volumes * num_rows + num_compared(num_rows, settings)
    return 4 * (slices * size**2 + CHECKPOINT_COPIES * num_weights(settings))
