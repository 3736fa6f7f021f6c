"""The stage from the noisy slices and the trained network to the denoised slices."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from quietbeam.noise2inverse.checkpoint import load_network, network_bytes
from quietbeam.noise2inverse.device_memory import DeviceLimit
from quietbeam.noise2inverse.inference import denoise_slice, denoise_volume, plan_passes
from quietbeam.noise2inverse.msd import MSD
from quietbeam.noise2inverse.pairs import Pairs
from quietbeam.reconstruction.errors import ReductionError
from quietbeam.reconstruction.reconstructors import circle

from .atomic import write_atomically
from .feasibility import choose_device
from .job import Job
from .journal import Record
from .section_slices import SectionSlices
from .settings import ReductionSettings
from .volume_pieces import VolumePieces, write_slices
from .workspace import TRAINED

__all__ = ["DenoiseTask", "DenoisedSlices", "SliceDenoiser", "denoise_scan", "denoised_key"]


@dataclass(frozen=True)
class SliceDenoiser:
    """How networks are applied to slices.

    Attributes
    ----------
    settings : ReductionSettings
        All settings.
    device : torch.device
        Where.
    limit : DeviceLimit
        What fits into the memory of a GPU, as far as is known.
    """

    settings: ReductionSettings
    device: torch.device
    limit: DeviceLimit = field(default_factory=DeviceLimit, compare=False)

    def denoise_slice(self, model: MSD, context: NDArray[np.float32]) -> NDArray[np.float32]:
        """Denoise the middle of some slices, shape (channel, y, x)."""
        tile_size, precision = self.settings.compute.tile_size, self.settings.inference.precision
        return denoise_slice(
            model, context, tile_size=tile_size, precision=precision, device=self.device, limit=self.limit
        )

    def apply(self, model: MSD, context: NDArray[np.float32]) -> NDArray[np.float32]:
        """Do the same, with 0 outside the circle."""
        return self.masked(self.denoise_slice(model, context))

    def denoise_chunk(self, model: MSD, pairs: Pairs, chunk: slice) -> NDArray[np.float32]:
        """Denoise some slices, mean and if asked for disagreement: float32, shape (1 or 2, slice, y, x)."""
        settings = self.settings.inference
        sides = pairs.inputs.shape[-2:]
        parts = np.empty((1 + settings.disagreement, chunk.stop - chunk.start, *sides), np.float32)
        denoise_volume(
            model,
            pairs.inputs,
            plan_passes(settings.mode, pairs.pairs),
            parts[0],
            disagreement=parts[1] if settings.disagreement else None,
            slices=range(chunk.start, chunk.stop),
            first=chunk.start,
            tile_size=self.settings.compute.tile_size,
            precision=settings.precision,
            device=self.device,
            limit=self.limit,
        )
        return self.masked(parts)

    def masked(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Set to 0 what lies outside the circle, shape (..., y, x)."""
        return slices * circle(slices.shape[-1]) if self.settings.reconstruction.circle else slices


@dataclass(frozen=True)
class DenoiseTask:
    """Denoise some slices of a scan.

    Attributes
    ----------
    key : str
        Of what is denoised: sections, network, settings.
    network : Path
        File of the network.
    sections : VolumePieces
        Reconstructions, shape (slice, section, y, x).
    shares : tuple of float
        Share of the projections in each section.
    settings : ReductionSettings
        All settings.
    folders : tuple of Path
        For the pieces, float32, shape (slice, y, x): those denoised and, where asked for, their disagreement.
    num_threads : int
        Threads.
    """

    key: str
    network: Path
    sections: VolumePieces
    shares: tuple[float, ...]
    settings: ReductionSettings
    folders: tuple[Path, ...]
    num_threads: int

    def __hash__(self) -> int:
        return hash(self.key)

    def __call__(self, chunk: slice) -> Record:
        """Denoise slices; tell the smallest and the largest value, ``min`` and ``max``."""
        began = time.monotonic()
        torch.set_num_threads(self.num_threads)
        model, pairs, denoiser = _opened(self)
        parts = denoiser.denoise_chunk(model, pairs, chunk)
        if not np.isfinite(parts[0]).all():
            advice = "lower training.learning_rate, or take inference.precision=float32 if it is float16"
            raise ReductionError(f"the network gave values that are not finite: {advice}")
        for folder, part in zip(self.folders, parts, strict=True):
            write_slices(folder, chunk, part)
        return {"min": float(parts[0].min()), "max": float(parts[0].max()), "seconds": time.monotonic() - began}


@lru_cache(maxsize=1)
def _opened(task: DenoiseTask) -> tuple[MSD, Pairs, SliceDenoiser]:
    """Read the network once for the chunks of a process, which come one after the other; no slices are held."""
    model, _ = load_network(task.network)
    pairs = Pairs(task.sections, np.asarray(task.shares, np.float32), task.settings.pairs)
    return model.eval(), pairs, SliceDenoiser(task.settings, choose_device(task.settings.compute.device))


class DenoisedSlices(NamedTuple):
    """The denoised volume.

    Attributes
    ----------
    key : str
        Of what it was made from.
    volume : VolumePieces
        float32, shape (slice, y, x).
    disagreement : VolumePieces or None
        Likewise, the standard deviation between the passes, where it was asked for.
    range : (float, float)
        Smallest and largest value.
    """

    key: str
    volume: VolumePieces
    disagreement: VolumePieces | None
    range: tuple[float, float]


def denoised_key(job: Job, slices: SectionSlices, model: MSD) -> str:
    """Give the key of what a network makes of slices."""
    return job.keys.denoised(slices.axis.column, network_bytes(model, {}))


def denoise_scan(job: Job, slices: SectionSlices, model: MSD, *, num_threads: int) -> DenoisedSlices:
    """Denoise the slices of a scan.

    Parameters
    ----------
    job : Job
        Settings and scratch folder.
    slices : SectionSlices
        What is denoised.
    model : MSD
        Trained network.
    num_threads : int
        Threads of the network.

    Returns
    -------
    DenoisedSlices
        On disk.

    Raises
    ------
    ReductionError
        If the network gives what is not finite.
    """
    journal = job.workspace.journal("denoise", denoised_key(job, slices, model))
    names = ("denoised", "disagreement") if job.settings.inference.disagreement else ("denoised",)
    folders = tuple(job.workspace.pieces(name, journal) for name in names)
    path = job.workspace.scratch.absolute() / TRAINED
    write_atomically(path, network_bytes(model, {}))
    task = DenoiseTask(
        key=journal.key,
        network=path,
        sections=slices.volume,
        shares=tuple(slices.shares.tolist()),
        settings=job.settings,
        folders=folders,
        num_threads=num_threads,
    )
    records = job.do_pieces("denoise", journal, task, total=slices.shape[0], size=job.settings.compute.chunk_slices)
    volumes = [VolumePieces.of(folder, slices.shape, records) for folder in folders]
    span = min(record["min"] for record in records), max(record["max"] for record in records)
    return DenoisedSlices(journal.key, volumes[0], volumes[1] if len(volumes) > 1 else None, span)
