"""What a reader finds in a scan before anything is decided, and the one table of readers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from quietbeam.reconstruction.caveats import Caveat, Decision

__all__ = [
    "READERS",
    "Angles",
    "ChosenFrames",
    "FrameStack",
    "Reader",
    "Recording",
    "ScanSettings",
    "given_text",
    "reads",
]


def given_text(value: object) -> object:
    """Refuse an empty text, which would be taken for the present folder or for no name.

    Parameters
    ----------
    value : object
        What a setting is given, before it is looked at otherwise.

    Returns
    -------
    object
        The same.

    Raises
    ------
    pydantic_core.PydanticCustomError
        If it is text of nothing but white space; pydantic names the setting.
    """
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("empty_text", "expected a name, or leave it out")
    return value


class ScanSettings(BaseModel):
    """What the user knows about a scan that its file does not tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flats: Path | None = Field(None, description="open-beam frames: a TIFF file or folder, or file.h5:/inner/path")
    darks: Path | None = Field(None, description="frames without beam: a TIFF file or folder, or file.h5:/inner/path")
    no_darks: bool = Field(False, description="the detector counts photons and has no dark signal: darks are zero")
    angles: str | None = Field(
        None, description="text file with one angle a line, or START:STOP in degrees (equal steps, stop excluded)"
    )
    angle_lines: str | None = Field(
        None,
        description="FIRST:STOP, the lines of the angles file that belong to the projections, from 0, stop excluded",
    )
    angle_unit: Literal["auto", "degree", "radian"] = Field("auto", description="unit of the stored angles")
    normalised: Literal["transmission", "attenuation"] | None = Field(
        None, description="the data are already flat-corrected (transmission), or also minus-logged (attenuation)"
    )
    instrument: str | None = Field(
        None, description="name of the instrument, before that in the file; chooses among earlier networks only"
    )
    channel: int | None = Field(None, ge=0, description="which energy channel to read, where there are several")
    entry: str | None = Field(None, description="which entry of an HDF5 file to read, where there are several")
    allowed_link_roots: tuple[Path, ...] = Field(
        (), description="folders, besides the scan's own, that links out of an HDF5 file may lead to"
    )
    detector: str | None = Field(
        None, description="which detector of a bluesky run to read, where there are several: its data key or its device"
    )
    dark_flat_run: Path | None = Field(
        None, description="run reference (JSON) or documents (JSON lines) of the run with the darks and flats"
    )
    path_map: tuple[tuple[str, str], ...] = Field(
        (), description="beginnings of the paths in a run's documents, each with what it is here; the longest counts"
    )
    wait_seconds: float = Field(
        60.0, ge=0, description="how long to wait for frames of a bluesky run that are still being written, seconds"
    )

    @field_validator("instrument", "detector", mode="before")
    @classmethod
    def _check_given(cls, value: object) -> object:
        return given_text(value)

    def absolute(self) -> Self:
        """Give the same for a process in another folder: no path counts from the present one."""
        paths = {name: path.absolute() for name in ("flats", "darks", "dark_flat_run") if (path := getattr(self, name))}
        roots = tuple(root.absolute() for root in self.allowed_link_roots)
        angles = self.angles and (self.angles if self.has_angle_steps else str(Path(self.angles).absolute()))
        return self.model_copy(update=paths | {"allowed_link_roots": roots, "angles": angles})

    @property
    def has_angle_steps(self) -> bool:
        """Whether the angles are given as START:STOP and not by a file."""
        return re.fullmatch(r"\s*[-+0-9.eE]+\s*:\s*[-+0-9.eE]+\s*", self.angles or "") is not None


class FrameStack(Protocol):
    """Frames on disk, read only when asked for.

    Attributes
    ----------
    shape : tuple of int
        (frame, row, column).
    dtype : numpy.dtype
        As stored.
    sources : tuple of Path
        Files that hold the pixels.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frame, row, column."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        ...

    @property
    def sources(self) -> tuple[Path, ...]:
        """Files that hold the pixels."""
        ...

    def read(self, frames: NDArray[np.intp], rows: slice) -> NDArray[np.float32]:
        """Read some rows of some frames: float32, shape (frame, row, column), in the order of `frames`."""
        ...


@dataclass(frozen=True, eq=False)
class ChosenFrames:
    """Some frames of a stack; the others stay on disk and are not read.

    Attributes
    ----------
    stack : FrameStack
        Where the frames come from.
    chosen : int, shape (frame,)
        Their numbers in it.
    """

    stack: FrameStack
    chosen: NDArray[np.intp] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frame, row, column."""
        return (len(self.chosen), *self.stack.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return self.stack.dtype

    @property
    def sources(self) -> tuple[Path, ...]:
        """Files that hold the pixels."""
        return self.stack.sources

    def read(self, frames: NDArray[np.intp], rows: slice) -> NDArray[np.float32]:
        """Read some rows of some frames: float32, shape (frame, row, column)."""
        return self.stack.read(self.chosen[frames], rows)


class Angles(NamedTuple):
    """Angles as stored, one per projection.

    Attributes
    ----------
    values : float64, shape (angle,)
        In `unit`.
    unit : {'degree', 'radian'} or None
        None where the file does not say.
    origin : str
        Where they come from, for messages.
    source : Path or None
        The file, if any.
    """

    values: NDArray[np.float64]
    unit: Literal["degree", "radian"] | None
    origin: str
    source: Path | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Recording:
    """The parts of an acquisition as one reader found them; None is 'the file does not have it'.

    `angle_order` names the order of the angles, such as interlaced, where the plan meant them not to ascend.

    `sources` are files, besides those with the frames and the angles, that tell what belongs to the acquisition.

    `positions` and `flat_positions` tell when each projection and each flat was taken, in frames of the acquisition:
    float64, shapes (angle,) and (frame,); a reader gives both or neither.
    """

    layout: str
    projections: FrameStack
    flats: FrameStack | None = None
    darks: FrameStack | None = None
    angles: Angles | None = None
    name: str | None = None
    instrument: str | None = None
    pixel_size: float | None = None
    energy: float | None = None
    distance: float | None = None
    positions: NDArray[np.float64] | None = None
    flat_positions: NDArray[np.float64] | None = None
    sources: tuple[Path, ...] = ()
    angle_order: str | None = None
    hint: str = ""
    decisions: tuple[Decision, ...] = ()
    caveats: tuple[Caveat, ...] = ()


class Reader(NamedTuple):
    """One row of the table of readers: the name of a layout, how to know it, how to read it."""

    layout: str
    recognises: Callable[[Path, ScanSettings], bool]
    read: Callable[[Path, ScanSettings], Recording]


READERS: dict[str, Reader] = {}


def reads(
    layout: str, recognises: Callable[[Path, ScanSettings], bool]
) -> Callable[[Callable[[Path, ScanSettings], Recording]], Callable[[Path, ScanSettings], Recording]]:
    """Enter a reader into the table under the name of its layout; earlier entries are tried first."""

    def enter(read: Callable[[Path, ScanSettings], Recording]) -> Callable[[Path, ScanSettings], Recording]:
        if layout in READERS:
            raise ValueError(f"a reader for {layout!r} is in the table already")
        READERS[layout] = Reader(layout, recognises, read)
        return read

    return enter
