"""The reduction of one scan: the stages in their order, each taken up where it was stopped.

==============  =============================================  ==========================================
stage           leaves in the scratch folder                   unit that a crash can cost
==============  =============================================  ==========================================
identify        identity.json                                  reading the scan once
screen          screen.json                                    all of it (seconds)
axis            axis.json                                      all of it (seconds)
reconstruct     sections.npy, sections.jsonl                   one chunk of slices
train           plan.json, training.safetensors                one epoch
denoise         denoised.npy, denoised.jsonl                   one chunk of slices
fit codec       codec-plan.json, codec.safetensors             one epoch
encode          payloads.bin, payloads.jsonl                   one chunk of slices
archive         denoised.h5, then renamed into place           writing the archive
report          report.html, network.safetensors in place      drawing the pictures
manifest        manifest.json in place; the scratch folder goes
==============  =============================================  ==========================================
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quietbeam.compress.archive import ArchiveHeader, EncodedChunk, encode_chunk, verify_archive, write_archive
from quietbeam.compress.codec import Codec, codec
from quietbeam.compress.training import CodecTrainer
from quietbeam.noise2inverse.checkpoint import network_bytes
from quietbeam.noise2inverse.inference import denoise_slice
from quietbeam.noise2inverse.msd import MSD
from quietbeam.noise2inverse.pairs import Pairs, context_indices
from quietbeam.noise2inverse.training import NoiseTrainer
from quietbeam.reconstruction.errors import ReductionError
from quietbeam.reconstruction.reconstructors import circle

from .atomic import sync, write_atomically
from .calibrate import epochs_for, fastest_threads
from .epochs import train
from .feasibility import check_feasible, choose_device
from .held_out import HeldOut, caveats_of_denoising
from .job import Job
from .journal import stage_key
from .payload_file import PayloadFile
from .section_slices import reconstruct_scan
from .volume_file import VolumeFile
from .workspace import ARCHIVE, NETWORK

__all__ = ["Reduction", "max_error_of"]

ERROR_SHARE = 0.1
"""The archive's largest error over the noise of the reconstruction, where no other is asked for."""
HELD_OUT_SLICES = 8
"""Slices in the middle of the volume on which the network is held against the held-out section."""


class Reduction:
    """One scan on its way to an archive.

    Parameters
    ----------
    job : Job
        The scan, all settings, the output folder.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.settings, self.workspace, self.progress = job, job.settings, job.workspace, job.progress
        self.threads = job.settings.compute.threads or torch.get_num_threads()
        self.device = choose_device(job.settings.compute.device)

    def run(self) -> None:
        """Run all stages up to the archive and the network in place."""
        torch.set_num_threads(self.threads)
        scan = self.job.scan
        check_feasible(scan, self.settings)
        for decision in scan.decisions:
            self.job.decide(*decision)
        self.job.doubt(scan.caveats)
        self.slices = reconstruct_scan(self.job, num_threads=self.threads)
        self.job.check_unchanged()
        self.model, self.history = self._train()
        self.held_out = self._compare_with_held_out()
        self.denoised = self._denoise()
        self.max_error = self._choose_max_error()
        self.codec, self.codec_history = self._fit_codec()
        self.payloads, self.encoded = self._encode()
        self._write_archive()
        self._write_network()

    # -- stages ----------------------------------------------------------------------------------------------------

    def _train(self) -> tuple[MSD, list[dict[str, float]]]:
        settings, key = self.settings.training, self.job.keys.training(self.slices.axis.column)
        self._choose_threads(key)
        epochs = self._plan_epochs("plan", key, settings.minutes, settings.epochs, self._noise_trainer)
        trainer = self._noise_trainer()
        with self.workspace.timed("train"):
            checkpoint = self.workspace.scratch / "training.safetensors"
            history = train(trainer, epochs, checkpoint, stage_key(key, epochs), name="train", progress=self.progress)
        return trainer.model.eval(), history

    def _denoise(self) -> VolumeFile:
        journal = self.workspace.journal("denoised", self._denoised_key)
        volume = self.workspace.volume("denoised", self.slices.shape, journal)
        for chunk in self.job.chunks(
            "denoise", journal, total=self.slices.shape[0], size=self.settings.compute.chunk_slices
        ):
            slices = np.stack([self.denoise_one(index) for index in range(chunk.start, chunk.stop)])
            if not np.isfinite(slices).all():
                raise ReductionError("the network gave values that are not finite: lower training.learning_rate")
            volume.write(chunk.start, slices)
            journal.append({"stop": chunk.stop, "min": float(slices.min()), "max": float(slices.max())})
        self.range = min(r["min"] for r in journal.records), max(r["max"] for r in journal.records)
        return volume

    def _compare_with_held_out(self) -> HeldOut:
        """Denoise some slices without the held-out section, and doubt a network that does not come nearer to it."""
        count = min(HELD_OUT_SLICES, self.slices.shape[0])
        first = (self.slices.shape[0] - count) // 2
        images = [self._held_out_images(index) for index in range(first, first + count)]
        held_out = HeldOut(*(np.stack(planes) for planes in zip(*images, strict=True)))
        self.job.doubt(caveats_of_denoising(held_out))
        return held_out

    def _held_out_images(self, index: int) -> tuple[NDArray[np.float32], ...]:
        indices = context_indices(index, self.settings.pairs.context_slices, self.slices.shape[0])
        first = int(indices.min())
        block = self.slices.volume[first : int(indices.max()) + 1]
        others = np.einsum(
            "k,skyx->syx", self.slices.shares[:-1] / self.slices.shares[:-1].sum(), block[:, :-1], dtype=np.float32
        )
        return others[index - first], self.apply_network(others[indices - first]), block[index - first, -1]

    def _choose_max_error(self) -> float:
        value, reason = max_error_of(self.settings.archive.max_error, self.slices.noise, self.range)
        self.job.decide("max_error", f"{value:.4g} {self.unit}", reason)
        return value

    def _fit_codec(self) -> tuple[Codec | None, list[dict[str, float]]]:
        settings, key = self.settings.codec, self.job.keys.codec(self._denoised_key)
        if self.settings.archive.codec is None:
            self.job.decide("codec", "none", "archive.codec: the residual coder alone")
            return None, []

        def new_trainer() -> CodecTrainer:
            return self._codec_trainer(self._new_codec())

        epochs = self._plan_epochs("codec-plan", key, settings.minutes, settings.epochs, new_trainer)
        learned = self._new_codec()
        trainer = self._codec_trainer(learned)
        with self.workspace.timed("fit codec"):
            checkpoint = self.workspace.scratch / "codec.safetensors"
            history = train(
                trainer, epochs, checkpoint, stage_key(key, epochs), name="fit codec", progress=self.progress
            )
        name = self.settings.archive.codec
        self.job.decide("codec", name, f"decoder of {learned.num_parameters} parameters")
        return learned, history

    def _encode(self) -> tuple[PayloadFile, list[dict[str, Any]]]:
        journal = self.workspace.journal(
            "payloads", self.job.keys.payloads(self._codec_state, self._denoised_key, self.max_error)
        )
        payloads = PayloadFile(self.workspace.scratch / "payloads.bin", journal)
        for chunk in self.job.chunks(
            "encode", journal, total=self.slices.shape[0], size=self.settings.archive.chunk_slices
        ):
            encoded = encode_chunk(
                self.codec, self.denoised[chunk], self.max_error, keep_latents=self.settings.archive.keep_latents
            )
            journal.append({"stop": chunk.stop, **payloads.append(encoded.payload), **_cost(encoded)})
        if self.codec:
            paid = sum(record["num_latent_bytes"] > 0 for record in journal.records)
            kept = self.settings.archive.keep_latents
            why = f"archive.keep_latents: {kept}; elsewhere the residual coder alone is smaller"
            self.job.decide("latents", f"in {paid} of {len(journal.records)} chunks", why)
        return payloads, journal.records

    def _write_archive(self) -> None:
        """Write the archive, check every voxel against the denoised volume, then give it its name."""
        path = self.workspace.scratch / ARCHIVE
        with self.workspace.timed("archive"), self.progress.stage("archive", 2) as step:
            write_archive(path, self.payloads, self._header(), self._codec_state)
            step.advance()
            checked = verify_archive(path, against=self.denoised)
            if not checked.ok:
                raise ReductionError(f"{path}: the archive does not hold what was put in: {'; '.join(checked.damaged)}")
            self.workspace.forget_result()
            path.replace(self.workspace.output / ARCHIVE)
            sync(self.workspace.output)
            step.advance()
        self.largest_error = float(checked.largest_error or 0)

    def _write_network(self) -> None:
        provenance = {
            "scan": self.job.identity["sha256"],
            "axis": self.slices.axis.column,
            "sections": self.settings.sections.model_dump(mode="json"),
            "pairs": self.settings.pairs.model_dump(mode="json"),
            "training": self.settings.training.model_dump(mode="json"),
            "epochs": len(self.history),
            "version": importlib.metadata.version("quietbeam"),
        }
        write_atomically(self.workspace.output / NETWORK, network_bytes(self.model, provenance))

    # -- parts of stages -------------------------------------------------------------------------------------------

    @property
    def unit(self) -> str:
        """Unit of the volume's values."""
        return "1/m" if self.slices.scan.pixel_size else "1/pixel"

    def denoise_one(self, index: int) -> NDArray[np.float32]:
        """Apply the network to the full reconstruction of one slice: float32, shape (y, x)."""
        context = self.settings.pairs.context_slices
        seen = self.slices.full(context_indices(index, context, self.slices.shape[0]))
        return self.apply_network(seen)

    def apply_network(self, context: NDArray[np.float32]) -> NDArray[np.float32]:
        """Denoise the middle of some slices, shape (channel, y, x); outside the circle it stays 0."""
        slices = denoise_slice(self.model, context, tile_size=self.settings.compute.tile_size, device=self.device)
        return slices * circle(self.slices.shape[-1]) if self.settings.reconstruction.circle else slices

    def _noise_trainer(self) -> NoiseTrainer:
        pairs = Pairs(self.slices.volume, self.slices.shares, self.settings.pairs)
        return NoiseTrainer(pairs, self.settings.training, self.settings.network, device=self.device)

    def _new_codec(self) -> Codec:
        name = str(self.settings.archive.codec)
        return codec(name).for_volume(self.denoised, self.settings.codec, self.settings.training.seed)

    def _codec_trainer(self, codec: Codec) -> CodecTrainer:
        return CodecTrainer(codec, self.denoised, self.settings.codec, self.settings.training.seed)

    def _choose_threads(self, key: str) -> None:
        """Take the threads asked for, or those that train fastest here and now."""
        if self.settings.compute.threads is None:
            record = self.workspace.record("threads", stage_key("threads", key, self.threads))
            most = self.threads
            chosen = record.load() or record.store({"threads": fastest_threads(most, self._noise_trainer)})
            self.threads = int(chosen["threads"])
            self.job.decide("threads", str(self.threads), f"fastest of up to {most} when training began")
        torch.set_num_threads(self.threads)

    def _plan_epochs(self, stage: str, key: str, minutes: float, epochs: int | None, trainer: Any) -> int:
        """Make a number of epochs of the time budget, once."""
        if epochs is not None:
            return epochs
        record = self.workspace.record(stage, stage_key(stage, key))
        plan = record.load() or record.store({"epochs": epochs_for(minutes, trainer)})
        self.job.decide(
            f"{'codec ' * (stage != 'plan')}epochs", str(plan["epochs"]), f"what fits into {minutes:g} minutes here"
        )
        return int(plan["epochs"])

    def _header(self) -> ArchiveHeader:
        metadata = {
            "name": self.slices.scan.name,
            "scan": {"sha256": self.job.identity["sha256"], "num_files": len(self.job.identity["files"])},
            "unit": self.unit,
            "pixel_size": self.slices.scan.pixel_size,
            "rotation_axis": self.slices.axis.column,
            "settings": self.settings.model_dump(mode="json", exclude={"compute"}),
            "decisions": [list(decision) for decision in self.job.decisions],
            "caveats": [list(caveat) for caveat in self.job.caveats],
            "version": importlib.metadata.version("quietbeam"),
        }
        return ArchiveHeader(
            shape=self.slices.shape,
            codec=self.settings.archive.codec,
            max_error=self.max_error,
            chunk_slices=self.settings.archive.chunk_slices,
            metadata=metadata,
        )

    @property
    def _denoised_key(self) -> str:
        return self.job.keys.denoised(self.slices.axis.column, network_bytes(self.model, {}))

    @property
    def _codec_state(self) -> bytes:
        return self.codec.to_bytes() if self.codec else b""


def max_error_of(given: float | None, noise: float, value_range: tuple[float, float]) -> tuple[float, str]:
    """Choose the archive's largest error.

    Parameters
    ----------
    given : float or None
        Asked for by the user.
    noise : float
        Standard deviation of the noise of the full reconstruction.
    value_range : (float, float)
        Smallest and largest value of the denoised volume.

    Returns
    -------
    float
        In the unit of the volume; positive.
    str
        Why.
    """
    if given is not None:
        return given, "archive.max_error"
    if noise > 0:
        return ERROR_SHARE * noise, f"{ERROR_SHARE:g} of the noise of the reconstruction, {noise:.4g}"
    span = value_range[1] - value_range[0]
    return (1e-4 * span if span > 0 else 1e-6), "no noise was seen: 1e-4 of the range"


def _cost(encoded: EncodedChunk) -> dict[str, Any]:
    numbers = dataclasses.asdict(encoded)
    del numbers["payload"]
    return numbers
