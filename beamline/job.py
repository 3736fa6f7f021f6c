"""What all stages of a reduction share: the scan's identity, settings, scratch folder, and what the user is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import NotReadyError

from .journal import Journal, stage_key
from .network_registry import named_sha256
from .progress import JobProgress
from .scan import Scan, file_signature, scan_identity
from .settings import ReductionSettings
from .stage_keys import StageKeys
from .workspace import Workspace

__all__ = ["Job"]


class Job:
    """The reduction of one scan, as its stages see it.

    Parameters
    ----------
    scan : Scan
        The measurement as it was opened.
    settings : ReductionSettings
        All settings.
    workspace : Workspace
        Output folder, locked by the caller.
    progress : JobProgress
        Where to tell what happens.

    Attributes
    ----------
    decisions, caveats : list
        All that was told, in this order.
    """

    def __init__(self, scan: Scan, settings: ReductionSettings, workspace: Workspace, progress: JobProgress) -> None:
        self.scan, self.settings, self.workspace, self.progress = scan, settings, workspace, progress
        self.decisions: list[Decision] = []
        self.caveats: list[Caveat] = []

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
        return StageKeys(self.identity["sha256"], self.settings, named_sha256(self.settings.warm_start))

    def check_unchanged(self) -> None:
        """Refuse a scan whose files were changed since they were hashed, and forget what was made of it."""
        if file_signature(self.scan) != self.identity["signature"]:
            self.workspace.clean()
            raise NotReadyError(f"{self.scan.path}: changed while it was reduced; run the command again")

    def decide(self, name: str, value: str, reason: str) -> None:
        """Tell and keep a choice that was made for the user."""
        self.decisions.append(Decision(name, value, reason))
        self.progress.decision(self.decisions[-1])

    def doubt(self, caveats: Iterable[Caveat]) -> None:
        """Tell and keep what may be wrong."""
        for caveat in caveats:
            self.caveats.append(caveat)
            self.progress.caveat(caveat)

    def chunks(self, stage: str, journal: Journal, *, total: int, size: int) -> Iterator[slice]:
        """Go through the slices still to be done, chunk by chunk, with the progress and the time of the stage."""
        done = journal.records[-1]["stop"] if journal.records else 0
        with self.workspace.timed(stage), self.progress.stage(stage, total, done) as bar:
            for start in range(done, total, size):
                stop = min(start + size, total)
                yield slice(start, stop)
                bar.advance(stop - start)
