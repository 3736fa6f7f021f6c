"""The codec of an archive, made for the denoised volume: trained with checkpoints where it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from quietbeam.compress.codec import Codec, CodecSettings, LearnedCodec, codec, learned_codec
from quietbeam.compress.codec_parts import HasParts
from quietbeam.compress.packed_codec import pack_codec, read_packed, unpack_codec
from quietbeam.compress.training import CodecTrainer

from .atomic import file_sha256, write_atomically
from .calibrate import epochs_for
from .codec_reuse import decide_on_trained, read_trained
from .epochs import train
from .feasibility import codec_settings
from .job import Job
from .journal import stage_key
from .volume_pieces import VolumePieces
from .workspace import CODEC

__all__ = ["OWN", "FittedCodec", "fit_codec"]

OWN = "lattice"
"""The codec that keeps the largest error by itself: it needs no other one's latents."""


class FittedCodec(NamedTuple):
    """What codes the chunks beside the residual.

    Attributes
    ----------
    file : Path or None
        The codec, packed; None for `OWN`, which is the coder of the residual.
    history : list of dict
        Losses of each epoch, where it was trained.
    state : bytes
        What decoding needs.
    learned : bool
        Whether the file holds more than decoding needs, so that other scans could take the codec.
    """

    file: Path | None
    history: list[dict[str, float]]
    state: bytes
    learned: bool


def fit_codec(job: Job, volume: VolumePieces, key: str) -> FittedCodec:
    """Make the codec of a job for its denoised volume, or go on where that was stopped.

    Parameters
    ----------
    job : Job
        With the settings.
    volume : VolumePieces
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
        return FittedCodec(None, [], b"", learned=False)
    file, history = _take(job, volume) or _keep(job, volume, key)
    fitted = unpack_codec(name, read_packed(file), where=str(file))
    state = fitted.to_bytes()
    where = (
        "stored once" if job.settings.archive.embed else "stored in a file that archives with the same decoder share"
    )
    job.decide("codec", name, f"{len(state)} bytes to decode with, {where} if a chunk needs them")
    return FittedCodec(file, history, state, isinstance(fitted, HasParts))


def _file(job: Job) -> Path:
    return job.workspace.scratch.absolute() / CODEC


def _take(job: Job, volume: VolumePieces) -> tuple[Path, list[dict[str, float]]] | None:
    """Take the codec that is named, if one is."""
    if (trained := read_trained(job.settings)) is None:
        return None
    decide_on_trained(job, trained, volume)
    write_atomically(_file(job), pack_codec(trained))
    return _file(job), []


def _learns(name: str) -> bool:
    return hasattr(codec(name), "for_volume")


def _keep(job: Job, volume: VolumePieces, key: str) -> tuple[Path, list[dict[str, float]]]:
    """Make the codec once and keep it in the scratch folder; give its file and the losses."""
    settings, learns = codec_settings(job.settings), _learns(job.settings.archive.codec)
    epochs = _epochs(job, volume, settings, key) if learns else None
    record, file = job.workspace.record("codec", stage_key(key, epochs)), _file(job)
    kept = record.load()
    if kept is None or not file.is_file() or file_sha256(file) != kept["sha256"]:
        with job.workspace.timed("fit codec"):
            made = _learn(job, volume, settings, epochs, record.key) if epochs else (_fit(job, volume, settings), [])
        write_atomically(file, pack_codec(made[0]))
        kept = record.store({"sha256": file_sha256(file), "history": made[1]})
    return file, list(kept["history"])


def _fit(job: Job, volume: VolumePieces, settings: Any) -> Codec:
    return codec(job.settings.archive.codec).fit(volume, settings, seed=job.settings.training.seed)


def _learn(
    job: Job, volume: VolumePieces, settings: CodecSettings, epochs: int, key: str
) -> tuple[Codec, list[dict[str, float]]]:
    learned, checkpoint = _untrained(job, volume, settings), job.workspace.scratch / "codec.safetensors"
    trainer = CodecTrainer(learned, volume, settings, job.settings.training.seed)
    return learned, train(trainer, epochs, checkpoint, key, name="fit codec", progress=job.progress)


def _untrained(job: Job, volume: VolumePieces, settings: CodecSettings) -> LearnedCodec:
    return learned_codec(job.settings.archive.codec).for_volume(volume, settings, job.settings.training.seed)


def _epochs(job: Job, volume: VolumePieces, settings: CodecSettings, key: str) -> int:
    """Take the epochs asked for, or turn a time into epochs once, so that a job that was stopped ends the same."""
    if settings.epochs:
        return settings.epochs

    def trainer() -> CodecTrainer:
        return CodecTrainer(_untrained(job, volume, settings), volume, settings, job.settings.training.seed)

    record, minutes = job.workspace.record("codec-plan", stage_key("codec-plan", key)), settings.minutes
    plan = record.load() or record.store({"epochs": epochs_for(minutes, trainer)})
    job.decide("codec epochs", str(plan["epochs"]), f"what fits into {minutes:g} minutes here")
    return int(plan["epochs"])
