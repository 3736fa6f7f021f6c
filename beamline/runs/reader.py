"""The layout ``bluesky run``: a scan that is told by a run reference or by documents, its frames in many files.

The documents tell which stream, file and index each frame is; nothing is guessed from names in the files. So darks,
flats and projections may share one file, or lie in many, and frames that were taken again after a pause count once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.beamline.recording import ChosenFrames, FrameStack, Recording, ScanSettings, reads
from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import ScanError

from .angle_choice import ChosenAngles, choose_angles
from .angle_sources import RunAngles
from .frame_table import FrameTable, frame_table
from .frames import find_run_frames
from .loading import is_run_file, load_run
from .local_files import local_file
from .open_runs import count_in_files
from .ready_files import ReadyFiles
from .reference import (
    Role,
    choose_detector,
    frame_streams,
    frames_key,
    needed_dark_flat_uid,
    planned_frames,
    run_uid,
    tomo_metadata,
)
from .run_optics import read_optics

__all__ = ["check_run", "read_run"]


def _recognises(path: Path, settings: ScanSettings) -> bool:
    return is_run_file(path)


@reads("bluesky run", _recognises)
def read_run(path: Path, settings: ScanSettings) -> Recording:
    """Read a run reference (``.json``) or the documents of a run (``.jsonl``)."""
    reference = load_run(path, settings.entry)
    dark_flat = reference.get("dark_flat")
    if settings.dark_flat_run is not None:
        dark_flat = load_run(settings.dark_flat_run)
    run = _Run.of(path, reference, dark_flat, settings)
    return run.recording()


@dataclass(frozen=True, eq=False)
class _Run:
    """One run with its darks and flats, while it is read."""

    path: Path
    reference: Mapping[str, Any]
    dark_flat: Mapping[str, Any] | None
    settings: ScanSettings
    detector: str
    files: ReadyFiles

    @classmethod
    def of(
        cls, path: Path, reference: dict[str, Any], dark_flat: dict[str, Any] | None, settings: ScanSettings
    ) -> _Run:
        roots = _roots([reference, dark_flat], settings)
        files = ReadyFiles(settings.path_map, roots, settings.wait_seconds)
        reference = count_in_files(reference, files) if reference["stop"] is None else reference
        try:
            detector = choose_detector(reference, settings.detector)
        except ValueError as error:
            raise ScanError(
                f"{path} (run {run_uid(reference)[:8]}): {error}; choose one with --set scan.detector=NAME"
            ) from error
        return cls(path, reference, dark_flat, settings, detector, files)

    def recording(self) -> Recording:
        """Put the parts together."""
        table = _table(self.reference, "projections", self.detector)
        if not len(table):
            raise ScanError(f"{self.path}: run {run_uid(self.reference)[:8]} has no projections")
        stack = find_run_frames(table, self.files)
        found = self._angles(table)
        kept = np.flatnonzero(found.kept)
        flats, darks = self._background("flats"), self._background("darks")
        told = table.position is not None and (flats.stack is None or flats.positions is not None)
        optics = read_optics(self.reference)
        return Recording(
            layout="bluesky run",
            projections=stack if len(kept) == len(table) else ChosenFrames(stack, kept),
            flats=flats.stack,
            darks=darks.stack,
            angles=found.angles,
            name=optics.name,
            instrument=optics.instrument,
            pixel_size=optics.pixel_size,
            energy=optics.energy,
            distance=optics.distance,
            positions=table.position[kept] if told and table.position is not None else None,
            flat_positions=flats.positions if told else None,
            angle_order=_planned_order(self.reference),
            sources=() if self.settings.dark_flat_run is None else (self.settings.dark_flat_run,),
            hint=self._hint(),
            decisions=(self._frames_decision(len(table)), *found.decisions, *flats.decisions, *optics.decisions),
            caveats=(*check_run(self.reference, len(table)), *found.caveats, *self.files.caveats()),
        )

    def _angles(self, table: FrameTable) -> ChosenAngles:
        if self.settings.angles is not None:
            return ChosenAngles(None, np.ones(len(table), bool))
        streams = frame_streams(self.reference, "projections")
        return choose_angles(RunAngles(self.reference, streams, table, self.files))

    def _background(self, role: Role) -> _Background:
        """Find the flats or darks of this run, or else those of the other one."""
        if self.settings.normalised is not None or getattr(self.settings, role) is not None:
            return _Background()
        own = _table(self.reference, role, self.detector)
        if len(own) or self.dark_flat is None:
            return _Background(find_run_frames(own, self.files), own.position) if len(own) else _Background()
        other = _table(self.dark_flat, role, self.detector)
        if not len(other):
            return _Background()
        uid = run_uid(self.dark_flat)
        decision = Decision(f"{role} of another run", uid, "this run has none")
        return _Background(find_run_frames(other, self.files), None, (decision,))

    def _frames_decision(self, number: int) -> Decision:
        names = ", ".join(dict.fromkeys(stream["name"] for stream in frame_streams(self.reference, "projections")))
        return Decision("frames", f"{number} projections of {self.detector} in {names}", "the documents of the run")

    def _hint(self) -> str:
        uid = needed_dark_flat_uid(self.reference)
        if uid is None or self.dark_flat is not None:
            return ""
        return f"; the plan names run {uid} for darks and flats: give its file with --set scan.dark_flat_run=FILE"


class _Background(NamedTuple):
    """Flats or darks, when they were taken in frames of this run, and what was decided."""

    stack: FrameStack | None = None
    positions: NDArray[np.float64] | None = None
    decisions: tuple[Decision, ...] = ()


def _table(reference: Mapping[str, Any], role: Role, detector: str) -> FrameTable:
    """List the frames of one kind: of the detector, or of the only one that a stream has."""
    streams = frame_streams(reference, role)
    return frame_table(streams, [frames_key(stream, detector) for stream in streams])


def _roots(references: Sequence[Mapping[str, Any] | None], settings: ScanSettings) -> tuple[Path, ...]:
    """Folders that links in the files may lead to: those of the files that the documents name."""
    runs = [reference for reference in references if reference is not None]
    uris = [resource["uri"] for run in runs for stream in run["streams"] for resource in stream["resources"]]
    folders = (local_file(uri, settings.path_map).parent for uri in dict.fromkeys(uris))
    return (*dict.fromkeys(folders), *settings.allowed_link_roots)


def check_run(reference: Mapping[str, Any], number: int) -> tuple[Caveat, ...]:
    """Doubt a run that was cut off, or ended before all planned projections were taken.

    Parameters
    ----------
    reference : dict
        The run.
    number : int
        How many projections there are.

    Returns
    -------
    tuple of Caveat
        Empty if all is well.
    """
    stop, caveats = reference["stop"], []
    if stop is None:
        message = f"the run has no stop document: it was cut off, or is still going; {number} frames are in the files"
        caveats.append(Caveat("run-without-stop", message))
    elif stop.get("exit_status", "success") != "success":
        reason = f" ({stop['reason']})" if stop.get("reason") else ""
        caveats.append(Caveat("run-not-finished", f"the run ended with {stop['exit_status']}{reason}"))
    planned = planned_frames(reference)
    if planned is not None and number < planned:
        message = f"{planned} projections were planned, {number} were taken: the others are missing"
        caveats.append(Caveat("frames-missing", message))
    return tuple(caveats)


def _planned_order(reference: Mapping[str, Any]) -> str | None:
    """Name the order of the angles, where the plan meant them not to ascend."""
    mode = tomo_metadata(reference).get("mode")
    return mode if mode in ("interlaced", "golden") else None
