"""The reduction of one scan: the stages in their order, each taken up where it was stopped.

==============  =============================================  ==========================================
stage           leaves in the scratch folder                   unit that a crash can cost
==============  =============================================  ==========================================
identify        identity.json                                  reading the scan once
screen          screen.json                                    all of it (seconds)
axis            axis.json                                      all of it (seconds)
reconstruct     sections/, reconstruct.jsonl                   one chunk of slices
train           start.json, start.safetensors, plan.json,      one epoch
                training.safetensors
  and another   own-plan.json, own.safetensors, fit.json       one epoch
compare         held-out/                                      all of it (seconds)
denoise         trained.safetensors, denoised/, disagreement/, one chunk of slices
                denoise.jsonl
fit codec       codec-plan.json, codec.safetensors,            one epoch
                codec.json, codec.packed
encode          payloads/, encode.jsonl                        one chunk of slices
archive         denoised.h5 in place                           writing the archive
report          report.html, network.safetensors in place, and  drawing the pictures
                disagreement.npy where it was asked for
manifest        manifest.json in place; the scratch folder goes
==============  =============================================  ==========================================

What is done by chunks of slices may be done by other processes, see `quietbeam.beamline.pieces`: the reduction is left
there, and taken up when they have done.
"""

from __future__ import annotations

import importlib.metadata
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from quietbeam.compress.archive import ArchiveHeader, verify_archive, write_archive
from quietbeam.noise2inverse.distributed import Group
from quietbeam.noise2inverse.independence import independence_caveats
from quietbeam.noise2inverse.inference import plan_passes
from quietbeam.noise2inverse.msd import MSD
from quietbeam.noise2inverse.pairs import Pairs
from quietbeam.reconstruction.caveats import Caveat
from quietbeam.reconstruction.errors import ReductionError

from .atomic import atomic_path
from .codec_fitting import fit_codec
from .codec_reuse import decoders_folder, keep_codec
from .denoised_slices import SliceDenoiser, denoise_scan
from .encoded_slices import encode_scan
from .feasibility import check_feasible, choose_device
from .held_out import HeldOut, caveats_of_denoising, name_held_out
from .held_out_slices import denoise_held_out
from .job import Job
from .journal import stage_key
from .network_fit import NetworkFit, OwnNetwork, doubts_of_fit, measure_fit
from .network_result import write_network
from .network_reuse import apply_network, is_applied
from .network_training import NetworkTraining, send_task
from .preview import Preview
from .section_slices import reconstruct_scan
from .settings import ReductionSettings
from .stage_keys import NOT_COMPUTED_FROM
from .warm_start import choose_start
from .workspace import ARCHIVE, DISAGREEMENT, METRICS, PREVIEW

__all__ = ["Reduction", "max_error_of"]

ERROR_SHARE = 0.1
"""The archive's largest error over the noise of the reconstruction, where no other is asked for."""


class Reduction:
    """One scan on its way to an archive.

    Parameters
    ----------
    job : Job
        The scan, all settings, the output folder.
    group : Group, optional
        Processes that train together; this is the first of them.
    """

    def __init__(self, job: Job, group: Group | None = None) -> None:
        self.job, self.settings, self.workspace, self.progress = job, job.settings, job.workspace, job.progress
        self.threads = job.settings.compute.threads or torch.get_num_threads()
        self.group = group or Group(device=choose_device(job.settings.compute.device))
        self.denoiser = SliceDenoiser(job.settings, self.group.device)

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
        self._check_sections()
        self.model, self.history = self._train()
        self.held_out = self._compare_with_held_out()
        self.fit = self._measure_fit()
        self.denoised = denoise_scan(self.job, self.slices, self.model, num_threads=self.threads)
        self.max_error = self._choose_max_error()
        self.codec = fit_codec(self.job, self.denoised.volume, self.job.keys.codec(self.denoised.key))
        self.payloads = encode_scan(self.job, self.denoised, self.codec, self.max_error, num_threads=self.threads)
        self._write_archive()
        self.job.doubt(doubts_of_fit(self.fit) if self.fit else [])  # of the network, not of what is in the archive
        self._write_network()
        self._write_disagreement()
        keep_codec(self.job, self.codec)

    # -- stages ----------------------------------------------------------------------------------------------------

    def _check_sections(self) -> None:
        """Refuse sections with the same noise, doubt those with common noise, and tell what is not trained on."""
        pairs = self._pairs()
        try:
            self.job.doubt(independence_caveats(pairs.sections, pairs.pairs))
        except ValueError as error:
            raise ReductionError(f"{self.job.scan.path}: {error}") from error
        group, num_slices = pairs.held_out_slices, self.slices.shape[0]
        why = "never trained on" if group else f"{num_slices} slices are too few to hold some out"
        self.job.decide("held out", name_held_out(group), why)
        self.job.doubt(_doubt_of_passes(self.settings))

    def _train(self) -> tuple[MSD, list[dict[str, float]]]:
        self.start, pairs = choose_start(self.job), self._pairs()
        if is_applied(self.settings, self.start):
            return apply_network(self.job, pairs, self.start), []
        key = self.job.keys.training(self.slices.axis.column, self.start.sha256)
        send_task(self.group, pairs, self.slices.volume, self.settings)
        training = NetworkTraining(
            pairs,
            self.settings,
            group=self.group,
            progress=self.progress,
            start=self.start.model,
            scan=self.job.scan.path,
        )
        self._choose_threads(training, key)
        epochs = self._plan_training(training, key)
        preview = Preview(self.workspace.output / PREVIEW, self._middle_images(pairs), self.denoiser.denoise_slice)
        with self.workspace.timed("train"):
            return training.run(
                epochs,
                self.workspace.scratch / "training.safetensors",
                key,
                metrics=self.workspace.output / METRICS,
                on_epoch=preview.update,
            )

    def _compare_with_held_out(self) -> HeldOut:
        """Denoise held-out slices from some sections, and doubt a network that does not come nearer to the other."""
        held_out = self._held_out(self.model, keep=True)
        self.job.doubt(caveats_of_denoising(held_out, applied=is_applied(self.settings, self.start)))
        return held_out

    def _held_out(self, model: MSD, *, keep: bool = False) -> HeldOut:
        return denoise_held_out(self.job, self.slices, self._pairs(), model, self.denoiser, keep=keep)

    def _measure_fit(self) -> NetworkFit | None:
        """Tell how well a network that was taken over fits; None of one that this scan trained."""
        if not is_applied(self.settings, self.start):
            return None
        pairs, column = self._pairs(), self.slices.axis.column
        send = partial(send_task, self.group, pairs, self.slices.volume)
        own = OwnNetwork(self.job, pairs, send, column=column, group=self.group, threads=self.threads)
        return measure_fit(self.job, self.start, self.held_out, own, self._held_out)

    def _choose_max_error(self) -> float:
        value, reason = max_error_of(self.settings.archive.max_error, self.slices.noise, self.denoised.range)
        self.job.decide("max_error", f"{value:.4g} {self.unit}", reason)
        return value

    def _write_archive(self) -> None:
        """Write the archive, check every voxel against the denoised volume, then give it its name."""
        path, volume = self.workspace.output / ARCHIVE, self.denoised.volume
        with self.workspace.timed("archive"), self.progress.stage("archive", 2) as step:
            folder = decoders_folder(self.settings.archive, self.workspace.output)
            with atomic_path(path) as temporary:
                write_archive(temporary, self.payloads, self._header(), self.codec.state, decoders=folder)
                step.advance()
                checked = verify_archive(temporary, against=volume, decoders=[folder] if folder else [])
                if not checked.ok:
                    damaged = "; ".join(checked.damaged)
                    raise ReductionError(f"{path}: the archive does not hold what was put in: {damaged}")
                self.workspace.forget_result()
            step.advance()
        self.largest_error = float(checked.largest_error or 0)

    def _write_network(self) -> None:
        write_network(
            self.job,
            self.model,
            self.start,
            column=self.slices.axis.column,
            epochs=len(self.history),
            held_out=self.held_out,
        )

    def _write_disagreement(self) -> None:
        """Put the disagreement of the passes beside the archive, or take away that of an earlier result."""
        path = self.workspace.output / DISAGREEMENT
        if self.denoised.disagreement is None:
            path.unlink(missing_ok=True)
            return
        with self.workspace.timed("archive"), atomic_path(path) as temporary:
            self.denoised.disagreement.save(temporary)

    # -- parts of stages -------------------------------------------------------------------------------------------

    @property
    def unit(self) -> str:
        """Unit of the volume's values."""
        return "1/m" if self.slices.scan.pixel_size else "1/pixel"

    def _middle_images(self, pairs: Pairs) -> NDArray[np.float32]:
        """Give what the network sees of the middle slice."""
        (full,), whole = plan_passes("full", pairs.pairs), slice(None)
        return pairs.inputs.images(full, self.slices.shape[0] // 2, whole, whole)

    def _pairs(self) -> Pairs:
        try:
            return Pairs(self.slices.volume, self.slices.shares, self.settings.pairs)
        except ValueError as error:
            raise ReductionError(f"{self.job.scan.path}: {error}") from error

    def _choose_threads(self, training: NetworkTraining, key: str) -> None:
        """Take the threads asked for, or those that train fastest here and now."""
        most, asked = self.threads, self.settings.compute.threads
        record = self.workspace.record("threads", stage_key("threads", key, most))
        found = {} if asked else record.load() or {}
        self.threads = training.choose_threads(most, found.get("threads"))
        if not asked:
            record.store({"threads": self.threads})
            self.job.decide("threads", str(self.threads), f"fastest of up to {most} when training began")

    def _plan_training(self, training: NetworkTraining, key: str) -> int:
        settings = self.settings.training
        record = self.workspace.record("plan", stage_key("plan", key))
        found = {} if settings.epochs else record.load() or {}
        epochs = training.plan_epochs(found.get("epochs"))
        if settings.epochs is None:
            record.store({"epochs": epochs})
            self.job.decide("epochs", str(epochs), f"what fits into {settings.minutes:g} minutes here")
        return epochs

    def _header(self) -> ArchiveHeader:
        metadata = {
            "name": self.slices.scan.name,
            "scan": {"sha256": self.job.identity["sha256"], "num_files": len(self.job.identity["files"])},
            "unit": self.unit,
            "pixel_size": self.slices.scan.pixel_size,
            "rotation_axis": self.slices.axis.column,
            "settings": self.settings.model_dump(mode="json", exclude={"compute": True, **NOT_COMPUTED_FROM}),
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


def _doubt_of_passes(settings: ReductionSettings) -> list[Caveat]:
    """Tell where the network is applied to images that are not like those of its training."""
    if settings.pairs.strategy != "1:X" or settings.inference.mode != "full":
        return []
    text = "the network learns from single sections (pairs.strategy=1:X) and is applied to the average of all"
    return [
        Caveat("unlike-training", f"{text}, which is less noisy: inference.mode=average applies it to what it knows")
    ]
