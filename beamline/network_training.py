"""Training the network of one scan: planned on the machine at hand, alone or with processes that torchrun started.

Of several processes the first reduces the scan, and the others wait for it to reconstruct the sections, learn along
with it, and end. They see the first one's output folder, and take all else from it over the wire.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from quietbeam.noise2inverse.device_memory import DeviceLimit
from quietbeam.noise2inverse.distributed import Group
from quietbeam.noise2inverse.msd import MSD
from quietbeam.noise2inverse.pairs import Pairs
from quietbeam.noise2inverse.training import NoiseTrainer
from quietbeam.reconstruction.errors import ReductionError

from .calibrate import epochs_for, fastest_threads
from .epochs import train
from .journal import stage_key
from .progress import JobProgress, Silence
from .settings import ReductionSettings
from .volume_pieces import VolumePieces

__all__ = ["NetworkTraining", "dismiss", "send_task", "train_along"]


class NetworkTraining:
    """The training of one scan's network; each step is taken by all processes together.

    Parameters
    ----------
    pairs : Pairs
        What it learns from.
    settings : ReductionSettings
        All settings.
    group : Group
        The processes.
    progress : JobProgress
        Where to tell.
    start : MSD, optional
        Network of an earlier scan to begin with.
    scan : Path, optional
        Of the scan, for messages.
    """

    def __init__(
        self,
        pairs: Pairs,
        settings: ReductionSettings,
        *,
        group: Group,
        progress: JobProgress,
        start: MSD | None = None,
        scan: Path | None = None,
    ) -> None:
        self.pairs, self.settings, self.group, self.progress = pairs, settings, group, progress
        self.start, self.scan = start, scan
        self._limit = DeviceLimit(self._tell_limit)

    def choose_threads(self, most: int, chosen: int | None = None) -> int:
        """Take the threads asked for, or those with which a step takes least.

        Parameters
        ----------
        most : int
            Threads there may be, of each process.
        chosen : int, optional
            What was found before.

        Returns
        -------
        int
            Threads of each process.
        """
        chosen = self.settings.compute.threads or chosen
        threads = self._once(chosen, lambda: fastest_threads(most, self._trainer, group=self.group))
        torch.set_num_threads(threads)
        return threads

    def plan_epochs(self, planned: int | None = None) -> int:
        """Take the epochs asked for, or make a number of them of the time budget.

        Parameters
        ----------
        planned : int, optional
            What was found before.

        Returns
        -------
        int
            Epochs.
        """
        minutes, epochs = self.settings.training.minutes, self.settings.training.epochs
        return self._once(epochs or planned, lambda: epochs_for(minutes, self._trainer, group=self.group))

    def run(
        self,
        num_epochs: int,
        checkpoint: Path,
        key: str,
        *,
        metrics: Path | None = None,
        on_epoch: Callable[[MSD], None] | None = None,
    ) -> tuple[MSD, list[dict[str, float]]]:
        """Train, going on from a checkpoint.

        Parameters
        ----------
        num_epochs : int
            From `plan_epochs`.
        checkpoint, metrics : Path
            Files of the state and of the numbers of each epoch, see `quietbeam.beamline.epochs.train`.
        key : str
            What the training depends on, but for the number of epochs.
        on_epoch : callable, optional
            Called with the network after each epoch.

        Returns
        -------
        MSD
            With the weights that were best on what was held out.
        list of dict
            See `quietbeam.beamline.epochs.train`.
        """
        trainer = self._trainer(num_epochs)
        history = train(
            trainer,
            num_epochs,
            checkpoint,
            stage_key(key, num_epochs),
            name="train",
            progress=self.progress,
            patience=self.settings.training.patience,
            metrics=metrics,
            on_epoch=(lambda epoch: on_epoch(trainer.measured)) if on_epoch else None,
            group=self.group,
        )
        return trainer.model.eval(), history

    def _trainer(self, num_epochs: int = 1) -> NoiseTrainer:
        settings = self.settings
        try:
            return NoiseTrainer(
                self.pairs,
                settings.training,
                settings.network,
                num_epochs=num_epochs,
                start=self.start,
                group=self.group,
                limit=self._limit,
            )
        except ValueError as error:
            raise ReductionError(f"{self.scan}: {error}" if self.scan else str(error)) from error

    def _tell_limit(self, num_crops: int) -> None:
        self.progress.say(
            f"the memory of the GPU does not suffice for a whole batch: {num_crops} crops at once from here on, whose "
            "gradients are added to that of the batch"
        )

    def _once(self, known: int | None, find: Callable[[], int]) -> int:
        """Take the first process's number, found by all together where it is not known."""
        number = int(self.group.share_number(known or 0))
        return number or int(self.group.share_number(find()))


def send_task(group: Group, pairs: Pairs, volume: VolumePieces, settings: ReductionSettings) -> None:
    """Tell the other processes, which wait in `train_along`, what to learn from.

    Parameters
    ----------
    group : Group
        The processes; this is the first.
    pairs : Pairs
        What this one learns from.
    volume : VolumePieces
        Where the reconstructions of the sections lie.
    settings : ReductionSettings
        All settings.
    """
    shares = [float(share) for share in pairs.shares]
    pieces = {"folder": str(volume.folder), "shape": volume.shape, "edges": volume.edges}
    task = {"volume": pieces, "shares": shares, "settings": settings.model_dump(mode="json")}
    group.share_bytes(json.dumps(task).encode())


def dismiss(group: Group) -> None:
    """Tell the other processes that there is nothing to learn."""
    group.share_bytes(b"")


def train_along(group: Group, most_threads: int) -> None:
    """Learn along with the first process, which keeps all that comes of it.

    Parameters
    ----------
    group : Group
        The processes; this is not the first.
    most_threads : int
        Threads there may be, of each process.

    Raises
    ------
    ReductionError
        If the first process ends, or if its sections cannot be read from here.
    """
    content = group.share_bytes(b"")
    if not content:
        return
    task = json.loads(content)
    settings = ReductionSettings.model_validate(task["settings"])
    told = task["volume"]
    volume = VolumePieces(Path(told["folder"]), tuple(told["shape"]), tuple(told["edges"]))
    try:
        volume[0, 0, 0, 0]
    except OSError as error:
        raise ReductionError(
            f"{volume.folder}: process {group.rank} cannot read the sections of the first one ({error.strerror}): "
            "choose an output folder (-o) that all machines see"
        ) from error
    pairs = Pairs(volume, np.asarray(task["shares"], np.float32), settings.pairs)
    training = NetworkTraining(pairs, settings, group=group, progress=Silence())
    training.choose_threads(most_threads)
    training.run(training.plan_epochs(), Path("training.safetensors"), "")
