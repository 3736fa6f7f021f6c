"""Reconstructing the sections of some slices, in any process that sees the scan."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from quietbeam.reconstruction.noise import noise_of_sections

from .geometry import SliceGeometry, choose_geometry
from .journal import Record
from .scan import Scan, open_scan
from .settings import ReductionSettings
from .sinograms import SinogramSettings, clean_sinograms
from .volume_pieces import write_slices

__all__ = ["ReconstructTask"]


@dataclass(frozen=True)
class ReconstructTask:
    """Reconstruct the sections of some slices of a scan.

    Attributes
    ----------
    key : str
        Of what is reconstructed, the content of the scan included.
    path : Path
        The scan.
    settings : ReductionSettings
        All settings.
    bad : tuple of int
        Projections that are left out.
    rotation_axis : float
        Column of the axis.
    sees_beyond : bool
        See `choose_geometry`.
    folder : Path
        For the pieces, float32, shape (slice, section, y, x).
    num_threads : int
        Threads.
    """

    key: str
    path: Path
    settings: ReductionSettings
    bad: tuple[int, ...]
    rotation_axis: float
    sees_beyond: bool
    folder: Path
    num_threads: int

    def __hash__(self) -> int:
        return hash(self.key)

    def __call__(self, chunk: slice) -> Record:
        """Reconstruct slices; tell their ``noise``, and ``counts`` of what was cleaned."""
        began = time.monotonic()
        scan, geometry = _opened(self)
        sinograms, counts = clean_sinograms(
            scan, chunk, SinogramSettings.of(self.settings), num_threads=self.num_threads
        )
        slices = geometry.reconstruct(
            sinograms, self.settings.reconstruction, pixel_size=scan.pixel_size, num_threads=self.num_threads
        )
        write_slices(self.folder, chunk, slices)
        noise = noise_of_sections(slices, geometry.shares).tolist()
        return {"noise": noise, "counts": dict(counts), "seconds": time.monotonic() - began}


@lru_cache(maxsize=1)
def _opened(task: ReconstructTask) -> tuple[Scan, SliceGeometry]:
    """Open the scan once for the chunks of a process, which come one after the other; it holds angles, no frames."""
    scan = open_scan(task.path, task.settings.scan)
    if task.bad:
        scan = scan.without(np.isin(np.arange(scan.num_projections), task.bad))
    return scan, choose_geometry(scan, task.rotation_axis, task.settings, sees_beyond=task.sees_beyond)
