"""What all stages of a reduction share: the scan's identity, settings, scratch folder, and what the user is told."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import NotReadyError

from .journal import Journal, Record, stage_key
from .pieces import Here, Pieces, PieceTask, cut, gaps
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
    pieces : Pieces, optional
        Where chunks of slices are worked on; in this process if not given.

    Attributes
    ----------
    decisions, caveats : list
        All that was told, in this order.
    """

    def __init__(
        self,
        scan: Scan,
        settings: ReductionSettings,
        workspace: Workspace,
        progress: JobProgress,
        pieces: Pieces | None = None,
    ) -> None:
        self.scan, self.settings, self.workspace, self.progress = scan, settings, workspace, progress
        self.pieces = pieces or Here()
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
        return StageKeys.of(self.identity["sha256"], self.settings)

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

    def do_pieces(self, stage: str, journal: Journal, task: PieceTask, *, total: int, size: int) -> list[Record]:
        """Do the slices that are not done yet, chunk by chunk, and give the records of all in order.

        Parameters
        ----------
        stage : str
            Name of the journal, and for the progress.
        journal : Journal
            Of what is done.
        task : PieceTask
            Does a chunk.
        total, size : int
            Slices in all, and of a chunk.

        Returns
        -------
        list of dict
            What the task told of each chunk, with its ``start`` and ``stop``.
        """
        done = [range(record["start"], record["stop"]) for record in journal.pieces()]
        chunks = cut(gaps(done, total), size)
        pieces = self.pieces.run(stage, task, chunks)
        with self.progress.stage(stage, total, sum(map(len, done))) as bar:
            for chunk, record in pieces:
                journal.append({"start": chunk.start, "stop": chunk.stop} | record)
                bar.advance(chunk.stop - chunk.start)
        return journal.pieces()
