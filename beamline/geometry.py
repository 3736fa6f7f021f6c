"""How the sinograms of a scan become slices: about which axis, in which sections, and how wide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.acquisition import Acquisition, angle_caveats
from quietbeam.reconstruction.caveats import Caveat, Decision
from quietbeam.reconstruction.errors import ReductionError
from quietbeam.reconstruction.half_acquisition import extend, joins_opposite, wide_detector
from quietbeam.reconstruction.reconstructors import ReconstructionSettings, reconstruct_sections
from quietbeam.reconstruction.sections import angular_sections, evenness_caveats, section_shares

from .scan import Scan
from .settings import ReductionSettings

__all__ = ["SliceGeometry", "choose_geometry", "split"]


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """What the slices of a scan depend on besides its sinograms.

    Attributes
    ----------
    acquisition : Acquisition
        Angles; and whether it is a half-acquisition, joined to slices wider than the detector.
    rotation_axis : float
        Column of the axis on the detector.
    num_columns : int
        Columns of the detector.
    sections : list of intp arrays
        Projections of each section.
    narrowed : bool
        True if opposite projections of a full turn are not joined though the axis or the sample asks for it.
    """

    acquisition: Acquisition
    rotation_axis: float
    num_columns: int
    sections: list[NDArray[np.intp]]
    narrowed: bool = False

    @property
    def slice_size(self) -> int:
        """Pixels along a side of a slice."""
        added = wide_detector(self.num_columns, self.rotation_axis) if self.acquisition.half_acquisition else (0, 0)
        return self.num_columns + sum(added)

    @property
    def shares(self) -> NDArray[np.float32]:
        """Share of the projections in each section: float32, shape (section,)."""
        return section_shares(self.sections)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What was chosen, in words."""
        counts = " or ".join(map(str, sorted({len(section) for section in self.sections})))
        split = Decision(
            "split",
            f"{len(self.sections)} sections of {counts} projections",
            "interleaved by direction",
        )
        if not self.acquisition.half_acquisition:
            return (split,)
        why = "half-acquisition: opposite projections of the full turn are joined about the axis"
        return split, Decision("field of view", f"{self.slice_size} columns", why)

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """What of the angles may do harm."""
        angles = (*angle_caveats(self.acquisition), *evenness_caveats(self.acquisition, self.sections))
        return (*angles, *self._narrowness())

    def _narrowness(self) -> tuple[Caveat, ...]:
        if not self.narrowed:
            return ()
        reach = min(self.rotation_axis, self.num_columns - 1 - self.rotation_axis)
        what = (
            f"the axis lies beside the middle of the detector (column {self.rotation_axis:.1f} of {self.num_columns})"
        )
        risk = f"with reconstruction.half_acquisition=false, values beyond {reach:.0f} pixels from it are wrong"
        return (Caveat("offset-axis", f"{what}: {risk}"),)

    def reconstruct(
        self,
        sinograms: NDArray[np.float32],
        settings: ReconstructionSettings,
        *,
        pixel_size: float | None,
        num_threads: int,
    ) -> NDArray[np.float32]:
        """Reconstruct slices from each section.

        Parameters
        ----------
        sinograms : float32, shape (row, angle, column)
            Line integrals of all projections.
        settings : ReconstructionSettings
            Method, filter, circle.
        pixel_size : float or None
            Metres.
        num_threads : int
            Threads of the method.

        Returns
        -------
        float32, shape (row, section, y, x)
            Attenuation in 1/m, or in 1/pixel where the pixel size is not known.
        """
        scan, axis = self.acquisition, self.rotation_axis
        if scan.half_acquisition:
            sinograms, axis = extend(sinograms, axis)
        return reconstruct_sections(
            sinograms,
            scan.theta,
            self.sections,
            axis,
            settings,
            turn=scan.turn,
            pixel_size=pixel_size,
            num_threads=num_threads,
        )


def choose_geometry(
    scan: Scan, rotation_axis: float, settings: ReductionSettings, *, sees_beyond: bool
) -> SliceGeometry:
    """Split a scan into sections, and see whether it is a half-acquisition.

    Parameters
    ----------
    scan : Scan
        The measurement, without its bad projections.
    rotation_axis : float
        Column of the axis.
    settings : ReductionSettings
        All settings.
    sees_beyond : bool
        Whether the far side of the detector sees the sample where the near side does not reach.

    Returns
    -------
    SliceGeometry
        For all chunks of the scan.

    Raises
    ------
    ReductionError
        If there are too few projections for the sections.
    """
    asked = settings.reconstruction.half_acquisition
    half = joins_opposite(asked, scan.theta, rotation_axis, scan.num_columns, sees_beyond=sees_beyond)
    acquisition = Acquisition.from_angles(scan.theta, half_acquisition=half)
    unasked = joins_opposite(None, scan.theta, rotation_axis, scan.num_columns, sees_beyond=sees_beyond)
    sections = split(scan, acquisition, settings)
    return SliceGeometry(acquisition, rotation_axis, scan.num_columns, sections, narrowed=unasked and not half)


def split(scan: Scan, acquisition: Acquisition, settings: ReductionSettings) -> list[NDArray[np.intp]]:
    """Split a scan into sections.

    Parameters
    ----------
    scan : Scan
        The measurement, for the message.
    acquisition : Acquisition
        Its angles.
    settings : ReductionSettings
        Of which the number of sections is taken.

    Returns
    -------
    list of intp arrays
        Projections of each section.

    Raises
    ------
    ReductionError
        If there are too few projections.
    """
    try:
        return angular_sections(acquisition, settings.sections.num_sections)
    except ValueError as error:
        raise ReductionError(f"{scan.path}: {error}") from error
