"""The reduction of one scan: the stages in their order, each taken up where it was stopped.

==============  =============================================  ==========================================
stage           leaves in the scratch folder                   unit that a crash can cost
==============  =============================================  ==========================================
identify        identity.json                                  reading the scan once
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
from collections import Counter
from functools import cached_property
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
from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import ReductionError, ScanError
from quietbeam.reconstruction.quality import noise_of_sections
from quietbeam.reconstruction.reconstructors import circle, reconstruct
from quietbeam.reconstruction.rotation_axis import RotationAxis, find_rotation_axis
from quietbeam.reconstruction.sections import section_shares, split_angles
from quietbeam.reconstruction.stripes import StripeSettings

from .atomic import sync, write_atomically
from .calibrate import epochs_for, fastest_threads
from .chunks import chunk_rows, middle_rows
from .epochs import train
from .held_out import HeldOut, caveats_of_denoising
from .journal import Journal, stage_key
from .payload_file import PayloadFile
from .progress import JobProgress
from .scan import Scan, file_signature, scan_identity
from .settings import ReductionSettings
from .sinograms import clean_sinograms, count_caveats, refuse_empty
from .stage_keys import StageKeys
from .volume_file import VolumeFile
from .workspace import ARCHIVE, NETWORK, Workspace

__all__ = ["Reduction", "max_error_of"]

ERROR_SHARE = 0.1
"""The archive's largest error over the noise of the reconstruction, where no other is asked for."""
HELD_OUT_SLICES = 8
"""Slices in the middle of the volume on which the network is held against the held-out section."""
FEW_PROJECTIONS = 0.2
"""Projections of a section over columns of the detector below which streaks are to be expected."""
WEAK_MIRROR = 0.5
"""Correlation of opposite projections below which the axis is doubtful."""


class Reduction:
    """One scan on its way to an archive.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : ReductionSettings
        All settings.
    workspace : Workspace
        Output folder, locked by the caller.
    progress : JobProgress
        Where to tell what happens.
    """

    def __init__(self, scan: Scan, settings: ReductionSettings, workspace: Workspace, progress: JobProgress) -> None:
        self.scan, self.settings, self.workspace, self.progress = scan, settings, workspace, progress
        self.threads = settings.compute.threads or torch.get_num_threads()
        self.device = _device(settings.compute.device)
        self.decisions: list[Decision] = []
        self.caveats: list[Caveat] = []
        self.shape = (scan.num_rows, scan.num_columns, scan.num_columns)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What was measured: the hashes of all files of the scan."""
        signature = file_signature(self.scan)
        record = self.workspace.record("identity", stage_key("identity", signature))
        with self.workspace.timed("identify"):
            return record.load() or record.store(scan_identity(self.scan) | {"signature": signature})

    @cached_property
    def keys(self) -> StageKeys:
        """Hashes of what each stage depends on."""
        return StageKeys(self.identity["sha256"], self.settings)

    def run(self) -> None:
        """Run all stages up to the archive and the network in place."""
        torch.set_num_threads(self.threads)
        self._check_archive()
        self._check_slice_size()
        for decision in self.scan.decisions:
            self._decide(*decision)
        for caveat in self.scan.caveats:
            self._doubt(caveat)
        self._decide("split", *self._describe_sections())
        self._check_sampling()
        self.axis = self._find_axis()
        self.sections, self.noise = self._reconstruct()
        self.check_unchanged()
        self.model, self.history = self._train()
        self.held_out = self._compare_with_held_out()
        self.denoised = self._denoise()
        self.max_error = self._choose_max_error()
        self.codec, self.codec_history = self._fit_codec()
        self.payloads, self.encoded = self._encode()
        self._write_archive()
        self._write_network()

    # -- stages ----------------------------------------------------------------------------------------------------

    def _find_axis(self) -> RotationAxis:
        record = self.workspace.record("axis", self.keys.axis)
        found = record.load()
        if found is None:
            with self.workspace.timed("rotation axis"):
                # Rings are left in: their removal moves the axis of a narrow detector.
                raw = self.keys.sinograms.model_copy(update={"stripes": StripeSettings(method="none")})
                rows = middle_rows(self.scan, self.settings)
                sinograms = np.concatenate([clean_sinograms(self.scan, part, raw)[0] for part in rows])
                axis = find_rotation_axis(sinograms, self.scan.theta, self.settings.rotation_axis)
                found = record.store(axis._asdict())
        axis = RotationAxis(**found | {"caveats": tuple(Caveat(*caveat) for caveat in found["caveats"])})
        others = ", ".join(f"{name} {column:.2f}" for name, (column, _) in axis.candidates.items())
        reason = f"{axis.method}; opposite projections correlate {axis.score:.3f}; candidates: {others}"
        self._decide("rotation axis", f"{axis.column:.2f} px", reason)
        for caveat in axis.caveats:
            self._doubt(caveat)
        if axis.score < WEAK_MIRROR:
            self._doubt(
                Caveat(
                    "weak-rotation-axis", f"opposite projections correlate only {axis.score:.2f}: look at the slices"
                )
            )
        return axis

    def _reconstruct(self) -> tuple[VolumeFile, float]:
        settings, sections = self.settings, self._sections
        journal = self.workspace.journal("sections", self.keys.sections(self.axis.column))
        volume = self.workspace.volume("sections", (self.shape[0], len(sections), *self.shape[1:]), journal)
        counts: Counter[str] = Counter()
        for chunk in self._chunks("reconstruct", journal, chunk_rows(self.scan, settings)):
            sinograms, chunk_counts = clean_sinograms(self.scan, chunk, self.keys.sinograms)
            slices = np.stack([self._slices(sinograms, section) for section in sections], axis=1)
            volume.write(chunk.start, slices)
            noise = noise_of_sections(slices, self.shares).tolist()
            journal.append({"stop": chunk.stop, "noise": noise, "counts": dict(chunk_counts)})
        for record in journal.records:
            counts.update(record["counts"])
        self._decide("outliers", f"{counts['zingers']} zingers, {counts['dead']} dead", "values replaced by neighbours")
        refuse_empty(self.scan.path, counts)
        for caveat in count_caveats(counts):
            self._doubt(caveat)
        self._decide("reconstruction", settings.reconstruction.method, f"filter {settings.reconstruction.filter}")
        return volume, float(np.median([noise for record in journal.records for noise in record["noise"]]))

    def _train(self) -> tuple[MSD, list[dict[str, float]]]:
        settings, key = self.settings.training, self.keys.training(self.axis.column)
        self._choose_threads(key)
        epochs = self._plan_epochs("plan", key, settings.minutes, settings.epochs, self._noise_trainer)
        trainer = self._noise_trainer()
        with self.workspace.timed("train"):
            checkpoint = self.workspace.scratch / "training.safetensors"
            history = train(trainer, epochs, checkpoint, stage_key(key, epochs), name="train", progress=self.progress)
        return trainer.model.eval(), history

    def _denoise(self) -> VolumeFile:
        journal = self.workspace.journal("denoised", self._denoised_key)
        volume = self.workspace.volume("denoised", self.shape, journal)
        for chunk in self._chunks("denoise", journal, self.settings.compute.chunk_slices):
            slices = np.stack([self.denoise_one(index) for index in range(chunk.start, chunk.stop)])
            if not np.isfinite(slices).all():
                raise ReductionError("the network gave values that are not finite: lower training.learning_rate")
            volume.write(chunk.start, slices)
            journal.append({"stop": chunk.stop, "min": float(slices.min()), "max": float(slices.max())})
        self.range = min(r["min"] for r in journal.records), max(r["max"] for r in journal.records)
        return volume

    def _compare_with_held_out(self) -> HeldOut:
        """Denoise some slices without the held-out section, and doubt a network that does not come nearer to it."""
        count = min(HELD_OUT_SLICES, self.shape[0])
        first = (self.shape[0] - count) // 2
        images = [self._held_out_images(index) for index in range(first, first + count)]
        held_out = HeldOut(*(np.stack(planes) for planes in zip(*images, strict=True)))
        for caveat in caveats_of_denoising(held_out):
            self._doubt(caveat)
        return held_out

    def _held_out_images(self, index: int) -> tuple[NDArray[np.float32], ...]:
        indices = context_indices(index, self.settings.pairs.context_slices, self.shape[0])
        first = int(indices.min())
        block = self.sections[first : int(indices.max()) + 1]
        others = np.einsum("k,skyx->syx", self.shares[:-1] / self.shares[:-1].sum(), block[:, :-1], dtype=np.float32)
        return others[index - first], self.apply_network(others[indices - first]), block[index - first, -1]

    def _choose_max_error(self) -> float:
        value, reason = max_error_of(self.settings.archive.max_error, self.noise, self.range)
        self._decide("max_error", f"{value:.4g} {self.unit}", reason)
        return value

    def _fit_codec(self) -> tuple[Codec | None, list[dict[str, float]]]:
        settings, key = self.settings.codec, self.keys.codec(self._denoised_key)
        if self.settings.archive.codec is None:
            self._decide("codec", "none", "archive.codec: the residual coder alone")
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
        self._decide("codec", name, f"decoder of {learned.num_parameters} parameters")
        return learned, history

    def _encode(self) -> tuple[PayloadFile, list[dict[str, Any]]]:
        journal = self.workspace.journal(
            "payloads", self.keys.payloads(self._codec_state, self._denoised_key, self.max_error)
        )
        payloads = PayloadFile(self.workspace.scratch / "payloads.bin", journal)
        for chunk in self._chunks("encode", journal, self.settings.archive.chunk_slices):
            encoded = encode_chunk(
                self.codec, self.denoised[chunk], self.max_error, keep_latents=self.settings.archive.keep_latents
            )
            journal.append({"stop": chunk.stop, **payloads.append(encoded.payload), **_cost(encoded)})
        if self.codec:
            paid = sum(record["num_latent_bytes"] > 0 for record in journal.records)
            kept = self.settings.archive.keep_latents
            why = f"archive.keep_latents: {kept}; elsewhere the residual coder alone is smaller"
            self._decide("latents", f"in {paid} of {len(journal.records)} chunks", why)
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
            "scan": self.identity["sha256"],
            "axis": self.axis.column,
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
        return "1/m" if self.scan.pixel_size else "1/pixel"

    def full_slices(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Reconstructions from all projections, the sections' average: float32, shape (index, y, x)."""
        first = int(indices.min())
        block = self.sections[first : int(indices.max()) + 1]
        full = np.einsum("k,skyx->syx", self.shares, block, dtype=np.float32)
        return np.asarray(full[indices - first])

    def denoise_one(self, index: int) -> NDArray[np.float32]:
        """Apply the network to the full reconstruction of one slice: float32, shape (y, x)."""
        context = self.settings.pairs.context_slices
        seen = self.full_slices(context_indices(index, context, self.shape[0]))
        return self.apply_network(seen)

    def apply_network(self, context: NDArray[np.float32]) -> NDArray[np.float32]:
        """Denoise the middle of some slices, shape (channel, y, x); outside the circle it stays 0."""
        slices = denoise_slice(self.model, context, tile_size=self.settings.compute.tile_size, device=self.device)
        return slices * circle(self.shape[-1]) if self.settings.reconstruction.circle else slices

    def _slices(self, sinograms: NDArray[np.float32], section: NDArray[np.intp]) -> NDArray[np.float32]:
        part = np.ascontiguousarray(sinograms[:, section])
        settings = self.settings.reconstruction
        return reconstruct(
            part,
            self.scan.theta[section],
            self.axis.column,
            settings,
            pixel_size=self.scan.pixel_size,
            num_threads=self.threads,
        )

    def _noise_trainer(self) -> NoiseTrainer:
        pairs = Pairs(self.sections, self.shares, self.settings.pairs)
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
            self._decide("threads", str(self.threads), f"fastest of up to {most} when training began")
        torch.set_num_threads(self.threads)

    def _plan_epochs(self, stage: str, key: str, minutes: float, epochs: int | None, trainer: Any) -> int:
        """Make a number of epochs of the time budget, once."""
        if epochs is not None:
            return epochs
        record = self.workspace.record(stage, stage_key(stage, key))
        plan = record.load() or record.store({"epochs": epochs_for(minutes, trainer)})
        self._decide(
            f"{'codec ' * (stage != 'plan')}epochs", str(plan["epochs"]), f"what fits into {minutes:g} minutes here"
        )
        return int(plan["epochs"])

    def _header(self) -> ArchiveHeader:
        metadata = {
            "name": self.scan.name,
            "scan": {"sha256": self.identity["sha256"], "num_files": len(self.identity["files"])},
            "unit": self.unit,
            "pixel_size": self.scan.pixel_size,
            "rotation_axis": self.axis.column,
            "settings": self.settings.model_dump(mode="json", exclude={"compute"}),
            "decisions": [list(decision) for decision in self.decisions],
            "caveats": [list(caveat) for caveat in self.caveats],
            "version": importlib.metadata.version("quietbeam"),
        }
        return ArchiveHeader(
            shape=self.shape,
            codec=self.settings.archive.codec,
            max_error=self.max_error,
            chunk_slices=self.settings.archive.chunk_slices,
            metadata=metadata,
        )

    def _chunks(self, stage: str, journal: Journal, size: int) -> Any:
        """Slices still to be done, chunk by chunk, with the progress and the time of the stage."""
        total = self.shape[0]
        done = journal.records[-1]["stop"] if journal.records else 0
        with self.workspace.timed(stage), self.progress.stage(stage, total, done) as bar:
            for start in range(done, total, size):
                stop = min(start + size, total)
                yield slice(start, stop)
                bar.advance(stop - start)

    # -- what is known beforehand ---------------------------------------------------------------------------------

    @cached_property
    def _sections(self) -> list[NDArray[np.intp]]:
        try:
            return split_angles(self.scan.theta, self.settings.sections.num_sections)
        except ValueError as error:
            raise ReductionError(f"{self.scan.path}: {error}") from error

    @cached_property
    def shares(self) -> NDArray[np.float32]:
        """Share of the projections in each section: float32, shape (section,)."""
        return section_shares(self._sections)

    @property
    def _denoised_key(self) -> str:
        return self.keys.denoised(self.axis.column, network_bytes(self.model, {}))

    @property
    def _codec_state(self) -> bytes:
        return self.codec.to_bytes() if self.codec else b""

    def check_unchanged(self) -> None:
        """Refuse a scan whose files were changed since they were hashed, and forget what was made of it."""
        if file_signature(self.scan) != self.identity["signature"]:
            self.workspace.clean()
            raise ScanError(f"{self.scan.path}: changed while it was reduced; run the command again")

    def _check_archive(self) -> None:
        """Refuse now what the archive would refuse after hours."""
        archive = self.settings.archive
        try:
            ArchiveHeader(shape=self.shape, codec=archive.codec, max_error=1, chunk_slices=archive.chunk_slices)
        except ValueError as error:
            raise ReductionError(f"{self.scan.path}: does not fit into an archive: {error}") from error

    def _describe_sections(self) -> tuple[str, str]:
        sizes = sorted({len(section) for section in self._sections})
        count = " or ".join(map(str, sizes))
        return (
            f"{len(self._sections)} sections of {count} projections",
            "interleaved by direction; the last is held out",
        )

    def _check_sampling(self) -> None:
        fewest, columns = min(map(len, self._sections)), self.shape[2]
        if fewest < FEW_PROJECTIONS * columns:
            what = f"a section has {fewest} projections for slices of {columns} pixels"
            risk = "streaks that all sections share look like structure to the network"
            self._doubt(
                Caveat("few-projections", f"{what}: {risk}; fewer sections (sections.num_sections) may be better")
            )

    def _check_slice_size(self) -> None:
        smallest = min(self.settings.pairs.crop_size, *self.shape[1:])
        largest = min(self.settings.network.num_dilations, self.settings.network.depth)
        if smallest < largest:
            raise ReductionError(
                f"{self.scan.path}: slices of {self.shape[2]} pixels are smaller than the network's largest dilation, "
                f"{largest}: lower network.num_dilations"
            )

    def _decide(self, name: str, value: str, reason: str) -> None:
        self.decisions.append(Decision(name, value, reason))
        self.progress.decision(self.decisions[-1])

    def _doubt(self, caveat: Caveat) -> None:
        self.caveats.append(caveat)
        self.progress.caveat(caveat)


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


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ReductionError("compute.device is cuda, but torch finds no CUDA device here; take auto or cpu")
    return torch.device(name)
