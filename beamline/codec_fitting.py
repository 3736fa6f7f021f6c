"""The codec of an archive, made for the denoised volume: trained with checkpoints where it learns."""

from __future__ import annotations

from typing import Any, NamedTuple

from quietbeam.compress.codec import Codec, CodecSettings, LearnedCodec, codec, learned_codec
from quietbeam.compress.training import CodecTrainer

from .calibrate import epochs_for
from .epochs import train
from .feasibility import codec_settings
from .job import Job
from .journal import stage_key
from .volume_file import VolumeFile

__all__ = ["OWN", "FittedCodec", "fit_codec"]

OWN = "lattice"
"""The codec that keeps the largest error by itself: it needs no other one's latents."""


class FittedCodec(NamedTuple):
    """What codes the chunks beside the residual.

    Attributes
    ----------
    codec : Codec or None
        None for `OWN`, which is the coder of the residual.
    history : list of dict
        Losses of each epoch, where it was trained.
    state : bytes
        What the archive stores for decoding.
    """

    codec: Codec | None
    history: list[dict[str, float]]
    state: bytes


def fit_codec(job: Job, volume: VolumeFile, key: str) -> FittedCodec:
    """Make the codec of a job for its denoised volume, or go on where that was stopped.

    Parameters
    ----------
    job : Job
        With the settings.
    volume : VolumeFile
        The denoised slices.
    key : str
        Of what the codec depends on.

    Returns
    -------
    FittedCodec
        The decision is recorded in the job.
    """
    name = job.settings.archive.codec
    if name == OWN:
        job.decide("codec", name, "keeps the largest error by itself, nothing to train")
        return FittedCodec(None, [], b"")
    settings = codec_settings(job.settings)
    fitted, history = _learn(job, volume, settings, key) if _learns(name) else (_fit(job, volume, settings), [])
    state = fitted.to_bytes()
    job.decide("codec", name, f"{len(state)} bytes to decode with, stored once")
    return FittedCodec(fitted, history, state)


def _learns(name: str) -> bool:
    return hasattr(codec(name), "for_volume")


def _fit(job: Job, volume: VolumeFile, settings: Any) -> Codec:
    with job.workspace.timed("fit codec"):
        return codec(job.settings.archive.codec).fit(volume, settings, seed=job.settings.training.seed)


def _learn(job: Job, volume: VolumeFile, settings: CodecSettings, key: str) -> tuple[Codec, list[dict[str, float]]]:
    def new_codec() -> LearnedCodec:
        return learned_codec(job.settings.archive.codec).for_volume(volume, settings, job.settings.training.seed)

    def trainer_of(learned: LearnedCodec) -> CodecTrainer:
        return CodecTrainer(learned, volume, settings, job.settings.training.seed)

    epochs = settings.epochs or _plan(job, settings.minutes, lambda: trainer_of(new_codec()), key)
    learned = new_codec()
    with job.workspace.timed("fit codec"):
        checkpoint, run_key = job.workspace.scratch / "codec.safetensors", stage_key(key, epochs)
        history = train(trainer_of(learned), epochs, checkpoint, run_key, name="fit codec", progress=job.progress)
    return learned, history


def _plan(job: Job, minutes: float, make_trainer: Any, key: str) -> int:
    """Turn a time into epochs once, so that a job that was stopped ends the same."""
    record = job.workspace.record("codec-plan", stage_key("codec-plan", key))
    plan = record.load() or record.store({"epochs": epochs_for(minutes, make_trainer)})
    job.decide("codec epochs", str(plan["epochs"]), f"what fits into {minutes:g} minutes here")
    return int(plan["epochs"])
