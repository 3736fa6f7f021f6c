"""Held-out slices, denoised from some of the sections, beside the section that the network does not see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quietbeam.noise2inverse.msd import MSD
from quietbeam.noise2inverse.pairs import Pairs

from .denoised_slices import SliceDenoiser, denoised_key
from .held_out import HeldOut
from .job import Job
from .section_slices import SectionSlices
from .volume_pieces import VolumePieces, write_slices

__all__ = ["denoise_held_out"]

HELD_OUT_SLICES = 8
"""Most slices, in the middle of those held out, on which the network is held against a section it does not see."""


def denoise_held_out(
    job: Job, slices: SectionSlices, pairs: Pairs, model: MSD, denoiser: SliceDenoiser, *, keep: bool = True
) -> HeldOut:
    """Denoise slices, in the middle of those held out, from the input of the last pair.

    Parameters
    ----------
    job : Job
        The scan.
    slices : SectionSlices
        Of all sections.
    pairs : Pairs
        What the network learned from.
    model : MSD
        The network.
    denoiser : SliceDenoiser
        How it is applied.
    keep : bool
        Keep what the network makes of them in the scratch folder, in place of what another one did, for the next call.

    Returns
    -------
    HeldOut
        In memory.
    """
    group = pairs.held_out_slices or range(slices.shape[0])
    count = min(HELD_OUT_SLICES, len(group))
    first = group.start + (len(group) - count) // 2
    some, (inputs, targets), whole = range(first, first + count), pairs.pairs[-1], slice(None)
    noisy, target = (
        np.stack([pairs.inputs.target(sections, index, whole, whole)[0] for index in some])
        for sections in (inputs, targets)
    )
    if not keep:
        return HeldOut(noisy, _denoise(pairs, some, model, denoiser), target)
    journal = job.workspace.journal("compare", denoised_key(job, slices, model))
    folder = job.workspace.pieces("held-out", journal)
    if not journal.records:
        write_slices(folder, slice(0, count), _denoise(pairs, some, model, denoiser))
        journal.append({"start": 0, "stop": count})
    return HeldOut(noisy, VolumePieces.of(folder, noisy.shape, journal.pieces())[:], target)


def _denoise(pairs: Pairs, some: range, model: MSD, denoiser: SliceDenoiser) -> NDArray[np.float32]:
    inputs, whole = pairs.pairs[-1].inputs, slice(None)
    images = (pairs.inputs.images(inputs, index, whole, whole) for index in some)
    return np.stack([denoiser.apply(model, seen) for seen in images])
