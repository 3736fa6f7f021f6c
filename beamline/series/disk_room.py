"""How many scans the disks carry at a time: each is begun only if it fits beside what those under way still need."""

from __future__ import annotations

from pathlib import Path

from quietbeam.beamline.estimate import estimate
from quietbeam.beamline.estimating.disk_space import DiskNeed, blocks_below, refuse_full_disks
from quietbeam.beamline.estimating.machine_rates import Rates
from quietbeam.beamline.scan import open_scan
from quietbeam.beamline.settings import ReductionSettings
from quietbeam.beamline.workspace import Workspace
from quietbeam.reconstruction.errors import NotReadyError, SpaceError

from .find_scans import FoundScan

__all__ = ["DiskRoom"]


class DiskRoom:
    """The disks of a series, shared out.

    Parameters
    ----------
    output : Path
        Folder of the series.
    scratch : Path, optional
        Folder of the volumes under way; None: in each scan's output folder.
    """

    def __init__(self, output: Path, scratch: Path | None = None) -> None:
        self.output, self.scratch = output, scratch
        self._taken: dict[str, dict[Path, int]] = {}
        self._waiting: dict[str, tuple[ReductionSettings, dict[Path, int]]] = {}

    def take(self, found: FoundScan, settings: ReductionSettings) -> bool:
        """Reserve what a scan needs, if it is there beside what the others still need.

        Parameters
        ----------
        found : FoundScan
            It is opened, once however often it is asked for; one that is still being written reserves nothing, and is
            waited for where it is reduced.
        settings : ReductionSettings
            Of this scan.

        Returns
        -------
        bool
            False if it fits only when others have ended.

        Raises
        ------
        ScanError
            If it cannot be opened.
        SpaceError
            If it does not fit, and there are no others.
        """
        needs = self._known_needs(found, settings)
        taken = {**self._taken, found.name: needs}
        still = [
            DiskNeed(folder, max(num_bytes, held), held)
            for folders in reversed(taken.values())
            for folder, num_bytes in folders.items()
            for held in [blocks_below(folder)]
        ]
        try:
            refuse_full_disks("the scan", still, "free some, or choose another -o or --scratch")
        except SpaceError:
            if self._taken:
                return False
            raise
        self._taken = taken
        self._waiting.pop(found.name, None)
        return True

    def give_back(self, name: str) -> None:
        """Take note that a scan has ended; what it left is not free any more."""
        self._taken.pop(name, None)

    def _known_needs(self, found: FoundScan, settings: ReductionSettings) -> dict[Path, int]:
        known = self._waiting.get(found.name)
        if known is None or known[0] != settings:
            known = self._waiting[found.name] = settings, self._needs(found, settings)
        return known[1]

    def _needs(self, found: FoundScan, settings: ReductionSettings) -> dict[Path, int]:
        """Tell what will lie in which folder, bytes; with rough rates, since they take the archive as larger."""
        at_once = settings.scan.model_copy(update={"wait_seconds": 0.0})
        try:
            told = estimate(open_scan(found.path, at_once), settings, rates=Rates())
        except NotReadyError:
            return {}
        output, scratch = self.output / found.name, settings.compute.scratch or self.scratch
        if scratch is None:
            return {output: told.disk}
        return {output: told.output, Workspace(output, scratch).scratch: told.scratch}
