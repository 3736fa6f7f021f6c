"""Refusing now what would fail after hours."""

from __future__ import annotations

from pathlib import Path

from quietbeam.compress.header import ArchiveHeader
from quietbeam.reconstruction.errors import ReductionError

from .settings import ReductionSettings

__all__ = ["check_volume"]


def check_volume(path: Path, shape: tuple[int, int, int], settings: ReductionSettings) -> None:
    """Refuse a volume that does not fit into an archive, or is too small for the network.

    Parameters
    ----------
    path : Path
        The scan, for the message.
    shape : (int, int, int)
        Slice, y, x.
    settings : ReductionSettings
        All settings.

    Raises
    ------
    ReductionError
        With the numbers, and the setting to change.
    """
    archive, network = settings.archive, settings.network
    try:
        ArchiveHeader(shape=shape, codec=archive.codec, max_error=1, chunk_slices=archive.chunk_slices)
    except ValueError as error:
        raise ReductionError(f"{path}: does not fit into an archive: {error}") from error
    largest = min(network.num_dilations, network.depth)
    if min(settings.pairs.crop_size, *shape[1:]) < largest:
        raise ReductionError(
            f"{path}: slices of {shape[2]} pixels are smaller than the network's largest dilation, {largest}: lower "
            "network.num_dilations"
        )
