"""From the frames of a scan to clean line integrals: all that happens before the sections are split.

Every step looks at one detector row at a time, or at all rows that matter to it, so the result does not depend on how
many rows are read together.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.normalize import NormalizeSettings, Transmission, line_integrals, transmission
from quietbeam.reconstruction.outliers import OutlierSettings, fill_dead, mask_unmeasured, remove_zingers
from quietbeam.reconstruction.phase import (
    PhaseOptics,
    PhaseSettings,
    blur_length,
    phase_halo,
    phase_optics,
    retrieve_phase,
)
from quietbeam.reconstruction.stripes import StripeSettings, remove_stripes

from .scan import Scan
from .settings import ReductionSettings

__all__ = [
    "SinogramSettings",
    "clean_sinograms",
    "count_caveats",
    "phase_caveats",
    "phase_decision",
    "refuse_empty",
    "sinogram_halo",
]

EMPTY = 0.5
BRIGHT, MANY_BRIGHT = 1.2, 0.1
"""Median transmission over the angles that no sample has, and the share of the pixels with it."""
LARGE_INTEGRAL = 20.0
"""Line integral that lets 2e-9 of the beam through: if half of them are larger, they are something else."""
LONG_FILTER, SHORT_FILTER = 0.25, 0.3
"""Length of the phase's filter over the detector's width, and in pixels, beyond which its numbers are doubted."""
MANY_STARVED = 1e-3
MANY_DEAD = 0.01
"""Shares of the data from which the user is told."""
_SLIP = "is the energy in keV, are distance and pixel size in metres, and is delta/beta right?"
PHASE_FRAMES = 16
"""Projections that are filtered together, which bounds the memory beside them."""


class SinogramSettings(BaseModel):
    """The settings of the steps before the sections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    normalize: NormalizeSettings = NormalizeSettings()
    outliers: OutlierSettings = OutlierSettings()
    phase: PhaseSettings = PhaseSettings()
    stripes: StripeSettings = StripeSettings()

    @classmethod
    def of(cls, settings: ReductionSettings) -> Self:
        """Take them out of all settings."""
        return cls(**{stage: getattr(settings, stage) for stage in cls.model_fields})

    def for_axis(self) -> Self:
        """Leave rings and phase in: ring removal moves the axis of a narrow detector, and so does a phase filter."""
        return self.model_copy(update={"stripes": StripeSettings(method="none"), "phase": PhaseSettings()})


def clean_sinograms(
    scan: Scan, rows: slice, settings: SinogramSettings, *, num_threads: int = 1
) -> tuple[NDArray[np.float32], Counter[str]]:
    """Read detector rows and make line integrals of them.

    In this order: flats and darks, dead pixels, zingers, phase, minus logarithm, rings. Phase retrieval couples rows:
    with it, those within `sinogram_halo` on either side are read, too.

    Parameters
    ----------
    scan : Scan
        The measurement.
    rows : slice
        Detector rows.
    settings : SinogramSettings
        Normalisation, outliers, phase, rings.
    num_threads : int
        Threads; the result does not depend on it.

    Returns
    -------
    float32, shape (row, angle, column)
        Line integrals, finite everywhere.
    Counter
        How many values were ``starved``, ``zingers``, ``dead``, ``bright`` (of data normalised before, ``no
        transmission`` or ``large integrals``), ``not finite`` or, in rows without a finite one, ``empty``, out of
        ``all``; the number of ``unlit rows`` and ``empty rows``, whose values are not counted as dead or not finite and
        whose line integrals are 0; how many pixels are ``dark above flat``, how many values of the flats and darks
        ``calibration not finite``, and the number of rows with ``rings left``.

    Raises
    ------
    ScanError
        If phase retrieval is on and the scan does not tell what it needs.
    """
    optics = _optics(scan, settings.phase)
    if optics is None:
        sinograms, _, counts = _clean_rows(scan, _read_frames(scan, rows), settings, num_threads)
    else:
        sinograms, counts = _clean_and_retrieve(scan, rows, settings, optics, num_threads=num_threads)
    if scan.normalised != "attenuation":
        sinograms, counts["starved"] = line_integrals(sinograms, settings.normalize)
    sinograms, counts["rings left"] = remove_stripes(sinograms, settings.stripes, num_threads=num_threads)
    return sinograms, counts


def sinogram_halo(scan: Scan, settings: SinogramSettings) -> int:
    """Count the rows on either side that are read to clean a row.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : SinogramSettings
        With or without phase retrieval.

    Returns
    -------
    int
        Rows; 0 without phase retrieval.

    Raises
    ------
    ScanError
        If phase retrieval is on and the scan does not tell what it needs, or the filter is wider than the detector.
    """
    optics = _optics(scan, settings.phase)
    return phase_halo(**optics._asdict()) if optics else 0


def phase_decision(scan: Scan, settings: SinogramSettings) -> tuple[Decision, ...]:
    """Tell how the phase is retrieved.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : SinogramSettings
        With or without phase retrieval.

    Returns
    -------
    tuple of Decision
        ``phase``; none if phase retrieval is off.

    Raises
    ------
    ScanError
        If phase retrieval is on and the scan does not tell what it needs.
    """
    optics = _optics(scan, settings.phase)
    if optics is None:
        return ()
    length = blur_length(**optics._asdict())
    value = f"{settings.phase.method}, delta/beta {optics.delta_beta:g}, {optics.energy:g} keV, {optics.distance:g} m"
    reason = f"phase.delta_beta; the filter's length is {length:.1f} px, of {optics.pixel_size:g} m each"
    return (Decision("phase", value, reason),)


def phase_caveats(scan: Scan, settings: SinogramSettings) -> tuple[Caveat, ...]:
    """Doubt numbers that make a filter of the phase that blurs the whole image, or does nothing.

    Parameters
    ----------
    scan : Scan
        The measurement.
    settings : SinogramSettings
        With or without phase retrieval.

    Returns
    -------
    tuple of Caveat
        ``phase-length``; none if phase retrieval is off, or its filter longer than `SHORT_FILTER` pixels and shorter
        than `LONG_FILTER` of the detector's columns.

    Raises
    ------
    ScanError
        If phase retrieval is on and the scan does not tell what it needs, or the filter is wider than the detector.
    """
    optics = _optics(scan, settings.phase)
    length = blur_length(**optics._asdict()) if optics else 0.0
    if optics is None or SHORT_FILTER <= length <= LONG_FILTER * scan.num_columns:
        return ()
    does = "does next to nothing" if length < SHORT_FILTER else f"blurs much of the {scan.num_columns} columns"
    return (Caveat("phase-length", f"{_describe_filter(optics, length)} and {does}: {_SLIP}"),)


def _describe_filter(optics: PhaseOptics, length: float) -> str:
    return (
        f"the phase's filter of delta/beta {optics.delta_beta:g}, {optics.energy:g} keV, {optics.distance:g} m and "
        f"pixels of {optics.pixel_size:g} m is {length:.3g} px long"
    )


def _optics(scan: Scan, settings: PhaseSettings) -> PhaseOptics | None:
    optics = phase_optics(settings, energy=scan.energy, distance=scan.distance, pixel_size=scan.pixel_size)
    if optics and scan.normalised == "attenuation":
        raise ScanError(
            f"{scan.path}: phase retrieval works on the transmission, but these are line integrals already; leave "
            "phase.delta_beta out"
        )
    if optics and (length := blur_length(**optics._asdict())) > scan.num_columns:
        filter_ = _describe_filter(optics, length)
        raise ScanError(f"{scan.path}: {filter_}, more than the detector's {scan.num_columns} columns: {_SLIP}")
    return optics


class _CleanRows(NamedTuple):
    """Transmission (of normalised data, what they are) before the phase: finite, shape (row, angle, column).

    Rows without a finite value count as unlit.
    """

    sinograms: NDArray[np.float32]
    unlit: NDArray[np.bool_]
    counts: Counter[str]


def _read_frames(scan: Scan, rows: slice) -> list[NDArray[np.float32]]:
    """Read projections, and flats and darks of raw counts: each shape (frame, row, column); nan for no measurement."""
    reads = [scan.projections] if scan.normalised is not None else [scan.projections, scan.flats, scan.darks]
    return [mask_unmeasured(read(rows)) for read in reads]


def _clean_rows(
    scan: Scan, frames: list[NDArray[np.float32]], settings: SinogramSettings, num_threads: int
) -> _CleanRows:
    """Correct flats and darks, fill dead pixels and take zingers off: every row by itself."""
    projections, *beam = frames
    dead = np.zeros(projections.shape[1:], np.bool_)
    counts = Counter(all=projections.size)
    if beam:
        projections, dead, inverted = _correct(scan, projections, beam[0], beam[1], settings.normalize)
        counts["dark above flat"] = int(inverted.sum()) * len(projections)
        counts["calibration not finite"] = sum(int((~np.isfinite(stack)).sum()) for stack in beam)
    unlit = np.asarray(dead.all(axis=1))
    counts["unlit rows"] = int(unlit.sum())
    counts["dead"] = int(dead[~unlit].sum()) * len(projections)
    sinograms = np.ascontiguousarray(projections.swapaxes(0, 1))
    finite = np.isfinite(sinograms)
    empty = ~unlit & ~finite.any(axis=(1, 2))
    counts["empty rows"], counts["empty"] = int(empty.sum()), int(empty.sum()) * sinograms[0].size
    counts["not finite"] = int((~finite[~empty]).sum()) - int(dead[~empty].sum()) * len(projections)
    transmitted = scan.normalised != "attenuation"
    sinograms = fill_dead(sinograms, empty=1.0 if transmitted else 0.0)
    if transmitted:
        bright = "no transmission" if scan.normalised else "bright"
        counts[bright] = int((np.median(sinograms, axis=1) > BRIGHT).sum()) * sinograms.shape[1]
        sinograms, counts["zingers"] = remove_zingers(sinograms, settings.outliers, num_threads=num_threads)
    else:
        counts["large integrals"] = int((sinograms > LARGE_INTEGRAL).sum())
    return _CleanRows(sinograms, unlit | empty, counts)


def _correct(
    scan: Scan,
    projections: NDArray[np.float32],
    flats: NDArray[np.float32],
    darks: NDArray[np.float32],
    settings: NormalizeSettings,
) -> Transmission:
    times = {"flat_positions": scan.flat_positions, "positions": scan.positions}
    return transmission(projections, flats, darks, settings, **times)


def _clean_and_retrieve(
    scan: Scan, rows: slice, settings: SinogramSettings, optics: PhaseOptics, *, num_threads: int
) -> tuple[NDArray[np.float32], Counter[str]]:
    """Clean the rows and those that the phase couples them to, and filter; only the rows themselves are counted."""
    start, stop, _ = rows.indices(scan.num_rows)
    halo = phase_halo(**optics._asdict())
    first, last = max(start - halo, 0), min(stop + halo, scan.num_rows)
    inner = slice(start - first, stop - first)
    frames = _read_frames(scan, slice(first, last))
    parts = [part for part in (slice(0, inner.start), inner, slice(inner.stop, last - first)) if part.stop > part.start]
    cleaned = [_clean_rows(scan, [stack[:, part] for stack in frames], settings, num_threads) for part in parts]
    del frames
    unlit = np.concatenate([part.unlit for part in cleaned])
    sinograms = np.concatenate([part.sinograms for part in cleaned])
    sinograms = _filter(sinograms, unlit, inner, optics, settings.phase, num_threads=num_threads)
    sinograms[unlit[inner]] = 1
    return sinograms, cleaned[parts.index(inner)].counts


def _filter(
    sinograms: NDArray[np.float32],
    unlit: NDArray[np.bool_],
    inner: slice,
    optics: PhaseOptics,
    settings: PhaseSettings,
    *,
    num_threads: int,
) -> NDArray[np.float32]:
    """Filter the projections and keep the inner rows; an unlit row stands for the lit one next to it."""
    lit = np.flatnonzero(~unlit)
    if not lit.size:
        return sinograms[inner]
    nearest = lit[np.abs(np.arange(len(unlit))[:, None] - lit).argmin(axis=1)]
    filtered = np.empty_like(sinograms[inner])
    for first in range(0, sinograms.shape[1], PHASE_FRAMES):
        angles = slice(first, first + PHASE_FRAMES)
        images = sinograms[nearest, angles].swapaxes(0, 1)
        result = retrieve_phase(images, optics, settings, num_threads=num_threads)
        filtered[:, angles] = result[:, inner].swapaxes(0, 1)
    return filtered


def refuse_empty(path: Path, counts: Counter[str]) -> None:
    """Refuse data of which most was never measured.

    Parameters
    ----------
    path : Path
        The scan.
    counts : Counter
        Of `clean_sinograms`, summed over the rows.

    Raises
    ------
    ScanError
        If more than half of the values saw no light, or are nan or inf.
    """
    empty = counts["starved"] + counts["not finite"] + counts["empty"]
    if empty > EMPTY * counts["all"]:
        raise ScanError(
            f"{path}: {empty / counts['all']:.0%} of the projections' values saw no light or are not finite; "
            "is this the right scan, with the right flats and darks?"
        )


def _doubt_normalised(share: dict[str, float]) -> list[Caveat]:
    caveats = []
    if share.get("no transmission", 0) > MANY_BRIGHT:
        seen = f"the transmission is above {BRIGHT:g} on {share['no transmission']:.0%} of the detector"
        caveats.append(Caveat("not-transmission", f"{seen}: are these counts, which need flats and darks?"))
    if share.get("large integrals", 0) > 0.5:
        seen = f"the median of the line integrals is above {LARGE_INTEGRAL:g}, as {share['large integrals']:.0%} are"
        caveats.append(Caveat("not-line-integrals", f"{seen}: are these counts, which need flats and darks?"))
    return caveats


def _doubt_dead(share: dict[str, float]) -> list[Caveat]:
    """Doubt dead pixels, each for one reason."""
    caveats, dead, inverted = [], share.get("dead", 0), share.get("dark above flat", 0)
    if inverted > MANY_DEAD:
        dead -= inverted
        seen = f"{inverted:.2%} of the detector is darker in the flats than in the darks and is dead"
        caveats.append(Caveat("dark-above-flat", f"{seen}: are these the flats and darks of this scan?"))
    if dead > MANY_DEAD:
        caveats.append(Caveat("many-dead-pixels", f"{dead:.2%} of the detector saw no open beam"))
    return caveats


def _doubt_rows(counts: Counter[str]) -> list[Caveat]:
    caveats = []
    for kind, seen in (("unlit", "saw no beam"), ("empty", "gave no finite value")):
        if number := counts[f"{kind} rows"]:
            theirs = "its slice is" if number == 1 else "their slices are"
            caveats.append(Caveat(f"{kind}-rows", f"{number} of the detector rows {seen}; {theirs} empty"))
    return caveats


def count_caveats(counts: Counter[str]) -> list[Caveat]:
    """Say what of the counts of `clean_sinograms` the user must know.

    Parameters
    ----------
    counts : Counter
        Summed over the rows.

    Returns
    -------
    list of Caveat
        Of photon starvation, dead pixels, darks above flats, unlit and empty rows, values that are not finite or not
        what the user says, rings left.
    """
    caveats = []
    share = {name: count / max(counts["all"], 1) for name, count in counts.items()}
    if share.get("starved", 0) > MANY_STARVED:
        caveats.append(
            Caveat(
                "photon-starved", f"{share['starved']:.2%} of the values saw next to no light and were set to the floor"
            )
        )
    if share.get("bright", 0) > MANY_BRIGHT:
        seen = f"{share['bright']:.0%} of the detector is more than {BRIGHT - 1:.0%} brighter than in the flats"
        caveats.append(Caveat("brighter-than-flats", f"{seen}: are these the flats of this scan?"))
    caveats += [*_doubt_normalised(share), *_doubt_dead(share), *_doubt_rows(counts)]
    if counts["calibration not finite"]:
        seen = f"{counts['calibration not finite']} values of the flats and darks are nan or inf and were left out"
        caveats.append(Caveat("calibration-not-finite", seen))
    if counts["not finite"]:
        caveats.append(
            Caveat("not-finite", f"{counts['not finite']} values were nan or inf and were interpolated along their row")
        )
    if counts["rings left"]:
        seen = f"ring removal left {counts['rings left']} of the slices as they are"
        caveats.append(Caveat("rings-left", f"{seen}: too few angles or columns for it, or values too large"))
    return caveats
