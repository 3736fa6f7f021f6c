"""How well a network that was taken over fits a scan: on slices held out, beside one that the scan trained itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.noise2inverse.checkpoint import load_network
from quietbeam.noise2inverse.distributed import Group
from quietbeam.noise2inverse.msd import MSD
from quietbeam.noise2inverse.pairs import Pairs
from quietbeam.reconstruction.caveats import Caveat
from quietbeam.reconstruction.resolution import fourier_ring_correlation

from .held_out import HeldOut, contrast, finest_period
from .job import Job
from .journal import stage_key
from .network_training import NetworkTraining, dismiss
from .settings import ReductionSettings
from .stage_keys import StageKeys
from .warm_start import Start
from .workspace import START

__all__ = [
    "Agreement",
    "NetworkFit",
    "OwnNetwork",
    "agreements",
    "doubts_of_fit",
    "measure_fit",
    "numbers_elsewhere",
    "scatter_of_difference",
]

LOST = 0.01
"""Share of what the scan's own network gains that the one taken over may lose before the user is told.

Measured on foams of 96 columns: networks of foams of the same kind lose -0.013 to 0.003, and two of a scan's own that
differ in the seed alone are up to 0.012 apart. One that learned twice the photons loses 0.013 to 0.019, and 0.4 dB
against the truth; four times the photons, 0.018 to 0.027 and 1 dB. Four slices give these with an error of 0.003."""
CHECKPOINT, PLAN, FIT = "own.safetensors", "own-plan", "fit"
"""Names in the scratch folder."""
BLOCK = 8
"""Voxels along a side of the blocks whose noise is taken as independent; filtered noise reaches over two or three."""
NUMBERS = ("distance", "resolution", "contrast")
"""What is told of some slices."""


class Agreement(NamedTuple):
    """How well some slices agree with a section that no part of them was made from.

    Attributes
    ----------
    distance : float
        Mean squared distance to the section, in the square of the volume's unit.
    resolution : float or None
        Finest period, pixels, up to which the two correlate; None where they do at every frequency.
    contrast : float or None
        See `quietbeam.beamline.held_out.contrast`; None for noisy slices, where it would tell of their noise.
    correlation : list of float
        Fourier ring correlation, ring by ring.
    """

    distance: float
    resolution: float | None
    contrast: float | None
    correlation: list[float]

    @property
    def told(self) -> dict[str, float | None]:
        """The numbers without the curve."""
        return {name: getattr(self, name) for name in NUMBERS}


@dataclass(frozen=True)
class NetworkFit:
    """What is known of a network that was taken over.

    Attributes
    ----------
    origin : dict
        ``sha256`` of its file, ``name`` and ``scan`` (hash) of what it learned from.
    before, taken_over : Agreement
        Of the slices held out, as they are and denoised by it.
    elsewhere : dict or None
        The same numbers ``before`` and ``after`` it was applied to slices held out of its own scan; None where its file
        does not tell.
    own : Agreement or None
        Of the same slices denoised by a network that this scan trained; None where none was.
    scatter : float
        Standard error of the difference of the two squared distances.
    history : list of dict
        Course of that training; see `quietbeam.beamline.epochs.train`.
    """

    origin: dict[str, Any]
    before: Agreement
    taken_over: Agreement
    elsewhere: dict[str, Any] | None = None
    own: Agreement | None = None
    scatter: float = 0.0
    history: tuple[dict[str, float], ...] = ()

    @property
    def lost(self) -> float | None:
        """Share of what the scan's own network gains that the one taken over loses; None where that gains nothing.

        The noise of the section not seen adds the same to each squared distance, so that differences of them are those
        of the squared error: (taken over - own) / (before - own).
        """
        if self.own is None or self.own.distance >= self.before.distance:
            return None
        return (self.taken_over.distance - self.own.distance) / (self.before.distance - self.own.distance)

    @property
    def uncertainty(self) -> float:
        """Two standard errors of `lost`; 0 where nothing is lost or gained."""
        return 2 * self.scatter / (self.before.distance - self.own.distance) if self.own and self.lost else 0.0

    @property
    def is_worse(self) -> bool:
        """Whether clearly more is lost than two trainings differ by."""
        return self.lost is not None and self.lost - self.uncertainty > LOST

    @property
    def told(self) -> dict[str, Any]:
        """What the manifest says: the numbers without curves."""
        own = self.own.told | {"epochs": len(self.history)} if self.own else None
        return {
            "network": {name: None if value is None else str(value) for name, value in self.origin.items()},
            "before": self.before.told,
            "taken_over": self.taken_over.told,
            "elsewhere": self.elsewhere,
            "own": own,
            "lost": self.lost,
            "uncertainty": self.uncertainty,
        }


class OwnNetwork:
    """The network that a scan would have trained by itself, from random weights.

    Parameters
    ----------
    job : Job
        The scan.
    pairs : Pairs
        What it learns from.
    send : callable
        Tells the other processes, with these settings, what to learn from.
    column : float
        Rotation axis, pixels.
    group : Group
        The processes that train together, of which the others still wait for what to learn.
    threads : int
        Of each process.
    """

    def __init__(
        self,
        job: Job,
        pairs: Pairs,
        send: Callable[[ReductionSettings], None],
        *,
        column: float,
        group: Group,
        threads: int,
    ) -> None:
        self.job, self.pairs, self.send, self.group, self.threads = job, pairs, send, group, threads
        self.settings = _training_alone(job.settings)
        self.key = StageKeys(job.keys.scan, self.settings).training(column)

    def train(self) -> tuple[MSD, list[dict[str, float]]]:
        """Train it, or go on where that was stopped; see `NetworkTraining.run`."""
        workspace, alone = self.job.workspace, self.settings
        self.send(alone)
        training = NetworkTraining(
            self.pairs, alone, group=self.group, progress=self.job.progress, scan=self.job.scan.path
        )
        training.choose_threads(self.threads, self.threads)  # as they are: they change the rounding of what follows
        plan = workspace.record(PLAN, stage_key(PLAN, self.key))
        epochs = plan.store({"epochs": training.plan_epochs((plan.load() or {}).get("epochs"))})["epochs"]
        with workspace.timed("train to compare"):
            return training.run(epochs, workspace.scratch / CHECKPOINT, self.key)


def agreements(held_out: HeldOut) -> tuple[Agreement, Agreement]:
    """Measure slices before and after denoising against the section that the network does not see.

    Parameters
    ----------
    held_out : HeldOut
        Slices.

    Returns
    -------
    before, after : Agreement
        Of the noisy and the denoised slices.
    """
    before = _agreement(held_out.noisy, held_out.target)
    return before, _agreement(held_out.denoised, held_out.target)._replace(contrast=contrast(held_out))


def measure_fit(
    job: Job,
    start: Start,
    held_out: HeldOut,
    own: OwnNetwork,
    denoise: Callable[[MSD], HeldOut],
) -> NetworkFit:
    """Hold a network that was taken over against the section it does not see, and if asked for one of the scan's own.

    Parameters
    ----------
    job : Job
        The scan; what is found is kept in its scratch folder.
    start : Start
        The network.
    held_out : HeldOut
        Slices with its answers.
    own : OwnNetwork
        The scan's own, trained if ``training.compare`` is set.
    denoise : callable
        Gives the same slices with the answers of another network.

    Returns
    -------
    NetworkFit
        Its numbers depend on nothing but the scan, the network and the settings.
    """
    before, after = agreements(held_out)
    _, said = load_network(job.workspace.scratch / START)
    fit = NetworkFit(start.origin or {}, before, after, numbers_elsewhere(said))
    record = job.workspace.record(FIT, stage_key(FIT, own.key, start.sha256, after.distance))
    found = record.load() if job.settings.training.compare else None
    if found is None and job.settings.training.compare:
        found = record.store(_compare(own, held_out, denoise))
    else:
        dismiss(own.group)
    if found is None:
        return fit
    return replace(fit, own=Agreement(**found["own"]), scatter=found["scatter"], history=tuple(found["history"]))


def doubts_of_fit(fit: NetworkFit) -> list[Caveat]:
    """Say where a network that was taken over does clearly worse than one of the scan's own.

    Parameters
    ----------
    fit : NetworkFit
        What was measured.

    Returns
    -------
    list of Caveat
        ``network-fits-worse``, or none; none where there is nothing to compare with.
    """
    if fit.lost is None or not fit.is_worse:
        return []
    text = f"the network taken over loses {100 * fit.lost:.1f} % of what one trained on this scan gains"
    return [Caveat("network-fits-worse", f"{text}: train this scan by itself (training.reuse=per-scan)")]


def scatter_of_difference(one: HeldOut, other: HeldOut) -> float:
    """Estimate how far the difference of two squared distances to one target is off by the target's noise.

    Parameters
    ----------
    one, other : HeldOut
        The same slices with the answers of two networks.

    Returns
    -------
    float
        Standard error of the difference of their `Agreement.distance`, from blocks of voxels taken as independent.
    """
    differences = np.square(one.target - one.denoised, dtype=np.float64)
    differences -= np.square(other.target - other.denoised, dtype=np.float64)
    height, width = (size // BLOCK * BLOCK for size in differences.shape[1:])
    blocks = differences[:, :height, :width].reshape(len(differences), height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    means = blocks.mean(axis=(2, 4))
    return float(means.std() / math.sqrt(means.size))


def _compare(own: OwnNetwork, held_out: HeldOut, denoise: Callable[[MSD], HeldOut]) -> dict[str, Any]:
    model, history = own.train()
    answers = denoise(model)
    scatter = scatter_of_difference(held_out, answers)
    return {"own": agreements(answers)[1]._asdict(), "scatter": scatter, "history": history}


def _agreement(images: NDArray[np.float32], target: NDArray[np.float32]) -> Agreement:
    frc = fourier_ring_correlation(images, target)
    distance = float(np.square(target - images, dtype=np.float64).mean())
    return Agreement(distance, finest_period(frc), None, frc.correlation.tolist())


def _training_alone(settings: ReductionSettings) -> ReductionSettings:
    """Give the settings with which the scan would train by itself."""
    given = settings.training
    training = given.model_copy(update={"epochs": given.compare_epochs or given.epochs or None})
    return settings.model_copy(update={"training": training, "warm_start": type(settings.warm_start)()})


def numbers_elsewhere(said: dict[str, Any]) -> dict[str, Any] | None:
    """Read what the file of a network tells of slices held out of its own scan, which anybody may have written.

    Parameters
    ----------
    said : dict
        Its provenance.

    Returns
    -------
    dict or None
        Numbers ``before`` and ``after`` as of `Agreement.told`, None where they are no numbers; None if it tells none.
    """
    told = said.get("held_out")
    sides = {side: told.get(side) for side in ("before", "after")} if isinstance(told, dict) else {}
    if not sides or not all(isinstance(side, dict) for side in sides.values()):
        return None
    return {side: {name: _number((numbers or {}).get(name)) for name in NUMBERS} for side, numbers in sides.items()}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
