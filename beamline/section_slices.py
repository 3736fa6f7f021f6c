"""The stages from the frames of a scan to the noisy slices of its sections."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.caveats import Caveat
from quietbeam.reconstruction.rotation_axis import RotationAxis

from .axis_search import find_axis
from .bad_projections import find_bad_projections
from .chunks import chunk_rows
from .estimate import check_space
from .feasibility import check_volume
from .geometry import SliceGeometry, choose_geometry
from .job import Job
from .reconstruct_pieces import ReconstructTask
from .scan import Scan
from .sinograms import count_caveats, phase_caveats, phase_decision, refuse_empty
from .volume_pieces import VolumePieces

__all__ = ["SectionSlices", "reconstruct_scan"]

FEW_PROJECTIONS = 0.2
"""Projections of a section over columns of the detector below which streaks are to be expected."""


class SectionSlices(NamedTuple):
    """What the network learns from, and how it came about.

    Attributes
    ----------
    scan : Scan
        The measurement without its bad projections.
    axis : RotationAxis
        Where the axis is.
    geometry : SliceGeometry
        Sections and width of the slices.
    volume : VolumePieces
        float32, shape (slice, section, y, x).
    noise : float
        Standard deviation of the noise of the reconstruction from all projections.
    """

    scan: Scan
    axis: RotationAxis
    geometry: SliceGeometry
    volume: VolumePieces
    noise: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slice, y, x."""
        num_slices, _, *sides = self.volume.shape
        return num_slices, sides[0], sides[1]

    @property
    def shares(self) -> NDArray[np.float32]:
        """Share of the projections in each section: float32, shape (section,)."""
        return self.geometry.shares

    def full(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Reconstructions from all projections, the sections' average: float32, shape (index, y, x)."""
        first = int(indices.min())
        block = self.volume[first : int(indices.max()) + 1]
        full = np.einsum("k,skyx->syx", self.shares, block, dtype=np.float32)
        return np.asarray(full[indices - first])


def reconstruct_scan(job: Job, *, num_threads: int) -> SectionSlices:
    """Reconstruct the sections of a scan.

    Parameters
    ----------
    job : Job
        Scan, settings and scratch folder.
    num_threads : int
        Threads of the reconstruction.

    Returns
    -------
    SectionSlices
        On disk.

    Raises
    ------
    ScanError
        If the scan cannot be used as it is.
    ReductionError
        If there are too few projections, or no space.
    """
    scan = _leave_out_bad_projections(job)
    axis = _find_axis(job, scan)
    geometry = _choose_geometry(job, scan, axis)
    job.doubt(_few_projections(geometry))
    volume, noise = _reconstruct(job, scan, axis, geometry, num_threads)
    return SectionSlices(scan, axis, geometry, volume, noise)


def _leave_out_bad_projections(job: Job) -> Scan:
    record = job.workspace.record("screen", job.keys.screen)
    found = record.load()
    if found is None:
        with job.workspace.timed("screen"):
            bad, caveats = find_bad_projections(job.scan)
            found = record.store({"bad": np.flatnonzero(bad).tolist(), "caveats": caveats})
    if not found["bad"] and not found["caveats"]:
        return job.scan
    bad = np.isin(np.arange(job.scan.num_projections), found["bad"])
    scan = job.scan.without(bad, tuple(Caveat(*caveat) for caveat in found["caveats"]))
    job.doubt(scan.caveats[len(job.scan.caveats) :])
    return scan


def _few_projections(geometry: SliceGeometry) -> list[Caveat]:
    fewest, columns = min(map(len, geometry.sections)), geometry.slice_size
    if fewest >= FEW_PROJECTIONS * columns:
        return []
    what = f"a section has {fewest} projections for slices of {columns} pixels"
    risk = "streaks that all sections share look like structure to the network"
    advice = "fewer sections (sections.num_sections) may be better"
    return [Caveat("few-projections", f"{what}: {risk}; {advice}")]


def _find_axis(job: Job, scan: Scan) -> RotationAxis:
    record = job.workspace.record("axis", job.keys.axis)
    found = record.load()
    if found is None:
        with job.workspace.timed("rotation axis"):
            found = record.store(find_axis(scan, job.settings)._asdict())
    axis = RotationAxis.from_record(found)
    others = ", ".join(f"{name} {column:.2f}" for name, (column, _) in axis.candidates.items())
    agree = f"; supported by {', '.join(axis.support)}" if len(axis.support) > 1 else ""
    reason = f"{axis.method}{agree}; opposite projections correlate {axis.score:.3f}; candidates: {others}"
    job.decide("rotation axis", f"{axis.column:.2f} ± {axis.spread:.2f} px", reason)
    job.doubt(axis.caveats)
    return axis


def _choose_geometry(job: Job, scan: Scan, axis: RotationAxis) -> SliceGeometry:
    geometry = choose_geometry(scan, axis.column, job.settings, sees_beyond=axis.sees_beyond)
    for decision in (*geometry.decisions, *phase_decision(scan, job.keys.sinograms)):
        job.decide(*decision)
    job.doubt(phase_caveats(scan, job.keys.sinograms))
    wedge_is_known = any(caveat.code == "missing-wedge" for caveat in job.caveats)
    job.doubt(caveat for caveat in geometry.caveats if not (caveat.code == "missing-angles" and wedge_is_known))
    if geometry.slice_size != scan.num_columns:
        check_volume(scan.path, (scan.num_rows, geometry.slice_size, geometry.slice_size), job.settings)
        check_space(scan, job.settings, job.workspace.output, slice_size=geometry.slice_size)
    return geometry


def _reconstruct(
    job: Job, scan: Scan, axis: RotationAxis, geometry: SliceGeometry, num_threads: int
) -> tuple[VolumePieces, float]:
    settings, size = job.settings, geometry.slice_size
    journal = job.workspace.journal("reconstruct", job.keys.sections(axis.column))
    folder = job.workspace.pieces("sections", journal)
    task = ReconstructTask(
        key=journal.key,
        path=job.scan.path.absolute(),
        settings=settings.model_copy(update={"scan": settings.scan.absolute()}),
        bad=tuple(np.flatnonzero(~np.isin(job.scan.order, scan.order)).tolist()),
        rotation_axis=axis.column,
        sees_beyond=axis.sees_beyond,
        folder=folder,
        num_threads=num_threads,
    )
    rows = chunk_rows(scan, settings, slice_size=size)
    records = job.do_pieces("reconstruct", journal, task, total=scan.num_rows, size=rows)
    _tell_counts(job, sum((Counter(record["counts"]) for record in records), Counter()))
    job.decide("reconstruction", settings.reconstruction.method, f"filter {settings.reconstruction.filter}")
    volume = VolumePieces.of(folder, (scan.num_rows, len(geometry.sections), size, size), records)
    return volume, float(np.median([noise for record in records for noise in record["noise"]]))


def _tell_counts(job: Job, counts: Counter[str]) -> None:
    replaced = f"{counts['zingers']} zingers, {counts['dead']} dead"
    job.decide("outliers", replaced, "values replaced by neighbours")
    refuse_empty(job.scan.path, counts)
    job.doubt(count_caveats(counts))
