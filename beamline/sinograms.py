"""From the frames of a scan to clean line integrals: all that happens before the sections are split.

Every step looks at one detector row at a time, so the result does not depend on how many rows are read together.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from quietbeam.reconstruction.caveats import Caveat
from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.normalize import NormalizeSettings, line_integrals, transmission
from quietbeam.reconstruction.outliers import OutlierSettings, fill_dead, remove_zingers
from quietbeam.reconstruction.stripes import StripeSettings, remove_stripes

from .scan import Scan

__all__ = ["SinogramSettings", "clean_sinograms", "count_caveats", "refuse_empty"]

EMPTY = 0.5
BRIGHT, MANY_BRIGHT = 1.2, 0.1
"""Median transmission over the angles that no sample has, and the share of the pixels with it."""
MANY_STARVED = 1e-3
MANY_DEAD = 0.01
"""Shares of the data from which the user is told."""


class SinogramSettings(BaseModel):
    """The settings of the steps before the sections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    normalize: NormalizeSettings = NormalizeSettings()
    outliers: OutlierSettings = OutlierSettings()
    stripes: StripeSettings = StripeSettings()


def clean_sinograms(scan: Scan, rows: slice, settings: SinogramSettings) -> tuple[NDArray[np.float32], Counter[str]]:
    """Read detector rows and make line integrals of them.

    Parameters
    ----------
    scan : Scan
        The measurement.
    rows : slice
        Detector rows.
    settings : SinogramSettings
        Normalisation, outliers, rings.

    Returns
    -------
    float32, shape (row, angle, column)
        Line integrals, finite everywhere.
    Counter
        How many values were ``starved``, ``zingers``, ``dead``, ``bright`` or ``not finite``, out of ``all``; and the
        number of ``unlit rows``, whose values are not counted as dead and whose line integrals are 0.
    """
    projections = scan.projections(rows)
    counts, num_missing = Counter(all=projections.size), 0
    if scan.normalised is None:
        corrected = transmission(projections, scan.flats(rows), scan.darks(rows), settings.normalize)
        projections = corrected.values
        unlit = corrected.dead.all(axis=1)
        counts["unlit rows"] = int(unlit.sum())
        counts["dead"] = int(corrected.dead[~unlit].sum()) * len(projections)
        num_missing = int(corrected.dead.sum()) * len(projections)
    sinograms = np.ascontiguousarray(projections.swapaxes(0, 1))
    counts["not finite"] = int((~np.isfinite(sinograms)).sum()) - num_missing
    transmitted = scan.normalised != "attenuation"
    sinograms = fill_dead(sinograms, empty=1.0 if transmitted else 0.0)
    if transmitted:
        counts["bright"] = int((np.median(sinograms, axis=1) > BRIGHT).sum()) * sinograms.shape[1]
        sinograms, counts["zingers"] = remove_zingers(sinograms, settings.outliers)
        sinograms, counts["starved"] = line_integrals(sinograms, settings.normalize)
    return remove_stripes(sinograms, settings.stripes), counts


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
    empty = counts["starved"] + counts["not finite"]
    if empty > EMPTY * counts["all"]:
        raise ScanError(
            f"{path}: {empty / counts['all']:.0%} of the projections' values saw no light or are not finite; "
            "is this the right scan, with the right flats and darks?"
        )


def count_caveats(counts: Counter[str]) -> list[Caveat]:
    """Say what of the counts of `clean_sinograms` the user must know.

    Parameters
    ----------
    counts : Counter
        Summed over the rows.

    Returns
    -------
    list of Caveat
        Of photon starvation, dead pixels, unlit rows, values that are not finite.
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
    if share.get("dead", 0) > MANY_DEAD:
        caveats.append(Caveat("many-dead-pixels", f"{share['dead']:.2%} of the detector saw no open beam"))
    if counts["unlit rows"]:
        seen = f"{counts['unlit rows']} of the detector rows saw no beam; their slices are empty"
        caveats.append(Caveat("unlit-rows", seen))
    if counts["not finite"]:
        caveats.append(
            Caveat("not-finite", f"{counts['not finite']} values were nan or inf and were interpolated along their row")
        )
    return caveats
